"""Which mount is the root of the unified hierarchy, as a container sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.capture.cgroups import cgroup_root
from tests.conftest import missing

_ASK = "from exporter.capture.cgroups import cgroup_root; print(cgroup_root())"


@pytest.fixture
def pod() -> Iterator[Path]:
    """A cgroup below the root, as a pod's."""
    root = cgroup_root()
    if root is None or (root / "cgroup.type").exists():
        missing("the root of the unified cgroup hierarchy")
    assert root is not None
    made = root / f"flow-exporter-test-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        made.rmdir()


def _asked_in(pod: Path, script: str, *arguments: Path) -> str:
    """What it is in a cgroup namespace of the pod's, where a script has mounted all there is."""
    inside = f"""
        there=$(awk '/ - cgroup2 /{{print $5}}' /proc/self/mountinfo | tac)
        {script}
        for one in $there; do umount -l "$one"; done
        exec {sys.executable} -c '{_ASK}'
    """
    # It moves into the cgroup first: the namespace begins there.
    outside = f'echo $$ > {pod}/cgroup.procs; exec unshare -C -m sh -e -c "$0" sh "$@"'
    words = [str(one) for one in arguments]
    done = subprocess.run(
        ["sh", "-c", outside, inside, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_hosts_tree_in_a_container(pod: Path, tmp_path: Path) -> None:
    """The host's, which a pod has mounted; not its own part, which is called ``/`` there."""
    own, host = tmp_path / "own", tmp_path / "host"
    own.mkdir()
    host.mkdir()
    root = pod.parent
    beside = 'mount -t cgroup2 cgroup2 "$1"; mount --bind "$3" "$2"'
    assert _asked_in(pod, beside, own, host, root) == str(host)
    over = 'mount -t cgroup2 cgroup2 "$1"; mount --bind "$3" "$1"'
    assert _asked_in(pod, over, own, host, root) == str(own)
    instead = 'mount --bind "$3" "$2"'
    assert _asked_in(pod, instead, own, host, root) == str(host)


def test_its_own_part_if_there_is_nothing_else(pod: Path, tmp_path: Path) -> None:
    """Better some sockets than none."""
    own = tmp_path / "own"
    own.mkdir()
    assert _asked_in(pod, 'mount -t cgroup2 cgroup2 "$1"', own) == str(own)
