"""
Read a perf event array: what programs write with bpf_perf_event_output(), one buffer per CPU.

Order holds within a CPU, not between them. What a full buffer had no room for is counted by the
kernel and known here with the next record that it writes there. Reading never blocks;
:meth:`PerfBuffer.wait` and :meth:`PerfBuffer.follow` do. One reader per array.

Source: perf_event_open(2), "MMAP layout"; kernel/events/ring_buffer.c; kernel/events/core.c
perf_output_sample(), which pads what is sent.
"""

from __future__ import annotations

import errno as errnos
import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf import _libbpf, _perf
from exporter.ebpf.cpus import online_cpus
from exporter.ebpf.errors import BpfError, KeyNotFound
from exporter.ebpf.maps import Map
from exporter.ebpf.shared import Position, Waiter

_PERF_EVENT_ARRAY = 4  # BPF_MAP_TYPE_PERF_EVENT_ARRAY
_HEAD, _TAIL = 1024, 1032  # offsets in struct perf_event_mmap_page
_HEADER_OCTETS = 8
#: Of a sample: its header, and how many octets follow.
_PREFIX_OCTETS = _HEADER_OCTETS + 4
_LOST_OFFSET = 16
_HEADER = np.dtype([("type", "u4"), ("misc", "u2"), ("size", "u2")])


class Sample(NamedTuple):
    """What a program sent, and the CPU that it ran on."""

    cpu: int
    data: bytes


@dataclass(frozen=True)
class PerfCounts:
    """
    Of a buffer since it was opened: samples taken out of it, samples that it had no room for, and
    records that are neither.
    """

    received: int = 0
    lost: int = 0
    unknown: int = 0

    def __add__(self, other: PerfCounts) -> PerfCounts:
        return PerfCounts(
            self.received + other.received, self.lost + other.lost, self.unknown + other.unknown
        )


def legal_size(octets: int) -> int:
    """
    The smallest buffer that the kernel accepts and that holds ``octets``: a power of two of pages.

    Source: kernel/events/core.c perf_mmap().
    """
    pages = max(-(-octets // mmap.PAGESIZE), 1)
    return mmap.PAGESIZE << (pages - 1).bit_length()


class PerfBuffer:
    """
    The reading side of a perf event array, on the CPUs that are online when it is opened.

    Args:
        array: A map of type perf_event_array. Stays the caller's, and open as long as this.
        dtype: Of one sample, where all have one size. Without it samples keep what the kernel pads
            them with: up to seven octets, so that length and sample fill whole words.
        octets: Of each CPU's buffer, rounded up to what is legal.
    """

    def __init__(
        self,
        array: Map,
        dtype: np.dtype[Any] | None = None,
        *,
        octets: int = 1 << 16,
    ) -> None:
        self.size = legal_size(octets)
        self._array = array
        self._dtype = dtype
        self._lock = threading.Lock()
        self._rings: list[_CpuRing] = []
        self._waiter: Waiter | None = None
        self._pending: deque[Sample] = deque()
        self._counts = PerfCounts()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs with a buffer, ascending."""
        return tuple(ring.cpu for ring in self._rings)

    @property
    def counts(self) -> PerfCounts:
        """What came and what did not, up to the last read. Stays after the buffer is closed."""
        return self._counts

    def open(self) -> None:
        """
        Make the buffers and put them into the array.

        Raises:
            BpfError: EINVAL if the map is not a perf event array; EPERM if the buffers are more
                memory than this process may lock (kernel.perf_event_mlock_kb); E2BIG, as MapFull,
                if the array has fewer elements than there are CPUs.
        """
        assert not self._rings, "the buffer is open"
        self._require_array()
        self._counts = PerfCounts()
        with self._lock:
            try:
                for cpu in online_cpus():
                    ring = self._open_cpu(cpu)
                    if ring is not None:
                        self._rings.append(ring)
                        self._array.update(_word(cpu), _word(ring.fd))
                        _perf.event_enable(ring.fd)
                self._waiter = Waiter([ring.fd for ring in self._rings])
            except BaseException as err:
                self._release()
                if isinstance(err, OSError):
                    raise BpfError("wait for events", err.errno or 0) from err
                raise

    def wait(self, timeout_s: float | None = None) -> bool:
        """
        Block until there is something to read, :meth:`stop` is called or the time is over.

        Args:
            timeout_s: Seconds; ``None`` for no limit.

        Returns:
            Whether there is something. Never once stopped.
        """
        waiter = self._waiting()
        with self._lock:
            # The kernel tells of each event once, to whoever asks first.
            if not waiter.stopped and any(ring.used() for ring in self._rings):
                return True
        return waiter.wait(timeout_s)

    def read(self) -> NDArray[Any]:
        """
        Everything that there is, in bulk.

        Returns:
            Shape (n,), dtype of a sample, a copy; one CPU's after the other's, in order.

        Raises:
            ValueError: If a sample has another size, or no dtype was given.
        """
        if self._dtype is None:
            raise ValueError("samples of a perf buffer without a dtype are read one by one")
        with self._lock:
            parts = [np.frombuffer(sample.data, self._dtype) for sample in self._drain_pending()]
            for ring in self._rings:
                content = ring.peek()
                arrays, counts = _arrays(content, self._dtype)
                parts.extend(arrays)
                self._consume(ring, content, counts)
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)

    def take(self) -> list[Sample]:
        """
        Everything that there is, sample by sample; one CPU's after the other's, in order.

        Raises:
            ValueError: If a dtype was given and a sample has another size.
        """
        with self._lock:
            return [*self._drain_pending(), *self._take()]

    def follow(self) -> Iterator[Sample]:
        """
        Every sample as it comes, until :meth:`stop` or :meth:`close`. Samples that were taken out
        of the buffer but not handed out stay for the next call of any reading method.

        Raises:
            ValueError: As :meth:`take`.
        """
        waiter, pending = self._waiting(), self._pending
        while not waiter.stopped:
            # Without the lock: there is one reader, and it is here.
            if pending:
                yield pending.popleft()
                continue
            with self._lock:
                pending.extend(self._take())
            if not pending:
                waiter.wait()

    def stop(self) -> None:
        """End all waiting, from any thread, now and from now on. Does not block."""
        self._waiting().stop()

    def close(self) -> None:
        """
        Stop, take the buffers out of the array and give them back. Again is fine, and from any
        thread.

        Raises:
            BpfError: If the array cannot be changed. The buffers are given back nevertheless.
        """
        if self._waiter is not None:
            self._waiter.close()
        with self._lock:
            failures = self._release()
        if failures:
            raise failures[0]

    def _release(self) -> list[BpfError]:
        failures = []
        while self._rings:
            ring = self._rings.pop()
            try:
                self._array.delete(_word(ring.cpu))
            except KeyNotFound:
                pass  # it was never there, or somebody took it out
            except BpfError as err:
                failures.append(err)
            ring.close()
        return failures

    def _require_array(self) -> None:
        name = self._array.spec.name
        try:
            kind = _libbpf.info(_libbpf.MapInfo, self._array.fd).type
        except OSError as err:
            raise BpfError(f"inspect map {name}", err.errno or 0) from err
        if kind != _PERF_EVENT_ARRAY:
            raise BpfError(f"open map {name}", errnos.EINVAL, "it is not a perf event array")

    def _open_cpu(self, cpu: int) -> _CpuRing | None:
        try:
            return _CpuRing(cpu, self.size)
        except OSError as err:
            if err.errno == errnos.ENODEV:
                return None  # it went offline
            raise BpfError(
                f"open {self.size} octets for events of CPU {cpu}", err.errno or 0
            ) from err

    def _waiting(self) -> Waiter:
        assert self._waiter is not None, "the buffer is not open"
        return self._waiter

    def _drain_pending(self) -> list[Sample]:
        pending = list(self._pending)
        self._pending.clear()
        return pending

    def _take(self) -> list[Sample]:
        octets = None if self._dtype is None else self._dtype.itemsize
        samples: list[Sample] = []
        for ring in self._rings:
            content = ring.peek()
            found, counts = _samples(content, ring.cpu, octets)
            samples += found
            self._consume(ring, content, counts)
        return samples

    def _consume(self, ring: _CpuRing, content: bytes, counts: PerfCounts) -> None:
        if content:
            ring.consume(len(content))
            self._counts += counts


class _CpuRing:
    """One CPU's event and its mapping: a page of positions, then the data."""

    def __init__(self, cpu: int, size: int) -> None:
        self.cpu = cpu
        self._size = size
        attributes = _perf.EventAttributes()
        attributes.type = _perf.TYPE_SOFTWARE
        attributes.config = _perf.COUNT_SW_BPF_OUTPUT
        attributes.sample_type = _perf.SAMPLE_RAW
        attributes.period = 1
        attributes.wakeup_events = 1
        self.fd = _perf.event_open(attributes, _perf.ANY, cpu)
        try:
            self._data = mmap.mmap(self.fd, mmap.PAGESIZE + size)
        except OSError:
            os.close(self.fd)
            raise
        self._head, self._tail = Position(self._data, _HEAD), Position(self._data, _TAIL)

    def used(self) -> int:
        """Octets that wait to be read."""
        return self._head.load() - self._tail.load()

    def peek(self) -> bytes:
        """All that the kernel has written, copied; what wraps around is one piece again."""
        tail = self._tail.load()
        waiting = self._head.load() - tail
        begin = tail & (self._size - 1)
        first = min(waiting, self._size - begin)
        base, at = mmap.PAGESIZE, mmap.PAGESIZE + begin
        return self._data[at : at + first] + self._data[base : base + waiting - first]

    def consume(self, octets: int) -> None:
        """Give the kernel the room back."""
        self._tail.store(self._tail.load() + octets)

    def close(self) -> None:
        """Unmap, and close the event."""
        self._head.release()
        self._tail.release()
        self._data.close()
        os.close(self.fd)


def _word(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def _stride(octets: int) -> int:
    """What a sample of that many octets takes."""
    return (_PREFIX_OCTETS + octets + 7) & ~7


def _wrong_size(octets: int, wanted: int) -> ValueError:
    return ValueError(f"a sample of {octets} octets cannot be one of {wanted}")


def _samples(content: bytes, cpu: int, octets: int | None) -> tuple[list[Sample], PerfCounts]:
    """Every sample in what was read, cut to its size if that is known, and the counts."""
    found, lost, unknown = [], 0, 0
    words = memoryview(content).cast("I")
    halves = memoryview(content).cast("H")
    stride = None if octets is None else _stride(octets)
    at, end = 0, len(content)
    while at < end:
        kind, size = words[at >> 2], halves[(at >> 1) + 3]
        begin = at + _PREFIX_OCTETS
        if kind == _perf.RECORD_SAMPLE:
            length = words[(at >> 2) + 2]
            if octets is not None:
                if size != stride:
                    raise _wrong_size(length, octets)
                length = octets
            found.append(Sample(cpu, content[begin : begin + length]))
        elif kind == _perf.RECORD_LOST:
            lost += _lost(content, at)
        else:
            unknown += 1
        at += size
    return found, PerfCounts(len(found), lost, unknown)


def _arrays(content: bytes, dtype: np.dtype[Any]) -> tuple[list[NDArray[Any]], PerfCounts]:
    """As :func:`_samples`, in arrays: runs of samples between other records."""
    stride = _stride(dtype.itemsize)
    record = np.dtype(
        {
            "names": ["type", "size", "sample"],
            "formats": ["u4", "u2", dtype],
            "offsets": [0, 6, _PREFIX_OCTETS],
            "itemsize": stride,
        }
    )
    runs: list[NDArray[Any]] = []
    counts = PerfCounts()
    at, end = 0, len(content)
    while at < end:
        view = np.frombuffer(content, record, (end - at) // stride, at)
        other = (view["type"] != _perf.RECORD_SAMPLE) | (view["size"] != stride)
        rows = int(other.argmax()) if other.any() else len(view)
        if rows:
            runs.append(view["sample"][:rows])
            counts += PerfCounts(received=rows)
            at += rows * stride
            continue
        header = np.frombuffer(content, _HEADER, 1, at)[0]
        if header["type"] == _perf.RECORD_SAMPLE:
            raise _wrong_size(int(header["size"]) - _PREFIX_OCTETS, dtype.itemsize)
        if header["type"] == _perf.RECORD_LOST:
            counts += PerfCounts(lost=_lost(content, at))
        else:
            counts += PerfCounts(unknown=1)
        at += int(header["size"])
    return runs, counts


def _lost(content: bytes, at: int) -> int:
    begin = at + _LOST_OFFSET
    return int.from_bytes(content[begin : begin + 8], sys.byteorder)
