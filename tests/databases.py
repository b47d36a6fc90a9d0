"""GeoIP databases with the schemas of MaxMind and IPinfo, made up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter, TreeWriter
from netaddr import IPNetwork, IPSet


def write(
    path: Path,
    networks: Iterable[tuple[str, Any]],
    *,
    kind: str = "GeoLite2-City",
    version: int = 6,
    record_size: int = 0,
) -> Path:
    """
    A database, put in place as its publishers' tools do: written beside, then renamed.

    ``record_size`` in bits is forced on the writer, which takes the smallest that will do.
    """
    writer = MMDBWriter(
        ip_version=version, database_type=kind, languages=["en"], ipv4_compatible=version == 6
    )
    for cidr, record in networks:
        writer.insert_network(IPSet([IPNetwork(cidr)]), record)

    class Sized(TreeWriter):
        def _adjust_record_size(self) -> None:
            super()._adjust_record_size()
            self.record_size = record_size or self.record_size

    beside = path.with_name(f"{path.name}.new")
    Sized(writer.tree, writer._build_meta()).write(str(beside))
    return beside.rename(path)


def city(country: str, name: str = "", region: str = "", continent: str = "EU") -> dict[str, Any]:
    """As GeoLite2-City, with what is not read too."""
    record: dict[str, Any] = {
        "continent": {"code": continent, "geoname_id": 1, "names": {"en": "Any", "de": "Egal"}},
        "country": {"iso_code": country, "names": {"en": "Any"}},
        "registered_country": {"iso_code": "ZZ", "names": {"en": "Any"}},
        "location": {"latitude": 52.5, "longitude": 13.4, "time_zone": "Europe/Berlin"},
    }
    if name:
        record["city"] = {"geoname_id": 2, "names": {"de": f"{name} (de)", "en": name}}
    if region:
        record["subdivisions"] = [{"iso_code": region, "names": {"en": "Any"}}]
    return record


def asn(number: int, organization: str) -> dict[str, Any]:
    """As GeoLite2-ASN."""
    return {
        "autonomous_system_number": number,
        "autonomous_system_organization": organization,
    }


def ipinfo(country: str, number: int, organization: str) -> dict[str, Any]:
    """As IPinfo Lite."""
    return {
        "asn": f"AS{number}",
        "as_name": organization,
        "as_domain": "example.net",
        "continent": "Europe",
        "continent_code": "EU",
        "country": "Some Country",
        "country_code": country,
    }
