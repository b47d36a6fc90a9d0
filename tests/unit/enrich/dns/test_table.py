"""Names hold for their TTL and some grace, and the table is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.batch import Window
from exporter.enrich import base
from exporter.enrich.base import Addresses
from exporter.enrich.dns import table as table_
from exporter.enrich.dns.table import Lifetime, NameTable

SECOND = 10**9
PLAIN = Lifetime(0, 86_400, 0)


def address(number: int) -> bytes:
    return number.to_bytes(16, "big")


def names(table: NameTable, start: float, end: float, *numbers: int) -> list[str]:
    """Of addresses, in a window of seconds."""
    octets = np.frombuffer(b"".join(map(address, numbers)), np.uint8).reshape(-1, 16)
    found = table.find(Addresses(octets, Window(int(start * SECOND), int(end * SECOND))))
    which, there = table.names(found)
    return [there[number] or "" for number in which.tolist()]


def test_from_the_answer_until_its_ttl_is_over() -> None:
    """At the ends of the time, to the nanosecond; a window counts what held at any time of it."""
    table = NameTable(16, PLAIN)
    table.learn(address(1), "a.test", 10, 100 * SECOND)
    assert names(table, 90, 99.999999999, 1) == [""]
    assert names(table, 90, 100, 1, 2, 1) == ["a.test", "", "a.test"]
    assert names(table, 110, 115, 1) == ["a.test"]
    assert names(table, 110.000000001, 115, 1) == [""]


def test_bounds_and_grace() -> None:
    """A TTL of 0 counts as the least, a long one as the most; both with grace."""
    table = NameTable(16, Lifetime(minimum=5, maximum=20, grace=2))
    for number, ttl in enumerate((0, 10, 1 << 31)):
        table.learn(address(number), "a.test", ttl, 0)
    assert names(table, 7, 8, 0, 1, 2) == ["a.test"] * 3
    assert names(table, 7.1, 8, 0, 1, 2) == ["", "a.test", "a.test"]
    assert names(table, 12.1, 13, 0, 1, 2) == ["", "", "a.test"]
    assert names(table, 22.1, 23, 0, 1, 2) == ["", "", ""]


def test_the_latest_name() -> None:
    """Of two for one address the one that was asked for last, from then on."""
    table = NameTable(16, PLAIN)
    table.learn(address(1), "a.test", 100, 0)
    table.learn(address(1), "b.test", 5, 10 * SECOND)
    assert names(table, 10, 11, 1) == ["b.test"]
    # It is not known any more what was before.
    assert names(table, 5, 9, 1) == [""]
    assert names(table, 16, 17, 1) == [""]
    assert len(table) == 1


def test_again() -> None:
    """What is left of a TTL does not shorten it; a new one after a gap begins anew."""
    table = NameTable(16, PLAIN)
    table.learn(address(1), "a.test", 100, 0)
    table.learn(address(1), "a.test", 50, 10 * SECOND)
    assert names(table, 0, 1, 1) == names(table, 99, 100, 1) == ["a.test"]
    table.learn(address(1), "a.test", 100, 200 * SECOND)
    assert names(table, 150, 199, 1) == [""]
    assert names(table, 250, 251, 1) == ["a.test"]


def test_the_clock_was_set_back() -> None:
    """What is answered again counts from then on, not when its time comes once more."""
    table = NameTable(16, PLAIN)
    table.learn(address(1), "a.test", 100, 3600 * SECOND)
    table.learn(address(1), "a.test", 100, 10 * SECOND)
    assert names(table, 10, 11, 1) == names(table, 109, 110, 1) == ["a.test"]
    assert names(table, 111, 112, 1) == names(table, 3650, 3651, 1) == [""]


def test_what_holds_no_more_makes_room() -> None:
    """First, and it is no eviction."""
    table = NameTable(16, PLAIN)
    for number in range(16):
        table.learn(address(number), f"n{number}.test", number, 0)
    table.learn(address(99), "new.test", 60, 10 * SECOND)
    assert names(table, 10, 11, *range(9, 17), 99) == (
        ["", *(f"n{number}.test" for number in range(10, 16)), "", "new.test"]
    )
    assert (len(table), table.evictions) == (7, 0)


def test_evictions() -> None:
    """Else what would hold the shortest, a sixteenth at once."""
    table = NameTable(32, PLAIN)
    for number in range(32):
        table.learn(address(number), f"n{number}.test", 1000 - number, 0)
    table.learn(address(99), "new.test", 60, 0)
    assert (len(table), table.evictions) == (31, 2)
    assert names(table, 1, 2, 29, 30, 31, 99) == ["n29.test", "", "", "new.test"]
    table.learn(address(98), "more.test", 60, 0)
    assert (len(table), table.evictions) == (32, 2)


def test_equal_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses whose hashes are all the same are told apart."""
    for module in (table_, base):
        monkeypatch.setattr(module, "hash_words", lambda words: np.zeros(len(words), np.uint64))
    table = NameTable(16, PLAIN)
    for number in range(5):
        table.learn(address(number), f"n{number}.test", 9, 0)
    assert names(table, 0, 1, 9, 3, 0, 4) == ["", "n3.test", "n0.test", "n4.test"]


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 40), st.integers(0, 9)),
        max_size=80,
    )
)
def test_as_a_plain_table(steps: list[tuple[int, int, int, int]]) -> None:
    """As a dictionary that forgets nothing but what is over."""
    table = NameTable(64, PLAIN)
    plain: dict[int, tuple[int, int]] = {}
    now = 10
    for number, name, ttl, later in steps:
        now += later
        before, until = plain.get(number, (-1, 0))
        longer = before == name and until >= now
        plain[number] = (name, max(now + ttl, until) if longer else now + ttl)
        table.learn(address(number), str(name), ttl, now * SECOND)
        expected = [
            str(plain[n][0]) if plain.get(n, (0, 0))[1] >= now - 3 else "" for n in range(31)
        ]
        assert names(table, now - 3, now, *range(31)) == expected
    assert table.evictions == 0
