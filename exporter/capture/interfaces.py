"""
Which interfaces there are, and that each chosen one is observed for as long as it exists.

Netlink tells of interfaces that come, go and are renamed; where it may not be listened to, and for
network namespaces, which have no news, a poll looks again. Interfaces are chosen by name or regex.
"""

from __future__ import annotations

import contextlib
import difflib
import errno as errnos
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.batch.batch import Interface
from exporter.capture.config import CaptureConfig, selects
from exporter.capture.fetcher import FlowFetcher, Namespace, NetworkInterface
from exporter.capture.netlink import LinkNews, LinkSocket
from exporter.capture.places import NamespaceNumbers
from exporter.ebpf.errors import BpfError
from exporter.ebpf.netns import OWN, inode
from exporter.errors import CaptureError

log = logging.getLogger(__name__)

NETNS_DIRECTORY = Path("/var/run/netns")

#: ARPHRD_* (include/uapi/linux/if_arp.h) of link layers whose frames begin with an Ethernet header.
_ETHERNET = frozenset({1, 772})
#: Those whose frames begin with the IP header: none (tun, wireguard), ppp, rawip, tunnels.
_NO_HEADER = frozenset({65534, 512, 519, 768, 769, 776, 778, 823})
#: Names are kept after an interface is gone, for the records that it is still in.
_KEPT_NAMES = 1 << 16
#: ENODEV and ENOENT: gone between the news and the attachment.
_GONE = (errnos.ENODEV, errnos.ENOENT)


@dataclass
class _Watch:
    """One namespace that is watched."""

    namespace: Namespace
    inode: int
    socket: LinkSocket
    listens: bool
    known: dict[int, LinkNews] = field(default_factory=dict)


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
        self._watch(Namespace(), OWN)
        self._look_for_namespaces(at_start=True)
        self._require_named()
        if not self._fetcher.points() and self.attach_failures:
            raise CaptureError("no interface could be attached to: see the messages above")
        self._thread = threading.Thread(target=self._run, name="interfaces", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Interfaces stay observed. Again is fine."""
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            self._thread = None
        while self._watches:
            self._watches.popitem()[1].socket.close()
        if self._stop >= 0:
            self._selector.close()
            os.close(self._stop)
            self._stop = -1

    def _run(self) -> None:
        look_again = time.monotonic() + self._config.poll_interval
        while True:
            for key, _ in self._selector.select(max(look_again - time.monotonic(), 0)):
                if key.data is None:
                    return
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
        self._watches[watch.inode] = watch
        if listens:
            self._selector.register(opened, selectors.EVENT_READ, watch)
        self._resync(watch)

    def _unwatch(self, watch: _Watch) -> None:
        log.info("namespace %s is gone", watch.namespace.name)
        if watch.listens:
            self._selector.unregister(watch.socket)
        del self._watches[watch.inode]
        self._fetcher.unregister_namespace(watch.namespace)
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
        used = {watch.namespace.number for watch in self._watches.values()}
        try:
            self._watch(Namespace(self._numbers.take(path, used), name, path), path)
        except OSError as err:
            log.warning("namespace %s cannot be watched: %s", name, err)
        else:
            log.info("watching namespace %s", name)

    def _read_news(self, watch: _Watch) -> None:
        news = watch.socket.news()
        if news is None:
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
        if watch.known.get(link.index) == link:
            return
        watch.known[link.index] = link
        self._remember_name(watch.namespace, link)
        interface = NetworkInterface(
            link.index, link.name, link.arphrd in _ETHERNET, watch.namespace
        )
        if self._chosen(link):
            self._register(interface)
        else:
            self._fetcher.unregister(interface)

    def _remove(self, watch: _Watch, link: LinkNews) -> None:
        if watch.known.pop(link.index, None) is not None:
            self._fetcher.unregister(
                NetworkInterface(link.index, link.name, namespace=watch.namespace)
            )
            log.info("interface %s is gone", link.name)

    def _register(self, interface: NetworkInterface) -> None:
        try:
            if self._fetcher.register(interface):
                log.info(
                    "observing %s (index %d%s)",
                    interface.name,
                    interface.index,
                    f", namespace {interface.namespace.name}" if interface.namespace.name else "",
                )
        except (BpfError, OSError) as err:
            if err.errno in _GONE:
                return
            self.attach_failures += 1
            log.error("interface %s cannot be observed: %s", interface.name, err)  # noqa: TRY400 - one line

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

    def _remember_name(self, namespace: Namespace, link: LinkNews) -> None:
        place = (namespace.number, link.index)
        self._names.pop(place, None)
        self._names[place] = Interface(link.name, namespace.name)
        while len(self._names) > _KEPT_NAMES:
            del self._names[next(iter(self._names))]

    def _require_named(self) -> None:
        """A name that is no regex and matches nothing at start is a typing error."""
        there = {link.name for watch in self._watches.values() for link in watch.known.values()}
        _require(self._config.interfaces, there, "interface")

    def _require_named_namespaces(self, there: set[str]) -> None:
        _require(self._config.netns, there, "network namespace")


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
