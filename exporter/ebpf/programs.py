"""A program in the kernel: what it is, and what it does with a packet."""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from exporter.ebpf import _libbpf, _programs, clock, kinds
from exporter.ebpf.contexts import SKB_TYPES, SkbContext, XdpContext
from exporter.ebpf.errors import BpfError, FeatureMissing
from exporter.ebpf.maps import Map

#: The kernel's own errno for "this type has no test run", include/linux/errno.h.
_ENOTSUPP = 524
#: A program may make a packet longer: what a test run leaves room for.
_GROWTH = 4096


@dataclass(frozen=True)
class ProgramSpec:
    """What an object file says of a program; of one that is found in the kernel, what that says."""

    name: str
    section: str
    type: str
    instructions: int


@dataclass(frozen=True)
class ProgramInfo:
    """
    What the kernel says of a loaded program.

    Args:
        id: The kernel's number for it.
        name: As the kernel keeps it: the first 15 octets.
        type: See :data:`exporter.ebpf.kinds.PROGRAM_TYPES`.
        tag: Hash of its instructions, hexadecimal: equal for equal programs.
        jited_octets: Machine code; 0 if it is interpreted.
        translated_octets: Instructions after the verifier's rewriting, 8 octets each.
        load_time_ns: When it was loaded, since boot; see :func:`unix_ns`.
        uid: Who loaded it.
        map_ids: The maps that it uses.
        gpl_compatible: Whether its licence lets it call helpers that are for the GPL only.
        verified_instructions: What the verifier had to walk through; 0 before Linux 5.16.
    """

    id: int
    name: str
    type: str
    tag: str
    jited_octets: int
    translated_octets: int
    load_time_ns: int
    uid: int
    map_ids: tuple[int, ...] = ()
    gpl_compatible: bool = False
    verified_instructions: int = 0


@dataclass(frozen=True)
class TestRun:
    """
    Outcome of :meth:`Program.test_run`.

    Args:
        retval: What the program returned, as a signed 32-bit number.
        duration_ns: The kernel's mean over the repeats.
        packet: The packet as the program left it after the last repeat.
        octets: Its length; more than ``packet`` holds if it outgrew the room.
        context: Likewise, if one was given.
    """

    retval: int
    duration_ns: int
    packet: bytes = b""
    octets: int = 0
    context: SkbContext | XdpContext | None = None


def unix_ns(boot_ns: int) -> int:
    """
    A time since boot, such as :attr:`ProgramInfo.load_time_ns`, as Unix time.

    Args:
        boot_ns: CLOCK_BOOTTIME, nanoseconds.
    """
    return clock.unix_time_ns(boot_ns, clock.BOOT)


class Program:
    """
    A live program. Owns its file descriptor: ``close`` it, or use it in a ``with`` block.

    Args:
        fd: The program's file descriptor; from now on this object's.
        spec: What the program is.
        log: What the verifier said of it, if it was asked for.
    """

    def __init__(self, fd: int, spec: ProgramSpec, log: str = "") -> None:
        self.fd = fd
        self.spec = spec
        self.log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def from_fd(cls, fd: int) -> Program:
        """
        The program behind a descriptor, which stays the caller's.

        Raises:
            BpfError: EBADF if there is no such descriptor, EINVAL if it is not a program's.
        """
        try:
            own = os.dup(fd)
        except OSError as err:
            raise BpfError(f"open program of descriptor {fd}", err.errno or 0) from err
        return cls._adopt(own, f"open program of descriptor {fd}")

    @classmethod
    def from_id(cls, program_id: int) -> Program:
        """
        The program that the kernel has under an id.

        Raises:
            BpfError: ENOENT if there is none; EPERM without CAP_SYS_ADMIN.
        """
        try:
            fd = _libbpf.library().bpf_prog_get_fd_by_id(program_id)
        except OSError as err:
            raise BpfError(f"open program {program_id}", err.errno or 0) from err
        return cls._adopt(fd, f"open program {program_id}")

    @classmethod
    def from_path(cls, path: Path) -> Program:
        """
        The program that is pinned at a path of a BPF file system.

        Raises:
            BpfError: ENOENT if there is no such file; EINVAL if it is not a program.
        """
        try:
            fd = _libbpf.library().bpf_obj_get(os.fsencode(path))
        except OSError as err:
            raise BpfError(f"open program {path}", err.errno or 0) from err
        return cls._adopt(fd, f"open program {path}")

    @classmethod
    def _adopt(cls, fd: int, phase: str) -> Program:
        """Own a descriptor, or close it."""
        try:
            _require_program(fd, phase)
            program = cls(fd, ProgramSpec("", "", "", 0))
            info = program.info()
        except BpfError:
            os.close(fd)
            raise
        program.spec = ProgramSpec(info.name, "", info.type, info.translated_octets // 8)
        return program

    def close(self) -> None:
        """Give the descriptor back. Again is fine. Hooks keep the program alive while attached."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def info(self) -> ProgramInfo:
        """What the kernel says of it. Raises BpfError."""
        try:
            raw, map_ids = _programs.program_info(self.fd)
        except OSError as err:
            raise BpfError(f"inspect program {self.spec.name}", err.errno or 0) from err
        return ProgramInfo(
            id=raw.id,
            name=raw.name.decode(errors="replace"),
            type=kinds.program_type(raw.type),
            tag=bytes(raw.tag).hex(),
            jited_octets=raw.jited_prog_len,
            translated_octets=raw.xlated_prog_len,
            load_time_ns=raw.load_time,
            uid=raw.created_by_uid,
            map_ids=map_ids,
            gpl_compatible=bool(raw.gpl_compatible),
            verified_instructions=raw.verified_insns,
        )

    def maps(self) -> tuple[Map, ...]:
        """
        The maps that it uses, in the order in which it names them first. They are the caller's.

        Raises:
            BpfError: If the kernel refuses: EPERM without CAP_SYS_ADMIN.
        """
        found: list[Map] = []
        try:
            found.extend(Map.from_id(map_id) for map_id in self.info().map_ids)
        except BpfError:
            for opened in found:
                opened.close()
            raise
        return tuple(found)

    def pin(self, path: Path) -> None:
        """
        Give it a name in a BPF file system: it outlives this process until that is removed.

        Raises:
            BpfError: EEXIST if the path is taken, EPERM or ENOENT if it is not in a BPF file
                system, EINVAL if the program is closed.
        """
        try:
            _libbpf.library().bpf_obj_pin(self.fd, os.fsencode(path))
        except OSError as err:
            raise BpfError(f"pin program {self.spec.name} at {path}", err.errno or 0) from err

    def test_run(
        self,
        packet: bytes,
        repeat: int = 1,
        cb: Sequence[int] = (),
        *,
        context: SkbContext | XdpContext | None = None,
    ) -> TestRun:
        """
        Run it on a packet that never touches a network.

        Args:
            packet: A frame, at least 14 octets and less than a page.
            repeat: How often. All runs but the first see the packet as the one before left it.
            cb: Up to five 32-bit words for ``skb->cb``, over those of ``context``.
            context: What the program finds besides the packet: :class:`SkbContext` for those that
                see socket buffers, :class:`XdpContext` for XDP.

        Raises:
            FeatureMissing: If the kernel has no test run for programs of this type.
            BpfError: EINVAL if the kernel refuses the packet or the context.

        Source: net/bpf/test_run.c bpf_prog_test_run_skb(), bpf_prog_test_run_xdp().
        """
        options = _libbpf.sized(_libbpf.TestRunOptions)
        options.data_in = _libbpf.address(packet).value
        options.data_size_in = len(packet)
        room = bytearray(len(packet) + _GROWTH)
        options.data_out = _libbpf.address(room).value
        options.data_size_out = len(room)
        options.repeat = repeat
        # The kernel reads it before the run and writes it after the last one.
        raw = self._context(context, cb, len(packet))
        if raw is not None:
            options.ctx_in = options.ctx_out = _libbpf.pointer_to(raw)
            options.ctx_size_in = options.ctx_size_out = _libbpf.size_of(raw)
        try:
            _libbpf.library().bpf_prog_test_run_opts(self.fd, _libbpf.ref(options))
        except OSError as err:
            # It ran all the same: only the packet did not fit.
            if err.errno != errnos.ENOSPC:
                raise self._no_run(err) from err
        retval = options.retval
        return TestRun(
            retval=retval - (1 << 32) if retval >> 31 else retval,
            duration_ns=options.duration,
            packet=bytes(memoryview(room)[: options.data_size_out]),
            octets=options.data_size_out,
            context=None if context is None else context.of(raw),
        )

    def _context(
        self, context: SkbContext | XdpContext | None, cb: Sequence[int], length: int
    ) -> Any:
        """What is given to the kernel: nothing to types that take nothing."""
        takes = SkbContext if self.spec.type in SKB_TYPES else XdpContext
        if context is not None:
            if not isinstance(context, takes) or (takes is XdpContext and self.spec.type != "xdp"):
                raise BpfError(
                    f"test-run program {self.spec.name}",
                    errnos.EINVAL,
                    f"a program of type {self.spec.type} takes no {type(context).__name__}",
                )
            raw = context.raw(length)
        elif takes is SkbContext:
            raw = _libbpf.SkBuff()
        else:
            return None
        if takes is SkbContext:
            for index, word in enumerate(cb):
                raw.cb[index] = word
        return raw

    def _no_run(self, err: OSError) -> BpfError:
        phase = f"test-run program {self.spec.name}"
        if err.errno == _ENOTSUPP:
            return FeatureMissing(
                phase,
                errnos.EOPNOTSUPP,
                f"the kernel has no test run for programs of type {self.spec.type}",
            )
        return BpfError(phase, err.errno or 0)


def _require_program(fd: int, phase: str) -> None:
    kind = _programs.kind_of(fd)
    if kind != "prog":
        raise BpfError(phase, errnos.EINVAL, f"it is a {kind}, not a program")
