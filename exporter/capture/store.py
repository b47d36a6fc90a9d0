"""
What outlives the agent: a directory in bpffs with everything that the next one needs.

::

    <pin>/state        what was carried over: counts of closed sets, packets settled and lost, and
                       what of the last set is settled although the kernel still has it
    <pin>/namespaces   number -> identity of a network namespace
    <pin>/points       observation point -> how a program is attached to it
    <pin>/fragments    shared by all sets
    <pin>/links/       pinned TCX links
    <pin>/sets/N/      the maps of one agent's life, and its programs

Every start makes a new set and moves the hooks over to it. A set that no hook feeds any more has
final counters and quiet maps: what is left in it is read to the last packet, and what it counted
but nobody delivered is known exactly. See docs/decisions/0010-pins-and-upgrades.md.

One agent at a time: the directory is locked. Not thread-safe but for :meth:`PinStore.settle`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from exporter.capture.layouts import OCTETS, OURS, Layout
from exporter.capture.places import NAMESPACE, POINT, NamespaceNumbers, Places
from exporter.capture.reader import FLOW_MAPS, kernel_counts
from exporter.ebpf import pinning
from exporter.ebpf.errors import BpfError, PinIncompatible, PinMissing
from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.migration import Migration
from exporter.ebpf.netns import OWN
from exporter.ebpf.object import Object
from exporter.errors import CaptureError
from exporter.ledger import Carried, Kept, KernelCounts, Tally

log = logging.getLogger(__name__)

#: What ``pin: auto`` is called in the BPF file system.
NAME = "flow-exporter"
#: Maps of a set, by the names that the program gives them.
SET_MAPS = (*FLOW_MAPS, "flow_active", "flow_ring", "counters")
_FRAGMENTS = "fragments"
_FIRST = bytes(4)
_NO_PREALLOC = 1

#: A count under its name, so that another version knows it: packets and octets, or one number.
_COUNT = np.dtype([("name", "S32"), ("value", "<u8", 2)])
_COUNTS = 48
_OUTCOME = "outcome."
#: Of earlier agents, at most.
_MOST_SETS = 4
#: Beside the counts: the set that something is kept of, and what.
_KEPT_SET, _KEPT = "kept.set", "kept"
#: The one value of ``state``. ``closed`` is the last set whose counts are in ``counts``.
STATE = np.dtype(
    [
        ("closed", "<u8"),
        ("settled", "<u8", 2),
        ("lost", "<u8", 2),
        ("counts", _COUNT, _COUNTS),
    ]
)


def _array(name: str, octets: int) -> MapSpec:
    return MapSpec(name, "array", 4, octets, 1, 0)


_STATE_MAP = _array("state", STATE.itemsize)
_LAYOUT_MAP = _array("layout", OCTETS)
#: Unix time minus the kernel's, ns: what the retired map was last read with, and what the active
#: one was first read with when its agent had ended; 0 if it was not.
CLOCK = np.dtype([("retired", "<i8"), ("active", "<i8")])
_CLOCK_MAP = _array("clock", CLOCK.itemsize)
_NAMESPACES_MAP = MapSpec("namespaces", "hash", 4, NAMESPACE.itemsize, 1 << 17, _NO_PREALLOC)
_POINTS_MAP = MapSpec("points", "hash", 8, POINT.itemsize, 1 << 17, _NO_PREALLOC)


class UnknownLayout(Exception):
    """A set that this version cannot read. The text says why."""


class PinnedSet:
    """
    The maps of one earlier agent. Use it in a ``with`` block.

    Args:
        path: Its directory.

    Raises:
        BpfError: If a map cannot be opened.
        UnknownLayout: If this version cannot read them.
    """

    def __init__(self, path: Path) -> None:
        self.number = int(path.name)
        self.path = path
        self.maps: dict[str, Map] = {}
        self.layout = OURS

    def __enter__(self) -> Self:
        try:
            for name in SET_MAPS:
                with contextlib.suppress(PinMissing):
                    self.maps[name] = pinning.open_map(self.path / name)
            if self.complete:
                self._read_layout()
        except (BpfError, UnknownLayout):
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self.maps:
            self.maps.popitem()[1].close()

    @property
    def complete(self) -> bool:
        """Whether it was ever attached: its maps are pinned before that."""
        return set(self.maps) == set(SET_MAPS)

    def offset_ns(self, which: str, now_ns: int) -> int:
        """
        What to add to the times of its records, so that they are the same whoever reads them.

        Args:
            which: The map, a field of ``CLOCK``.
            now_ns: For one that nobody has read, and for sets of versions that do not say.

        Raises:
            BpfError: If the kernel refuses.
        """
        with contextlib.suppress(PinMissing), pinning.open_map(self.path / _CLOCK_MAP.name) as kept:
            clock = np.frombuffer(kept.lookup(_FIRST), CLOCK).copy()
            if not clock[which][0]:
                clock[which] = now_ns
                kept.update(_FIRST, clock.tobytes())
            return int(clock[which][0])
        return now_ns

    def _read_layout(self) -> None:
        with pinning.open_map(self.path / "layout") as kept:
            text = kept.lookup(_FIRST)
        try:
            self.layout = Layout.loads(text)
        except ValueError as err:
            raise UnknownLayout(str(err)) from err
        stats = (self.layout.key.itemsize, self.layout.stats.itemsize)
        for name, sizes in {
            **dict.fromkeys(FLOW_MAPS, stats),
            "counters": (4, self.layout.counters.itemsize),
        }.items():
            spec = self.maps[name].spec
            if (spec.key_size, spec.value_size) != sizes:
                raise UnknownLayout(f"{name} is not laid out as is written beside it")


class PinStore:
    """
    The directory, locked.

    Args:
        path: Absolute, in a BPF file system; ``auto`` is ``flow-exporter`` in the default one.
            Nothing happens before :meth:`open`.
    """

    def __init__(self, path: str) -> None:
        self._wanted = path
        self._lock = -1
        self._maps: dict[str, Map] = {}
        self._earlier: list[Path] = []
        self._number = 0
        self._made: Path | None = None
        self._clock: Map | None = None
        self._closed_through = 0
        self._programs: set[int] = set()
        self.path = Path(path)
        #: What earlier agents left behind, and what their sets counted that are closed.
        self.carried = Carried()
        self.counts = KernelCounts()
        self._settled = Tally()
        self._kept = Kept()
        self._kept_set = 0
        self._places: Places | None = None
        self.numbers = NamespaceNumbers()

    @property
    def places(self) -> Places:
        """What is attached."""
        assert self._places is not None, "open() comes first"
        return self._places

    def open(self, maps: Sequence[MapSpec]) -> None:
        """
        Lock the directory, which is made if it is missing, and read what is in it.

        Args:
            maps: The program's, for what is shared between sets.

        Raises:
            CaptureError: If another agent uses it, if it is not in a BPF file system, or if what
                is in it was written by a version that this one cannot read. Nothing was changed.
            BpfError: If the kernel refuses.
        """
        self._acquire()
        try:
            self._open_maps()
            self._find_sets()
            self._share(maps)
        except (BpfError, CaptureError):
            self.close()
            raise

    def remove(self) -> Leftover:
        """
        Lock the directory, detach what is attached by it, and remove it.

        Raises:
            CaptureError: If an agent is using it, or it is not a directory of pins.
            BpfError: If the kernel refuses.
        """
        self._acquire()
        if not (self.path / "state").exists():
            raise CaptureError(f"{self.path} is not what 'run --pin' makes: it is left alone")
        self._open_maps()
        self._find_programs()
        points = self.places.release_unclaimed(self.numbers)
        settled = self._settled + self.carried.lost
        recorded = self.counts.recorded
        for path in self._sets():
            try:
                with PinnedSet(path) as found:
                    if "counters" in found.maps and int(path.name) > self._closed_through:
                        recorded += kernel_counts(found.maps["counters"], found.layout).recorded
            except UnknownLayout as err:
                log.warning("how much %s counted cannot be read: %s", path, err)
        pinning.remove(self.path)
        return Leftover(points, (recorded - settled).packets)

    def _acquire(self) -> None:
        self.path = locate(self._wanted)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            self.close()
            raise CaptureError(
                f"another agent uses {self.path}: stop it, or choose another path with --pin PATH"
            ) from err
        except OSError as err:
            self.close()
            raise CaptureError(f"{self.path} cannot be used: {err.strerror}") from err

    def shared(self) -> Mapping[str, Map]:
        """Maps that a new set uses instead of its own. They stay the store's."""
        return {_FRAGMENTS: self._maps[_FRAGMENTS]}

    def publish(self, loaded: Object) -> None:
        """
        Pin the maps of a new set, before anything is attached.

        Raises:
            BpfError: If the kernel refuses; nothing of the set is pinned then.
        """
        self._made = self.path / "sets" / str(self._number)
        try:
            self._made.mkdir(mode=0o700, parents=True)
            with pinning.create(_LAYOUT_MAP) as digest:
                digest.update(_FIRST, OURS.dumps())
                pinning.pin(digest, self._made / "layout")
            self._clock = pinning.create(_CLOCK_MAP)
            pinning.pin(self._clock, self._made / _CLOCK_MAP.name)
            for name in SET_MAPS:
                pinning.pin(loaded.maps[name], self._made / name)
        except OSError as err:
            raise BpfError(f"make {self._made}", err.errno or 0) from err

    def keep_programs(self, number: int, loaded: Object) -> None:
        """Pin the programs of a namespace: a filter is known by the program that it runs."""
        assert self._made is not None, "publish() comes first"
        for name, program in loaded.programs.items():
            path = self._made / f"{number}-{name}"
            pinning.unpin(path)
            pinning.pin(program, path)
            self._programs.add(program.info().id)

    def read_with(self, offset_ns: int) -> None:
        """The retired map of this set is being read, and what is added to its times."""
        assert self._clock is not None, "publish() comes first"
        self._clock.update(_FIRST, np.array((offset_ns, 0), CLOCK).tobytes())

    def drop_programs(self, number: int) -> None:
        """Unpin the programs of a namespace that is gone."""
        if self._made is not None:
            for path in self._made.glob(f"{number}-*"):
                pinning.unpin(path)

    def earlier_sets(self) -> Iterator[PinnedSet]:
        """Sets of earlier agents that are not closed, oldest first, each open for one turn."""
        for path in self._earlier:
            with PinnedSet(path) as found:
                if found.complete:
                    yield found

    def is_crowded(self) -> bool:
        """
        Whether so many agents were killed before they had published anything that their sets must
        go now, for each is as large as ours. If we are killed like them, what was in them is lost,
        and counted.
        """
        return len(self._earlier) >= _MOST_SETS

    def kept_of(self, number: int) -> Kept:
        """What is settled of an earlier set although it is still there."""
        return self._kept if number == self._kept_set else Kept()

    def close_earlier(self, counts: KernelCounts, lost: Tally) -> None:
        """
        The earlier sets have been read. They are forgotten at the next :meth:`settle`: a successor
        of an agent that is killed before that reads them again.

        Args:
            counts: All that they counted.
            lost: What earlier agents had read of them and did not deliver.
        """
        self.carried = replace(self.carried, lost=self.carried.lost + lost)
        self.counts += counts

    def settle(self, settled: Tally, kept: Kept | None) -> None:
        """
        Keep what this agent has delivered, or dropped and counted, since it started.

        Args:
            settled: Of its own drains, what was in earlier sets included.
            kept: What of that the kernel still has; ``None`` as long as not all of the earlier sets
                is among it: nothing is kept then.

        Raises:
            BpfError: If the kernel refuses.
        """
        if kept is None:
            return
        state = (self.carried.settled + settled, kept, self._number, self._number - 1)
        if state == (self._settled, self._kept, self._kept_set, self._closed_through):
            return
        self._settled, self._kept, self._kept_set, self._closed_through = state
        # One write: from here on the sets are part of what is carried, and not before.
        self._write()
        while self._earlier:
            pinning.remove(self._earlier.pop())

    def close(self) -> None:
        """Unlock. A set that nothing was attached with is removed again. Again is fine."""
        clock, self._clock = self._clock, None
        if clock is not None:
            clock.close()
        made, self._made = self._made, None
        if made is not None and not self.places.used:
            pinning.remove(made)
        while self._maps:
            self._maps.popitem()[1].close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _open_maps(self) -> None:
        try:
            for spec in (_STATE_MAP, _NAMESPACES_MAP, _POINTS_MAP):
                self._maps[spec.name] = pinning.open_or_create(self.path / spec.name, spec)
        except PinIncompatible as err:
            raise self._unreadable(str(err)) from err
        state = np.frombuffer(self._maps["state"].lookup(_FIRST), STATE)[0]
        self._closed_through = int(state["closed"])
        self.carried = Carried(Tally(*map(int, state["settled"])), Tally(*map(int, state["lost"])))
        named = _named(state["counts"])
        self._settled, self.counts = self.carried.settled, _counts(named)
        kept = named.get(_KEPT, Tally())
        self._kept = Kept(kept.packets, kept.octets)
        self._kept_set = named.get(_KEPT_SET, Tally()).packets
        links = self.path / "links"
        links.mkdir(mode=0o700, exist_ok=True)
        self._places = Places(self._maps["points"], links, self._programs)
        self.numbers = NamespaceNumbers(self._maps["namespaces"])
        if not self.numbers.confirm(0, OWN):
            raise CaptureError(
                f"{self.path} belongs to an agent of another network namespace: choose another "
                "path with --pin PATH"
            )

    def _sets(self) -> list[Path]:
        return sorted((self.path / "sets").glob("*"), key=lambda path: int(path.name))

    def _find_sets(self) -> None:
        there = self._sets()
        self._number = max([self._closed_through, *(int(path.name) for path in there)]) + 1
        for path in there:
            if int(path.name) <= self._closed_through:
                pinning.remove(path)
                continue
            self._require_readable(path)
            self._earlier.append(path)
        self._find_programs()

    def _find_programs(self) -> None:
        for path in (self.path / "sets").glob("*/*-*"):
            with pinning.open_program(path) as kept:
                self._programs.add(kept.info().id)

    def _require_readable(self, path: Path) -> None:
        try:
            with PinnedSet(path):
                pass
        except UnknownLayout as err:
            raise self._unreadable(str(err)) from err

    def _unreadable(self, reason: str) -> CaptureError:
        return CaptureError(
            f"{self.path} was written by another version, which goes on counting there ({reason}): "
            "start that version again, or give up what it counted with its 'flow-exporter unpin'"
        )

    def _share(self, maps: Sequence[MapSpec]) -> None:
        """The map of fragments. It holds nothing that is ever exported: a new one will do."""
        wanted = next(one for one in maps if one.name == _FRAGMENTS)
        with Migration(self.path, {_FRAGMENTS: wanted}) as migration:
            self._maps[_FRAGMENTS] = pinning.open_or_create(self.path / _FRAGMENTS, wanted)
            migration.commit()

    def _write(self) -> None:
        state = np.zeros((), STATE)
        state["closed"] = self._closed_through
        state["settled"] = self._settled.packets, self._settled.octets
        state["lost"] = self.carried.lost.packets, self.carried.lost.octets
        state["counts"] = _to_named(
            self.counts,
            {_KEPT_SET: (self._kept_set, 0), _KEPT: (self._kept.slot, self._kept.ring)},
        )
        # Copied by the kernel within one call: whoever is killed has written all of it or nothing.
        self._maps["state"].update(_FIRST, state.tobytes())


def locate(path: str) -> Path:
    """
    Where the pins are: the directory itself may not exist yet.

    Raises:
        CaptureError: If it is not in a BPF file system.
        BpfError: If the default one cannot be mounted.
    """
    if path == "auto":
        return pinning.ensure_bpffs() / NAME
    wanted = Path(path)
    if wanted.is_relative_to(pinning.DEFAULT_ROOT):
        pinning.ensure_bpffs(pinning.DEFAULT_ROOT)
    if not pinning.in_bpffs(wanted):
        raise CaptureError(
            f"{wanted} is not in a BPF file system: mount one with 'mount -t bpf bpf DIRECTORY', "
            "or leave the path out"
        )
    return wanted


def _to_named(counts: KernelCounts, beside: Mapping[str, tuple[int, int]]) -> NDArray[Any]:
    """As ``state`` keeps them, shape (48,)."""
    numbers: dict[str, tuple[int, int]] = {
        **beside,
        "seen": (counts.seen.packets, counts.seen.octets),
        "flows_created": (counts.flows_created, 0),
        "fragments_unmatched": (counts.fragments_unmatched, 0),
    }
    for name, tally in counts.outcomes.items():
        numbers[f"{_OUTCOME}{name}"] = tally.packets, tally.octets
    named = np.zeros(_COUNTS, _COUNT)
    for row, (name, value) in zip(named, numbers.items(), strict=False):
        row["name"], row["value"] = name.encode(), value
    assert len(numbers) <= _COUNTS, f"there are {len(numbers)} counts"
    return named


def _named(named: NDArray[Any]) -> dict[str, Tally]:
    return {row["name"].decode(): Tally(*map(int, row["value"])) for row in named if row["name"]}


def _counts(numbers: Mapping[str, Tally]) -> KernelCounts:
    return KernelCounts(
        seen=numbers.get("seen", Tally()),
        outcomes={
            name.removeprefix(_OUTCOME): tally
            for name, tally in numbers.items()
            if name.startswith(_OUTCOME)
        },
        flows_created=numbers.get("flows_created", Tally()).packets,
        fragments_unmatched=numbers.get("fragments_unmatched", Tally()).packets,
    )


@dataclass(frozen=True)
class Leftover:
    """
    What was removed: hooks that a program was on, and packets that were counted and never read.
    """

    points: int
    unread: int


def unpin_all(path: str) -> Leftover | None:
    """
    Remove everything that agents left behind in a directory.

    Args:
        path: As for :class:`PinStore`.

    Returns:
        ``None`` if there is nothing.

    Raises:
        CaptureError: If an agent is using it, or it is no such directory.
        BpfError: If the kernel refuses.
    """
    store = PinStore(path)
    if not locate(path).is_dir():
        return None
    with contextlib.closing(store):
        return store.remove()
