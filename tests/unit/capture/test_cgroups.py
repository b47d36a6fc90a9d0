"""Containers and pods by the paths that runtimes give their cgroups."""

from __future__ import annotations

import os

import pytest

from exporter.capture.cgroups import Belonging, belonging, belonging_of, process

ID, OTHER = "ab12" * 16, "cd34" * 16
UID = "0f5d8d9e-7c3c-4f2c-9b73-1d5a3a1c2b4d"
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice"
UNDER = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "container", "pod"),
    [
        ("/", "", ""),
        ("/user.slice/user-0.slice/session-1.scope", "", ""),
        (f"/docker/{ID}", ID, ""),
        (f"/system.slice/docker-{ID}.scope", ID, ""),
        (f"/machine.slice/libpod-{ID}.scope/container", ID, ""),
        (f"/machine.slice/libpod-conmon-{ID}.scope", "", ""),
        (f"/system.slice/nerdctl-{ID}.scope", ID, ""),
        (f"/default/{ID}", ID, ""),
        (f"{BURSTABLE}/kubepods-burstable-pod{UNDER}.slice/cri-containerd-{ID}.scope", ID, UID),
        (f"/kubepods.slice/kubepods-pod{UNDER}.slice/crio-{ID}.scope", ID, UID),
        (f"/kubepods.slice/kubepods-pod{UNDER}.slice/crio-conmon-{ID}.scope", "", UID),
        (f"/kubepods/besteffort/pod{UID}/{ID}", ID, UID),
        (f"/kubepods/besteffort/pod{UID}", "", UID),
        (f"/kubepods.slice/kubepods-pod{ID[:32]}.slice/docker-{OTHER}.scope", OTHER, ID[:32]),
        (f"/system.slice/containerd.service/kubepods-pod{UNDER}.slice:cri-containerd:{ID}", ID, ""),
        (f"/docker/{ID}/kubelet/kubepods/pod{UID}/{OTHER}/init.scope", OTHER, UID),
        (f"/docker/{ID}/kubelet/kubepods/pod{UID}", "", UID),
        (f"/docker/{ID[:63]}", "", ""),
        ("/kubepods/pod-of-mine", "", ""),
    ],
)
def test_paths(path: str, container: str, pod: str) -> None:
    """Docker, containerd, CRI-O and podman, under systemd and without, one within the other."""
    assert belonging(path) == Belonging(container, pod)


def test_processes() -> None:
    """A process is known by its start, too; one that is gone is nobody's."""
    assert process(os.getpid()) == process(os.getpid())
    assert process(os.getpid()) != process(1)
    assert process(1 << 30) is None
    assert not belonging_of(1 << 30)
