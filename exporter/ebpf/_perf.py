"""
The second module that talks C: perf_event_open(2), links on events, and a mount that only its
descriptor names.

Everything raises :class:`OSError` with the kernel's errno.

Source: include/uapi/linux/perf_event.h; include/uapi/linux/mount.h; libbpf 1.1 src/bpf.h.
"""

from __future__ import annotations

import ctypes as c
import errno as errnos
import fcntl
import functools
import os
import platform
from typing import Any

from exporter.ebpf import _libbpf

TYPE_SOFTWARE, TYPE_TRACEPOINT = 1, 2
COUNT_SW_BPF_OUTPUT = 10
SAMPLE_RAW = 1 << 10
RECORD_LOST, RECORD_SAMPLE = 2, 9
#: Bits of ``flags``.
DISABLED, INHERIT, EXCLUDE_USER, EXCLUDE_KERNEL, FREQUENCY = 1, 1 << 1, 1 << 4, 1 << 5, 1 << 10
ANY = -1

_PERF_EVENT = 41  # BPF_PERF_EVENT, an attach type
_FD_CLOEXEC = 8
#: By machine: arch/*/include/generated/uapi/asm/unistd*.h.
_SYS_PERF_EVENT_OPEN = {
    "x86_64": 298,
    "aarch64": 241,
    "riscv64": 241,
    "ppc64le": 319,
    "s390x": 331,
}
# Calls younger than Linux 5.0 have one number on all of these machines.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6
#: _IO('$', 0), _IOW('$', 8, __u32); powerpc has the direction bits elsewhere.
_IOC_ENABLE, _IOC_SET_BPF = (
    (0x20002400, 0x80042408) if platform.machine().startswith("ppc") else (0x2400, 0x40042408)
)


class EventAttributes(c.Structure):
    """
    struct perf_event_attr as of PERF_ATTR_SIZE_VER5. ``period`` is the frequency where
    :data:`FREQUENCY` is set; the two ``config`` words are pointer and offset for probes.
    """

    _fields_ = (
        ("type", c.c_uint32),
        ("size", c.c_uint32),
        ("config", c.c_uint64),
        ("period", c.c_uint64),
        ("sample_type", c.c_uint64),
        ("read_format", c.c_uint64),
        ("flags", c.c_uint64),
        ("wakeup_events", c.c_uint32),
        ("bp_type", c.c_uint32),
        ("config1", c.c_uint64),
        ("config2", c.c_uint64),
        ("branch_sample_type", c.c_uint64),
        ("sample_regs_user", c.c_uint64),
        ("sample_stack_user", c.c_uint32),
        ("clockid", c.c_int32),
        ("sample_regs_intr", c.c_uint64),
        ("aux_watermark", c.c_uint32),
        ("sample_max_stack", c.c_uint16),
        ("_reserved", c.c_uint16),
    )


class _LinkCreateOptions(c.Structure):
    """struct bpf_link_create_opts as far as its perf_event member."""

    _fields_ = (
        ("sz", c.c_size_t),
        ("flags", c.c_uint32),
        ("iter_info", c.c_void_p),
        ("iter_info_len", c.c_uint32),
        ("target_btf_id", c.c_uint32),
        ("bpf_cookie", c.c_uint64),
    )


def event_open(attributes: EventAttributes, pid: int, cpu: int) -> int:
    """
    perf_event_open(2).

    Args:
        attributes: What to watch; ``size`` is filled in here.
        pid: Whom; :data:`ANY` for everybody.
        cpu: Where; :data:`ANY` only with a pid.

    Returns:
        A file descriptor, closed on exec.
    """
    number = _SYS_PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise OSError(errnos.ENOSYS, "perf_event_open(2) has no known number on this machine")
    attributes.size = c.sizeof(attributes)
    return _syscall("perf_event_open", number, c.byref(attributes), pid, cpu, ANY, _FD_CLOEXEC)


def probe_open(attributes: EventAttributes, name: bytes, pid: int, cpu: int) -> int:
    """:func:`event_open` of a probe on what ``name`` says: a kernel function or a file's path."""
    text = c.create_string_buffer(name)
    attributes.config1 = c.addressof(text)
    return event_open(attributes, pid, cpu)


def event_enable(event: int) -> None:
    """Let the event happen."""
    fcntl.ioctl(event, _IOC_ENABLE, 0)


def event_set_program(event: int, program: int) -> None:
    """Run the program at each event, until the event's descriptor is closed."""
    fcntl.ioctl(event, _IOC_SET_BPF, program)


def link_event(program: int, event: int, cookie: int) -> int:
    """
    A link between a program and an event; EINVAL where the kernel has no such links.

    Source: kernel/bpf/syscall.c bpf_perf_link_attach() (5.15).
    """
    options = _libbpf.sized(_LinkCreateOptions)
    options.bpf_cookie = cookie
    return _checked("bpf_link_create", program, event, _PERF_EVENT, c.byref(options))


def raw_tracepoint_open(name: str | None, program: int) -> int:
    """
    BPF_RAW_TRACEPOINT_OPEN. A program that names its tracepoint by BTF is given no ``name``.

    Source: kernel/bpf/syscall.c bpf_raw_tracepoint_open() (4.17; by BTF 5.5).
    """
    return _checked("bpf_raw_tracepoint_open", None if name is None else name.encode(), program)


def mount_detached(kind: str) -> int:
    """
    Mount a file system of ``kind`` where nobody sees it: it is reached through /proc/self/fd and
    goes away with the descriptor.

    Source: fs/fsopen.c (5.2).
    """
    context = _syscall("fsopen", _SYS_FSOPEN, kind.encode(), 1)
    try:
        _syscall("fsconfig", _SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall("fsmount", _SYS_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)


@functools.cache
def _libc() -> Any:
    lib = c.CDLL(None, use_errno=True)
    lib.syscall.restype = c.c_long
    return lib


def _syscall(name: str, number: int, *arguments: Any) -> int:
    # Variable arguments: what is not said to be long is passed as 32 bits.
    wide = [c.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc().syscall(c.c_long(number), *wide))
    if result < 0:
        errno = c.get_errno()
        raise OSError(errno, os.strerror(errno), name)
    return result


@functools.cache
def _function(name: str) -> Any:
    # Taken by index: such a function object is our own, its prototype nobody else's.
    function = _libbpf.library()[name]
    function.restype = c.c_int
    return function


def _checked(name: str, *arguments: Any) -> int:
    result = int(_function(name)(*arguments))
    if result < 0:
        raise OSError(-result, os.strerror(-result), name)
    return result
