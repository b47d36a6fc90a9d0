"""Queries, moments, and how flows are printed."""

from __future__ import annotations

import argparse
import io
import re
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import cli_observe
from exporter.batch import match
from exporter.batch.attributes import Entities
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.batch.match import Match
from exporter.batch.record import records
from exporter.errors import ConfigError
from exporter.observe import Chosen, Wanted, moment_ns
from exporter.sinks.encodings.jsonl import SHAPES, encode
from exporter.testing import Row, make_batch
from tests.strategies import NAMESPACE, POD

PAIRS = st.lists(st.tuples(st.sampled_from(match.names()), st.text(max_size=9)), max_size=3)


WANTED = st.builds(
    Wanted,
    PAIRS.map(tuple), PAIRS.map(tuple),
    since_ns=st.integers(0, 1 << 63), until_ns=st.integers(0, 1 << 63),
    last=st.none() | st.integers(0, 99), first=st.integers(0, 99), follow=st.booleans(),
    schema=st.sampled_from(("otel", "netobserv")),
)  # fmt: skip


@given(WANTED)
def test_a_query_says_it_all(wanted: Wanted) -> None:
    """Whatever is asked for, with whatever characters, reaches the agent."""
    assert Wanted.of_query(wanted.query()) == wanted


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("last=many", "last: many is no number"),
        ("schema=xml", "there is no schema xml: use one of otel, netobserv"),
        (
            "port=1&" * 60 + "not-port=2&" * 41,
            "more than 100 conditions: a network says many addresses",
        ),
    ],
)
def test_a_query_that_cannot_be(query: str, says: str) -> None:
    """One line."""
    with pytest.raises(ConfigError) as raised:
        Wanted.of_query(query)
    assert str(raised.value) == says


def test_flags_are_the_conditions() -> None:
    """What help offers is what there is, with the same words."""
    offered = [(name, value, meaning, of_end) for name, value, meaning, of_end in
               cli_observe.CONDITIONS]  # fmt: skip
    there = [(name, k.value, k.meaning, k.of_end is not None) for name, k in match.KINDS.items()]
    assert offered == there


def test_tls_of_nobody() -> None:
    """It is not passed over that no agent elsewhere is named."""
    parser = argparse.ArgumentParser()
    cli_observe.add_arguments(parser)
    with pytest.raises(ConfigError, match="give --server"):
        cli_observe.servers_of(parser.parse_args(["--tls-ca-cert-files", "a.pem,b.pem"]))
    lists = ["--server", "h:1", "--tls-ca-cert-files", "/a.pem,/b.pem"]
    with pytest.raises(ConfigError, match=r"cannot read /a\.pem"):
        cli_observe.servers_of(parser.parse_args(lists))


def numbered(first: int, rows: int) -> FlowBatch:
    return make_batch(*(Row(src_port=first + n, flow_end_ns=first + n + 1) for n in range(rows)))


def test_last_and_first() -> None:
    """The last of several batches, in order; then as many as are left of the first ones."""
    chosen = Chosen(Wanted(last=5, first=7))
    kept = chosen.recent([numbered(0, 3), numbered(3, 4), numbered(7, 2)])
    assert [port for batch in kept for port in batch.src_port.tolist()] == [4, 5, 6, 7, 8]
    assert chosen.of(numbered(9, 4)).src_port.tolist() == [9, 10]
    assert chosen.done
    assert len(Chosen(Wanted(last=0)).recent([numbered(0, 3)])) == 0


def test_since_and_until() -> None:
    """By the end of the flow: since is within, until is not."""
    chosen = Chosen(Wanted(since_ns=3, until_ns=5))
    assert chosen.of(numbered(0, 9)).src_port.tolist() == [2, 3]
    assert chosen.rows(list(records(numbered(0, 9)))) == [2, 3]


def test_records_of_several_observers() -> None:
    """Chosen from as whole batches are, in order, as many as are wanted."""
    some = [
        replace(record, agent_ip=f"10.0.0.{number % 3}")
        for number, record in enumerate(records(numbered(0, 9)))
    ]
    wanted = (("where", "agent=10.0.0.1"), ("where", "agent=10.0.0.2"))
    assert Chosen(Wanted(wanted)).rows(some) == [1, 2, 4, 5, 7, 8]
    chosen = Chosen(Wanted(wanted, first=3))
    assert (chosen.rows(some), chosen.done) == ([1, 2, 4], True)
    assert Chosen(Wanted()).rows(some) == list(range(9))
    assert Chosen(Wanted()).rows([]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", 1_769_860_800_000_000_000),
        ("2026-01-31T13:00:00.000001+01:00", 1_769_860_800_000_001_000),
        ("2026-01-31T12:00", 1_769_860_800_000_000_000),
        ("2026-01-31", 1_769_817_600_000_000_000),
    ],
)
def test_moments(text: str, expected: int) -> None:
    """RFC 3339; UTC without an offset."""
    assert moment_ns(text) == expected


def test_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long before now."""
    monkeypatch.setattr(time, "time_ns", lambda: 100_000_000_000)
    assert moment_ns("30s") == 70_000_000_000
    assert moment_ns("10m") == 1
    for text in ("yesterday", "2026-13-01", "-5s"):
        with pytest.raises(ConfigError, match="is no time"):
            moment_ns(text)


def printed(
    batch: FlowBatch, monkeypatch: pytest.MonkeyPatch, *flags: str, columns: int = 80
) -> list[str]:
    """What the command prints of a batch, into a pipe."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    parser = argparse.ArgumentParser()
    cli_observe.add_arguments(parser)
    source = io.TextIOWrapper(io.BytesIO(encode(batch, SHAPES["otel"])))
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", source)
    monkeypatch.setattr(sys, "stdout", out)
    assert cli_observe.run(parser.parse_args(["--input-file", "-", *flags])) == 0
    return out.getvalue().splitlines()


def two() -> FlowBatch:
    """One flow with names and one without, of IPv6 with a long name."""
    eth0 = Point(0, 2, 1)
    batch = make_batch(
        Row(points=(eth0,), tcp_control_bits=0x12),
        Row(points=(eth0,), src_addr="2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", dst_addr="::1",
            ip_protocol=17, dst_port=53, octet_count_l2=1_234_567),
        interfaces={eth0: Interface("eth0")},
    )  # fmt: skip
    pods = Entities(
        np.array([1, 0], np.uint32),
        {NAMESPACE.of("source"): (None, "shop"), POD.of("source"): (None, "web-0\x1b[31m")},
    )
    return replace(batch, entities=(pods,))


def test_compact(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each, with names beside addresses; what a terminal would act on is escaped."""
    assert printed(two(), monkeypatch, "-o", "compact") == [
        f"22:13:21.000 192.0.2.1:40000 (shop/web-0\\x1b[31m) -> 198.51.100.2:443 {tail}"
        for tail in ("tcp 10 packets 1.54kB SA eth0→",)
    ] + [
        f"22:13:21.000 [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:40000 -> [::1]:53 {tail}"
        for tail in ("udp 10 packets 1.23MB eth0→",)
    ]


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_table(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Within the width of the terminal, columns below their headings; names, not addresses."""
    heading, first, second = printed(two(), monkeypatch, "-o", "table", columns=columns)
    assert heading.split() == ["TIME", "SOURCE", "DESTINATION", "PROTO", "FLAGS", "PKTS", "BYTES",
                               "SEEN", "AT"]  # fmt: skip
    assert max(map(len, (heading, first, second))) <= columns
    for word, cell in (("DESTINATION", "198.51.100.2:443"), ("PROTO", "tcp"), ("FLAGS", "SA")):
        assert first.index(cell) == heading.index(word)
    assert "shop/web-0" in first
    assert second.index("[::1]:53") == heading.index("DESTINATION")
    assert ("…" in second) == (columns < 200)


@pytest.mark.parametrize("number", [58, 59, 137, 255])
def test_a_protocol_with_a_long_name(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """In full at 80 columns, with numbers below their headings."""
    names = {58: "ipv6-icmp", 59: "ipv6-nonxt", 137: "mpls-in-ip", 255: "255"}
    rows = make_batch(Row(ip_protocol=number), Row())
    heading, long, tcp = printed(rows, monkeypatch, "-o", "table")
    assert long.split()[3:6] == [names[number], "10", "1.54k"]
    assert long.index("10 1.54k") == tcp.index("10 1.54k") == heading.index("PKTS BYTES") + 2


def test_numbers_and_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names can be left out, and who observed can stand first; within the width all the same."""
    batch = replace(two(), observer=Observer("192.0.2.7", "a-node-with-a-long-name"))
    lines = printed(batch, monkeypatch, "-o", "compact", "--numeric", "--print-node-name")
    assert lines[0] == (
        "a-node-with-a-long-name 22:13:21.000 192.0.2.1:40000 -> 198.51.100.2:443 6 10 packets "
        "1.54kB SA eth0→"
    )
    table = printed(batch, monkeypatch, "-o", "table", "--numeric", "--print-node-name")
    assert max(map(len, table)) <= 80
    assert [line.split()[:2] for line in table] == [
        ["NODE", "TIME"], *[["a-node-with…", "22:13:21"]] * 2
    ]  # fmt: skip
    assert "web-0" not in table[1]


def test_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """None in a pipe, unless it is asked for; around the ends, not within them."""
    lines = printed(make_batch(Row()), monkeypatch, "-o", "compact")
    assert not re.search("\x1b", "".join(lines))
    (line,) = printed(make_batch(Row()), monkeypatch, "-o", "compact", "--color", "always")
    assert "\x1b[36m192.0.2.1:40000\x1b[0m -> \x1b[35m198.51.100.2:443\x1b[0m" in line
    # Nothing else: faint text cannot be read on every background.
    assert set(re.findall("\x1b\\[[0-9;]*m", line)) == {"\x1b[36m", "\x1b[35m", "\x1b[0m"}
    lines = printed(make_batch(Row()), monkeypatch, "-o", "compact", "--color", "never")
    assert not re.search("\x1b", "".join(lines))


def test_other_names_of_flags() -> None:
    """Those of ``hubble observe``; ``--not`` turns round those without a value, too."""
    parser = argparse.ArgumentParser()
    cli_observe.add_arguments(parser)
    parsed = parser.parse_args(["-n", "shop", "-l", "app=web", "-4", "--not", "--ipv6", "--all"])
    conditions, excluded = cli_observe.conditions_of(parsed)
    assert conditions == [("namespace", "shop"), ("label", "app=web"), ("ip-version", "4")]
    assert excluded == [("ip-version", "6")]
    Match(conditions, excluded)
    assert cli_observe._wanted(parsed).last is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--all", "--last", "3"], "--all and --last are both of the recent flows"),
        (["--last=-3"], "--last and --first are numbers of flows"),
        (["--pod", "a\udc80"], "must be text that can be printed"),
    ],
)
def test_flags_that_cannot_be(arguments: list[str], says: str) -> None:
    """One line."""
    parser = argparse.ArgumentParser()
    cli_observe.add_arguments(parser)
    with pytest.raises(ConfigError, match=says):
        cli_observe._wanted(parser.parse_args(arguments))
