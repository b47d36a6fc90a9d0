"""
The process and the container at the end of a flow that is local, where the kernel can tell.

The flow program notes which socket sent the first packet of a flow (``capture.owners``); whose that
socket is is known from ``capture.sockets``. The other end is local, too, if the opposite flow at
the same interface has a socket. A socket that was made after the flow's first packet, or released
before its last, does not stand for all of the row: then it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from exporter.batch.attributes import SIDES, Attribute, EndAttribute, Entities, Side, Value
from exporter.batch.batch import FlowBatch
from exporter.batch.clock import unix_offset_ns
from exporter.batch.record import TCP
from exporter.capture.cgroups import Belonging
from exporter.capture.owners import OwnerReader
from exporter.capture.sockets import Owner, SocketWatcher
from exporter.enrich.base import State

U8 = NDArray[np.uint64]

#: ns that packets may be later than a socket's release: the coarse clock's tick and what is on the
#: way through a queue; for TCP, until the connection is closed.
_LATE, _LATE_TCP = 20_000_000, 1_000_000_000

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
class _Ends:
    """Sockets of one end of all rows: cookie and cgroup id, uint64, shape (n,), 0 is unknown."""

    cookies: U8
    cgroups: U8


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
    ) -> None:
        self._owners = owners
        self._watcher = SocketWatcher(config.sockets) if watcher is None else watcher
        self._hits = self._misses = 0

    def open(self) -> None:
        """Begin to watch sockets."""
        self._watcher.open()

    def close(self) -> None:
        """Stop."""
        self._watcher.close()

    def state(self) -> State:
        """Hits are sockets whose owner was known, misses those whose was not."""
        lost = self._watcher.lost()
        problem = self._watcher.problem or (
            f"{lost} sockets came faster than they could be noted" if lost else ""
        )
        table = self._watcher.table
        return State(problem, self._hits, self._misses, table.evictions, len(table))

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """Add process and container of either end."""
        reader = self._owners()
        if reader is None or not len(batch):
            return batch
        ends = {
            "source": _Ends(*reader.of(batch)),
            "destination": _Ends(*reader.opposite(batch)),
        }
        self._watcher.want(
            set(np.unique(np.concatenate([one.cookies for one in ends.values()])).tolist()) - {0}
        )
        added = [self._entities(batch, side, ends[side]) for side in SIDES]
        return replace(batch, entities=(*batch.entities, *filter(None, added)))

    def _entities(self, batch: FlowBatch, side: Side, end: _Ends) -> Entities | None:
        if not end.cookies.any():
            return None
        known = self._watcher.table.snapshot()
        owner = np.zeros(len(batch), np.uint64)
        cgroups = end.cgroups.copy()
        if len(known.cookies):
            at = np.minimum(np.searchsorted(known.cookies, end.cookies), len(known.cookies) - 1)
            hit = (known.cookies[at] == end.cookies) & (end.cookies != 0)
            unfit = hit & ~_lived(batch, known.made[at], known.released[at])
            owner[hit] = known.owners[at[hit]]
            owner[unfit] = cgroups[unfit] = 0
            self._hits += int(hit.sum())
            self._misses += int((end.cookies != 0).sum() - hit.sum())
        # Pairs of owner and cgroup are few, rows are many.
        pairs = np.stack([owner, cgroups], axis=1)
        distinct, rows = np.unique(pairs, axis=0, return_inverse=True)
        values = [self._values(known.table[int(who)], int(group)) for who, group in distinct]
        first: tuple[Value, ...] = (None,) * len(_ATTRIBUTES)
        columns = zip(first, *values, strict=True)
        by_attribute: Mapping[Attribute, tuple[Value, ...]] = {
            one.of(side): tuple(column) for one, column in zip(_ATTRIBUTES, columns, strict=True)
        }
        return Entities(rows.reshape(-1).astype(np.uint32) + 1, by_attribute)

    def _values(self, owner: Owner, cgroup: int) -> tuple[Value, ...]:
        # By the socket's cgroup even if the process is unknown. Where both are known and differ,
        # the process has moved: nobody's.
        of_cgroup = self._watcher.belonging_of_cgroup(cgroup)
        whose = owner.belonging or of_cgroup
        if of_cgroup and owner.belonging and of_cgroup != owner.belonging:
            whose = Belonging()
        return owner.pid or None, owner.command, whose.container, whose.pod, cgroup or None


def _lived(batch: FlowBatch, made: U8, released: U8) -> NDArray[np.bool_]:
    """Whether sockets lived while rows were counted; bool, shape (n,)."""
    offset = np.uint64(unix_offset_ns())
    late = np.where(batch.ip_protocol == TCP, np.uint64(_LATE_TCP), np.uint64(_LATE))
    begun = (made == 0) | (batch.flow_start_ns - offset + np.uint64(_LATE) >= made)
    ended = (released != 0) & (batch.flow_end_ns - offset > released + late)
    return np.asarray(begun & ~ended)
