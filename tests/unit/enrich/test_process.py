"""Sockets joined to rows, and what is said of their owners."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.batch.batch import FlowBatch
from exporter.batch.clock import unix_offset_ns
from exporter.batch.record import records
from exporter.capture import sockets
from exporter.capture.cgroups import Belonging
from exporter.capture.owners import Owned, OwnerReader
from exporter.capture.sockets import Owner, SocketTable, SocketWatcher
from exporter.enrich.process import ProcessConfig, Processes
from exporter.testing.batch import Row, make_batch

SECOND = 1_000_000_000
OFFSET = unix_offset_ns()


class Watcher(SocketWatcher):
    """Watches nothing; the test says what there is."""

    def open(self) -> None:
        """Nothing."""


def flows(*ports: tuple[int, int, int], protocol: int = 17) -> FlowBatch:
    """Of (source port, destination port, direction), in the last second."""
    now = OFFSET + 1000 * SECOND
    return make_batch(
        *(
            Row(
                src_addr="192.0.2.1" if way else "192.0.2.2",
                dst_addr="192.0.2.2" if way else "192.0.2.1",
                src_port=source,
                dst_port=destination,
                direction=way,
                ip_protocol=protocol,
                flow_start_ns=now,
                flow_end_ns=now + SECOND,
            )
            for source, destination, way in ports
        )
    )


def owned(batch: FlowBatch, cookies: list[int], cgroups: list[int] | None = None) -> Owned:
    """As the kernel would have noted the batch's rows."""
    groups = cgroups or [0] * len(cookies)
    return Owned(
        batch.key_words().copy(),
        batch.flow_start_ns - np.uint64(OFFSET),
        np.array(cookies, np.uint64),
        np.array(groups, np.uint64),
    )


def made(watcher: Watcher, noted: Owned, *, young_from: int = 1 << 63) -> Processes:
    reader = OwnerReader()
    reader.note(noted, young_from, OFFSET)
    return Processes(ProcessConfig(), lambda: reader, watcher)


def said(batch: FlowBatch) -> list[dict[str, object]]:
    return [{what.otel: value for what, value in one.metadata.items()} for one in records(batch)]


def test_both_directions() -> None:
    """The sender of a flow is who gets the opposite one; what has no socket has nothing."""
    watcher = Watcher()
    watcher.table.put(5, Owner(42, "curl", Belonging("c1", "p1")))
    watcher.table.put(6, Owner(43, "nginx"))
    batch = flows((1000, 80, 1), (80, 1000, 0), (1001, 80, 1))
    noted = owned(batch, [5, 6, 0])
    added = said(made(watcher, noted).apply(batch))
    curl = {"process.pid": 42, "process.command": "curl", "container.id": "c1",
            "container.pod_uid": "p1"}  # fmt: skip
    nginx = {"process.pid": 43, "process.command": "nginx"}
    assert added == [
        {f"source.{k}": v for k, v in curl.items()}
        | {f"destination.{k}": v for k, v in nginx.items()},
        {f"source.{k}": v for k, v in nginx.items()}
        | {f"destination.{k}": v for k, v in curl.items()},
        {},
    ]


def test_a_socket_that_did_not_live_as_long_as_the_row() -> None:
    """Released before the last packet, or made after the first: nobody's, cgroup and all."""
    watcher = Watcher()
    batch = flows((1000, 80, 1), (1001, 80, 1), (1002, 80, 1))
    watcher.table.put(1, Owner(1, "gone"))
    watcher.table.release(1, 1000 * SECOND + SECOND // 2)
    watcher.table.put(2, Owner(2, "late"), 1000 * SECOND + SECOND // 2)
    watcher.table.put(3, Owner(3, "there"), 999 * SECOND)
    watcher.table.release(3, 1002 * SECOND)
    added = said(made(watcher, owned(batch, [1, 2, 3], [7, 7, 7])).apply(batch))
    assert added == [
        {},
        {},
        {
            "source.process.pid": 3,
            "source.process.command": "there",
            "source.container.cgroup_id": 7,
        },
    ]


def test_another_entry_of_the_same_flow() -> None:
    """An owner that was noted at another time is another entry's."""
    batch = flows((1000, 80, 1))
    noted = owned(batch, [5])
    noted.starts[0] += np.uint64(1)
    watcher = Watcher()
    watcher.table.put(5, Owner(42, "curl"))
    assert made(watcher, noted).apply(batch).entities == ()


def test_two_sockets_of_one_opposite_flow() -> None:
    """Which of them got the packets cannot be told."""
    watcher = Watcher()
    watcher.table.put(5, Owner(42, "one"))
    watcher.table.put(6, Owner(43, "other"))
    batch = flows((80, 1000, 0))
    there = flows((1000, 80, 1))
    reader = OwnerReader()
    reader.note(owned(there, [5]), 0, OFFSET)
    enricher = Processes(ProcessConfig(), lambda: reader, watcher)
    assert said(enricher.apply(batch))[0]["destination.process.pid"] == 42
    reader.note(owned(there, [6]), 0, OFFSET)
    assert enricher.apply(batch).entities == ()


def test_without_sockets() -> None:
    """Rows stay as they are."""
    batch = flows((1000, 80, 1))
    assert made(Watcher(), owned(batch, [0])).apply(batch) is batch
    assert Processes(ProcessConfig(), lambda: None, Watcher()).apply(batch) is batch


def test_counts() -> None:
    """Ends whose socket's owner was known are hits, others misses; ends of no socket neither."""
    watcher = Watcher()
    watcher.table.put(7, Owner(70, "client"), 1)
    batch = flows((1000, 80, 1), (1001, 80, 1), (1002, 80, 1))
    enricher = made(watcher, owned(batch, [7, 8, 0]))
    enricher.apply(batch)
    state = enricher.state()
    assert (state.hits, state.misses, state.entries, state.problem) == (1, 1, 1, "")


def test_a_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cgroup2 it says so, in one line, and goes on with what it finds by itself."""
    monkeypatch.setattr(sockets, "cgroup_root", lambda: None)
    batch = flows((1000, 80, 1))
    reader = OwnerReader()
    reader.note(owned(batch, [7]), 1 << 63, OFFSET)
    enricher = Processes(ProcessConfig(), lambda: reader)
    enricher.open()
    try:
        assert enricher.state().problem == (
            "the kernel does not tell who makes sockets: no cgroup2 file system is mounted"
        )
        enricher._watcher.table.put(7, Owner(70, "found"))
        (one,) = said(enricher.apply(batch))
        assert one["source.process.command"] == "found"
    finally:
        enricher.close()


def test_losses_are_a_problem_for_a_minute() -> None:
    """With their number, which is counted for good."""
    now, lost = [0.0], [0]

    class Losing(Watcher):
        def lost(self) -> int:
            return lost[0]

    batch, reader = flows((1000, 80, 1)), OwnerReader()
    enricher = Processes(ProcessConfig(), lambda: reader, Losing(), lambda: now[0])
    enricher.apply(batch)
    assert enricher.state().problem == ""
    lost[0] = 5
    enricher.apply(batch)
    assert "5 sockets came faster than they could be noted" in enricher.state().problem
    now[0] = 61.0
    enricher.apply(batch)
    assert (enricher.state().problem, enricher.state().events) == ("", {"lost": 5})


def test_a_table_forgets_the_oldest() -> None:
    """As many as there is room for, and counted."""
    table = SocketTable(4)
    for cookie in range(1, 7):
        table.put(cookie, Owner(1 + cookie % 2, "x"))
    assert (len(table), table.evictions) == (4, 2)
    assert table.owner(2) is None
    assert table.snapshot().cookies.tolist() == [3, 4, 5, 6]
    table.put(6, Owner())
    assert table.owner(6) == Owner()
    assert table.owner(5) == Owner(2, "x")
