"""
Which container and pod a cgroup is of, by its path.

Runtimes name the cgroup after the container's id: docker and podman (``docker-ID.scope``,
``libpod-ID.scope``, ``/docker/ID``), containerd (``cri-containerd-ID.scope``, ``nerdctl-ID.scope``,
``/kubepods/.../podUID/ID``), CRI-O (``crio-ID.scope``). The kubelet names the one above after the
pod's uid, with ``_`` for ``-`` under systemd; that of a static pod is 32 digits.

Source: opencontainers/runc libcontainer/cgroups/systemd; kubernetes pkg/kubelet/cm
pod_container_manager_linux.go, cgroup_manager_linux.go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_CONTAINER = re.compile(r"^(?:.*[-:])?([0-9a-f]{64})(?:\.scope)?$")
_POD = re.compile(
    r"^(?:.*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$"
)
#: Watches a container from outside of it: crio-conmon-ID.scope, libpod-conmon-ID.scope.
_MONITOR = "conmon-"


@dataclass(frozen=True)
class Belonging:
    """A container's id and a pod's uid; empty is none."""

    container: str = ""
    pod: str = ""

    def __bool__(self) -> bool:
        return bool(self.container or self.pod)


NOBODY = Belonging()


def belonging(path: str) -> Belonging:
    """
    What a cgroup's path says. Of containers within containers, the innermost.

    Args:
        path: As in /proc/PID/cgroup or below a mount.
    """
    container = pod = ""
    for name in path.split("/"):
        if (found := _POD.match(name)) is not None:
            pod, container = found[1].replace("_", "-"), ""
        elif _MONITOR not in name and (found := _CONTAINER.match(name)) is not None:
            container = found[1]
    return Belonging(container, pod)


@dataclass(frozen=True)
class Process:
    """
    A process, not to be taken for another of the same number.

    Args:
        pid: In the agent's PID namespace.
        start: Clock ticks after boot: /proc/PID/stat, field 22.
    """

    pid: int
    start: int


def processes() -> Iterator[int]:
    """Numbers of the processes that there are."""
    with os.scandir(PROC) as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdigit())


def process(pid: int) -> Process | None:
    """The process that has a number now; ``None`` if there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name is in parentheses, and may hold some itself.
    return Process(pid, int(text[text.rindex(b")") + 2 :].split()[19]))


def belonging_of(pid: int) -> Belonging:
    """Of a process, by any of its cgroup hierarchies; nobody's if it is gone."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return NOBODY
    found = [belonging(line.split(":", 2)[2]) for line in lines if line.count(":") >= 2]
    return next((one for one in found if one.container), next(filter(None, found), NOBODY))


def cgroup_root() -> Path | None:
    """
    Where the root of the unified hierarchy is mounted; ``None`` if it is nowhere.

    In a cgroup namespace the mount that calls itself the root is the namespace's own part, and the
    host's, where it is mounted too, is at ``/..``: only the root itself has no ``cgroup.type``. A
    namespace's part is taken where there is nothing else.

    Source: Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files" and "Namespace".
    """
    own = None
    for line in (PROC / "self" / "mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, place = fields.split(" ")[3:5]
            path = Path(place.encode().decode("unicode_escape"))
            # What is mounted there may be hidden by another mount.
            if (path / "cgroup.procs").exists() and not (path / "cgroup.type").exists():
                return path
            if root == "/" and own is None:
                own = path
    return own
