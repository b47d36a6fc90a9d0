"""
Which interfaces there are, and that each chosen one is observed for as long as it exists.

Netlink tells of interfaces that come, go and are renamed; where it may not be listened to, and for
network namespaces, which have no news, a poll looks again. Interfaces are chosen by name or regex.

An interface is counted under a number for its namespace and its index. Where an index is used anew
while records of its former interface may still come, the new one is counted under another number of
the same namespace: no record is ever of two interfaces. See docs/decisions/0021-reused-points.md.
"""

from __future__ import annotations

import contextlib
import difflib
import errno as errnos
import itertools
import logging
import os
import queue
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from exporter.batch.batch import Details, Interface, Peer
from exporter.capture.census import Behind, Census, CensusTaker
from exporter.capture.cgroups import NOBODY, Belonging
from exporter.capture.config import CaptureConfig, selects
from exporter.capture.fetcher import FlowFetcher, Namespace, NetworkInterface
from exporter.capture.netlink import LinkNews, LinkSocket
from exporter.capture.places import NamespaceNumbers
from exporter.capture.turnover import Turnover
from exporter.ebpf.errors import BpfError
from exporter.ebpf.netns import OWN, inode
from exporter.errors import CaptureError

log = logging.getLogger(__name__)

NETNS_DIRECTORY = Path("/var/run/netns")

#: ARPHRD_* (include/uapi/linux/if_arp.h) of link layers whose frames begin with an Ethernet header.
_ARPHRD_ETHER = 1
_ETHERNET = frozenset({_ARPHRD_ETHER, 772})
#: Those whose frames begin with the IP header: none (tun, wireguard), ppp, rawip, tunnels.
_NO_HEADER = frozenset({65534, 512, 519, 768, 769, 776, 778, 823})
#: Names are kept after an interface is gone, for the records that it is still in.
_KEPT_NAMES = 1 << 16
#: ENODEV and ENOENT: gone between the news and the attachment.
_GONE = (errnos.ENODEV, errnos.ENOENT)


@dataclass
class _Observed:
    """
    An interface that is counted.

    ``generation`` is no other's, whatever their indexes.
    """

    interface: NetworkInterface
    generation: int
    behind: Behind | None = None
    #: Index and namespace of a veth's other end, once there was one: see LinkNews.
    peer: tuple[int, int | None] | None = None
    #: Who was behind it has changed: nobody is, from then on.
    unclear: bool = False


@dataclass
class _Watch:
    """One namespace that is watched."""

    namespace: Namespace
    inode: int
    socket: LinkSocket
    listens: bool
    known: dict[int, LinkNews] = field(default_factory=dict)
    #: Under which numbers interfaces are counted; the first is the namespace's own.
    numbered: list[Namespace] = field(default_factory=list)
    observed: dict[int, _Observed] = field(default_factory=dict)
    #: No other's, though the namespace's inode may have been another's.
    generation: int = 0
    resident: Belonging = NOBODY


class InterfaceWatcher:
    """
    Registers chosen interfaces with a fetcher as they come and go.

    Args:
        config: What is chosen, and how to watch.
        fetcher: Must be open before :meth:`start`.
        netns_directory: Where namespaces have names.
    """

    def __init__(
        self,
        config: CaptureConfig,
        fetcher: FlowFetcher,
        netns_directory: Path = NETNS_DIRECTORY,
    ) -> None:
        self._config = config
        self._fetcher = fetcher
        self._directory = netns_directory
        self._names: dict[tuple[int, int], Interface] = {}
        self._watches: dict[int, _Watch] = {}
        self._numbers = NamespaceNumbers()
        self._selector = selectors.DefaultSelector()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._selector.register(self._stop, selectors.EVENT_READ, None)
        self._thread: threading.Thread | None = None
        self.attach_failures = 0
        self.turnover = Turnover()
        self._generations = itertools.count(1)
        self._inherited: set[tuple[int, int]] = set()
        self._reports: queue.SimpleQueue[Census] = queue.SimpleQueue()
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._news, selectors.EVENT_READ, self._news)
        self._census: CensusTaker | None = None

    @property
    def names(self) -> Mapping[tuple[int, int], Interface]:
        """(namespace number, ifindex) -> interface, also of some that are gone."""
        return self._names

    def start(self) -> None:
        """
        Observe what is there now, then keep watching in a thread.

        Raises:
            CaptureError: If an interface or namespace was named that does not exist, or if nothing
                can be observed.
        """
        self._numbers = self._fetcher.numbers()
        for place, names in self._fetcher.inherited_names().items():
            self._names[place] = Interface(*names)
            self._inherited.add(place)
            self.turnover.leave(place)
        self._watch(Namespace(), OWN)
        self._look_for_namespaces(at_start=True)
        self._require_named()
        if not self._fetcher.points() and self.attach_failures:
            raise CaptureError("no interface could be attached to: see the messages above")
        self._thread = threading.Thread(target=self._run, name="interfaces", daemon=True)
        self._thread.start()
        if self._config.containers:
            self._census = self._census_taker()
            self._census.start()

    def close(self) -> None:
        """Stop watching. Interfaces stay observed. Again is fine."""
        if self._census is not None:
            self._census.close()
            self._census = None
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            self._thread = None
        while self._watches:
            self._watches.popitem()[1].socket.close()
        if self._stop >= 0:
            self._selector.close()
            os.close(self._news)
            os.close(self._stop)
            self._stop = -1

    def _run(self) -> None:
        look_again = time.monotonic() + self._config.poll_interval
        while True:
            for key, _ in self._selector.select(max(look_again - time.monotonic(), 0)):
                if key.data is None:
                    return
                if key.data == self._news:
                    self._read_reports()
                else:
                    self._guarded(self._read_news, key.data)
            if time.monotonic() >= look_again:
                look_again = time.monotonic() + self._config.poll_interval
                for watch in [w for w in self._watches.values() if not w.listens]:
                    self._guarded(self._resync, watch)
                self._look_for_namespaces(at_start=False)

    def _guarded(self, action: Callable[[_Watch], None], watch: _Watch) -> None:
        try:
            action(watch)
        except OSError as err:
            log.warning("namespace %s: %s: looking again", watch.namespace.name or "own", err)
            with contextlib.suppress(OSError):
                self._resync(watch)

    def _watch(self, namespace: Namespace, path: str) -> None:
        listens = self._config.watch == "netlink"
        try:
            opened = LinkSocket(namespace.path, listen=listens)
        except PermissionError:
            if not listens:
                raise
            listens = False
            log.warning("netlink may not be listened to: polling for interfaces instead")
            opened = LinkSocket(namespace.path, listen=False)
        watch = _Watch(namespace, inode(path), opened, listens)
        others = [n for n in self._numbers.numbers_of(path) if n != namespace.number]
        watch.generation = next(self._generations)
        watch.numbered = [namespace]
        watch.numbered += [Namespace(n, namespace.name, namespace.path) for n in others]
        self._watches[watch.inode] = watch
        if listens:
            self._selector.register(opened, selectors.EVENT_READ, watch)
        self._resync(watch)

    def _unwatch(self, watch: _Watch) -> None:
        log.info("namespace %s is gone", watch.namespace.name)
        if watch.listens:
            self._selector.unregister(watch.socket)
        del self._watches[watch.inode]
        for seen in watch.observed.values():
            self.turnover.leave(_place(seen.interface))
        for namespace in watch.numbered:
            self._fetcher.unregister_namespace(namespace)
        # The socket held the namespace alive: now it may go.
        watch.socket.close()

    def _look_for_namespaces(self, *, at_start: bool) -> None:
        """Compare the namespaces that have names with those that are watched."""
        if not self._config.netns:
            return
        found: dict[int, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(entry.name for entry in self._directory.iterdir()):
                if selects(self._config.netns, name):
                    with contextlib.suppress(OSError):
                        found.setdefault(inode(str(self._directory / name)), name)
        for watch in [w for w in self._watches.values() if w.namespace.number]:
            if watch.inode not in found:
                self._unwatch(watch)
        for number, name in found.items():
            if number not in self._watches:
                self._add_namespace(name)
        if at_start:
            self._require_named_namespaces(set(found.values()))

    def _add_namespace(self, name: str) -> None:
        path = str(self._directory / name)
        try:
            self._watch(Namespace(self._numbers.take(path, self._used()), name, path), path)
        except OSError as err:
            log.warning("namespace %s cannot be watched: %s", name, err)
        else:
            log.info("watching namespace %s", name)

    def _read_news(self, watch: _Watch) -> None:
        news = watch.socket.news()
        if news is None:
            # An interface may have been replaced by one that looks the same.
            for seen in watch.observed.values():
                seen.generation, seen.behind = next(self._generations), None
            self._resync(watch)
            return
        for link in news:
            if link.gone:
                self._remove(watch, link)
            else:
                self._add(watch, link)

    def _resync(self, watch: _Watch) -> None:
        """Make what is observed equal to what is there."""
        links = {link.index: link for link in watch.socket.dump()}
        for link in [known for index, known in watch.known.items() if index not in links]:
            self._remove(watch, link)
        for link in links.values():
            self._add(watch, link)

    def _add(self, watch: _Watch, link: LinkNews) -> None:
        before = watch.known.get(link.index)
        if before == link:
            return
        watch.known[link.index] = link
        seen = watch.observed.get(link.index)
        if not self._chosen(link):
            self._leave(watch, link.index)
            return
        if seen is None:
            namespace = self._namespace_for(watch, link)
            interface = NetworkInterface(link.index, link.name, link.arphrd in _ETHERNET, namespace)
            seen = _Observed(interface, next(self._generations))
            watch.observed[link.index] = seen
        elif link.link and seen.peer and seen.peer != (link.link, link.nsid):
            seen.unclear = seen.unclear or bool(seen.behind and seen.behind.whose)
            seen.behind = None
        # A pair that is being deleted tells of itself once more, without a peer.
        seen.peer = (link.link, link.nsid) if link.link else seen.peer
        seen.interface = replace(seen.interface, name=link.name)
        self._remember(watch, link.index)
        if not self._register(seen.interface):
            self._leave(watch, link.index)
        if self._census is not None:
            self._census.look_soon()

    def _remove(self, watch: _Watch, link: LinkNews) -> None:
        if watch.known.pop(link.index, None) is not None:
            self._leave(watch, link.index)
            log.info("interface %s is gone", link.name)

    def _leave(self, watch: _Watch, index: int) -> None:
        """An interface is not counted any more."""
        seen = watch.observed.pop(index, None)
        if seen is not None:
            self._fetcher.unregister(seen.interface)
            self.turnover.leave(_place(seen.interface))

    def _used(self) -> set[int]:
        """Numbers of the namespaces that are watched."""
        return {one.number for watch in self._watches.values() for one in watch.numbered}

    def _namespace_for(self, watch: _Watch, link: LinkNews) -> Namespace:
        """The number that a new interface is counted under: one whose records are all named."""
        for namespace in watch.numbered:
            place = (namespace.number, link.index)
            if place in self._inherited and self._names[place].name == link.name:
                self._inherited.discard(place)
                return namespace
        for namespace in watch.numbered:
            if self.turnover.is_free((namespace.number, link.index)):
                return namespace
        path = watch.namespace.path
        number = self._numbers.take(path or OWN, self._used() | {0})
        watch.numbered.append(Namespace(number, watch.namespace.name, path))
        return watch.numbered[-1]

    def _register(self, interface: NetworkInterface) -> bool:
        """Whether it is observed now."""
        try:
            if self._fetcher.register(interface):
                log.info(
                    "observing %s (index %d%s)",
                    interface.name,
                    interface.index,
                    f", namespace {interface.namespace.name}" if interface.namespace.name else "",
                )
        except (BpfError, OSError) as err:
            if err.errno not in _GONE:
                self.attach_failures += 1
                log.error("interface %s cannot be observed: %s", interface.name, err)  # noqa: TRY400 - one line
            return False
        return True

    def _chosen(self, link: LinkNews) -> bool:
        config = self._config
        if selects(config.exclude_interfaces, link.name):
            return False
        if config.interfaces and not selects(config.interfaces, link.name):
            return False
        if link.arphrd in _ETHERNET or link.arphrd in _NO_HEADER:
            return True
        log.info("interface %s has link layer %d, which is not observed", link.name, link.arphrd)
        return False

    def _remember(self, watch: _Watch, index: int) -> None:
        seen, link = watch.observed[index], watch.known[index]
        place = _place(seen.interface)
        before = self._names.pop(place, None)
        details = self._details(watch, seen, link)
        self._names[place] = Interface(link.name, watch.namespace.name, details)
        _tell(before, self._names[place])
        while len(self._names) > _KEPT_NAMES:
            del self._names[next(iter(self._names))]

    def _details(self, watch: _Watch, seen: _Observed, link: LinkNews) -> Details:
        kind = link.kind or ("physical" if link.arphrd == _ARPHRD_ETHER else "")
        whose = NOBODY
        if watch.namespace.number:
            whose = watch.resident
        if seen.behind is not None and not whose and not seen.unclear:
            whose = seen.behind.whose
        return Details(
            kind,
            link.mac,
            watch.inode,
            _peer(watch, seen, link) if kind == "veth" else None,
            whose.container,
            whose.pod,
        )

    def _census_taker(self) -> CensusTaker:
        def watched() -> dict[int, str]:
            return {watch.inode: watch.namespace.path or OWN for watch in _all(self._watches)}

        def before() -> dict[tuple[int, int], int]:
            watches = _all(self._watches)
            return {(watch.inode, 0): watch.generation for watch in watches} | {
                (watch.inode, index): seen.generation
                for watch in watches
                for index, seen in list(watch.observed.items())
            }

        def report(census: Census) -> None:
            self._reports.put(census)
            os.eventfd_write(self._news, 1)

        return CensusTaker(watched, before, report, self._directory, self._config.poll_interval)

    def _read_reports(self) -> None:
        """
        Take what was found of interfaces that are still the same.

        All news from before the look is read first: the kernel sends news before an index is free
        for the next interface.
        """
        os.eventfd_read(self._news)
        for watch in _all(self._watches):
            self._guarded(self._read_news if watch.listens else self._resync, watch)
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._reports.get_nowait())

    def _take(self, census: Census) -> None:
        before: Any = census.before
        for watch in _all(self._watches):
            if before.get((watch.inode, 0)) == watch.generation:
                watch.resident = census.residents.get(watch.inode, NOBODY)
            for index, seen in watch.observed.items():
                place = (watch.inode, index)
                if before.get(place) != seen.generation:
                    continue
                behind = census.behind.get(place)
                if behind is not None and behind != seen.behind:
                    known = seen.behind.whose if seen.behind is not None else NOBODY
                    seen.unclear = seen.unclear or (bool(known) and known != behind.whose)
                    seen.behind = behind
                self._remember(watch, index)

    def _require_named(self) -> None:
        """A name that is no regex and matches nothing at start is a typing error."""
        there = {link.name for watch in self._watches.values() for link in watch.known.values()}
        _require(self._config.interfaces, there, "interface")

    def _require_named_namespaces(self, there: set[str]) -> None:
        _require(self._config.netns, there, "network namespace")


def _place(interface: NetworkInterface) -> tuple[int, int]:
    return interface.namespace.number, interface.index


def _all(watches: Mapping[int, _Watch]) -> list[_Watch]:
    """As of now: they come and go on another thread."""
    return list(watches.values())


def _peer(watch: _Watch, seen: _Observed, link: LinkNews) -> Peer | None:
    if seen.behind is not None:
        return Peer(seen.behind.name, seen.behind.ifindex, seen.behind.inode)
    if not link.link:
        return None
    if link.nsid is not None:
        return Peer("", link.link)
    other = watch.known.get(link.link)
    return Peer(other.name if other else "", link.link, watch.inode)


def _tell(before: Interface | None, known: Interface) -> None:
    details = known.details
    if (details.container or details.pod) and known != before:
        whose = details.container or f"pod {details.pod}"
        log.info("%s is of container %s", f"{known.netns}/{known.name}".strip("/"), whose)


def _require(patterns: tuple[str, ...], there: set[str], kind: str) -> None:
    for pattern in patterns:
        if pattern.startswith("/") or pattern in there:
            continue
        near = difflib.get_close_matches(pattern, there, 1)
        known = (
            f"did you mean {near[0]}?"
            if near
            else f"there are: {', '.join(sorted(there)) or 'none'}"
        )
        raise CaptureError(
            f"there is no {kind} {pattern}: {known} (write /^{pattern}$/ to wait for it)"
        )
