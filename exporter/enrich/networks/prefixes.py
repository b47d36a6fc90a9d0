"""
The longest prefix that holds an address, for all addresses of a batch at once.

Nested prefixes are laid flat when the table is made: ranges that do not overlap, in order, so that
a look-up is one binary search whatever the nesting.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import EndAttribute, Value
from exporter.batch.group import places
from exporter.enrich.base import Addresses, Found
from exporter.enrich.chosen import chosen

_BITS = {4: 32, 6: 128}
#: ::ffff:0:0/96, in which an IPv6 prefix means IPv4.
_MAPPED = 0xFFFF << 32


class Network(NamedTuple):
    """A prefix: ``first`` address as an integer, ``length`` in bits."""

    version: int
    first: int
    length: int

    def __str__(self) -> str:
        address = (ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address)(
            self.first
        )
        return f"{address}/{self.length}"


class Row(NamedTuple):
    """What is said of a prefix: ``values`` of a table's attributes in order, ``None`` for none."""

    network: Network
    values: tuple[Value, ...]


def parse_network(text: str) -> Network:
    """
    ``10.0.0.0/8``, ``2001:db8::/32`` or one address. Bits after the prefix are ignored, as other
    agents do; prefixes of IPv4-mapped IPv6 addresses are IPv4.

    Raises:
        ValueError: If it is none of these.
    """
    try:
        parsed = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not a network such as 10.0.0.0/8") from None
    version, first, length = parsed.version, int(parsed.network_address), parsed.prefixlen
    if version == 6 and length >= 96 and first >> 32 == _MAPPED >> 32:
        version, first, length = 4, first & 0xFFFFFFFF, length - 96
    return Network(version, first, length)


class _Ranges(NamedTuple):
    """``starts``: first addresses, ascending; ``numbers``: uint32, what each range has."""

    starts: NDArray[Any]
    numbers: NDArray[np.uint32]

    def find(self, addresses: NDArray[Any]) -> NDArray[np.uint32]:
        found: NDArray[np.uint32] = self.numbers[
            np.searchsorted(self.starts, addresses, side="right") - 1
        ]
        return found

    def find_numbers(self, addresses: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """As :meth:`find`; text is not faster in order."""
        found: NDArray[np.uint32] = self.numbers[places(self.starts, addresses, "right") - 1]
        return found


class PrefixTable:
    """
    Prefixes of both families and what is said of them. Never changes.

    Each attribute of an address is that of the longest prefix that has it; of equal prefixes the
    last one's. So ``10.1.0.0/16`` with a zone keeps the name of ``10.0.0.0/8``.

    Args:
        rows: In any order but for equal prefixes.
        attributes: Of their values, as many.
    """

    def __init__(self, rows: Iterable[Row], attributes: tuple[EndAttribute, ...]) -> None:
        said: dict[Network, tuple[Value, ...]] = {}
        for network, values in rows:
            before = said.get(network)
            said[network] = values if before is None else _over(values, before)
        self._size = len(said)
        things = _Things(len(attributes))
        ranges = {
            version: _ranges(sorted(item for item in said.items() if item[0][0] == version), things)
            for version in _BITS
        }
        self._ipv4, self._ipv6 = (_packed(version, *ranges[version]) for version in _BITS)
        columns = zip(attributes, zip(*things.all, strict=True), strict=True)
        self.columns: dict[EndAttribute, tuple[Value, ...]] = {
            what: values for what, values in columns if any(value is not None for value in values)
        }

    def __len__(self) -> int:
        """How many different prefixes there are."""
        return self._size

    def numbers(self, addresses: Addresses) -> NDArray[np.uint32]:
        """uint32, shape (u,): places in ``columns``, 0 where no prefix holds the address."""
        numbers = np.zeros(len(addresses), np.uint32)
        ipv4 = addresses.is_ipv4()
        low = (addresses.words()[:, 1] >> np.uint64(32)).astype(np.uint32).byteswap()
        numbers[ipv4] = self._ipv4.find_numbers(low[ipv4])
        if not ipv4.all():
            # NumPy compares such text octet by octet: the order of addresses.
            whole = np.ascontiguousarray(addresses.octets[~ipv4]).view("S16").reshape(-1)
            numbers[~ipv4] = self._ipv6.find(whole)
        return numbers

    def look_up(self, addresses: Addresses) -> Found:
        """What is said of each address."""
        return Found(*chosen(self.numbers(addresses), self.columns))


class _Things:
    """Distinct rows of values with a number each; 0 has none."""

    def __init__(self, width: int) -> None:
        nothing: tuple[Value, ...] = (None,) * width
        self.all = [nothing]
        self._numbers = {nothing: 0}

    def number(self, values: tuple[Value, ...]) -> int:
        number = self._numbers.setdefault(values, len(self.all))
        if number == len(self.all):
            self.all.append(values)
        return number


def _ranges(
    said: list[tuple[Network, tuple[Value, ...]]], things: _Things
) -> tuple[list[int], list[int]]:
    """Where ranges begin and the numbers of what they have; ``said`` is of one family, in order."""
    starts, numbers = [0], [0]

    def begin(start: int, number: int) -> None:
        if starts[-1] == start:
            numbers[-1] = number
        elif numbers[-1] != number:
            starts.append(start)
            numbers.append(number)

    # The prefixes that hold the place that is reached, the narrowest last: end, number.
    around: list[tuple[int, int]] = []
    for network, values in said:
        while around and around[-1][0] <= network.first:
            end, _ = around.pop()
            begin(end, around[-1][1] if around else 0)
        outer = things.all[around[-1][1] if around else 0]
        number = things.number(_over(values, outer))
        begin(network.first, number)
        around.append((network.first + (1 << (_BITS[network.version] - network.length)), number))
    while around:
        end, _ = around.pop()
        begin(end, around[-1][1] if around else 0)
    return starts, numbers


def _over(values: tuple[Value, ...], others: tuple[Value, ...]) -> tuple[Value, ...]:
    """Each of the values, the other where there is none."""
    return tuple(o if v is None else v for v, o in zip(values, others, strict=True))


def _packed(version: int, starts: list[int], numbers: list[int]) -> _Ranges:
    bits = _BITS[version]
    # The end of the last address is no address.
    if starts[-1] >> bits:
        starts, numbers = starts[:-1], numbers[:-1]
    octets = b"".join(start.to_bytes(bits // 8, "big") for start in starts)
    packed = np.frombuffer(octets, ">u4" if version == 4 else "S16")
    return _Ranges(
        packed.astype(np.uint32) if version == 4 else packed, np.array(numbers, np.uint32)
    )
