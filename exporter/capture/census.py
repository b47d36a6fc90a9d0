"""
Who lives behind the interfaces: which namespace a veth's peer is in, and whose processes are there.

Found in /proc, by a thread of its own. A namespace is known by its inode in nsfs while something
keeps it alive; between two looks it may be gone and the inode another's, so that what is remembered
of it is under its cookie, which the kernel never gives twice. Where the kernel has no cookies
(before 5.14) nothing is remembered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.capture.cgroups import (
    PROC,
    Belonging,
    Process,
    belonging_of,
    process,
    processes,
)
from exporter.capture.netlink import LinkSocket, number_of
from exporter.ebpf.netns import entered, inode

log = logging.getLogger(__name__)

#: include/uapi/asm-generic/socket.h, Linux 5.14.
SO_NETNS_COOKIE = 71
#: Seconds between two looks, however much news there is.
_LEAST_PAUSE = 0.05


@dataclass(frozen=True)
class Behind:
    """
    The other end of a veth pair.

    Args:
        name, ifindex: Of the interface there.
        inode: Of its namespace.
        whose: Who lives in that namespace.
    """

    name: str
    ifindex: int
    inode: int
    whose: Belonging


@dataclass(frozen=True)
class Census:
    """
    What one look found.

    Args:
        before: What was given to the look: whatever its owner knows observation points by.
        behind: (inode of a watched namespace, ifindex in it) -> the other end.
        residents: Inode of a watched namespace -> who lives in it.
    """

    before: object
    behind: Mapping[tuple[int, int], Behind]
    residents: Mapping[int, Belonging]


@dataclass
class _Home:
    """What is remembered of a namespace: everybody who was ever seen in it."""

    containers: set[str] = field(default_factory=set)
    pods: set[str] = field(default_factory=set)
    members: dict[Process, Belonging] = field(default_factory=dict)

    def note(self, whose: Belonging) -> None:
        self.containers |= {whose.container} - {""}
        self.pods |= {whose.pod} - {""}

    def whose(self) -> Belonging:
        """The only container and the only pod; of several, none."""
        container = next(iter(self.containers)) if len(self.containers) == 1 else ""
        return Belonging(container, next(iter(self.pods)) if len(self.pods) == 1 else "")


class CensusTaker:
    """
    Looks again and again, in a thread.

    Args:
        watched: Gives (inode -> path) of the namespaces that are observed, the agent's own among
            them.
        before: Called before each look; see :class:`Census`.
        report: Called with each look's result, in the thread.
        names: Directory of namespaces that have names.
        interval: Seconds between looks when nothing calls for one.
    """

    def __init__(
        self,
        watched: Callable[[], Mapping[int, str]],
        before: Callable[[], object],
        report: Callable[[Census], None],
        names: Path,
        interval: float,
    ) -> None:
        self._watched = watched
        self._before = before
        self._report = report
        self._names = names
        self._interval = interval
        self._homes: dict[int, _Home] = {}
        self._wanted = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="census", daemon=True)
        self._thread.start()

    def look_soon(self) -> None:
        """Something has changed."""
        self._wanted.set()

    def close(self) -> None:
        """Look no more. Again is fine."""
        self._stopping = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stopping:
            self._wanted.clear()
            try:
                self._report(self.look())
            except OSError as err:
                log.warning("who lives behind interfaces cannot be found: %s", err)
            time.sleep(_LEAST_PAUSE)
            self._wanted.wait(self._interval)

    def look(self) -> Census:
        """Look once. Raises OSError if /proc cannot be read."""
        before, watched = self._before(), self._watched()
        places = {number: [path] for number, path in self._named()}
        members: dict[int, list[int]] = {}
        own = inode()
        for pid, number in _inhabitants():
            # This process visits namespaces, and lives in none of them.
            if number != own and pid != os.getpid():
                members.setdefault(number, []).append(pid)
                places.setdefault(number, []).append(f"{PROC}/{pid}/ns/net")
        places.pop(own, None)
        behind: dict[tuple[int, int], Behind] = {}
        residents: dict[int, Belonging] = {}
        homes: dict[int, _Home] = {}
        with contextlib.ExitStack() as opened:
            ends = _opened(watched, opened)
            for number, paths in places.items():
                with contextlib.suppress(OSError), _held(number, paths) as path:
                    cookie = _cookie(path)
                    home = self._homes.get(cookie, _Home()) if cookie else _Home()
                    _visit(home, number, members.get(number, []))
                    homes[cookie or -number] = home
                    residents[number] = home.whose()
                    behind.update(_others(path, number, home.whose(), ends))
        self._homes = homes
        return Census(before, behind, {n: one for n, one in residents.items() if n in watched})

    def _named(self) -> Iterator[tuple[int, str]]:
        with contextlib.suppress(OSError):
            for entry in self._names.iterdir():
                with contextlib.suppress(OSError):
                    yield inode(str(entry)), str(entry)


def _inhabitants() -> Iterator[tuple[int, int]]:
    """Every process with the inode of its network namespace."""
    for pid in processes():
        with contextlib.suppress(OSError):
            yield pid, inode(f"{PROC}/{pid}/ns/net")


def _opened(watched: Mapping[int, str], opened: contextlib.ExitStack) -> dict[int, int]:
    """Inode -> descriptor of watched namespaces that are still there."""
    found: dict[int, int] = {}
    for number, path in watched.items():
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            if os.fstat(fd).st_ino == number:
                found[number] = fd
    return found


@contextlib.contextmanager
def _held(number: int, paths: list[str]) -> Iterator[str]:
    """
    Keep the namespace of an inode alive within the block, so that the inode stays its own.

    Yields:
        A path to it, of this process.

    Raises:
        OSError: If it is gone.
    """
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_ino == number:
                yield f"{PROC}/self/fd/{fd}"
                return
        finally:
            os.close(fd)
    raise FileNotFoundError(f"namespace {number}")


def _cookie(path: str) -> int:
    """The kernel's number for the namespace, unique until it boots again; 0 if it has none."""
    with entered(path), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        try:
            return int.from_bytes(
                inside.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little"
            )
        except OSError:
            return 0


def _visit(home: _Home, number: int, pids: list[int]) -> None:
    """See who is in a namespace now."""
    members: dict[Process, Belonging] = {}
    for pid in pids:
        one = process(pid)
        if one is None:
            continue
        whose = home.members.get(one)
        # Asked again while nobody's: a runtime makes the namespace first and moves into the cgroup
        # later.
        if not whose:
            whose = belonging_of(pid)
            if process(pid) != one or not _lives_in(pid, number):
                continue
        members[one] = whose
        home.note(whose)
    home.members = members


def _lives_in(pid: int, number: int) -> bool:
    try:
        return inode(f"{PROC}/{pid}/ns/net") == number
    except OSError:
        return False


def _others(
    path: str, number: int, whose: Belonging, ends: Mapping[int, int]
) -> dict[tuple[int, int], Behind]:
    """The interfaces in watched namespaces whose peers are in a namespace."""
    with entered(path):
        numbers = {number_of(fd): there for there, fd in ends.items() if there != number}
        news = LinkSocket(None, listen=False)
    try:
        links = news.dump()
    finally:
        news.close()
    return {
        (numbers[link.nsid], link.link): Behind(link.name, link.index, number, whose)
        for link in links
        if link.kind == "veth" and link.nsid is not None and link.nsid in numbers
    }
