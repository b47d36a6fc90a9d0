"""The longest prefix, as Python's own address arithmetic and a radix tree find it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.batch import IPV4_PREFIX, U1, Window
from exporter.enrich.base import Addresses
from exporter.enrich.networks.names import CIDR, COLUMNS, NAME, row_of
from exporter.enrich.networks.prefixes import PrefixTable, parse_network
from exporter.testing.batch import pack_address

ZONE = COLUMNS["zone"]
ATTRIBUTES = (NAME, ZONE, CIDR)


def addresses(texts: Sequence[str]) -> Addresses:
    octets = np.frombuffer(b"".join(map(pack_address, texts)), np.uint8)
    return Addresses(octets.reshape(len(texts), 16), Window())


def table(*rows: tuple[str, str, str]) -> PrefixTable:
    """Rows of network, name and zone."""
    return PrefixTable(
        [row_of(cidr, {"name": name, "zone": zone}, ATTRIBUTES) for cidr, name, zone in rows],
        ATTRIBUTES,
    )


def said(found: PrefixTable, *texts: str) -> list[tuple[object, ...]]:
    """Name and zone of each address."""
    answer = found.look_up(addresses(texts))
    nothing = (None,) * (int(answer.numbers.max()) + 1)
    names, zones = (answer.values.get(what, nothing) for what in (NAME, ZONE))
    return [(names[number], zones[number]) for number in answer.numbers.tolist()]


def test_the_longest_wins() -> None:
    """Nested prefixes in any order, and what none of them holds."""
    found = table(
        ("10.1.2.0/24", "inner", ""), ("10.0.0.0/8", "outer", ""), ("10.1.0.0/16", "middle", "")
    )
    assert said(found, "10.1.2.255", "10.1.3.0", "10.1.1.255", "10.2.0.0", "11.0.0.0", "9.9.9.9") \
        == [("inner", None), ("middle", None), ("middle", None), ("outer", None),
            (None, None), (None, None)]  # fmt: skip
    assert len(found) == 3


def test_what_a_longer_one_does_not_say() -> None:
    """It is said by the shorter ones around it, each attribute by itself."""
    found = table(
        ("10.0.0.0/8", "corp", "west"), ("10.1.0.0/16", "", "east"), ("10.1.1.0/24", "lab", "")
    )
    assert said(found, "10.0.0.1", "10.1.0.1", "10.1.1.1") == [
        ("corp", "west"),
        ("corp", "east"),
        ("lab", "east"),
    ]


def test_the_last_of_equals_wins() -> None:
    """However the prefix is written; what it leaves open stays as it was."""
    found = table(("10.0.0.0/8", "one", "a"), ("10.9.9.9/8", "two", ""))
    assert said(found, "10.0.0.1") == [("two", "a")]
    assert len(found) == 1


def test_default_routes_are_of_one_family() -> None:
    """::/0 holds no IPv4 address, although a flow key has it as ::ffff/96; nor 0.0.0.0/0 IPv6."""
    assert said(table(("::/0", "six", "")), "10.0.0.1", "::1", "ffff::") == [
        (None, None),
        ("six", None),
        ("six", None),
    ]
    both = table(("::/0", "six", ""), ("0.0.0.0/0", "four", ""))
    assert said(both, "255.255.255.255", "0.0.0.0", "::", "ffff:" * 7 + "ffff") == [
        ("four", None),
        ("four", None),
        ("six", None),
        ("six", None),
    ]


def test_the_ends_of_the_address_space() -> None:
    """The first and the last address of a family as prefixes of their own."""
    last = "ffff:" * 7 + "ffff"
    found = table(("255.255.255.255/32", "a", ""), ("0.0.0.0/32", "b", ""), (last, "c", ""))
    assert said(found, "255.255.255.255", "255.255.255.254", "0.0.0.0", "0.0.0.1", last, "::") == [
        ("a", None),
        (None, None),
        ("b", None),
        (None, None),
        ("c", None),
        (None, None),
    ]


def test_mapped_prefixes_are_ipv4() -> None:
    """::ffff:10.0.0.0/104 is 10.0.0.0/8; a shorter one is IPv6 and holds no IPv4 address."""
    assert parse_network("::ffff:10.0.0.0/104") == parse_network("10.0.0.0/8")
    assert said(table(("::ffff:0:0/95", "six", "")), "10.0.0.1", "::fffe:1.2.3.4") == [
        (None, None),
        ("six", None),
    ]


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0", "::/129", "corp", "10.0.0.0/-1"])
def test_what_is_no_network(text: str) -> None:
    """One line that says what would be."""
    with pytest.raises(ValueError, match=r"is not a network such as 10\.0\.0\.0/8"):
        parse_network(text)


def test_an_empty_table_knows_nothing() -> None:
    """Of either family, nor of no address at all."""
    assert said(table(), "10.0.0.1", "::1") == [(None, None)] * 2
    assert len(table().look_up(addresses([])).numbers) == 0


@st.composite
def _networks(draw: st.DrawFn) -> str:
    """Prefixes of few addresses, so that they nest, touch and are equal."""
    if draw(st.booleans()):
        first = draw(st.sampled_from((0, 0x0A000000, 0x0A0000FE, 0xFFFFFFFC)))
        return f"{ipaddress.IPv4Address(first + draw(st.integers(0, 3)))}/{draw(_lengths(32))}"
    first = draw(st.sampled_from((0, 0x20010DB8 << 96, (0x20010DB8 << 96) + 0xFC, (1 << 128) - 4)))
    return f"{ipaddress.IPv6Address(first + draw(st.integers(0, 3)))}/{draw(_lengths(128))}"


def _lengths(bits: int) -> st.SearchStrategy[int]:
    return st.integers(bits - 3, bits) | st.integers(0, bits)


_rows = st.lists(
    st.tuples(_networks(), st.sampled_from(("", "a", "b")), st.sampled_from(("", "x"))), max_size=12
)
_asked = st.lists(_networks().map(lambda text: text.split("/")[0]), max_size=20)


@given(_rows, _asked)
def test_as_address_arithmetic(rows: list[tuple[str, str, str]], asked: list[str]) -> None:
    """Any table answers as a walk over its rows does; and only what is used is in the answer."""
    found = table(*rows)
    assert said(found, *asked) == [_walk(rows, text) for text in asked] if asked else True
    answer = found.look_up(addresses(asked))
    used = set(answer.numbers.tolist()) | {0}
    assert all(len(values) == len(used) for values in answer.values.values())


def _walk(rows: list[tuple[str, str, str]], text: str) -> tuple[str | None, str | None]:
    address = ipaddress.ip_address(text)
    best: dict[int, tuple[int, str]] = {}
    for cidr, *columns in rows:
        network = ipaddress.ip_network(cidr, strict=False)
        if address not in network:
            continue
        for place, value in enumerate(columns if any(columns) else [str(network), ""]):
            if value and network.prefixlen >= best.get(place, (-1, ""))[0]:
                best[place] = (network.prefixlen, value)
    return best.get(0, (0, None))[1], best.get(1, (0, None))[1]


def test_a_million_addresses() -> None:
    """
    40,000 prefixes of both families, many nested: the answers of a radix tree to a million
    addresses, half of them within one of the prefixes.
    """
    import radix

    rng = np.random.default_rng(5)
    cidrs = _random_cidrs(rng)
    tree = radix.Radix()
    for cidr in cidrs:
        tree.add(cidr)
    found = PrefixTable([row_of(cidr, {}, (NAME,)) for cidr in cidrs], (NAME,))
    asked = _random_addresses(rng, cidrs, 1_000_000)
    answer = found.look_up(Addresses(asked, Window()))
    names = answer.values[NAME]
    best = tree.search_best
    wrong = hits = 0
    for packed, number in zip(packed_of(asked), answer.numbers.tolist(), strict=True):
        node = best(packed=packed)
        wrong += (node.prefix if node else None) != names[number]
        hits += node is not None
    assert wrong == 0
    assert hits > 500_000


def packed_of(octets: U1) -> list[bytes]:
    """Each as 16 octets, as 4 if it is IPv4."""
    whole = octets.tobytes()
    each = (whole[at : at + 16] for at in range(0, len(whole), 16))
    return [one[12:] if one.startswith(IPV4_PREFIX) else one for one in each]


def _random_cidrs(rng: np.random.Generator) -> list[str]:
    """Canonical, distinct, of all lengths that networks have, in 10.0.0.0/7 and 2001:db8::/32."""
    cidrs = {"0.0.0.0/1", "2001:db8::/32"}
    while len(cidrs) < 40_000:
        four = (10 << 24) + int(rng.integers(0, 1 << 25))
        cidrs.add(str(ipaddress.ip_network((four, int(rng.integers(9, 33))), strict=False)))
        six = (
            (0x20010DB8 << 96) + (int(rng.integers(0, 1 << 20)) << 76) + int(rng.integers(1 << 40))
        )
        cidrs.add(str(ipaddress.ip_network((six, int(rng.integers(33, 129))), strict=False)))
    return sorted(cidrs)


def _random_addresses(rng: np.random.Generator, cidrs: list[str], count: int) -> U1:
    """Anywhere, near 2001:db8:: and 10.0.0.0, and the addresses of prefixes; uint8, (count, 16)."""
    octets = rng.integers(0, 256, (count, 16), np.uint8)
    firsts = np.array([list(pack_address(cidr.split("/")[0])) for cidr in cidrs], np.uint8)
    quarter = count // 4
    octets[:quarter] = firsts[rng.integers(0, len(firsts), quarter)]
    # The low octets are random still: within, or right behind, what begins there.
    octets[quarter : 2 * quarter, :14] = octets[:quarter, :14]
    octets[2 * quarter : 3 * quarter, :12] = np.frombuffer(IPV4_PREFIX, np.uint8)
    octets[3 * quarter : 3 * quarter + quarter // 2, :4] = (0x20, 0x01, 0x0D, 0xB8)
    return octets
