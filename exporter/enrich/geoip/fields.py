"""What is taken of a database's record, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.batch.attributes import EndAttribute, Value

GEO = (
    EndAttribute("geo.continent.code", "Continent, two letters."),
    EndAttribute(
        "geo.country.iso_code",
        "Country, ISO 3166-1 alpha-2.",
        "Location_CountryName",
        "{}.country",
    ),
    EndAttribute("geo.region.iso_code", "Region, ISO 3166-2."),
    EndAttribute("geo.locality.name", "City.", "Location_CityName"),
)
AS = (
    EndAttribute("as.number", "Autonomous system.", "AS", "{}.asn", number=True, ipfix=(16, 17)),
    EndAttribute("as.organization.name", "Who has it.", "ASOrganization"),
)
_LONGEST = 256


def geo_of(record: Any) -> tuple[Value, ...]:
    """Values of ``GEO``; ``None`` where the record has none."""
    if not isinstance(record, dict):
        return (None,) * len(GEO)
    country = _code(record, "country", "iso_code", "country_code")
    return (
        _code(record, "continent", "code", "continent_code"),
        country,
        _region(record, country),
        _city(record),
    )


def as_of(record: Any) -> tuple[Value, ...]:
    """
    Values of ``AS``: of GeoLite2-ASN and GeoIP2-ISP (flat), of GeoIP2-Enterprise (``traits``), of
    IPinfo (``asn`` is "AS" and the number).
    """
    if not isinstance(record, dict):
        return (None,) * len(AS)
    traits = record.get("traits")
    for place in (record, traits if isinstance(traits, dict) else {}):
        if "autonomous_system_number" in place:
            organization = place.get("autonomous_system_organization")
            return _number(place["autonomous_system_number"]), _text(organization)
    return _number(record.get("asn")), _text(record.get("as_name") or record.get("name"))


def _code(record: Mapping[str, Any], key: str, nested: str, flat: str) -> str | None:
    """
    A code of two letters: of MaxMind ``{"country": {"iso_code": ...}}``; of IPinfo
    ``country_code`` where ``country`` is its name, else ``country``.
    """
    value = record.get(key)
    code = value.get(nested) if isinstance(value, dict) else record.get(flat, value)
    return code if isinstance(code, str) and len(code) == 2 else None


def _region(record: Mapping[str, Any], country: str | None) -> str | None:
    """Of MaxMind the largest subdivision; of IPinfo ``region_code``."""
    parts = record.get("subdivisions")
    first = parts[0] if isinstance(parts, list) and parts else {}
    code = first.get("iso_code") if isinstance(first, dict) else None
    code = _text(code or record.get("region_code"))
    if code is None or country is None:
        return None
    return code if code.startswith(f"{country}-") else f"{country}-{code}"


def _city(record: Mapping[str, Any]) -> str | None:
    city = record.get("city")
    if isinstance(city, dict):
        names = city.get("names")
        return _text(names.get("en")) if isinstance(names, dict) else None
    return _text(city)


def _text(value: Any) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    """15169 or ``AS15169``: 32 bits, RFC 6793. 0 is nobody's (RFC 7607)."""
    if isinstance(value, str):
        digits = value[2:] if value[:2].upper() == "AS" else value
        value = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 11 else 0
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 < value < 1 << 32 else None
