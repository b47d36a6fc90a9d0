"""Programs on what the processes of a cgroup do, and of all cgroups below it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from exporter.ebpf import _programs
from exporter.ebpf.errors import BpfError
from exporter.ebpf.kinds import ATTACH_TYPES, number_of
from exporter.ebpf.programs import Program


class CgroupLink:
    """
    A program on a cgroup, beside others. Owns the link's descriptor: ``close`` it, or use ``with``.

    Args:
        fd: The link's descriptor; from now on this object's.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def attach(cls, program: Program, cgroup: Path, kind: str) -> CgroupLink:
        """
        Run a program on a cgroup's hook (Linux 5.7).

        Args:
            program: Stays the caller's.
            cgroup: Its directory in a cgroup2 file system.
            kind: One of ``kinds.ATTACH_TYPES``, such as ``cgroup_inet_sock_create``.

        Raises:
            BpfError: EBADF if the directory is not a cgroup2's; EINVAL if the kernel has no such
                hook, or the program is of another type; EPERM if another program is there alone.
            OSError: If there is no such directory.

        Source: kernel/bpf/cgroup.c cgroup_bpf_link_attach().
        """
        where = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return cls(_programs.link_create(program.fd, where, number_of(ATTACH_TYPES, kind)))
        except OSError as err:
            raise BpfError(f"attach {kind} to {cgroup}", err.errno or 0) from err
        finally:
            os.close(where)

    def close(self) -> None:
        """Give the descriptor back. The last one takes the program off. Again is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
