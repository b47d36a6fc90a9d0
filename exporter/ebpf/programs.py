"""A program in the kernel: what it is, and what it does with a packet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import BpfError

#: BPF_PROG_TYPE_*, include/uapi/linux/bpf.h.
TYPES = {
    0: "unspecified",
    1: "socket_filter",
    2: "kprobe",
    3: "sched_cls",
    5: "tracepoint",
    6: "xdp",
}


@dataclass(frozen=True)
class ProgramSpec:
    """What an object file says of a program."""

    name: str
    section: str
    type: str
    instructions: int


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel says of a loaded program. Lengths in octets, ``load_time_ns`` since boot."""

    id: int
    name: str
    type: str
    tag: str
    jited_octets: int
    translated_octets: int
    load_time_ns: int
    uid: int


@dataclass(frozen=True)
class TestRun:
    """
    Outcome of :meth:`Program.test_run`. ``duration_ns`` is the kernel's mean over the repeats.
    """

    retval: int
    duration_ns: int


class Program:
    """
    A live program. Owns its file descriptor: ``close`` it, or use it in a ``with`` block.

    Args:
        fd: The program's file descriptor; from now on this object's.
        spec: What the program is.
    """

    def __init__(self, fd: int, spec: ProgramSpec) -> None:
        self.fd = fd
        self.spec = spec

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back. Again is fine. Hooks keep the program alive while attached."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def info(self) -> ProgramInfo:
        """What the kernel says of it. Raises BpfError."""
        try:
            raw = _libbpf.info(_libbpf.ProgramInfo, self.fd)
        except OSError as err:
            raise BpfError(f"inspect program {self.spec.name}", err.errno or 0) from err
        return ProgramInfo(
            id=raw.id,
            name=raw.name.decode(),
            type=TYPES.get(raw.type, str(raw.type)),
            tag=bytes(raw.tag).hex(),
            jited_octets=raw.jited_prog_len,
            translated_octets=raw.xlated_prog_len,
            load_time_ns=raw.load_time,
            uid=raw.created_by_uid,
        )

    def test_run(self, packet: bytes, repeat: int = 1, cb: Sequence[int] = ()) -> TestRun:
        """
        Run it on a packet that never touches a network.

        Args:
            packet: A frame, at least 14 octets and less than a page.
            repeat: How often.
            cb: Up to five 32-bit words for ``skb->cb``.

        Raises:
            BpfError: If the kernel refuses the packet.

        Source: net/bpf/test_run.c bpf_prog_test_run_skb().
        """
        context = _libbpf.SkBuff()
        for index, word in enumerate(cb):
            context.cb[index] = word
        options = _libbpf.sized(_libbpf.TestRunOptions)
        options.data_in = _libbpf.address(packet).value
        options.data_size_in = len(packet)
        options.ctx_in = _libbpf.pointer_to(context)
        options.ctx_size_in = _libbpf.size_of(context)
        options.repeat = repeat
        try:
            _libbpf.library().bpf_prog_test_run_opts(self.fd, _libbpf.ref(options))
        except OSError as err:
            raise BpfError(f"test-run program {self.spec.name}", err.errno or 0) from err
        retval = options.retval
        return TestRun(retval - (1 << 32) if retval >> 31 else retval, options.duration)
