"""
How lists of networks are written: our own forms, those of other agents, and what cloud providers
publish. Parsed content in, rows out; nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from exporter.batch.attributes import EndAttribute
from exporter.enrich.networks.names import row_of
from exporter.enrich.networks.prefixes import Row

#: A network's text and its columns.
Said = tuple[str, Mapping[str, Any]]


def rows_of(content: Any, attributes: tuple[EndAttribute, ...]) -> Iterator[Row]:
    """
    Rows of a list of networks in any notation, with the values of some attributes.

    Raises:
        ValueError: If it is none of them, or has a network or a value that is none.
    """
    for cidr, columns in said_by(content):
        yield row_of(cidr, columns, attributes)


def said_by(content: Any) -> Iterator[Said]:
    """
    Networks and columns as written. Raises ValueError.

    A list has entries: text, ``{cidr: ..., name: ...}`` or ``{name: ..., cidrs: [...]}``. A
    mapping has names with a network or a list of them, or is what a provider publishes.
    """
    if isinstance(content, Mapping):
        for marks, reader in _PUBLISHED:
            if marks <= content.keys():
                yield from reader(content)
                return
        for name, cidrs in content.items():
            for cidr in [cidrs] if isinstance(cidrs, str) else _list(cidrs, f"{name!r}"):
                yield _cidr(cidr), {"name": name}
    else:
        for entry in _list(content, "the whole"):
            yield from _entry(entry)


def _entry(entry: Any) -> Iterator[Said]:
    if isinstance(entry, str):
        # As in an environment variable: 10.0.0.0/8=corp.
        cidr, _, name = entry.partition("=")
        yield cidr, {"name": name}
        return
    if not isinstance(entry, Mapping):
        raise ValueError(f"{str(entry)[:80]!r} is not a network such as 10.0.0.0/8")  # noqa: TRY004
    columns = {str(key): value for key, value in entry.items() if key not in ("cidr", "cidrs")}
    if ("cidr" in entry) == ("cidrs" in entry):
        raise ValueError(f"an entry needs cidr, or cidrs, and has: {', '.join(map(str, entry))}")
    for cidr in _list(entry["cidrs"], "cidrs") if "cidrs" in entry else [entry["cidr"]]:
        yield _cidr(cidr), columns


def _aws(content: Mapping[str, Any]) -> Iterator[Said]:
    """https://ip-ranges.amazonaws.com/ip-ranges.json."""
    for key, field in (("prefixes", "ip_prefix"), ("ipv6_prefixes", "ipv6_prefix")):
        entries = [_mapping(entry) for entry in _list(content.get(key, []), key)]
        # Every prefix is listed as AMAZON, most a second time as what they are for.
        for entry in sorted(entries, key=lambda entry: entry.get("service") != "AMAZON"):
            columns = {"provider": "aws", "service": entry.get("service")}
            if entry.get("region") != "GLOBAL":
                columns["region"] = entry.get("region")
            yield _cidr(entry.get(field)), columns


def _gcp(content: Mapping[str, Any]) -> Iterator[Said]:
    """https://www.gstatic.com/ipranges/cloud.json, and goog.json, which has neither scope."""
    for entry in map(_mapping, _list(content["prefixes"], "prefixes")):
        columns = {"provider": "gcp", "service": entry.get("service")}
        if entry.get("scope") != "global":
            columns["region"] = entry.get("scope")
        yield _cidr(entry.get("ipv4Prefix") or entry.get("ipv6Prefix")), columns


def _azure(content: Mapping[str, Any]) -> Iterator[Said]:
    """ServiceTags_Public_*.json of https://www.microsoft.com/download/details.aspx?id=56519."""
    tags = [_mapping(tag) for tag in _list(content["values"], "values")]
    # AzureCloud holds all; a tag of a region says more than one of none: it comes last and wins.
    for tag in sorted(tags, key=lambda tag: (not _is_cloud(tag), _region(tag) != "")):
        columns = {"provider": "azure"}
        if _region(tag):
            columns["region"] = _region(tag)
        service = _mapping(tag.get("properties")).get("systemService")
        if service:
            columns["service"] = service
        prefixes = _mapping(tag.get("properties")).get("addressPrefixes")
        for cidr in _list(prefixes, "addressPrefixes"):
            yield _cidr(cidr), columns


def _is_cloud(tag: Mapping[str, Any]) -> bool:
    return str(tag.get("name", "")).startswith("AzureCloud")


def _region(tag: Mapping[str, Any]) -> str:
    return str(_mapping(tag.get("properties")).get("region") or "")


_PUBLISHED: tuple[tuple[set[str], Callable[[Mapping[str, Any]], Iterator[Said]]], ...] = (
    ({"syncToken", "createDate", "prefixes"}, _aws),
    ({"syncToken", "prefixes"}, _gcp),
    ({"changeNumber", "values"}, _azure),
)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{what} is not a list of networks")  # noqa: TRY004
    return list(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{str(value)[:80]!r} is not a mapping")  # noqa: TRY004
    return value


def _cidr(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]!r} is not a network such as 10.0.0.0/8")  # noqa: TRY004
    return value
