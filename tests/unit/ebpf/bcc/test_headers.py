"""Kernel headers: found wherever distributions put them; where not, the package is named."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from exporter.ebpf.bcc.headers import Headers, advice, find, unpacked
from exporter.ebpf.errors import BpfError, FeatureMissing

RELEASE = "6.1.0-9-amd64"


def put(root: Path, where: str, *, written: bool = True, generated: bool = True) -> Path:
    """A tree of headers, or one half of it."""
    tree = root / where
    for name, wanted in (("linux/kconfig.h", written), ("generated/autoconf.h", generated)):
        if wanted:
            path = tree / "include" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tree


def link(root: Path, where: str, target: Path) -> None:
    path = root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def look(root: Path, **environment: str) -> Headers:
    return find(root, RELEASE, environment)


@pytest.mark.parametrize(
    "where",
    [
        f"lib/modules/{RELEASE}/build",
        f"lib/modules/{RELEASE}/source",
        f"usr/src/linux-headers-{RELEASE}",
        f"usr/src/kernels/{RELEASE}",
    ],
)
def test_one_tree_of_the_running_kernel(tmp_path: Path, where: str) -> None:
    """It is taken before that of another kernel, and needs no flags."""
    put(tmp_path, "usr/src/linux-headers-9.9")
    tree = put(tmp_path, where)
    found = look(tmp_path)
    assert found == Headers(tree, tree, exact=True)
    assert (found.flags(), found.environment()) == ([], {"BCC_KERNEL_SOURCE": str(tree)})


def test_debian(tmp_path: Path) -> None:
    """Two halves: the Makefile of the generated one names the other."""
    common = put(tmp_path, "usr/src/linux-headers-6.1.0-9-common", generated=False)
    own = put(tmp_path, f"usr/src/linux-headers-{RELEASE}", written=False)
    (own / "Makefile").write_text("include /usr/src/linux-headers-6.1.0-9-common/Makefile\n")
    link(tmp_path, f"lib/modules/{RELEASE}/build", own)
    found = look(tmp_path)
    assert found == Headers(common, own, exact=True)
    assert found.flags()[0] == f"-I{own}/include"
    assert found.flags()[-1] == f"-I{own}/include/generated/uapi"
    assert look(tmp_path, BCC_KERNEL_SOURCE=str(common)) == found
    assert look(tmp_path, BCC_KERNEL_SOURCE=str(own)) == found


def test_suse(tmp_path: Path) -> None:
    """Two halves: build and source of the modules' directory lead to them."""
    source = put(tmp_path, "usr/src/linux-6.4", generated=False)
    built = put(tmp_path, "usr/src/linux-6.4-obj/x86_64/default", written=False)
    link(tmp_path, f"lib/modules/{RELEASE}/build", built)
    link(tmp_path, f"lib/modules/{RELEASE}/source", source)
    assert look(tmp_path) == Headers(source, built, exact=True)


def test_another_kernels(tmp_path: Path) -> None:
    """The newest by number, not by letter; one without its other half is none."""
    put(tmp_path, "usr/src/linux-headers-6.9.1")
    newest = put(tmp_path, "usr/src/linux-headers-6.10.1")
    put(tmp_path, "usr/src/linux-headers-6.11.1", written=False)
    assert look(tmp_path) == Headers(newest, newest, exact=False)


def test_the_kernels_own_archive(tmp_path: Path) -> None:
    """Unpacked for as long as they are used, and gone after that."""
    tree = put(tmp_path, "headers")
    path = tmp_path / "sys/kernel/kheaders.tar.xz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:xz") as archive:
        archive.add(tree, ".")
    found = look(tmp_path)
    assert str(found) == str(path)
    with unpacked(found) as headers:
        assert (headers.source / "include/linux/kconfig.h").exists()
    assert not headers.source.exists()
    path.write_bytes(b"no archive")
    with pytest.raises(BpfError, match=r"unpack .*kheaders\.tar\.xz"), unpacked(found):
        pass


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("ID=debian", "apt install python3-bpfcc linux-headers-"),
        ("ID=ubuntu\nID_LIKE=debian", f"apt install python3-bpfcc linux-headers-{RELEASE}"),
        ('ID="raspbian"\nID_LIKE=debian', "apt install python3-bpfcc linux-headers-"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', f"python3-bcc kernel-devel-{RELEASE}"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"', "zypper install python3-bcc kernel-def"),
        ("ID=arch", "pacman -S python-bcc linux-headers"),
        ("ID=alpine", "apk add py3-bcc linux-lts-dev"),
        ("ID=other", "install the distribution's BCC for Python (not PyPI's)"),
        ("", "install the distribution's BCC for Python (not PyPI's)"),
    ],
)
def test_which_package_is_missing(tmp_path: Path, system: str, command: str) -> None:
    """By the family of the distribution; in one line."""
    (tmp_path / "etc").mkdir()
    if system:
        (tmp_path / "etc/os-release").write_text(system + "\n")
    assert command in advice(tmp_path, RELEASE)
    with pytest.raises(FeatureMissing, match=f"^find kernel headers: none for {RELEASE}: ") as err:
        look(tmp_path)
    assert command in str(err.value)
    assert "\n" not in str(err.value)


def test_a_source_that_is_none(tmp_path: Path) -> None:
    """What BCC_KERNEL_SOURCE names is not passed over in silence."""
    put(tmp_path, f"lib/modules/{RELEASE}/build")
    with pytest.raises(FeatureMissing, match="BCC_KERNEL_SOURCE=/nothing is not a tree of them"):
        look(tmp_path, BCC_KERNEL_SOURCE="/nothing")
    assert "BCC_KERNEL_SOURCE" not in os.environ
