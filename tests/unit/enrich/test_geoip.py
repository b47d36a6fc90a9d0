"""Databases answer as maxminddb does for each address, are replaced while asked, and may be bad."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import maxminddb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.attributes import EndAttribute
from exporter.batch.batch import IPV4_PREFIX, U1, Window
from exporter.enrich.base import Addresses, AddressSource
from exporter.enrich.geoip import database
from exporter.enrich.geoip.config import GeoIpConfig
from exporter.enrich.geoip.database import Counts, Database, open_database
from exporter.enrich.geoip.fields import AS, GEO, as_of, geo_of
from exporter.enrich.geoip.source import sources
from exporter.errors import ConfigError
from tests import databases
from tests.e2e.agent import wait_until
from tests.unit.enrich.test_prefixes import addresses, packed_of

CITY = databases.city("DE", "Berlin", "BE")
Fields = tuple[EndAttribute, ...]


@contextmanager
def opened(*paths: Path, cache: int = 1024) -> Iterator[list[AddressSource]]:
    made = sources(GeoIpConfig(databases=paths, cache=cache))
    for source in made:
        source.open()
    try:
        yield made
    finally:
        for source in made:
            source.close()


def said(source: AddressSource, *texts: str) -> list[tuple[Any, ...]]:
    """Values of each address, in the order of the source's attributes."""
    found = source.look_up(addresses(texts))
    rows = list(zip(*(found.values[what] for what in found.values), strict=True))
    return [rows[number] for number in found.numbers.tolist()]


def test_maxmind(tmp_path: Path) -> None:
    """City and ASN are two files: each end has both, and what is not in them is unknown."""
    cities = databases.write(
        tmp_path / "city.mmdb",
        [("192.0.2.0/24", CITY), ("2001:db8::/32", databases.city("US", continent="NA"))],
    )
    numbers = databases.write(
        tmp_path / "asn.mmdb", [("192.0.2.128/25", databases.asn(64500, "Example"))],
        kind="GeoLite2-ASN",
    )  # fmt: skip
    with opened(cities, numbers) as (geo, autonomous):
        asked = ("192.0.2.1", "192.0.2.200", "2001:db8::1", "198.51.100.1", "::")
        berlin, nothing = ("EU", "DE", "DE-BE", "Berlin"), (None,) * 4
        america = ("NA", "US", None, None)
        assert said(geo, *asked) == [berlin, berlin, america, nothing, nothing]
        example = (64500, "Example")
        assert said(autonomous, *asked) == [(None, None), example, *[(None, None)] * 3]


def test_ipinfo(tmp_path: Path) -> None:
    """One flat file has both."""
    path = databases.write(
        tmp_path / "lite.mmdb",
        [
            ("192.0.2.0/24", databases.ipinfo("NL", 64501, "Two")),
            ("198.51.100.0/24", databases.ipinfo("NL", 64502, "Three")),
        ],
        kind="ipinfo generic_bundle_lite.mmdb",
    )
    with opened(path) as (geo, autonomous):
        assert said(geo, "192.0.2.1", "198.51.100.1") == [("EU", "NL", None, None)] * 2
        assert said(autonomous, "192.0.2.1", "198.51.100.1") == [(64501, "Two"), (64502, "Three")]
        # Two records, one country: it is one thing for encoders.
        found = geo.look_up(addresses(["192.0.2.1", "198.51.100.1"]))
        assert found.numbers.tolist() == [1, 1]


def test_the_first_that_knows(tmp_path: Path) -> None:
    """Of two databases with the same attributes, each attribute by itself."""
    one = databases.write(tmp_path / "one.mmdb", [("192.0.2.0/25", databases.city("DE"))])
    two = databases.write(
        tmp_path / "two.mmdb", [("192.0.2.0/24", databases.city("FR", "Lyon")), ("::1/128", {})]
    )
    with opened(one, two) as (geo, _):
        assert said(geo, "192.0.2.1", "192.0.2.129", "::1") == [
            ("EU", "DE", None, "Lyon"),
            ("EU", "FR", None, "Lyon"),
            (None,) * 4,
        ]


@pytest.mark.parametrize(
    ("record", "geo", "autonomous"),
    [
        ({"country": "US", "country_name": "United States", "continent": "NA", "asn": "AS1",
          "as_name": "One"}, ("NA", "US", None, None), (1, "One")),
        ({"country": "DE", "city": "Jena", "region": "Thuringia"},
         (None, "DE", None, "Jena"), (None, None)),
        ({"asn": "AS13335", "name": "Cloudflare"}, (None,) * 4, (13335, "Cloudflare")),
        ({"traits": {"autonomous_system_number": 7, "autonomous_system_organization": "Seven"}},
         (None,) * 4, (7, "Seven")),
        ({"asn": "AS0"}, (None,) * 4, (None, None)),
        ({"asn": "AS99999999999999999999"}, (None,) * 4, (None, None)),
        ({"asn": "ASx", "country": 5, "city": {"names": 3}, "subdivisions": [4], "traits": "x"},
         (None,) * 4, (None, None)),
        (["a"], (None,) * 4, (None, None)),
        ("text", (None,) * 4, (None, None)),
    ],
)  # fmt: skip
def test_schemas(record: Any, geo: tuple[Any, ...], autonomous: tuple[Any, ...]) -> None:
    """Older and other databases, and records of no known shape."""
    assert (geo_of(record), as_of(record)) == (geo, autonomous)


def _spread(rng: np.random.Generator, count: int) -> list[tuple[str, Any]]:
    """Networks of both families, of every third a record of its own."""
    networks: list[tuple[str, Any]] = [("128.0.0.0/2", databases.city("AU", "Wide"))]
    for number in range(count):
        record = databases.city(f"{chr(65 + number % 26)}X", f"City {number // 3}", f"{number % 9}")
        length = int(rng.integers(9, 33))
        four = int(rng.integers(0, 1 << 31)) >> (32 - length) << (32 - length)
        networks.append((f"{IPv4Address(four)}/{length}", record))
        length = int(rng.integers(20, 129))
        six = 0x2001 << 112 | int.from_bytes(rng.bytes(14), "big")
        networks.append(
            (f"{IPv6Address(six >> (128 - length) << (128 - length))}/{length}", record)
        )
    return networks


@pytest.mark.parametrize(("record_size", "version"), [(24, 6), (28, 6), (32, 6), (24, 4)])
def test_a_million_addresses(record_size: int, version: int, tmp_path: Path) -> None:
    """Every answer is maxminddb's for the address, whatever the tree's form: a million in all."""
    rng = np.random.default_rng(record_size + version)
    networks = _spread(rng, 700)
    path = databases.write(
        tmp_path / "city.mmdb",
        [one for one in networks if version == 6 or ":" not in one[0]],
        version=version,
        record_size=record_size,
    )
    asked = _random_addresses(rng, [cidr for cidr, _ in networks], 250_000)
    with maxminddb.open_database(path) as reader:
        assert reader.metadata().record_size == record_size
        answer, _ = open_database(path, 65_536, Counts()).look_up(Addresses(asked, Window()))
        rows = list(zip(*(answer.values[what] for what in GEO), strict=True))
        wrong = hits = 0
        for packed, number in zip(packed_of(asked), answer.numbers.tolist(), strict=True):
            address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
            expected = None if version < address.version else reader.get(address)
            wrong += rows[number] != geo_of(expected)
            hits += expected is not None
        assert wrong == 0
        assert hits > 60_000


def _random_addresses(rng: np.random.Generator, cidrs: Sequence[str], count: int) -> U1:
    """IPv4 anywhere, addresses of networks, and IPv6 near them; uint8, shape (count, 16)."""
    octets = rng.integers(0, 256, (count, 16), np.uint8)
    half, most = count // 2, count * 3 // 4
    octets[:half, :12] = np.frombuffer(IPV4_PREFIX, np.uint8)
    firsts = addresses([cidr.split("/")[0] for cidr in cidrs]).octets
    octets[half:most] = firsts[rng.integers(0, len(firsts), most - half)]
    octets[half:most, 15] ^= rng.integers(0, 2, most - half, np.uint8)
    octets[most:, :3] = (0x20, 0x01, 0x00)
    return octets


def test_all_of_ipv4_is_one_record(tmp_path: Path) -> None:
    """0.0.0.0/0 as the only network, in a tree of either version; and none of IPv4 at all."""
    for version in (4, 6):
        path = databases.write(
            tmp_path / "all.mmdb", [("0.0.0.0/1", CITY), ("128.0.0.0/1", CITY)], version=version
        )
        with opened(path) as (geo, _):
            assert said(geo, "0.0.0.0", "255.255.255.255", "2001::")[:2] == [geo_of(CITY)] * 2
    path = databases.write(tmp_path / "six.mmdb", [("2001:db8::/32", CITY), ("::/8", CITY)])
    with opened(path) as (geo, _), maxminddb.open_database(path) as reader:
        assert said(geo, "192.0.2.1") == [geo_of(reader.get("192.0.2.1"))] == [geo_of(CITY)]


_small = st.lists(
    st.tuples(st.integers(0, 7), st.integers(29, 32), st.sampled_from(("DE", "FR"))), max_size=8
)


@given(rows=_small)
def test_any_small_tree(rows: list[tuple[int, int, str]], tmp_path_factory: Any) -> None:
    """Nested, touching and equal networks within 192.0.2.0/29 in any order."""
    networks = [
        (f"192.0.2.{first >> (32 - length) << (32 - length)}/{length}", databases.city(country))
        for first, length, country in rows
    ]
    path = databases.write(tmp_path_factory.mktemp("db") / "x.mmdb", networks)
    asked = [f"192.0.2.{number}" for number in range(9)]
    with opened(path) as (geo, _), maxminddb.open_database(path) as reader:
        assert said(geo, *asked) == [geo_of(reader.get(text)) for text in asked]


class TestCache:
    """What was decoded is kept, and bounded."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """256 networks of 16 addresses each; two and two share a record."""
        return databases.write(
            tmp_path / "city.mmdb",
            [
                (
                    f"10.0.{number // 16}.{number % 16 * 16}/28",
                    databases.city("DE", f"{number // 2}"),
                )
                for number in range(256)
            ],
        )

    def test_a_record_is_decoded_once(self, path: Path) -> None:
        """For all addresses of all networks that share it; the second time nothing is decoded."""
        counts = Counts()
        made = open_database(path, 1024, counts)
        asked = [f"10.0.0.{number}" for number in range(64)]
        made.look_up(addresses(asked))
        assert (len(made), counts) == (2, Counts(misses=64))
        made.look_up(addresses(asked))
        assert (len(made), counts) == (2, Counts(hits=64, misses=64))
        made.look_up(addresses(["192.0.2.1"]))
        assert counts == Counts(hits=64, misses=65)

    def test_the_same_addresses_twice(self, path: Path) -> None:
        """Two groups of attributes ask for one batch: it is looked up once."""
        counts = Counts()
        made = open_database(path, 1024, counts)
        asked = addresses(["10.0.0.1"])
        assert made.look_up(asked) is made.look_up(asked)
        assert counts == Counts(misses=1)

    def test_what_was_not_asked_for_is_forgotten(self, path: Path) -> None:
        """Eight are kept: those asked for last; answers stay right while others come and go."""
        counts = Counts()
        made = open_database(path, 8, counts)
        for start in (0, 2, 4, 0, 200, 0, 202, 100, 2):
            asked = [f"10.0.{n // 16}.{n % 16 * 16}" for n in range(start, start + 4)]
            found, _ = made.look_up(addresses(asked))
            names = found.values[GEO[3]]
            got = [names[number] for number in found.numbers.tolist()]
            assert got == [str(n // 2) for n in range(start, start + 4)]
            assert len(made) <= 8
        assert counts.evictions > 0
        before = counts.hits
        made.look_up(addresses(["10.0.0.32"]))
        assert counts.hits == before + 1
        kept = sum(len(group._all) - 1 for group in made._groups)
        assert kept <= 8

    def test_so_many_at_once(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch decodes no more than it may: the rest is unknown until later batches."""
        monkeypatch.setattr(database, "AT_ONCE", 50)
        made = open_database(path, 1024, Counts())
        asked = [f"10.0.{n // 16}.{n % 16 * 16}" for n in range(256)]
        known = [
            np.count_nonzero(made.look_up(addresses(asked))[0].numbers) for _ in range(4)
        ]  # fmt: skip
        assert known == [100, 200, 256, 256]


class TestFiles:
    """Replaced, broken and absent files."""

    def test_replaced(self, tmp_path: Path) -> None:
        """A renamed file is in use soon."""
        path = databases.write(tmp_path / "city.mmdb", [("192.0.2.0/24", databases.city("DE"))])
        with opened(path) as (geo, _):
            assert said(geo, "192.0.2.1")[0][1] == "DE"
            databases.write(path, [("192.0.2.0/24", databases.city("FR"))])
            wait_until(lambda: said(geo, "192.0.2.1")[0][1] == "FR", "the new one is in use")

    @pytest.mark.parametrize("damage", ["empty", "text", "cut", "zeros", "gone", "nodes"])
    def test_a_broken_one_changes_nothing(self, damage: str, tmp_path: Path) -> None:
        """The old one stays, one line says so; the next good one is used."""
        path = databases.write(tmp_path / "city.mmdb", [("192.0.2.0/24", databases.city("DE"))])
        good = path.read_bytes()
        with opened(path) as (geo, autonomous):
            _damage(path, damage, good)
            wait_until(lambda: geo.state().problem, "the problem is told")
            problem = geo.state().problem
            assert problem == autonomous.state().problem
            assert str(path) in problem
            assert "\n" not in problem
            assert "/proc/" not in problem
            assert said(geo, "192.0.2.1")[0][1] == "DE"
            databases.write(path, [("192.0.2.0/24", databases.city("FR"))])
            wait_until(lambda: said(geo, "192.0.2.1")[0][1] == "FR", "the new one is in use")
            assert geo.state().problem == ""

    def test_written_over_in_place(self, tmp_path: Path) -> None:
        """A file that is cut short under us is no danger: what was read is a copy."""
        path = databases.write(tmp_path / "city.mmdb", _spread(np.random.default_rng(1), 50))
        made = open_database(path, 1024, Counts())
        with path.open("r+b") as file:
            file.truncate(0)
        (found, _) = made.look_up(addresses(["128.0.0.1"]))
        assert found.values[GEO[3]][int(found.numbers[0])] == "Wide"

    def test_one_that_comes_later(self, tmp_path: Path) -> None:
        """Nothing is known before; it is no reason not to start."""
        path = tmp_path / "city.mmdb"
        with opened(path) as (geo, _):
            assert said(geo, "192.0.2.1") == [(None,) * 4]
            assert geo.state().problem == f"cannot read {path}: No such file or directory"
            databases.write(path, [("192.0.2.0/24", databases.city("DE"))])
            wait_until(lambda: not geo.state().problem, "it is there")
            assert said(geo, "192.0.2.1")[0][1] == "DE"

    def test_replaced_while_asked(self, tmp_path: Path) -> None:
        """Every answer is one of the files', whole: never half of each, never an error."""
        path = tmp_path / "city.mmdb"
        versions = [
            [(f"10.0.{n}.0/24", databases.city(c, c * 2, c)) for n in range(40)]
            for c in ("DE", "FR")
        ]
        texts = [f"10.0.{n}.{n}" for n in range(40)]
        databases.write(path, versions[0])
        made = sources(GeoIpConfig(databases=(path,)))
        geo = made[0]
        shared = geo._databases  # type: ignore[attr-defined]
        shared._files.look()
        done = threading.Event()

        def replace() -> None:
            for number in range(30):
                databases.write(path, versions[number % 2])
                shared._files.look()
            done.set()

        thread = threading.Thread(target=replace)
        thread.start()
        seen = set()
        while not done.is_set():
            answers = set(said(geo, *texts))
            assert len(answers) == 1
            seen |= answers
        thread.join()
        assert seen <= {("EU", c, f"{c}-{c}", c * 2) for c in ("DE", "FR")}
        assert seen


def _damage(path: Path, damage: str, good: bytes) -> None:
    if damage == "gone":
        path.unlink()
        return
    tree = good[: good.index(b"\xab\xcd\xefMaxMind.com")]
    metadata = good[len(tree) :]
    path.write_bytes(
        {
            "empty": b"",
            "text": b"cidr,name\n",
            "cut": good[: len(good) // 2],
            "zeros": bytes(len(good)),
            "nodes": tree[:40] + metadata,
        }[damage]
    )


def test_damaged_records(tmp_path: Path) -> None:
    """The tree is whole and the data behind it is not: unknown, and one line; no exception."""
    path = databases.write(
        tmp_path / "x.mmdb", [(f"10.0.{n}.0/24", databases.city("DE", f"{n}")) for n in range(200)]
    )
    good = path.read_bytes()
    end = good.index(b"\xab\xcd\xefMaxMind.com")
    rng = np.random.default_rng(3)
    problems = 0
    for _ in range(60):
        octets = bytearray(good)
        for place in rng.integers(0, end, 200).tolist():
            octets[place] = int(rng.integers(0, 256))
        path.write_bytes(octets)
        made = _try(path)
        if made is not None:
            made.look_up(addresses([f"10.0.{n}.1" for n in range(200)]))
            problems += made.problem != ""
            assert "\n" not in made.problem
    assert problems > 5


def _try(path: Path) -> Database | None:
    try:
        return open_database(path, 1024, Counts())
    except ConfigError:
        return None


def test_names_in_other_schemas() -> None:
    """flowlogs-pipeline's keys of a location, OBI's country and ASN."""
    country, number = GEO[1].of("source"), AS[0].of("destination")
    assert (country.otel, country.netobserv, country.obi) == (
        "source.geo.country.iso_code",
        "SrcLocation_CountryName",
        "src.country",
    )
    assert (number.otel, number.obi, number.number) == ("destination.as.number", "dst.asn", True)
