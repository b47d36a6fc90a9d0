"""The live table: what it shows of which flows."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from exporter.batch.attributes import Attribute, EndAttribute, Entities, Value
from exporter.batch.batch import Interface, Point, Window
from exporter.sinks.stdout.best_name import best_name
from exporter.sinks.stdout.sink import TableSink
from exporter.sinks.stdout.table import busiest, count_text, end_text, flags_text, render
from exporter.testing import Row, make_batch

ETH0, VETH = Point(0, 2, 1), Point(0, 3, 0)
BATCH = make_batch(
    Row(src_addr="192.0.2.1", src_port=1234, octet_count_l2=1000, packet_count=2, points=(ETH0,)),
    Row(
        src_addr="2001:db8::1",
        dst_addr="2001:db8::2",
        src_port=5,
        dst_port=53,
        ip_protocol=17,
        octet_count_l2=2_500_000,
        packet_count=12_345,
        tcp_control_bits=0,
        points=(VETH, ETH0),
    ),
    Row(ip_protocol=1, dst_port=8 << 8, octet_count_l2=98, tcp_control_bits=0, points=(VETH,)),
    interfaces={ETH0: Interface("eth0"), VETH: Interface("veth1")},
    window=Window(0, 2_000_000_000),
)


def printed(rows: int) -> list[str]:
    """The lines of the table, without trailing spaces."""
    console = Console(file=io.StringIO(), width=130)
    console.print(render(BATCH, rows))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_table() -> None:
    """A title with rates over the window, headings, the busiest flow first."""
    title, headings, *flows = printed(10)
    assert title.split("   ") == ["3 flows", "6.18k packets/s", "10.0Mbit/s", "last 2.0 s"]
    assert headings.split() == [
        *("SOURCE", "DESTINATION", "PROTO", "PKTS", "BIT/S", "FLAGS", "SEEN", "AT"),
    ]
    assert [line.split() for line in flows] == [
        ["[2001:db8::1]:5", "[2001:db8::2]:53", "udp", "12.3k", "10.0M", "veth1←", "eth0→"],
        ["192.0.2.1:1234", "198.51.100.2:443", "tcp", "2", "4.00k", "A", "eth0→"],
        ["192.0.2.1", "198.51.100.2", "icmp", "10", "392", "veth1←"],
    ]


SERVICE, POD_NAME, NAMESPACE, DNS = (
    EndAttribute(path, "").of("destination")
    for path in ("k8s.service.name", "k8s.pod.name", "k8s.namespace.name", "dns.name")
)


def test_names_and_addresses() -> None:
    """Names above, the addresses below them; nothing is cut that fits into 80 columns."""
    pod = EndAttribute("k8s.pod.name", "").of("source")
    namespace = EndAttribute("k8s.namespace.name", "").of("source")
    entities = (
        Entities(np.array([1, 0, 0], np.uint32), {pod: (None, "a\x1b[2J"), namespace: (None, "x")}),
        Entities(np.array([1, 0, 2], np.uint32), {DNS: (None, "www.example.org", "host-1")}),
    )
    batch = replace(BATCH, entities=entities)
    console = Console(file=io.StringIO(), width=80)
    console.print(render(batch, 10))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    shown = [line.split() for line in lines[2:] if line.strip()]
    assert [line[:3] for line in shown] == [
        ["[2001:db8::1]:5", "[2001:db8::2]:53", "udp"],
        [r"x/a\x1b[2J", "www.example.org", "tcp"],
        ["192.0.2.1:1234", "198.51.100.2:443"],
        ["192.0.2.1", "host-1", "icmp"],
        ["198.51.100.2"],
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(render(batch, 4))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "192.0.2.1:1234" in text
    assert "host-1" not in text


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, ""),
        ({NAMESPACE: "shop"}, ""),
        ({DNS: "cart.shop"}, "cart.shop"),
        ({POD_NAME: "cart-0", DNS: "cart.shop"}, "cart-0"),
        ({POD_NAME: "cart-0", NAMESPACE: "shop"}, "shop/cart-0"),
        ({POD_NAME: "cart-0", NAMESPACE: "shop", SERVICE: "cart"}, "shop/cart"),
    ],
)
def test_best_name(metadata: dict[Attribute, Value], expected: str) -> None:
    """A service before a pod before DNS; nothing of the other end."""
    assert best_name(metadata, "destination") == expected
    assert best_name(metadata, "source") == ""


def test_nothing_is_taken_for_markup() -> None:
    """Brackets around an address that begins with a letter, or in a name, are shown as they are."""
    point = Point(1, 7, 1)
    batch = make_batch(
        Row(src_addr="fd00::1", dst_addr="fe80::2", src_port=5, points=(point,)),
        interfaces={point: Interface("[red]a")},
    )
    console = Console(file=io.StringIO(), width=130, force_terminal=True)
    console.print(render(batch, 1))
    line = console.file.getvalue().splitlines()[2]  # type: ignore[attr-defined]
    assert line.split()[:2] == ["[fd00::1]:5", "[fe80::2]:443"]
    assert "[red]a→" in line


def test_names_do_not_command_the_terminal() -> None:
    """A container may call its interface anything but whitespace: escapes are shown, not sent."""
    point = Point(1, 7, 1)
    batch = make_batch(Row(points=(point,)), interfaces={point: Interface("a\x1b[2J\x9b1m")})
    console = Console(file=io.StringIO(), width=130)
    console.print(render(batch, 1))
    assert r"a\x1b[2J\x9b1m→" in console.file.getvalue()  # type: ignore[attr-defined]


def test_table_is_cut_to_its_rows() -> None:
    """Only so many flows, the busiest; the title counts all of them."""
    title, _, *flows = printed(1)
    assert title.startswith("3 flows")
    assert len(flows) == 1
    assert busiest(BATCH, 2).octet_count_l2.tolist() == [2_500_000, 1000]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (9, "9"),
        (999, "999"),
        (1000, "1.00k"),
        (1234, "1.23k"),
        (9999, "10.0k"),
        (12_345, "12.3k"),
        (123_456, "123k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (1_234_567, "1.23M"),
        (10**9, "1.00G"),
        (10**12, "1.00T"),
        (10**16, "10000T"),
        (0.4, "0"),
        (99.9, "100"),
    ],
)
def test_count_text(value: float, expected: str) -> None:
    """Three significant digits and a decimal prefix; no fractions of a unit."""
    assert count_text(value) == expected


def test_flags_text() -> None:
    """One letter for each of the header's eight flags, from FIN to CWR."""
    assert flags_text(0xFF) == "FSRPAUEC"
    assert flags_text(0x12) == "SA"
    assert flags_text(0x100) == ""


@pytest.mark.parametrize(
    ("address", "protocol", "expected"),
    [
        ("192.0.2.1", 6, "192.0.2.1:443"),
        ("2001:db8::1", 132, "[2001:db8::1]:443"),
        ("192.0.2.1", 1, "192.0.2.1"),
        ("2001:db8::1", 58, "2001:db8::1"),
    ],
)
def test_end_text(address: str, protocol: int, expected: str) -> None:
    """The port where the protocol has ports."""
    assert end_text(address, 443, protocol) == expected


def test_table_sink(capfd: pytest.CaptureFixture[str]) -> None:
    """The last table stays on the screen; closing again, or before opening, is fine."""
    sink = TableSink("stdout")
    sink.close()
    sink.open()
    (message,) = sink.encode(BATCH)
    sink.deliver(message, 1)
    assert list(sink.split(message)) == []
    sink.close()
    sink.close()
    assert "3 flows" in capfd.readouterr().out
