"""
Where programs stay attached when the agent ends, and what its numbers for namespaces mean.

An attachment is written down before it is made: whoever is killed in between leaves a note of
something that is not there, never something without a note.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np

from exporter.ebpf import replace
from exporter.ebpf.errors import KeyNotFound
from exporter.ebpf.links import Direction, Hook
from exporter.ebpf.maps import Map
from exporter.ebpf.netns import entered
from exporter.ebpf.programs import Program
from exporter.ebpf.qdisc import ensure_clsact
from exporter.ebpf.replace import FilterPlace

log = logging.getLogger(__name__)

#: Value of ``namespaces``, by number: the namespace's place in nsfs, and its path. The key after
#: the last number keeps the number to take next, in ``inode``.
NAMESPACE = np.dtype([("device", "<u8"), ("inode", "<u8"), ("path", "S288")])
#: Key of ``points``.
PLACE = np.dtype([("netns", "<u2"), ("direction", "u1"), ("_pad", "u1"), ("ifindex", "<u4")])
#: Value of ``points``. The last three fields are those of a filter.
POINT = np.dtype(
    [
        ("name", "S16"),
        ("hook", "<u4"),
        ("made_qdisc", "<u4"),
        ("priority", "<u4"),
        ("handle", "<u4"),
    ]
)
_NUMBERS = 1 << 16
_HOOKS: Mapping[Hook, int] = {"tcx": 1, "tc": 2}
_DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")


@dataclass(frozen=True)
class Spot:
    """
    An interface. ``netns`` is the agent's number for its namespace, ``path`` that namespace's path,
    ``None`` for the agent's own.
    """

    netns: int
    ifindex: int
    name: str
    path: str | None


class NamespaceNumbers:
    """
    Numbers for network namespaces: stable across agents if they are kept.

    A number is used again only after all others. The agent's own namespace is number 0.

    Args:
        kept: Map of NAMESPACE by number; ``None`` keeps nothing.
    """

    def __init__(self, kept: Map | None = None) -> None:
        self._kept = kept
        self._next = 1
        if kept is not None:
            cursor = self._read(_NUMBERS)
            self._next = 1 if cursor is None else int(cursor["inode"])

    def confirm(self, number: int, path: str) -> bool:
        """
        Whether a number stands for the namespace at a path; it does from now on if it was free.

        Raises:
            OSError: If there is no such namespace.
        """
        there, known = _identity(path), self._read(number)
        if known is None:
            self._write(number, there)
            return True
        return bool(known["device"] == there["device"] and known["inode"] == there["inode"])

    def take(self, path: str, used: set[int]) -> int:
        """
        The number that the namespace at a path has had before, else one that is not in use.

        Raises:
            OSError: If there is no such namespace.
        """
        there = _identity(path)
        for number, known in self._entries():
            if known == there and number not in used:
                return number
        while self._next in used or not self._next:
            self._next = (self._next + 1) % _NUMBERS
        number, self._next = self._next, (self._next + 1) % _NUMBERS
        self._write(number, there)
        cursor = np.zeros((), NAMESPACE)
        cursor["inode"] = self._next
        self._write(_NUMBERS, cursor)
        return number

    def numbers_of(self, path: str) -> list[int]:
        """
        Every number that the namespace at a path has had.

        Raises:
            OSError: If there is no such namespace.
        """
        there = _identity(path)
        return [number for number, known in self._entries() if known == there]

    def forget(self, number: int) -> None:
        """A namespace is gone. Again is fine."""
        if self._kept is not None and self._read(number) is not None:
            self._kept.delete(number.to_bytes(4, "little"))

    def paths(self) -> dict[int, str]:
        """Paths of all numbered namespaces, gone or not, but for the agent's own."""
        return {number: known["path"].decode() for number, known in self._entries() if number}

    def is_there(self, number: int) -> bool:
        """Whether the namespace of a number still exists under its path."""
        known = self._read(number)
        if known is None:
            return False
        try:
            return bool(_identity(known["path"].decode()) == known)
        except OSError:
            return False

    def _entries(self) -> Iterator[tuple[int, Any]]:
        for key in _keys(self._kept):
            number = int.from_bytes(key, "little")
            known = self._read(number)
            if number < _NUMBERS and known is not None:
                yield number, known

    def _read(self, number: int) -> Any:
        if self._kept is None:
            return None
        try:
            value = self._kept.lookup(number.to_bytes(4, "little"))
        except KeyNotFound:
            return None
        return np.frombuffer(value, NAMESPACE)[0]

    def _write(self, number: int, value: Any) -> None:
        if self._kept is not None:
            self._kept.update(number.to_bytes(4, "little"), value.tobytes())


class Places:
    """
    Attachments that outlive the agent.

    Args:
        points: Map of POINT by PLACE. Stays the caller's.
        links: Directory for pinned links.
        ours: Ids of programs that may be replaced; the caller adds to it.
    """

    def __init__(self, points: Map, links: Path, ours: set[int]) -> None:
        self._points = points
        self._links = links
        self._ours = ours
        self._claimed: set[bytes] = set()
        self.used = False

    def attach(self, programs: Mapping[Direction, Program], spot: Spot, hook: Hook) -> Held:
        """
        Have programs on the hooks of an interface: swapped into what is there, or attached anew.

        Raises:
            AttachRefused, BpfError, OSError: As ``links.attach``.
        """
        self.used = True
        held = Held(self, spot)
        try:
            with entered(spot.path):
                for direction, program in programs.items():
                    key = _key(spot.netns, spot.ifindex, direction)
                    self._attach(key, program, spot, hook)
                    held.keys.append(key)
                    self._claimed.add(key)
        except BaseException:
            held.close()
            raise
        return held

    def release_unclaimed(self, numbers: NamespaceNumbers) -> int:
        """
        Take the program off every point where this agent has not attached one.

        Args:
            numbers: Knows where the namespaces are.

        Returns:
            How many there were.

        Raises:
            BpfError: If the kernel refuses.
        """
        paths = numbers.paths()
        left = [key for key in _keys(self._points) if key not in self._claimed]
        for key in left:
            number = int(_place(key)["netns"])
            gone = bool(number) and not numbers.is_there(number)
            self.release(key, paths.get(number), gone=gone)
        return len(left)

    def release(self, key: bytes, path: str | None, *, gone: bool = False) -> None:
        """
        Take the program off a point, and forget the point. Again is fine.

        Args:
            key: PLACE.
            path: Of its namespace.
            gone: The namespace is not there any more; its filters went with it.

        Raises:
            BpfError: If the kernel refuses.
        """
        self._claimed.discard(key)
        known = self._read(key)
        if known is None:
            return
        if known["hook"] == _HOOKS["tcx"]:
            replace.remove_link(self._link(key))
        elif not gone:
            self._remove_filter(key, known, path)
        self._points.delete(key)

    def names(self) -> dict[tuple[int, int], str]:
        """(namespace number, ifindex) -> name, of every point that is written down."""
        found = {}
        for key in _keys(self._points):
            known, place = self._read(key), _place(key)
            if known is not None:
                found[int(place["netns"]), int(place["ifindex"])] = _text(known["name"])
        return found

    def _attach(self, key: bytes, program: Program, spot: Spot, hook: Hook) -> None:
        known = self._read(key)
        if known is not None and known["hook"] != _HOOKS[hook]:
            log.warning("%s is attached in another way: packets pass unseen meanwhile", spot.name)
            self.release(key, None)
            known = None
        direction = _DIRECTIONS[_place(key)["direction"]]
        if hook == "tcx":
            self._write(key, spot, hook, FilterPlace(0, 0, made_qdisc=False))
            replace.upsert_tcx(self._link(key), program, spot.ifindex, direction)
            return
        place = self._place_of(known, spot.ifindex, direction)
        if self._made_qdisc(spot, hook):
            place = changed(place, made_qdisc=True)
        self._write(key, spot, hook, place)
        replace.upsert_filter(program, spot.ifindex, direction, place, self._ours.__contains__)

    def _made_qdisc(self, spot: Spot, hook: Hook) -> bool:
        """Whether a filter of the interface's made the qdisc: its last one takes it away."""
        points = [self._read(_key(spot.netns, spot.ifindex, way)) for way in _DIRECTIONS]
        return any(
            point is not None and point["hook"] == _HOOKS[hook] and point["made_qdisc"]
            for point in points
        )

    def _place_of(self, known: Any, ifindex: int, direction: Direction) -> FilterPlace:
        """Of our filter if it is there, else a free one."""
        if known is not None:
            made = bool(known["made_qdisc"])
            place = FilterPlace(int(known["priority"]), int(known["handle"]), made)
            if replace.filter_program(ifindex, direction, place) in self._ours:
                return place
            # The qdisc may have been made, and its filter not.
            made |= ensure_clsact(ifindex)
            chosen = replace.choose_place(ifindex, direction)
            return changed(chosen, made_qdisc=made or chosen.made_qdisc)
        return replace.choose_place(ifindex, direction)

    def _remove_filter(self, key: bytes, known: Any, path: str | None) -> None:
        place = FilterPlace(int(known["priority"]), int(known["handle"]), bool(known["made_qdisc"]))
        where = _place(key)
        direction = _DIRECTIONS[where["direction"]]
        try:
            with entered(path):
                replace.remove_filter(
                    int(where["ifindex"]), direction, place, self._ours.__contains__
                )
        except FileNotFoundError:
            log.debug("namespace %s went with its filters", path)

    def _link(self, key: bytes) -> Path:
        place = _place(key)
        return self._links / f"{place['netns']}-{place['ifindex']}-{place['direction']}"

    def _read(self, key: bytes) -> Any:
        try:
            return np.frombuffer(self._points.lookup(key), POINT)[0]
        except KeyNotFound:
            return None

    def _write(self, key: bytes, spot: Spot, hook: Hook, place: FilterPlace) -> None:
        value = np.zeros((), POINT)
        value["name"] = spot.name.encode()
        value["hook"] = _HOOKS[hook]
        value["made_qdisc"] = place.made_qdisc
        value["priority"] = place.priority
        value["handle"] = place.handle
        self._points.update(key, value.tobytes())


class Held:
    """
    Programs on one interface, which stay when the agent ends; ``close`` takes them off.

    Args:
        places: Where they are written down.
        spot: The interface.
    """

    def __init__(self, places: Places, spot: Spot) -> None:
        self._places = places
        self._spot = spot
        self.keys: list[bytes] = []

    def close(self) -> None:
        """Take the programs off. Again is fine, and so is an interface that is gone."""
        while self.keys:
            self._places.release(self.keys.pop(), self._spot.path)


def _key(netns: int, ifindex: int, direction: Direction) -> bytes:
    key = np.zeros((), PLACE)
    key["netns"], key["ifindex"] = netns, ifindex
    key["direction"] = _DIRECTIONS.index(direction)
    return key.tobytes()


def _place(key: bytes) -> Any:
    return np.frombuffer(key, PLACE)[0]


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _keys(walked: Map | None) -> list[bytes]:
    """Every key, read before anything is changed."""
    found: list[bytes] = []
    key = None if walked is None else walked.next_key()
    while walked is not None and key is not None:
        found.append(key)
        key = walked.next_key(key)
    return found


def _identity(path: str) -> Any:
    status = Path(path).stat()
    value = np.zeros((), NAMESPACE)
    value["device"], value["inode"], value["path"] = status.st_dev, status.st_ino, path.encode()
    return value
