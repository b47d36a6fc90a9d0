"""What a container runtime makes: a namespace, a veth pair, a cgroup and a process."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Self

from tests.e2e.net import End, Netns, ip, switch_on


@contextmanager
def cgroups(directory: Path) -> Iterator[Path]:
    """The hierarchy of cgroup2, mounted at a place of its own."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@dataclass
class Container:
    """
    One container of a pod.

    Args:
        root: Of the cgroup hierarchy.
        netns: Where it lives; the caller's.
        seed: Makes its id and its pod's uid.
    """

    root: Path
    netns: Netns
    seed: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return sha256(self.seed.encode()).hexdigest()

    @property
    def pod(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self.seed))

    @property
    def cgroup(self) -> Path:
        slices = f"kubepods-pod{self.pod.replace('-', '_')}.slice"
        return self.root / slices / f"cri-containerd-{self.id}.scope"

    def __enter__(self) -> Self:
        self.cgroup.mkdir(parents=True)
        self.run("sleep", "1000")
        return self

    def __exit__(self, *_: object) -> None:
        while self.processes:
            process = self.processes.pop()
            process.kill()
            process.wait()
        self.cgroup.rmdir()
        self.cgroup.parent.rmdir()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process is in the container's cgroup, and so is what it starts."""
        (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self.root / "cgroup.procs").write_text(str(os.getpid()))

    def run(self, *command: str) -> subprocess.Popen[bytes]:
        """A process in the container from its first instruction on."""
        inside = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(self.cgroup)]
        self.processes.append(subprocess.Popen([*inside, *self.netns.command(*command)]))
        return self.processes[-1]


def wire(host: End, index: int, inner: End, inner_index: int) -> None:
    """A veth pair with chosen indexes, up."""
    ip(
        "link", "add", host.device, "index", str(index), "netns", host.netns.name, "type", "veth",
        "peer", "name", inner.device, "index", str(inner_index), "netns", inner.netns.name,
    )  # fmt: skip
    switch_on(host, inner)
