"""
The kernel program and its maps: on which interfaces it runs, and what it has counted.

This is what the ancestors call a FlowFetcher. It owns the object, the links and the ring buffer; it
knows nothing of time, of destinations or of other agents. Not thread-safe but for :meth:`register`
and :meth:`unregister`, which another thread may call at any time.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from exporter.abi.layout import FLOW_RECORD, FlowDirection
from exporter.batch.batch import FlowBatch
from exporter.capture.config import CaptureConfig, entry_octets
from exporter.capture.dns import (
    NO_COPYING,
    DnsCopying,
    DnsPackets,
    lost_packets,
    read_packets,
)
from exporter.capture.inherit import inherit
from exporter.capture.loader import OBJECT_PATH, KernelProgram
from exporter.capture.owners import OwnerReader
from exporter.capture.places import NamespaceNumbers, Spot
from exporter.capture.reader import (
    FLOW_MAPS,
    FlowReader,
    counters_of,
    flows_of,
    kernel_counts,
)
from exporter.capture.store import PinStore
from exporter.ebpf import features
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.features import Answer
from exporter.ebpf.links import Attachment, Direction, Hook, attach
from exporter.ebpf.maps import Map
from exporter.ebpf.netns import OWN
from exporter.ebpf.object import Object
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.programs import Program
from exporter.ebpf.ringbuf import RingBuffer
from exporter.errors import CaptureError
from exporter.ledger import Kept, KernelCounts, Tally

log = logging.getLogger(__name__)

_SLOT = (0).to_bytes(4, "little")
_DIRECTIONS = (FlowDirection.FLOW_INGRESS, FlowDirection.FLOW_EGRESS)


@dataclass(frozen=True)
class Namespace:
    """
    A network namespace.

    ``number`` is the agent's own and stands in the flow key: 0 is the agent's namespace. ``path``
    is ``None`` for that one, else as in /var/run/netns.
    """

    number: int = 0
    name: str = ""
    path: str | None = None


@dataclass(frozen=True)
class NetworkInterface:
    """
    An interface that packets can be observed on. ``ethernet`` is whether frames begin with MACs.
    """

    index: int
    name: str
    ethernet: bool = True
    namespace: Namespace = Namespace()


@dataclass(frozen=True)
class Beside:
    """
    What the kernel program finds out beside the flows.

    Args:
        dns: What is copied for :meth:`FlowFetcher.read_dns`.
        owners: Whether to find out which socket each flow is of; see ``FlowFetcher.owners``.
    """

    dns: DnsCopying = NO_COPYING
    owners: bool = False


NOTHING_BESIDE = Beside()


@dataclass
class _Retired:
    """A flow map that was read and is not empty yet: the first or the second, and its keys."""

    index: int
    expected: int
    keys: list[NDArray[Any]] = field(default_factory=list)
    released: bool = False


class FlowFetcher:
    """
    Counts flows in the kernel and hands them out.

    Args:
        config: What to capture. Nothing happens before :meth:`open`.
        object_path: The compiled program.
        replay: The program takes lengths and times from ``skb->cb`` (see struct replay_context).
        store: Keeps maps and attachments when the agent ends; ``None`` leaves nothing behind.
        beside: What is found out beside the flows.
    """

    def __init__(
        self,
        config: CaptureConfig,
        object_path: Path = OBJECT_PATH,
        *,
        replay: bool = False,
        store: PinStore | None = None,
        beside: Beside = NOTHING_BESIDE,
    ) -> None:
        self.config = config
        self._dns = beside.dns
        #: Sockets of the flows of the last drains; ``None`` if nobody asks.
        self.owners = OwnerReader() if beside.owners else None
        self.store = store
        self.capacity = 0
        self.hook: Hook = "tcx"
        self._kernel_program = KernelProgram(config.loader, object_path)
        self._replay = replay
        self._lock = threading.Lock()
        self._objects: dict[int, Object] = {}
        self._attached: dict[tuple[int, int], Attachment] = {}
        self._active = 0
        self._created_at_swap = 0
        self._ring: RingBuffer | None = None
        self._dns_ring: RingBuffer | None = None
        self._pressures: tuple[Pressure, ...] = ()
        self._reader: FlowReader | None = None
        self._inherited: list[FlowBatch] = []
        #: Whether the kernel keeps what is read until :meth:`release`; from the next swap on.
        self.keeps = False
        self._retired: _Retired | None = None
        self._ring_position = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """
        Load the program. It is attached nowhere yet.

        Raises:
            FeatureMissing: If the kernel lacks something that there is no way around.
            CaptureError: If the object is not there, or the pins cannot be used.
            CompileError: If BCC is to compile it and cannot.
            AbiMismatchError: If it was compiled from other headers.
            BpfError: If the kernel refuses it.
        """
        features.require(*features.REQUIRED)
        if self.owners is not None and features.probe("socket_owner").answer is Answer.NO:
            log.warning("this kernel does not tell the sockets of packets: flows have no process")
            self.owners = None
        self.hook = self._choose_hook()
        self.capacity = self.config.capacity()
        self._require_memory()
        if self.store is not None:
            self.store.open(self._kernel_program.maps())
        self._objects[0] = self._load(number=0, share=None)
        if self.store is not None:
            self.store.publish(self._objects[0])
            self.store.keep_programs(0, self._objects[0])
        self._ring = RingBuffer(self._map("flow_ring"), FLOW_RECORD)
        if self._dns.ports:
            self._dns_ring = RingBuffer(self._map("dns_ring"))
        self._pressures = (
            Pressure(self._map(FLOW_MAPS[0]).spec, name="flow_stats"),
            Pressure(self._map("flow_ring").spec),
        )
        self._reader = FlowReader(self.capacity)
        log.info(
            "flow maps hold %d flows each (%.1f MiB of kernel memory for %d possible CPUs)",
            self.capacity,
            2 * self.capacity * entry_octets() / (1 << 20),
            possible_cpus(),
        )

    def register(self, interface: NetworkInterface) -> bool:
        """
        Observe an interface on the hooks that the configuration names.

        Returns:
            False if it is observed already.

        Raises:
            BpfError: If the kernel refuses: ENODEV if the interface is gone.
            OSError: If its namespace is gone.
        """
        place = (interface.namespace.number, interface.index)
        with self._lock:
            if place in self._attached:
                return False
            programs, path = self._programs(interface), interface.namespace.path
            if self.store is None:
                self._attached[place] = attach(programs, interface.index, self.hook, path)
            else:
                spot = Spot(*place, interface.name, path)
                self._attached[place] = self.store.places.attach(programs, spot, self.hook)
        return True

    def take_over(self, offset_ns: int = 0) -> None:
        """
        Once everything chosen is observed: end what earlier agents left behind on other interfaces,
        and read what their programs counted, for :meth:`take_inherited`.

        Args:
            offset_ns: Added to the kernel's times; see ``batch.clock``.

        Raises:
            BpfError: If the kernel refuses.
        """
        if self.store is None:
            return
        assert self._reader is not None, "open() comes first"
        with self._lock:
            self.store.places.release_unclaimed(self.store.numbers)
            self._inherited = inherit(self.store, offset_ns)
        if not self._inherited or self.store.is_crowded():
            self.store.settle(Tally(), Kept())

    def take_inherited(self) -> list[FlowBatch]:
        """
        What earlier agents' programs counted, once. Each is to be published by itself, before
        anything else, and the last of them settled; see ``capture.inherit``.
        """
        inherited, self._inherited = self._inherited, []
        return inherited

    def unregister(self, interface: NetworkInterface) -> None:
        """Stop observing an interface, which may be gone already. Counted flows stay."""
        with self._lock:
            attachment = self._attached.pop((interface.namespace.number, interface.index), None)
            if attachment is not None:
                attachment.close()

    def unregister_namespace(self, namespace: Namespace) -> None:
        """Stop observing all of a namespace's interfaces and forget its program."""
        with self._lock:
            for place in [place for place in self._attached if place[0] == namespace.number]:
                self._attached.pop(place).close()
            loaded = self._objects.pop(namespace.number, None) if namespace.number else None
            if loaded is not None:
                loaded.close()
            if self.store is not None:
                self.store.drop_programs(namespace.number)
                self.store.numbers.forget(namespace.number)

    def detach(self) -> None:
        """Take the program off every interface. What it counted stays in the maps."""
        with self._lock:
            while self._attached:
                self._attached.popitem()[1].close()

    def points(self) -> int:
        """Interfaces that are observed."""
        return len(self._attached)

    def numbers(self) -> NamespaceNumbers:
        """The agent's numbers for namespaces."""
        return NamespaceNumbers() if self.store is None else self.store.numbers

    def inherited_names(self) -> dict[tuple[int, int], tuple[str, str]]:
        """(namespace number, ifindex) -> names of interface and namespace, of earlier agents."""
        if self.store is None:
            return {}
        paths = self.store.numbers.paths()
        return {
            place: (name, "" if paths.get(place[0]) == OWN else Path(paths.get(place[0], "")).name)
            for place, name in self.store.places.names().items()
        }

    def lookup_and_delete_map(self, offset_ns: int = 0) -> FlowBatch:
        """
        Swap the flow maps and empty the retired one.

        Waits for an RCU grace period, after which no program writes to the retired map: no
        increment falls between reading an entry and deleting it. With :attr:`keeps` the entries
        stay until :meth:`release`, and what was read and not released is read again.

        Args:
            offset_ns: Added to the kernel's times; see ``batch.clock``.

        Returns:
            One row per flow and observation point.

        Raises:
            BpfError: If the kernel refuses. What was not read stays in the maps for the next drain.

        Source: kernel/bpf/syscall.c maybe_wait_bpf_programs().
        """
        assert self._reader is not None, "open() comes first"
        if self._retired is not None and self._retired.released:
            # The release failed somewhere between: what is left was read before.
            self._reader.empty(self._map(FLOW_MAPS[self._retired.index]), 0, offset_ns)
            self._retired = None
        if self._retired is not None:
            return self._copy(self._retired, offset_ns)
        if self.owners is not None:
            self.owners.read_ahead(self._map("flow_owner"))
        swap_ns = time.monotonic_ns()
        retired, expected = self._swap()
        if self.owners is not None:
            self.owners.read(self._map("flow_owner"), swap_ns, offset_ns)
        if self.keeps:
            self._retired = _Retired(self._active ^ 1, expected)
            return self._copy(self._retired, offset_ns)
        return self._reader.empty(retired, expected, offset_ns)

    def read_ring_buffer(self, offset_ns: int = 0) -> FlowBatch:
        """
        The packets that the flow map could not take, merged into flows. With :attr:`keeps` they
        stay in the ring buffer until :meth:`release`.

        Args:
            offset_ns: Added to the kernel's times; see ``batch.clock``.

        Returns:
            One row per flow and observation point.
        """
        assert self._ring is not None, "open() comes first"
        if not self.keeps:
            return flows_of(self._ring.read(), offset_ns)
        records, self._ring_position = self._ring.peek()
        return flows_of(records, offset_ns)

    def kept(self) -> Kept:
        """What the kernel has of what was read; for a successor, if that is settled."""
        slot = 0 if self._retired is None else self._retired.index + 1
        return Kept(slot, self._ring_position)

    def release(self) -> None:
        """
        What was read is in safe hands: the kernel's copy goes.

        Raises:
            BpfError: If the kernel refuses. Tried again before the next swap.
        """
        assert self._ring is not None, "open() comes first"
        self._ring.release(self._ring_position)
        if self._retired is not None:
            self._retired.released = True
            for keys in self._retired.keys:
                self._map(FLOW_MAPS[self._retired.index]).delete_batch(keys)
            self._retired = None

    def read_dns(self, offset_ns: int = 0) -> DnsPackets:
        """
        The DNS packets copied since the last time; none before :meth:`open` and after
        :meth:`close`. From any one thread.

        Args:
            offset_ns: Added to the kernel's times; see ``batch.clock``.
        """
        if self._dns_ring is None:
            return DnsPackets([])
        packets = read_packets(self._dns_ring, offset_ns)
        return DnsPackets(packets, lost_packets(self._map("dns_lost")))

    def counts(self) -> KernelCounts:
        """
        The kernel's half of the ledger: all CPUs, both directions, earlier agents' sets included.
        """
        counts = kernel_counts(self._map("counters"))
        if self.store is None:
            return counts
        return counts + self.store.counts

    def fill(self) -> float:
        """How full the active flow map or the ring buffer is, whichever is fuller; 0 to 1."""
        return max((pressure.ratio for pressure in self._measured()), default=0.0)

    def pressure(self) -> dict[str, float]:
        """
        How full the flow map (``flow_stats``, the active one of two) and the ring buffer
        (``flow_ring``) are, 0 to 1. One that is empty is left out.
        """
        readings = {pressure.name: pressure.reading() for pressure in self._measured()}
        return {name: reading for name, reading in readings.items() if reading is not None}

    def program(self, name: str) -> Program:
        """A loaded program, for test runs: tc_ingress, tc_egress. Raises KeyError."""
        return self._objects[0].programs[name]

    def active_map(self) -> Map:
        """The flow map that packets are counted in now. Stays the fetcher's."""
        return self._map(FLOW_MAPS[self._active])

    def close(self) -> None:
        """
        Detach and unload: what was not drained is gone. With a store everything stays where it is
        and goes on counting. Again is fine.
        """
        if self.store is None:
            self.detach()
        self._attached.clear()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self._dns_ring is not None:
            self._dns_ring.close()
            self._dns_ring = None
        while self._objects:
            self._objects.popitem()[1].close()
        if self.store is not None:
            self.store.close()

    def _swap(self) -> tuple[Map, int]:
        """
        Make the other flow map the active one.

        Returns:
            The retired map, quiet from now on, and about how many flows it has.
        """
        retired, self._active = self._map(FLOW_MAPS[self._active]), self._active ^ 1
        created = self._flows_created()
        expected, self._created_at_swap = created - self._created_at_swap, created
        fd = self._map(FLOW_MAPS[self._active]).fd
        self._map("flow_active").update(_SLOT, fd.to_bytes(4, "little"))
        # Flows that begin between the two reads are in the retired map, too.
        late = self._flows_created() - created
        return retired, min(expected + late, self.capacity)

    def _copy(self, retired: _Retired, offset_ns: int) -> FlowBatch:
        """Read it, from the beginning."""
        assert self._reader is not None, "open() comes first"
        if self.store is not None:
            self.store.read_with(offset_ns)
        retired.keys.clear()
        table = self._map(FLOW_MAPS[retired.index])
        return self._reader.copy(table, retired.expected, offset_ns, retired.keys)

    def _measured(self) -> tuple[Pressure, ...]:
        """The kernel fills these maps, so the sizes are asked for. None once they are closed."""
        if self._ring is None:
            return ()
        flows, ring = self._pressures
        flows.feed(self._flows_created() - self._created_at_swap)
        ring.feed(self._ring.used())
        return self._pressures

    def _flows_created(self) -> int:
        """One of :meth:`counts`, which is asked for many times a second."""
        counters = self._map("counters")
        return sum(int(counters_of(counters, way)["flows_created"].sum()) for way in _DIRECTIONS)

    def _map(self, name: str) -> Map:
        return self._objects[0].maps[name]

    def _require_memory(self) -> None:
        """The kernel would try, for a long time, and take other programs down with it."""
        needed, available = 2 * self.capacity * entry_octets(), _available_octets()
        if needed > available:
            raise CaptureError(
                f"maps for {self.capacity} flows need {needed >> 20} MiB of kernel memory and "
                f"{available >> 20} MiB are available: choose fewer with --max-flows or "
                "--flow-memory"
            )

    def _choose_hook(self) -> Hook:
        if self.config.hook != "auto":
            if self.config.hook == "tcx":
                features.require("tcx")
            return self.config.hook
        return "tcx" if features.probe("tcx") else "tc"

    def _coarse_clock(self) -> bool:
        if self._replay or self.config.clock == "precise":
            return False
        if self.config.clock == "coarse":
            features.require("coarse_clock")
        return bool(features.probe("coarse_clock"))

    def _programs(self, interface: NetworkInterface) -> Mapping[Direction, Program]:
        """The programs for an interface's namespace and link layer."""
        number = interface.namespace.number
        if number not in self._objects:
            # Each namespace has its own copy of the program with its number as a constant: the key
            # costs nothing, and all share one set of maps.
            self._objects[number] = self._load(number, share=self._objects[0].maps)
            if self.store is not None:
                self.store.keep_programs(number, self._objects[number])
        programs = self._objects[number].programs
        suffix = "" if interface.ethernet else "_l3"
        wanted: list[tuple[Direction, bool]] = [
            ("ingress", self.config.ingress),
            ("egress", self.config.egress),
        ]
        return {way: programs[f"tc_{way}{suffix}"] for way, chosen in wanted if chosen}

    def _load(self, number: int, share: Mapping[str, Map] | None) -> Object:
        config = self.config
        settings = {
            "netns": number,
            "sampling_interval": config.sampling,
            "count_segments": config.gso == "segments",
            "coarse_clock": self._coarse_clock(),
            "replay": self._replay,
            "dns_ports": self._dns.setting,
            "owners": self.owners is not None,
        }
        kept = {} if self.store is None else self.store.shared()
        if share is not None:
            shared = {name: m for name, m in share.items() if not name.startswith(".")}
            return self._kernel_program.load(settings=settings, share={**shared, **kept})
        rings = {"flow_ring": config.ring_size, "dns_ring": self._dns.ring_size}
        sizes = dict.fromkeys(FLOW_MAPS, self.capacity) | rings
        if self.owners is not None:
            sizes["flow_owner"] = self.capacity
        return self._kernel_program.load(settings=settings, max_entries=sizes, share=kept)


def _available_octets() -> int:
    """Source: Documentation/filesystems/proc.rst, MemAvailable."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return sys.maxsize
