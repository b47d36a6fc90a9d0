"""
The process and the container at the end of a flow that is local, where the kernel can tell.

The flow program notes which socket sent the first packet of a flow (``capture.owners``); whose that
socket is is known from ``capture.sockets``. The other end is local, too, if the opposite flow at
the same interface has a socket. A socket that was made after the flow's first packet, or released
before its last, does not stand for all of the row: then it is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from exporter.batch.attributes import SIDES, Attribute, EndAttribute, Entities, Value
from exporter.batch.batch import U4, U8, FlowBatch
from exporter.batch.clock import unix_offset_ns
from exporter.batch.group import distinct, places
from exporter.batch.record import TCP
from exporter.capture.cgroups import Belonging
from exporter.capture.owners import OwnerReader
from exporter.capture.sockets import Owner, SocketWatcher
from exporter.enrich.base import State

#: ns that packets may be later than a socket's release: the coarse clock's tick and what is on the
#: way through a queue; for TCP, until the connection is closed.
_LATE, _LATE_TCP = 20_000_000, 1_000_000_000

#: Seconds for which a loss is a problem.
_RECENT = 60.0
#: Processes that may be looked for on the thread that drains: some 50 us each.
_LOOKS = 200

PID = EndAttribute(
    "process.pid", "Number of the process that has the socket at this end.", number=True
)
COMMAND = EndAttribute("process.command", "Its name, up to 15 characters.")
CONTAINER = EndAttribute("container.id", "Id of the container that it runs in.")
POD = EndAttribute("container.pod_uid", "Uid of the pod that it runs in.")
CGROUP = EndAttribute(
    "container.cgroup_id", "Id of its cgroup in the unified hierarchy.", number=True
)
_ATTRIBUTES = (PID, COMMAND, CONTAINER, POD, CGROUP)


class ProcessConfig(BaseModel):
    """
    The ``enrich.processes`` section: process and container of the end that is local.

    Args:
        sockets: How many are remembered; the oldest are forgotten first. 36 octets each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sockets: int = Field(65_536, ge=16, le=1 << 24)


@dataclass(frozen=True)
class _Sockets:
    """
    What is known of distinct sockets, each with one cgroup, shape (s,).

    ``owners`` are places in ``table``, 0 for unknown; ``made`` and ``released`` are of
    CLOCK_MONOTONIC in ns, 0 for unknown.
    """

    cgroups: U8
    owners: U4
    made: U8
    released: U8
    table: tuple[Owner, ...]


class Processes:
    """
    Adds what is known of the sockets that flows are of.

    Args:
        config: How much is remembered.
        owners: Gives the sockets of the last drain's flows.
        watcher: Opened and closed here; one of its own if ``None``.
    """

    name = "processes"
    requires: tuple[str, ...] = ("key",)
    provides: tuple[str, ...] = ("entities",)
    attributes: tuple[Attribute, ...] = tuple(one.of(side) for side in SIDES for one in _ATTRIBUTES)

    def __init__(
        self,
        config: ProcessConfig,
        owners: Callable[[], OwnerReader | None],
        watcher: SocketWatcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owners = owners
        self._watcher = SocketWatcher(config.sockets) if watcher is None else watcher
        self._clock = clock
        self._lost, self._lost_at = 0, -_RECENT
        self._hits = self._misses = 0

    def open(self) -> None:
        """Begin to watch sockets, if anything is captured that could be theirs."""
        if self._owners() is not None:
            self._watcher.open()

    def close(self) -> None:
        """Stop."""
        self._watcher.close()

    def state(self) -> State:
        """
        Hits are ends whose socket's owner was known, misses those whose was not; ends of no socket
        are neither. ``lost`` are events that the kernel had no room for, a problem for a minute.
        """
        problem = self._watcher.problem
        if not problem and self._clock() - self._lost_at < _RECENT:
            problem = (
                f"{self._lost} sockets came faster than they could be noted since the start, the "
                "last of them within a minute: processes are missing"
            )
        table, events = self._watcher.table, {"lost": self._lost}
        return State(problem, self._hits, self._misses, table.evictions, len(table), events=events)

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """Add process and container of either end."""
        reader = self._owners()
        if reader is None or not len(batch):
            return batch
        self._watcher.catch_up(_LOOKS)
        lost = self._watcher.lost()
        if lost > self._lost:
            self._lost, self._lost_at = lost, self._clock()
        ends = reader.ends(batch)
        # Both ends at once: sockets are fewer than rows, and pairs of owner and cgroup fewer still.
        cookies = np.concatenate([one.cookies for one in ends])
        cgroups = np.concatenate([one.cgroups for one in ends])
        there = np.flatnonzero((cookies != 0) | (cgroups != 0))
        if not len(there):
            return batch
        pairs = np.column_stack((cookies[there], cgroups[there]))
        first, numbers = distinct(pairs)
        sockets = self._look_up(pairs[first, 0], pairs[first, 1])
        entities, values = self._entities(sockets)
        rows = entities[numbers]
        rows[~_lived(batch, sockets, there, numbers)] = 0
        known = int(np.count_nonzero(sockets.owners[numbers]))
        self._hits += known
        self._misses += len(there) - known
        of_ends = np.zeros(2 * len(batch), np.uint32)
        of_ends[there] = rows
        added = []
        for side, rows in zip(SIDES, np.split(of_ends, 2), strict=True):
            added.append(
                Entities(
                    rows, {one.of(side): v for one, v in zip(_ATTRIBUTES, values, strict=True)}
                )
            )
        return replace(batch, entities=(*batch.entities, *added))

    def _look_up(self, cookies: U8, cgroups: U8) -> _Sockets:
        """What is known of distinct sockets; who holds those that are new is asked for."""
        self._watcher.want(cookies[cookies != 0])
        known = self._watcher.table.snapshot()
        owners = np.zeros(len(cookies), np.uint32)
        made, released = np.zeros((2, len(cookies)), np.uint64)
        if len(known.cookies):
            at = np.minimum(places(known.cookies, cookies), len(known.cookies) - 1)
            hit = (known.cookies.take(at) == cookies) & (cookies != 0)
            at = at[hit]
            owners[hit], made[hit], released[hit] = (
                known.owners[at], known.made[at], known.released[at],
            )  # fmt: skip
        return _Sockets(cgroups, owners, made, released, known.table)

    def _entities(self, sockets: _Sockets) -> tuple[U4, tuple[tuple[Value, ...], ...]]:
        """Which entity each socket is of, 0 for nobody's; and the values of each attribute."""
        pairs = np.stack([sockets.owners.astype(np.uint64), sockets.cgroups], axis=1)
        first, numbers = distinct(pairs)
        rows = [self._values(sockets.table[int(who)], int(group)) for who, group in pairs[first]]
        nothing: tuple[Value, ...] = (None,) * len(_ATTRIBUTES)
        entities = numbers + np.uint32(1)
        entities[(sockets.owners == 0) & (sockets.cgroups == 0)] = 0
        return entities, tuple(zip(nothing, *rows, strict=True))

    def _values(self, owner: Owner, cgroup: int) -> tuple[Value, ...]:
        # By the socket's cgroup even if the process is unknown. Where both are known and differ,
        # the process has moved: nobody's.
        of_cgroup = self._watcher.belonging_of_cgroup(cgroup)
        whose = owner.belonging or of_cgroup
        if of_cgroup and owner.belonging and of_cgroup != owner.belonging:
            whose = Belonging()
        return owner.pid or None, owner.command, whose.container, whose.pod, cgroup or None


def _lived(
    batch: FlowBatch, sockets: _Sockets, ends: NDArray[np.int64], numbers: U4
) -> NDArray[np.bool_]:
    """
    Whether sockets lived while rows were counted.

    Args:
        batch: Of n rows.
        sockets: Distinct ones.
        ends: Shape (m,): numbers of rows, and of their other ends as many rows later.
        numbers: Which socket each has, shape (m,).

    Returns:
        bool, shape (m,).
    """
    if not sockets.made.any() and not sockets.released.any():
        return np.ones(len(ends), np.bool_)
    offset = np.uint64(unix_offset_ns())
    rows = ends % len(batch)
    made, released = sockets.made.take(numbers), sockets.released.take(numbers)
    begun = batch.flow_start_ns.take(rows) - offset + np.uint64(_LATE) >= made
    lived = begun | (made == 0)
    gone = np.flatnonzero(released)
    rows = rows[gone]
    late = np.where(batch.ip_protocol[rows] == TCP, np.uint64(_LATE_TCP), np.uint64(_LATE))
    lived[gone] &= batch.flow_end_ns[rows] - offset <= released[gone] + late
    return np.asarray(lived)
