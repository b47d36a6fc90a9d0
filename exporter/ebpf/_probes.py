"""
The questions behind :mod:`exporter.ebpf.features`: each asks the kernel by trying.

Nothing is attached and nothing stays: a map or program is made and closed, a command is given
descriptors that cannot be, a file is looked for. Every probe may raise OSError, which its caller
judges.
"""

from __future__ import annotations

import enum
import errno as errnos
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from exporter.ebpf import _libbpf


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


#: include/linux/errno.h: leaves the kernel although user space has no name for it.
ENOTSUPP = 524

#: enum bpf_cmd, bpf_map_type, bpf_prog_type and bpf_attach_type: include/uapi/linux/bpf.h.
_PROG_LOAD, _LOOKUP_BATCH, _LOOKUP_AND_DELETE_BATCH, _LINK_UPDATE = 5, 24, 25, 29
_HASH, _ARRAY, _PERF_EVENT_ARRAY, _PERCPU_HASH = 1, 2, 4, 5
_PERCPU_ARRAY, _LPM_TRIE, _ARRAY_OF_MAPS, _RINGBUF = 6, 11, 12, 27
_SCHED_CLS, _TRACEPOINT, _CGROUP_SOCK, _TRACING = 3, 5, 9, 26
_TRACE_RAW_TP, _TRACE_FENTRY, _SOCK_RELEASE, _TCX_INGRESS = 23, 24, 34, 46
_NO_PREALLOC = 1

_LOOPBACK = 1
_NOBODY = 0xFFFFFFFF
_KTIME_GET_COARSE_NS = 160
_GET_SOCKET_COOKIE, _SKB_CGROUP_ID, _GET_CURRENT_PID_TGID = 46, 79, 14

_YES = Probe(Answer.YES)
_RETURN_ZERO = bytes((0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0))
_BTF = Path("/sys/kernel/btf/vmlinux")
_EVENT_SOURCES = Path("/sys/bus/event_source/devices")


def _make_map(kind: int, key: int, value: int, *, flags: int = 0, inner: int = 0) -> int:
    """Of one entry, or of one page where the size is in octets."""
    entries = os.sysconf("SC_PAGE_SIZE") if kind == _RINGBUF else 1
    options = _libbpf.sized(_libbpf.MapCreateOptions)
    options.map_flags = flags
    options.inner_map_fd = inner
    return int(
        _libbpf.library().bpf_map_create(kind, b"probe", key, value, entries, _libbpf.ref(options))
    )


def _close(fd: int) -> Probe:
    os.close(fd)
    return _YES


def array_map() -> Probe:
    """Any map at all."""
    return _close(_make_map(_ARRAY, 4, 4))


def perf_event_array() -> Probe:
    """ea317b267e9d "bpf: Add new bpf map type to store the pointer to struct perf_event"."""
    return _close(_make_map(_PERF_EVENT_ARRAY, 4, 4))


def lpm_trie() -> Probe:
    """b95a5c4db09b "bpf: add a longest prefix match trie map implementation"."""
    return _close(_make_map(_LPM_TRIE, 8, 4, flags=_NO_PREALLOC))


def map_in_map() -> Probe:
    """Array of maps: 56f668dfe00d "bpf: Add array of maps support"."""
    inner = _make_map(_ARRAY, 4, 4)
    try:
        return _close(_make_map(_ARRAY_OF_MAPS, 4, 4, inner=inner))
    finally:
        os.close(inner)


def ring_buffer() -> Probe:
    """457f44363a88 "bpf: Implement BPF ring buffer and verifier support for it"."""
    return _close(_make_map(_RINGBUF, 0, 0))


def _batch(command: int, kind: int, *, key: int = 4, flags: int = 0) -> Probe:
    """Read an empty map, or one of one element, in a batch of one."""
    fd = _make_map(kind, key, 8, flags=flags)
    position, keys = bytearray(8), bytearray(key)
    values = bytearray(8 * _libbpf.library().libbpf_num_possible_cpus())
    places = [_libbpf.address(buffer).value for buffer in (position, keys, values)]
    try:
        _libbpf.packed_command(command, struct.pack("=4Q2I2Q", 0, *places, 1, fd, 0, 0))
    except OSError as err:
        # The walk is over: that is what success looks like at the end of a map.
        if err.errno != errnos.ENOENT:
            raise
    finally:
        os.close(fd)
    return _YES


def batch_hash() -> Probe:
    """057996380a42 "bpf: Add batch ops to all htab bpf map"."""
    return _batch(_LOOKUP_AND_DELETE_BATCH, _HASH)


def batch_percpu_hash() -> Probe:
    """057996380a42, which added the per-CPU hash with the plain one."""
    return _batch(_LOOKUP_AND_DELETE_BATCH, _PERCPU_HASH)


def batch_array() -> Probe:
    """c60f2d286177 "bpf: Add lookup and update batch ops to arraymap"."""
    return _batch(_LOOKUP_BATCH, _ARRAY)


def batch_percpu_array() -> Probe:
    """f008d732ab18 "bpf: Add batched ops support for percpu array"."""
    return _batch(_LOOKUP_BATCH, _PERCPU_ARRAY)


def batch_lpm() -> Probe:
    """bpf: "Add support for batched ops in LPM trie maps"."""
    return _batch(_LOOKUP_BATCH, _LPM_TRIE, key=8, flags=_NO_PREALLOC)


def _load(kind: int, instructions: bytes, attach_type: int = 0, btf_id: int = 0) -> Probe:
    """Load a program, without a log; EAGAIN says that a signal came in between."""
    code, licence = bytearray(instructions), bytearray(b"GPL\0")
    attr = struct.pack(
        "=2I2Q2IQ2I16s4IQ2IQ2I",
        *(kind, len(code) // 8, _libbpf.address(code).value, _libbpf.address(licence).value),
        *(0, 0, 0),  # log
        *(0, 0, b"probe", 0, attach_type),
        *(0, 0, 0, 0, 0, 0, 0),  # BTF of the program's own
        btf_id,
    )
    attempts = 5
    while True:
        attempts -= 1
        try:
            return _close(_libbpf.packed_command(_PROG_LOAD, attr))
        except BlockingIOError:
            if not attempts:
                raise


def classifier() -> Probe:
    """A TC classifier: 96be4325f443 "ebpf: add sched_cls_type and map it to sk_filter's ops"."""
    return _load(_SCHED_CLS, _RETURN_ZERO)


def coarse_clock() -> Probe:
    """d05512618056 "bpf: Add bpf_ktime_get_coarse_ns helper"."""
    call = bytes((0x85, 0, 0, 0)) + _KTIME_GET_COARSE_NS.to_bytes(4, "little")
    return _load(_SCHED_CLS, call + _RETURN_ZERO)


def _call(*helpers: int) -> bytes:
    """Instructions that call helpers with the context, one after the other."""
    keep, give = bytes((0xBF, 0x16, 0, 0, 0, 0, 0, 0)), bytes((0xBF, 0x61, 0, 0, 0, 0, 0, 0))
    calls = (bytes((0x85, 0, 0, 0)) + helper.to_bytes(4, "little") for helper in helpers)
    return keep + b"".join(give + call for call in calls)


def socket_owner() -> Probe:
    """cb20b08ead40 "bpf: add bpf_skb_cgroup_id helper", which needs CONFIG_SOCK_CGROUP_DATA."""
    return _load(_SCHED_CLS, _call(_GET_SOCKET_COOKIE, _SKB_CGROUP_ID) + _RETURN_ZERO)


def socket_maker() -> Probe:
    """
    f5836749c9c0 "bpf: Add BPF_CGROUP_INET_SOCK_RELEASE hook" (5.9), and the helpers that its
    programs have since 5.7.
    """
    code = _call(_GET_SOCKET_COOKIE, _GET_CURRENT_PID_TGID) + _RETURN_ZERO
    return _load(_CGROUP_SOCK, code, _SOCK_RELEASE)


def tracepoint() -> Probe:
    """9fd82b610ba3 "bpf: register BPF_PROG_TYPE_TRACEPOINT program type"; CONFIG_BPF_EVENTS."""
    return _load(_TRACEPOINT, _RETURN_ZERO)


def btf_tracepoint() -> Probe:
    """9e15db66136a "bpf: Implement accurate raw_tp context access via BTF"."""
    return _traced(b"sched_switch", _TRACE_RAW_TP)


def fentry() -> Probe:
    """fec56f5890d9 "bpf: Introduce BPF trampoline"; by the function made for testing it."""
    return _traced(b"bpf_fentry_test1", _TRACE_FENTRY)


def _traced(name: bytes, attach_type: int) -> Probe:
    if not _BTF.exists():
        return Probe(Answer.NO, f"needs kernel BTF: {_BTF} is missing")
    btf_id = _libbpf.library().libbpf_find_vmlinux_btf_id(name, attach_type)
    return _load(_TRACING, _RETURN_ZERO, attach_type, btf_id)


def _event_source(name: str) -> Probe:
    if (_EVENT_SOURCES / name / "type").exists():
        return _YES
    if _EVENT_SOURCES.exists():
        return Probe(Answer.NO, f"{_EVENT_SOURCES / name} is missing")
    return Probe(Answer.UNKNOWN, f"{_EVENT_SOURCES} is missing: is sysfs mounted?")


def kprobe() -> Probe:
    """e12f03d7031a "perf/core: Implement the 'perf_kprobe' PMU"; CONFIG_KPROBE_EVENTS."""
    return _event_source("kprobe")


def uprobe() -> Probe:
    """33ea4b24277b "perf/core: Implement the 'perf_uprobe' PMU"; CONFIG_UPROBE_EVENTS."""
    return _event_source("uprobe")


def tcx() -> Probe:
    """e420bed02507 "bpf: Add fd-based tcx multi-prog infra with link support"."""
    count = _libbpf.u32()
    _libbpf.library().bpf_prog_query(_LOOPBACK, _TCX_INGRESS, 0, None, None, _libbpf.ref(count))
    return _YES


def xdp_link() -> Probe:
    """
    aa8d3a716b59 "bpf, xdp: Add bpf_link-based XDP attachment API".

    Read off the kernel's BTF: short of attaching to an interface, a kernel that has it answers as
    one that has not (EINVAL).
    """
    if not _BTF.exists():
        return Probe(Answer.UNKNOWN, f"{_BTF} is missing")
    try:
        _libbpf.library().libbpf_find_vmlinux_btf_id(b"bpf_xdp_link_attach", _TRACE_FENTRY)
    except FileNotFoundError:
        return Probe(Answer.NO, "the kernel's BTF has no bpf_xdp_link_attach")
    return _YES


def link_update() -> Probe:
    """0c991ebc8c69 "bpf: Implement bpf_link-based cgroup BPF program attachment"; pins as well."""
    try:
        _libbpf.packed_command(_LINK_UPDATE, struct.pack("=4I", _NOBODY, _NOBODY, 0, 0))
    except OSError as err:
        # It looked for the link: it knows the command.
        if err.errno == errnos.EBADF:
            return _YES
        raise
    return Probe(Answer.UNKNOWN, "updated a link that cannot be")


def bpffs() -> Probe:
    """b2197755b263 "bpf: add support for persistent maps/progs". Not whether it is mounted."""
    if "\tbpf\n" in Path("/proc/filesystems").read_text():
        return _YES
    return Probe(Answer.NO, "not in /proc/filesystems")


def kernel_btf() -> Probe:
    """341dfcf8d78e "btf: expose BTF info through sysfs"; CONFIG_DEBUG_INFO_BTF."""
    return _YES if _BTF.exists() else Probe(Answer.NO, f"{_BTF} is missing")
