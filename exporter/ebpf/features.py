"""
What this kernel can do: probed, never read off a version number.

Each probe says yes, no, or could not tell, and why. Conclusive answers are remembered.

Source: kernel commits named beside each probe.
"""

from __future__ import annotations

import enum
import errno as errnos
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import FeatureMissing


class Answer(enum.Enum):
    """Outcome of a probe."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


@dataclass(frozen=True)
class Probe:
    """One answer, and what stood in the way of a better one."""

    answer: Answer
    reason: str = ""

    def __bool__(self) -> bool:
        return self.answer is Answer.YES


_LOOPBACK = 1
_TCX_INGRESS = 46
_PERCPU_HASH, _ARRAY_OF_MAPS, _RINGBUF = 5, 12, 27
_SCHED_CLS = 3
_KTIME_GET_NS, _KTIME_GET_COARSE_NS = 5, 160

_answers: dict[str, Probe] = {}


def probe(name: str) -> Probe:
    """
    Ask one of :data:`PROBES`.

    Raises:
        KeyError: If there is no such probe.
    """
    if name in _answers:
        return _answers[name]
    try:
        answer = PROBES[name].ask()
    except _libbpf.MissingLibrary as err:
        return Probe(Answer.UNKNOWN, f"libbpf: {err}")
    except OSError as err:
        return _from_errno(err)
    if answer.answer is not Answer.UNKNOWN:
        _answers[name] = answer
    return answer


def require(*names: str) -> None:
    """
    Raises:
        FeatureMissing: Naming the first of ``names`` that this kernel conclusively lacks, and the
            kernel that brought it.
    """
    for name in names:
        answer = probe(name)
        if answer.answer is Answer.NO:
            feature = PROBES[name]
            raise FeatureMissing(
                f"this kernel has no {feature.title}",
                0,
                f"Linux {feature.since} brought it, this is {os.uname().release}",
            )


def _from_errno(err: OSError) -> Probe:
    if err.errno in (errnos.EPERM, errnos.EACCES):
        return Probe(Answer.UNKNOWN, "not permitted: run as root or with CAP_BPF")
    name = errnos.errorcode.get(err.errno or 0, str(err.errno))
    if err.errno in (errnos.EINVAL, errnos.ENOSYS, errnos.EOPNOTSUPP):
        return Probe(Answer.NO, name)
    return Probe(Answer.UNKNOWN, name)


def _make_map(kind: int, key: int, value: int, entries: int) -> int:
    return int(_libbpf.library().bpf_map_create(kind, b"probe", key, value, entries, None))


def _close(fd: int) -> Probe:
    os.close(fd)
    return Probe(Answer.YES)


def _bpf() -> Probe:
    return _close(_make_map(2, 4, 4, 1))


def _per_cpu_batch() -> Probe:
    """Commit "bpf: Add batch ops to all htab bpf map"."""
    fd = _make_map(_PERCPU_HASH, 8, 8, 1)
    try:
        count, position = _libbpf.u32(1), _libbpf.u64()
        room = bytearray(8 * _libbpf.library().libbpf_num_possible_cpus())
        key = bytearray(8)
        result = _libbpf.library().bpf_map_lookup_and_delete_batch(
            fd,
            None,
            _libbpf.ref(position),
            _libbpf.address(key),
            _libbpf.address(room),
            _libbpf.ref(count),
            None,
        )
    finally:
        os.close(fd)
    if result in (0, -errnos.ENOENT):
        return Probe(Answer.YES)
    raise OSError(-result, os.strerror(-result))


def _map_in_map() -> Probe:
    """Array of maps: 56f668dfe00d "bpf: Add array of maps support"."""
    inner = _make_map(2, 4, 4, 1)
    try:
        options = _libbpf.sized(_libbpf.MapCreateOptions)
        options.inner_map_fd = inner
        fd = _libbpf.library().bpf_map_create(
            _ARRAY_OF_MAPS, b"probe", 4, 4, 1, _libbpf.ref(options)
        )
        return _close(fd)
    finally:
        os.close(inner)


def _ring_buffer() -> Probe:
    """457f44363a88 "bpf: Implement BPF ring buffer and verifier support for it"."""
    return _close(_make_map(_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE")))


def _tcx() -> Probe:
    """e420bed02507 "bpf: Add fd-based tcx multi-prog infra with link support"."""
    count = _libbpf.u32()
    _libbpf.library().bpf_prog_query(_LOOPBACK, _TCX_INGRESS, 0, None, None, _libbpf.ref(count))
    return Probe(Answer.YES)


def _classifier(helper: int) -> Probe:
    """Load a classifier of three instructions that calls one helper."""
    instructions = b"".join(
        code.to_bytes(1, "little") + register.to_bytes(1, "little") + bytes(2) + value
        for code, register, value in (
            (0x85, 0, helper.to_bytes(4, "little")),
            (0xB7, 0, bytes(4)),
            (0x95, 0, bytes(4)),
        )
    )
    fd = _libbpf.library().bpf_prog_load(
        _SCHED_CLS,
        b"probe",
        b"GPL",
        _libbpf.address(instructions),
        len(instructions) // 8,
        None,
    )
    return _close(int(fd))


def _kernel_btf() -> Probe:
    if Path("/sys/kernel/btf/vmlinux").exists():
        return Probe(Answer.YES)
    return Probe(Answer.NO, "/sys/kernel/btf/vmlinux is missing")


@dataclass(frozen=True)
class Feature:
    """
    Something a kernel may have.

    Args:
        title: What it is, for people.
        since: The Linux release that brought it.
        cost: What its absence costs; "required" where nothing works without.
        ask: The probe. May raise OSError.
    """

    title: str
    since: str
    cost: str
    ask: Callable[[], Probe]


PROBES: dict[str, Feature] = {
    "bpf": Feature("BPF maps", "3.18", "required", _bpf),
    "classifier": Feature(
        "TC classifier programs", "4.1", "required", lambda: _classifier(_KTIME_GET_NS)
    ),
    "map_in_map": Feature("array of maps", "4.12", "required", _map_in_map),
    "per_cpu_batch": Feature(
        "batch operations on per-CPU hashes", "5.6", "required", _per_cpu_batch
    ),
    "ring_buffer": Feature("ring buffer", "5.8", "required", _ring_buffer),
    "coarse_clock": Feature(
        "coarse clock",
        "5.11",
        "--clock coarse is not available",
        lambda: _classifier(_KTIME_GET_COARSE_NS),
    ),
    "tcx": Feature("TCX links", "6.6", "filters on a clsact qdisc are used instead", _tcx),
    "kernel_btf": Feature(
        "kernel BTF", "5.2", "nothing yet: the program needs no relocation", _kernel_btf
    ),
}

#: Without these there is no capture.
REQUIRED = tuple(name for name, feature in PROBES.items() if feature.cost == "required")
