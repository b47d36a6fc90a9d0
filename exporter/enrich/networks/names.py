"""What can be said of a network: attributes, and the columns of tables that they come from."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from exporter.batch.attributes import EndAttribute, Value
from exporter.enrich.networks.prefixes import Row, parse_network

NAME = EndAttribute(
    "network.name", "Name of the narrowest network with one.", "SubnetLabel", "{}.cidr"
)
CIDR = EndAttribute("network.cidr", "The network that has the name.")

#: Columns of tables, by their names there.
COLUMNS: dict[str, EndAttribute] = {
    "name": NAME,
    "provider": EndAttribute("cloud.provider", "Cloud provider."),
    "account": EndAttribute("cloud.account.id", "Cloud account, project or subscription."),
    "region": EndAttribute("cloud.region", "Cloud region."),
    "zone": EndAttribute("cloud.availability_zone", "Availability zone."),
    "vpc": EndAttribute("cloud.vpc.id", "Virtual private cloud."),
    "subnet": EndAttribute("cloud.subnet.id", "Subnet within it."),
    "service": EndAttribute("cloud.service.name", "The provider's service."),
}
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_LONGEST = 256


def label(key: str) -> EndAttribute:
    """The attribute of a column that the user has named."""
    return EndAttribute(f"network.labels.{key}", f"Column `{key}` of the tables.")


def check_key(key: str) -> str:
    """
    A column's name.

    Raises:
        ValueError: If it cannot be part of a path.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is not a name of letters, digits, _ and -")
    return key


def row_of(cidr: str, columns: Mapping[str, Any], attributes: tuple[EndAttribute, ...]) -> Row:
    """
    A row of a table.

    Args:
        cidr: Its network, as written; its name too, if nothing else is said.
        columns: By name; those unknown here are labels.
        attributes: Which of them are kept, in their order.

    Raises:
        ValueError: If it is no network, or a value is none that a record can have.
    """
    network = parse_network(cidr)
    texts = {key: _text(key, value) for key, value in columns.items()}
    if not any(texts.values()):
        texts = {"name": str(network)}
    values: dict[EndAttribute, Value] = {
        COLUMNS.get(key) or label(check_key(key)): text for key, text in texts.items() if text
    }
    if NAME in values:
        values[CIDR] = str(network)
    return Row(network, tuple(map(values.get, attributes)))


def _text(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{str(key)[:80]} is no text: {str(value)[:80]!r}")  # noqa: TRY004
    text = str(value).strip()
    if len(text) > _LONGEST:
        raise ValueError(f"{str(key)[:80]} is longer than {_LONGEST} characters")
    # A lone surrogate, which YAML can spell: no encoder could write it.
    if not text.isascii() and text != text.encode(errors="replace").decode():
        raise ValueError(f"{str(key)[:80]} has a character that is none")
    # Few zones, many networks: each text is kept once.
    return sys.intern(text)
