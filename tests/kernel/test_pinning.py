"""Names in a BPF file system, and the file system itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.ebpf import pinning
from exporter.ebpf.errors import BpfError, PinIncompatible, PinMissing
from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.pinning import Preallocation
from tests.compile import compile_bpf
from tests.kernel.bpffs import bpffs

SPEC = MapSpec("numbers", "hash", 4, 8, 16, 0)
ONE, VALUE = bytes([1, 0, 0, 0]), bytes(range(8))
FALLBACK = "/run/flow-exporter/bpffs"
PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int pass(struct __sk_buff *skb) { return -1; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with bpffs(tmp_path) as mounted:
        yield mounted


def test_a_pin_outlives_its_descriptor(root: Path) -> None:
    """What was written through one handle is read through another, after the first is closed."""
    with pinning.create(SPEC) as made:
        pinning.pin(made, root / "numbers")
        made.update(ONE, VALUE)
    with pinning.open_map(root / "numbers") as found:
        assert found.spec == SPEC
        assert found.lookup(ONE) == VALUE
    assert pinning.unpin(root / "numbers")
    assert not pinning.unpin(root / "numbers")
    with pytest.raises(PinMissing):
        pinning.open_map(root / "numbers")


def test_pins_that_cannot_be(root: Path, tmp_path: Path) -> None:
    """A taken name, a name with a dot, a missing directory and another file system are errors."""
    with pinning.create(SPEC) as made:
        pinning.pin(made, root / "numbers")
        for path, errno in (
            (root / "numbers", "EEXIST"),
            (root / "a.b", "EPERM"),
            (root / "nowhere" / "numbers", "ENOENT"),
            (tmp_path / "numbers", "EPERM"),
        ):
            with pytest.raises(BpfError, match=errno):
                pinning.pin(made, path)


def test_a_program_is_not_a_map(root: Path, tmp_path: Path) -> None:
    """A pinned program has its name and type, and is refused as a map; and the other way round."""
    source = tmp_path / "pass.bpf.c"
    source.write_text(PROGRAM)
    with Object.load(ObjectSpec.open(compile_bpf(source, tmp_path / "pass.bpf.o"))) as loaded:
        pinning.pin(loaded.programs["pass"], root / "pass")
        ident = loaded.programs["pass"].info().id
    with pinning.open_program(root / "pass") as found:
        assert (found.spec.name, found.spec.type) == ("pass", "sched_cls")
        assert found.info().id == ident
    with pytest.raises(BpfError, match="is it a map"):
        pinning.open_map(root / "pass")
    with pinning.create(SPEC) as made:
        pinning.pin(made, root / "numbers")
    with pytest.raises(BpfError, match="is it a program"):
        pinning.open_program(root / "numbers")


def test_open_or_create(root: Path) -> None:
    """The first makes and pins the map, and its directory; the next ones open the same."""
    path = root / "deep" / "down" / "numbers"
    with pinning.open_or_create(path, SPEC) as first:
        first.update(ONE, VALUE)
        with pinning.open_or_create(path, replace(SPEC, name="other")) as second:
            assert second.lookup(ONE) == VALUE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"type": "lru_hash"}, "type: pinned hash, wanted lru_hash"),
        ({"key_size": 8}, "key_size: pinned 4, wanted 8"),
        ({"value_size": 4}, "value_size: pinned 8, wanted 4"),
        ({"max_entries": 17}, "max_entries: pinned 16, wanted 17"),
        ({"flags": 1}, "flags: pinned 0, wanted 1"),
    ],
)
def test_an_incompatible_pin_is_never_discarded(
    root: Path, change: dict[str, Any], text: str
) -> None:
    """It is an error that names what differs, and the map is there as before."""
    path = root / "numbers"
    with pinning.open_or_create(path, SPEC) as made:
        made.update(ONE, VALUE)
    with pytest.raises(PinIncompatible) as caught:
        pinning.open_or_create(path, replace(SPEC, **change))
    assert caught.value.differences == [text]
    with pinning.open_map(path) as found:
        assert found.lookup(ONE) == VALUE


def test_what_the_kernel_adds_to_device_maps_is_tolerated() -> None:
    """BPF_F_RDONLY_PROG, on device maps alone."""
    device = MapSpec("ports", "14", 4, 4, 8, 0)
    assert pinning.differences(replace(device, flags=1 << 7), device) == []
    assert pinning.differences(replace(SPEC, flags=1 << 7), SPEC) == [
        "flags: pinned 128, wanted 0",
    ]


def test_recreate(root: Path) -> None:
    """A new, empty map has the name; who holds the old one goes on with it, and both diverge."""
    path = root / "numbers"
    with pinning.open_or_create(path, SPEC) as old, pinning.recreate(path, SPEC) as new:
        old.update(ONE, VALUE)
        new.update(bytes(4), bytes(8))
        with pinning.open_map(path) as found:
            assert keys(found) == keys(new) == [bytes(4)]
        assert keys(old) == [ONE]
    assert [path.name for path in root.iterdir() if "debug" not in path.name] == ["numbers"]
    with pytest.raises(BpfError, match="EINVAL"):
        pinning.recreate(path, replace(SPEC, key_size=0))
    with pinning.open_map(path) as found:
        assert keys(found) == [bytes(4)]


def keys(walked: Map) -> list[bytes]:
    found, key = [], walked.next_key()
    while key is not None:
        found.append(key)
        key = walked.next_key(key)
    return found


def test_remove(root: Path) -> None:
    """A directory of pins goes with all that is in it; one that is not there is fine."""
    pinning.open_or_create(root / "a" / "b" / "numbers", SPEC).close()
    pinning.remove(root / "a")
    pinning.remove(root / "a")
    assert not (root / "a").exists()


@pytest.mark.parametrize(
    ("kind", "at_creation", "on_demand"),
    [
        ("lpm_trie", 1, 1),
        ("array", 0, 0),
        ("lru_hash", 0, 0),
        ("hash", 0, 1),
        ("percpu_hash", 0, 1),
        ("hash_of_maps", 0, 1),
    ],
)
def test_preallocation(kind: str, at_creation: int, on_demand: int) -> None:
    """Seed 003's table; the kernel takes what is said, and the policy is a value, not a switch."""
    assert pinning.map_flags(kind, Preallocation.AT_CREATION) == at_creation
    assert pinning.map_flags(kind, Preallocation.ON_DEMAND) == on_demand
    if kind != "hash_of_maps":
        for flags in {at_creation, on_demand}:
            with pinning.create(MapSpec("one", kind, 8 if kind == "lpm_trie" else 4, 8, 4, flags)):
                pass


def test_local_name() -> None:
    """Five digits, as cilium has them."""
    assert pinning.local_name("calls_", 42) == "calls_00042"


def test_what_lies_in_a_bpf_file_system(root: Path, tmp_path: Path) -> None:
    """Also what does not exist yet, and through a symbolic link; not what is beside it."""
    (tmp_path / "link").symlink_to(root)
    assert pinning.in_bpffs(root)
    assert pinning.in_bpffs(root / "a" / "b")
    assert pinning.in_bpffs(tmp_path / "link" / "a")
    assert not pinning.in_bpffs(tmp_path)
    assert not pinning.in_bpffs(tmp_path / "bpffs2")


def test_mount_table(tmp_path: Path) -> None:
    """Spaces in paths, and optional fields."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "36 35 98:0 / /a\\040b rw,noatime shared:1 master:2 - ext4 /dev/root rw\n"
        "37 35 0:40 / /sys/fs/bpf rw - bpf bpf rw\n"
    )
    assert pinning.mounts(table) == [
        pinning.Mount(Path("/a b"), "ext4"),
        pinning.Mount(Path("/sys/fs/bpf"), "bpf"),
    ]


def in_private_mounts(commands: str, *calls: str | None) -> list[str]:
    """
    Shell commands, then calls of ensure_bpffs with these roots, where nobody else sees the mounts.

    What each returned, or its error, then the warnings.
    """
    script = f"""
import json, logging, sys
from pathlib import Path
from exporter.ebpf import pinning
from exporter.ebpf.errors import BpfError
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(f"{{record.levelname}}: {{record.getMessage()}}")
logging.getLogger().addHandler(handler)
for root in {list(calls)!r}:
    try:
        result = str(pinning.ensure_bpffs(None if root is None else Path(root)))
        spec = pinning.MapSpec("m", "hash", 4, 4, 1, 0)
        pinning.open_or_create(Path(result) / "probe", spec).close()
    except BpfError as err:
        result = f"error: {{err}}"
    said.append(result)
print(json.dumps(said))
"""
    prepare = "while umount -l /sys/fs/bpf 2>/dev/null; do :; done; "
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f'{prepare}{commands}\nexec "$0" -c "$1"',
         sys.executable, script],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


def test_the_default_root_is_mounted() -> None:
    """Not a mount: mounted there. A second call finds it. A later one in the process, too."""
    assert in_private_mounts("", None, None, "/sys/fs/bpf") == ["/sys/fs/bpf"] * 3


def test_another_file_system_at_the_default_root() -> None:
    """A warning, and another place is used."""
    said = in_private_mounts("mount -t tmpfs t /run; mount -t tmpfs t /sys/fs/bpf", None)
    assert said == [
        f"WARNING: a file system of type tmpfs is mounted at /sys/fs/bpf: using {FALLBACK} instead",
        FALLBACK,
    ]


def test_a_root_of_ones_own() -> None:
    """It is made and mounted; another file system there is an error, and nothing is touched."""
    said = in_private_mounts(
        "mount -t tmpfs t /mnt; mkdir /mnt/taken; mount -t tmpfs t /mnt/taken",
        "/mnt/deep/own", "/mnt/taken",
    )  # fmt: skip
    assert said == [
        "/mnt/deep/own",
        "error: use /mnt/taken: a file system of type tmpfs is mounted there, not a BPF one",
    ]


def test_several_mounts_at_one_point() -> None:
    """Which of them a pin would land in depends on who looks: an error."""
    said = in_private_mounts(
        "mount -t tmpfs t /mnt; mkdir /mnt/b; mount -t bpf b /mnt/b; mount -t bpf b /mnt/b",
        "/mnt/b",
    )
    assert said == [
        "error: use /mnt/b: 2 file systems are mounted there: unmount all but one",
    ]
