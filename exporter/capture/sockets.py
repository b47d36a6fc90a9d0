"""
Whose each socket is: the process that made it, told by the kernel as it does, or the only one that
has it open.

A socket is known by its cookie, which the kernel gives once; a process by its number and the time
of its start. What cannot be told apart is unknown: a socket that several processes share, a process
that was gone before its name could be read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import SOCKET_EVENT
from exporter.capture.cgroups import (
    NOBODY,
    PROC,
    Belonging,
    Process,
    belonging,
    belonging_of,
    cgroup_root,
)
from exporter.capture.socketdiag import holders
from exporter.ebpf.cgroup import CgroupLink
from exporter.ebpf.errors import BpfError
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.ringbuf import RingBuffer

log = logging.getLogger(__name__)

OBJECT_PATH = Path(__file__).with_name("socket.bpf.o")

_HOOKS = {
    "socket_create": "cgroup_inet_sock_create",
    "socket_release": "cgroup_inet_sock_release",
}
#: Sockets that are remembered, and seconds between two looks at who holds what.
_SOCKETS = 1 << 16
_LOOK_PAUSE = 2.0
_TICKS = os.sysconf("SC_CLK_TCK")
#: Seconds between two walks through the cgroups, and how many are remembered.
_WALK_PAUSE = 1.0
_CGROUPS = 1 << 16

_KNOWN = np.dtype(
    [("cookie", "<u8"), ("made", "<u8"), ("released", "<u8"), ("owner", "<u4"), ("_pad", "<u4")]
)


@dataclass(frozen=True)
class Owner:
    """
    Who has a socket; 0 and empty are unknown.

    ``pid`` is in the initial PID namespace if the kernel told it.
    """

    pid: int = 0
    command: str = ""
    belonging: Belonging = NOBODY


@dataclass(frozen=True)
class Snapshot:
    """
    What is known of sockets at one moment.

    Args:
        cookies: uint64, shape (k,), ascending.
        made, released: uint64, shape (k,): CLOCK_MONOTONIC ns; 0 is unknown, and not yet.
        owners: uint32, shape (k,): places in ``table``.
        table: Owners; the first is nobody.
    """

    cookies: NDArray[np.uint64]
    made: NDArray[np.uint64]
    released: NDArray[np.uint64]
    owners: NDArray[np.uint32]
    table: tuple[Owner, ...]


class SocketTable:
    """
    Sockets and their owners, the oldest forgotten first. Thread-safe.

    Args:
        room: Sockets, and owners, that it has room for.
    """

    def __init__(self, room: int = _SOCKETS) -> None:
        self._lock = threading.Lock()
        self._room = room
        self._clear()
        self.evictions = 0

    def _clear(self) -> None:
        self._known = np.zeros(self._room, _KNOWN)
        self._slots: dict[int, int] = {}
        self._next = 0
        self._owners: dict[Owner, int] = {Owner(): 0}
        self._snapshot: Snapshot | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, cookie: int, owner: Owner, made_ns: int = 0) -> None:
        """A socket's owner, or another one than was thought."""
        with self._lock:
            if len(self._owners) >= self._room and owner not in self._owners:
                self.evictions += len(self._slots)
                self._clear()
            number = self._owners.setdefault(owner, len(self._owners))
            slot = self._slots.get(cookie)
            if slot is None:
                slot = self._take_slot(cookie)
                self._known[slot] = (cookie, made_ns, 0, number, 0)
            else:
                self._known["owner"][slot] = number
            self._snapshot = None

    def release(self, cookie: int, at_ns: int) -> None:
        """A socket has no owner any more."""
        with self._lock:
            slot = self._slots.get(cookie)
            if slot is not None:
                self._known["released"][slot] = at_ns
                self._snapshot = None

    def owner(self, cookie: int) -> Owner | None:
        """Of one socket; ``None`` if it is not known."""
        with self._lock:
            slot = self._slots.get(cookie)
            if slot is None:
                return None
            return list(self._owners)[int(self._known["owner"][slot])]

    def snapshot(self) -> Snapshot:
        """What is known now."""
        with self._lock:
            if self._snapshot is None:
                used = np.flatnonzero(self._known["cookie"])
                order = used.take(np.argsort(self._known["cookie"].take(used)))
                names = ("cookie", "made", "released", "owner")
                cookies, made, released, owners = (self._known[one].take(order) for one in names)
                self._snapshot = Snapshot(cookies, made, released, owners, tuple(self._owners))
            return self._snapshot

    def _take_slot(self, cookie: int) -> int:
        slot = self._next
        self._next = (slot + 1) % self._room
        former = int(self._known["cookie"][slot])
        if former:
            self.evictions += 1
            del self._slots[former]
        self._slots[cookie] = slot
        return slot


class SocketWatcher:
    """
    Keeps a table of sockets up to date, in a thread.

    Args:
        room: Sockets that are remembered.
        object_path: The compiled program.
    """

    def __init__(self, room: int = _SOCKETS, object_path: Path = OBJECT_PATH) -> None:
        self.table = SocketTable(room)
        #: Why new sockets are not told of; empty if they are.
        self.problem = ""
        self._path = object_path
        self._opened = contextlib.ExitStack()
        self._ring: RingBuffer | None = None
        self._lost: Any = None
        self._reading = threading.Lock()
        self._wanted: NDArray[np.uint64] | None = None
        #: Sockets whose holders were looked for.
        self._checked: dict[int, None] = {}
        self._look_at = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._cgroups = CgroupPaths()

    def open(self) -> None:
        """Begin. Where the kernel will not tell of sockets, only who holds them is looked for."""
        try:
            self._attach()
        except (BpfError, OSError) as err:
            self._opened.close()
            self._ring = None
            self.problem = f"the kernel does not tell who makes sockets: {err}"
            log.warning("%s", self.problem)
        self._thread = threading.Thread(target=self._run, name="sockets", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop. Again is fine."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._reading:
            self._ring = None
            self._opened.close()

    def lost(self) -> int:
        """Events that the kernel had no room for."""
        return int.from_bytes(self._lost.lookup(bytes(4)), "little") if self._ring else 0

    def want(self, cookies: NDArray[np.uint64]) -> None:
        """Sockets that flows are of: who holds them is looked for, once. Does not wait."""
        self._wanted = cookies

    def belonging_of_cgroup(self, number: int) -> Belonging:
        """What a cgroup's path says; nobody's until it was found. Does not wait."""
        return self._cgroups.belonging(number)

    def catch_up(self, looks: int = _SOCKETS) -> None:
        """
        Note what the kernel has told so far. From any thread.

        Args:
            looks: How many processes may be looked for in /proc.
        """
        with self._reading:
            if self._ring is not None:
                for event in self._ring.read():
                    looks -= self._note(event, look=looks > 0)

    def _attach(self) -> None:
        root = cgroup_root()
        if root is None:
            raise FileNotFoundError("no cgroup2 file system is mounted")
        loaded = self._opened.enter_context(Object.load(ObjectSpec.open(self._path)))
        self._lost = loaded.maps["socket_lost"]
        self._ring = self._opened.enter_context(
            RingBuffer(loaded.maps["socket_ring"], SOCKET_EVENT)
        )
        for name, kind in _HOOKS.items():
            self._opened.enter_context(CgroupLink.attach(loaded.programs[name], root, kind))

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._ring is None:
                self._stopping.wait(0.5)
            elif self._ring.wait(0.5):
                self.catch_up()
            try:
                self._cgroups.walk_if_asked()
                self._look_if_due()
            except OSError as err:
                log.warning("who holds sockets cannot be found: %s", err)

    def _note(self, event: Any, *, look: bool) -> bool:
        """Whether the process was looked for in /proc: if the event says not enough of it."""
        cookie, at = int(event["cookie"]), int(event["mono_ns"])
        if event["released"]:
            self.table.release(cookie, at)
            return False
        pid = int(event["pid"])
        alone = pid == int(event["tid"])
        command = bytes(event["command"]).split(b"\0")[0].decode(errors="replace") if alone else ""
        cgroup = int(event["cgroup_id"])
        whose = self._cgroups.belonging(cgroup)
        look &= not command or not self._cgroups.knows(cgroup)
        found = _of_process(pid) if look else None
        # A process that began after the event is another one.
        if found is not None and _start_ns(found[0]) <= at + _boot_ahead_ns():
            command = command or found[1]
            whose = whose or belonging_of(pid)
        self.table.put(cookie, Owner(pid, command, whose), at)
        return look

    def _look_if_due(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        cookies, self._wanted = self._wanted, None
        wanted = set() if cookies is None else set(cookies.tolist()) - self._checked.keys()
        if not wanted:
            return
        found = holders(wanted)
        for cookie in wanted:
            held = found.get(cookie)
            owner = _held_by(held, self.table.owner(cookie)) if held else Owner()
            if owner != Owner() or (held and len(held) > 1):
                self.table.put(cookie, owner)
            self._checked[cookie] = None
        while len(self._checked) > _SOCKETS:
            del self._checked[next(iter(self._checked))]
        # Never more than a tenth of a CPU, however many descriptors there are.
        spent = time.monotonic() - now
        self._look_at = now + max(_LOOK_PAUSE, 10 * spent)


class CgroupPaths:
    """Paths of cgroups by their ids: the inode numbers of their directories. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[int, Belonging] = {}
        self._asked = False
        self._walk_at = 0.0

    def belonging(self, number: int) -> Belonging:
        """What the cgroup's path says; nobody's until a walk has found it."""
        found = self._known.get(number)
        if found is None and number:
            self._asked = True
        return found or NOBODY

    def knows(self, number: int) -> bool:
        """
        Whether the cgroup's path was found. That of the root says nothing: where containers are in
        the older hierarchies, all processes are there.
        """
        return number in self._known

    def walk_if_asked(self) -> None:
        """Look at all cgroups, if one was asked for that is not known. Raises OSError."""
        now = time.monotonic()
        root = cgroup_root() if self._asked and now >= self._walk_at else None
        if root is None:
            return
        self._asked, self._walk_at = False, now + _WALK_PAUSE
        for path, number in _directories(root):
            if number not in self._known:
                self._known[number] = belonging(path)
        while len(self._known) > _CGROUPS:
            del self._known[next(iter(self._known))]


def _directories(root: Path) -> Iterator[tuple[str, int]]:
    """Path and inode number of every cgroup."""
    waiting = [str(root)]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                below = [one for one in entries if one.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        for entry in below:
            yield entry.path, entry.inode()
            waiting.append(entry.path)


def _of_process(pid: int) -> tuple[Process, str] | None:
    """A process and its command, of one reading."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    begin, end = text.index(b"(") + 1, text.rindex(b")")
    start = int(text[end + 2 :].split()[19])
    return Process(pid, start), text[begin:end].decode(errors="replace")


def _start_ns(one: Process) -> int:
    """When it began at the earliest, CLOCK_BOOTTIME."""
    return one.start * (1_000_000_000 // _TICKS)


def _boot_ahead_ns() -> int:
    """What CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC: the time that the host slept."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def _held_by(held: list[Process], before: Owner | None) -> Owner:
    """The owner of a socket that processes have open."""
    if before is not None and len(held) > 1 and before.pid in {one.pid for one in held}:
        return before
    owners = {_owner(one) for one in held}
    if len(owners) == 1:
        return owners.pop()
    commands, homes = {one.command for one in owners}, {one.belonging for one in owners}
    return Owner(
        0,
        commands.pop() if len(commands) == 1 else "",
        homes.pop() if len(homes) == 1 else NOBODY,
    )


def _owner(one: Process) -> Owner:
    found = _of_process(one.pid)
    if found is None or found[0] != one:
        return Owner()
    return Owner(one.pid, found[1], belonging_of(one.pid))
