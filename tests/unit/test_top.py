"""Sums that the agent tells of, and what is made of them on a screen."""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given

from exporter import cli_top
from exporter.batch.attributes import SIDES, EndAttribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Point, Window
from exporter.batch.match import Match
from exporter.batch.record import FlowRecord, records
from exporter.cli_top import ORDERS, Look, press, screen, spark
from exporter.errors import ConfigError
from exporter.observe import Wanted
from exporter.testing import Row, make_batch
from exporter.top import ROWS, VIEWS, Asked, Model, Summary
from tests.strategies import batches

TALKERS = Look("talkers", [], [])
WINDOW = Window(0, 2_000_000_000)
#: (octets, packets, flows), sent and received.
Told = dict[tuple[str, ...], tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]


def told(line: bytes) -> Told:
    return {
        tuple(key): ([tuple(sums) for sums in now], [tuple(sums) for sums in everything])
        for key, now, everything in orjson.loads(line)["rows"]
    }


def of_talkers(some: list[FlowRecord]) -> dict[str, list[list[int]]]:
    """Address -> sent and received."""
    found: dict[str, list[list[int]]] = defaultdict(lambda: [[0, 0, 0], [0, 0, 0]])
    for record in some:
        if record.duplicate:
            continue
        for side, address in enumerate((record.source, record.destination)):
            for place, value in enumerate((record.octets_l2, record.packets, 1)):
                sums = found[address][side]
                sums[place] = (sums[place] + value) % (1 << 64)
    return found


@given(batches(), batches())
def test_talkers(first: FlowBatch, second: FlowBatch) -> None:
    """What each address sent and received in the last batch and in all, to the octet."""
    summary = Summary(VIEWS["talkers"])
    summary.add(first)
    rows = told(summary.add(second))
    now, everything = (
        of_talkers([*records(second)]),
        of_talkers([*records(first), *records(second)]),
    )
    for (address,), (last, whole) in rows.items():
        assert [list(sums) for sums in last] == now[address]
        assert [list(sums) for sums in whole] == everything[address]
    with_octets = {a for a, sums in everything.items() if sums[0][0] or sums[1][0]}
    assert with_octets <= {address for (address,) in rows}


def test_pairs_are_one_row() -> None:
    """Both ways round: what the first sent, and what it received."""
    rows = told(
        Summary(VIEWS["pairs"]).add(
            make_batch(
                Row(src_addr="10.0.0.1", dst_addr="10.0.0.2", octet_count_l2=100, packet_count=1),
                Row(src_addr="10.0.0.2", dst_addr="10.0.0.1", octet_count_l2=7, packet_count=2),
                Row(src_addr="10.0.0.3", dst_addr="10.0.0.1", octet_count_l2=5, packet_count=3),
            )
        )
    )
    assert {key: now for key, (now, _) in rows.items()} == {
        ("10.0.0.1", "10.0.0.2"): [(100, 1, 1), (7, 2, 1)],
        ("10.0.0.1", "10.0.0.3"): [(0, 0, 0), (5, 3, 1)],
    }


def test_ports() -> None:
    """By the lower one of both, whichever way; protocols without ports by themselves."""
    rows = told(
        Summary(VIEWS["ports"]).add(
            make_batch(
                Row(src_port=40_000, dst_port=443, octet_count_l2=10),
                Row(src_port=443, dst_port=40_001, octet_count_l2=20),
                Row(ip_protocol=1, src_port=0, dst_port=2048, octet_count_l2=3),
            )
        )
    )
    assert {key: now[0][0] for key, (now, _) in rows.items()} == {("6", "443"): 30, ("1", "0"): 3}


def test_only_the_busiest_are_told_of() -> None:
    """As many by the last batch, as many by their totals; both with exact sums."""
    many = [Row(src_addr=f"10.0.{n // 250}.{n % 250}", octet_count_l2=n + 1) for n in range(1000)]
    summary = Summary(VIEWS["talkers"])
    summary.add(make_batch(*many))
    rows = told(summary.add(make_batch(Row(src_addr="10.9.9.9", octet_count_l2=3))))
    assert rows["10.9.9.9",] == ([(3, 10, 1), (0, 0, 0)], [(3, 10, 1), (0, 0, 0)])
    assert rows["10.0.3.249",] == ([(0, 0, 0)] * 2, [(1000, 10, 1), (0, 0, 0)])
    assert ROWS <= len(rows) <= 4 * ROWS


@pytest.mark.parametrize("name", [name for name, view in VIEWS.items() if view.narrow])
def test_looking_into_a_row(name: str) -> None:
    """The conditions of a row are conditions that there are, and lead to a view that there is."""
    view = VIEWS[name]
    assert view.narrow is not None
    key = {"talkers": ("10.0.0.1",), "pairs": ("10.0.0.1", "::1"), "ports": ("6", "443"),
           "protocols": ("6",)}.get(name, ("a", "1")[: len(view.sent)])  # fmt: skip
    Match(view.narrow(key))
    assert view.below in VIEWS


def known() -> FlowBatch:
    """Flows of 1, 2, 4, ... octets, so that a sum says of which it is; ends have names."""
    points = [Point(0, ifindex, direction) for ifindex in (1, 2) for direction in (0, 1)]
    rows = [
        Row(src_addr="10.0.0.1", dst_addr="10.0.0.2", dst_port=443),
        Row(src_addr="10.0.0.2", dst_addr="10.0.0.1", src_port=443, dst_port=40000),
        Row(src_addr="10.0.0.1", dst_addr="10.0.0.3", ip_protocol=17, dst_port=443),
        Row(src_addr="10.0.0.3", dst_addr="10.0.0.2", ip_protocol=1, src_port=0, dst_port=0),
    ]
    rows = [
        replace(row, octet_count_l2=1 << n, points=(points[n],), ifindex=points[n].ifindex,
                direction=points[n].direction)
        for n, row in enumerate(rows)
    ]  # fmt: skip
    # Of 10.0.0.1, .2 and .3; the first two are one workload's, and the last is alone in "other".
    values = {
        "k8s.namespace.name": (None, "shop", "shop", "other"),
        "k8s.pod.name": (None, "web-1", "web-2", "web-1"),
        "k8s.owner.name": (None, "web", "web", "web"),
        "domain": (None, "one.example", "two.example", "one.example.org"),
    }
    entities = tuple(
        Entities(np.array([int(getattr(row, f"{short}_addr")[-1]) for row in rows], np.uint32),
                 {EndAttribute(path, "").of(side): some for path, some in values.items()})
        for side, short in zip(SIDES, ("src", "dst"), strict=True)
    )  # fmt: skip
    names = {point: Interface(f"eth{point.ifindex}") for point in points}
    return replace(make_batch(*rows, interfaces=names), entities=entities)


@pytest.mark.parametrize("name", [name for name, view in VIEWS.items() if view.narrow])
def test_a_row_leads_to_its_own_flows(name: str) -> None:
    """What a row was summed of is what its conditions choose: all of it, and nothing else."""
    view, batch = VIEWS[name], known()
    assert view.narrow is not None
    rows = told(Summary(view).add(batch))
    assert len(rows) > 1
    for key, (_, everything) in rows.items():
        of_row = 0
        for octets, _, _ in everything:
            of_row |= octets
        chosen = Match(view.narrow(key)).mask(batch)
        assert int(batch.octet_count_l2[chosen].sum()) == of_row, key


def test_pairs_narrow() -> None:
    """Flows between both, either way, and none else."""
    batch = make_batch(
        Row(src_addr="10.0.0.1", dst_addr="10.0.0.2"),
        Row(src_addr="10.0.0.2", dst_addr="10.0.0.1"),
        Row(src_addr="10.0.0.1", dst_addr="10.0.0.3"),
    )
    narrow = VIEWS["pairs"].narrow
    assert narrow is not None
    assert Match(narrow(("10.0.0.1", "10.0.0.2"))).mask(batch).tolist() == [True, True, False]


def test_queries() -> None:
    """A view and conditions reach the agent; a view that there is not is refused."""
    asked = Asked("ports", Wanted((("ip", "10.0.0.0/8"),), (("port", "53"),), follow=True))
    assert Asked.of_query(asked.query()) == asked
    with pytest.raises(ConfigError, match="there is no view colours: use one of talkers"):
        Asked.of_query("view=colours")


def model(*lots: FlowBatch, view: str = "talkers") -> Model:
    summary, found = Summary(VIEWS[view]), Model()
    for batch in lots:
        found.take(summary.add(replace(batch, window=WINDOW)))
    return found


QUIET = make_batch(Row(src_addr="10.0.0.9", dst_addr="10.0.0.8", octet_count_l2=1))
BUSY = make_batch(
    Row(octet_count_l2=1_000_000, packet_count=1000),
    Row(src_addr="2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", dst_addr="::1", octet_count_l2=500,
        packet_count=4000),
)  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("view", VIEWS)
def test_a_screen_fits(view: str, width: int) -> None:
    """At any width from 80 columns, in every view, also before there is anything."""
    for some in (Model(), model(BUSY, QUIET, view=view)):
        lines = screen(some, Look(view, [], []), width, 24)
        assert len(lines) == 24
        plain = [line.replace("\x1b[7m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
                 for line in lines]  # fmt: skip
        assert max(map(len, plain)) <= width


def test_what_is_on_the_screen() -> None:
    """Rates of the last drain, totals since the beginning, and the history as bars."""
    lines = screen(model(QUIET, BUSY, BUSY), TALKERS, 80, 24)
    assert lines[0] == ("4.00Mbit/s  2.50k packets/s  2 flows in 2.0 s".ljust(68) + "▁██".rjust(12))
    assert lines[1] == "by talkers  most bytes first"
    assert lines[2].split() == ["ADDRESS", "SENT/s", "RECV/s", "PKT/s", "TOTAL", "HISTORY"]
    shown = [line.replace("\x1b[7m", "") for line in lines[3:-1] if line]
    rows = {line.split()[0]: line for line in shown}
    assert rows["192.0.2.1"].split()[1:5] == ["4.00M", "0", "500", "2.00MB"]
    assert rows["198.51.100.2"].split()[1:5] == ["0", "4.00M", "500", "2.00MB"]
    assert rows["10.0.0.9"].split()[1:] == ["0", "0", "0", "1B", "█"]
    assert len(rows) == 6
    assert lines[3].startswith("\x1b[7m")


def test_orders() -> None:
    """Most bytes, packets or flows of the last drain first, or in total."""
    found = model(BUSY, QUIET)
    by = {order: found.ordered(order)[0][0] for order in ORDERS}
    assert by["bytes"] in (("10.0.0.9",), ("10.0.0.8",))
    assert by["total"] in (("192.0.2.1",), ("198.51.100.2",))
    assert model(BUSY).ordered("packets")[0][0][0] in (
        "::1",
        "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff",
    )
    assert [key for key, _ in found.ordered("bytes", "2001")] == [
        ("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff",)
    ]


def test_keys() -> None:
    """Views in turn, rows chosen, text typed, orders, looking into a row and back; leaving."""
    look, found = Look("talkers", [], []), model(BUSY)
    assert not press(look, found, "\x1b[B")
    assert look.chosen == 1
    chosen = found.ordered("bytes")[1][0][0]
    press(look, found, "\r")
    assert (look.view, look.conditions, look.chosen) == ("pairs", [("ip", chosen)], 0)
    press(look, found, "\x1b")
    assert (look.view, look.conditions, look.chosen) == ("talkers", [], 1)
    press(look, found, "\x1b")
    assert look.view == "talkers"
    for key, view in (("\t", "pairs"), ("\x1b[Z", "talkers"), ("\x1b[Z", "countries")):
        press(look, found, key)
        assert look.view == view
    press(look, found, "/")
    for key in ("q", "x", "\x7f"):
        press(look, found, key)
    assert (look.containing, look.typing) == ("q", True)
    press(look, found, "\r")
    assert (look.containing, look.typing) == ("q", False)
    press(look, found, "/")
    for key in ("z", "\x1b"):
        press(look, found, key)
    assert (look.containing, look.typing) == ("", False)
    press(look, found, "s")
    assert look.order == "packets"
    press(look, found, " ")
    assert look.stopped
    assert "stopped" in screen(found, look, 80, 24)[1]
    assert press(look, found, "q")


def test_a_screen_that_was_stopped() -> None:
    """What comes meanwhile changes nothing on it; what comes afterwards does, and has all sums."""
    session = cli_top._Session(None, Look("talkers", [], []), 0)  # type: ignore[arg-type]
    summary = Summary(VIEWS["talkers"])
    lines = [summary.add(replace(batch, window=WINDOW)) for batch in (BUSY, BUSY, QUIET)]

    def shown() -> list[str]:
        return screen(session._model, session._look, 80, 24)[2:]

    assert not session._take(lines[:1])
    before = shown()
    press(session._look, session._model, " ")
    assert not session._take(lines[1:2])
    assert shown() == before
    press(session._look, session._model, " ")
    assert not session._take(lines[2:])
    row = next(line for line in shown() if "192.0.2.1" in line)
    assert row.replace("\x1b[7m", "").split()[1:5] == ["0", "0", "0", "2.00MB"]


def test_rows_without_a_name_are_not_looked_into() -> None:
    """There is no condition for what is not known."""
    look = Look("pods", [], [])
    found = model(BUSY, view="pods")
    assert list(found.rows) == [("", "")]
    press(look, found, "\r")
    assert look.view == "pods"
    assert "(unknown)" in "".join(screen(found, look, 80, 24))


def test_spark() -> None:
    """The highest is full, what is not nothing is seen, and the newest is at the right."""
    assert spark([0, 1, 50, 100], 6) == "   ▁▄█"
    assert spark([], 3) == "   "
    assert spark([5.0] * 20, 4) == "████"


def test_a_reader_that_was_too_slow() -> None:
    """The screen says how many flows it has not seen."""
    found = model(BUSY)
    found.take(b'{"notice": {"missed": 17}}\n')
    assert "17 not seen" in screen(found, TALKERS, 80, 24)[0]


def test_flags() -> None:
    """Views and orders that help offers are those that there are."""
    assert tuple(VIEWS) == cli_top.VIEWS
    parser = argparse.ArgumentParser()
    cli_top.add_arguments(parser)
    parsed = parser.parse_args(["--by", "ports", "--ip", "::1", "--not", "--port", "53"])
    assert (parsed.by, parsed.conditions, parsed.excluded) == (
        "ports", [("ip", "::1")], [("port", "53")]
    )  # fmt: skip
