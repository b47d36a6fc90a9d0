"""
Where this host keeps its kernel's headers, and which package brings them.

BCC itself looks in /lib/modules/$(uname -r)/build and in /sys/kernel/kheaders.tar.xz, and nowhere
else. A distribution may split them into a half that was written and a half that was generated.

Source: bcc src/cc/frontends/clang/{loader,kbuild_helper}.cc; Documentation/kbuild/kbuild.rst.
"""

from __future__ import annotations

import os
import platform
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from exporter.ebpf.errors import BpfError, FeatureMissing

#: Names of directories below arch/: the kernel's Makefile, SUBARCH.
_ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "riscv64": "riscv",
    "ppc64le": "powerpc",
    "s390x": "s390",
}
#: Of the half that was written, and of the half that was generated.
_WRITTEN, _GENERATED = Path("include/linux/kconfig.h"), Path("include/generated/autoconf.h")
_ARCHIVE = Path("sys/kernel/kheaders.tar.xz")
_OTHER_HALF = re.compile(r"^include\s+(\S+)/Makefile\s*$", re.MULTILINE)

#: What to install, by ID or ID_LIKE of /etc/os-release. {release} is the running kernel's.
_PACKAGES = {
    "ubuntu": "apt install python3-bpfcc linux-headers-{release}",
    "debian": "apt install python3-bpfcc linux-headers-{debian}",
    "fedora": "dnf install python3-bcc kernel-devel-{release}",
    "rhel": "dnf install python3-bcc kernel-devel-{release}",
    "suse": "zypper install python3-bcc kernel-default-devel",
    "arch": "pacman -S python-bcc linux-headers",
    "alpine": "apk add py3-bcc linux-lts-dev",
}
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "powerpc64le"}


@dataclass(frozen=True)
class Headers:
    """
    The headers of one kernel.

    Args:
        source: The directory with include/linux.
        generated: The one with include/generated; the same if they are not split.
        exact: Whether they are the running kernel's. Those of another will do for a program that
            reads no kernel structure: what is between it and user space does not change.
        archive: The file that they are packed in, if they are: see :func:`unpacked`.
    """

    source: Path
    generated: Path
    exact: bool
    archive: Path | None = None

    def environment(self) -> dict[str, str]:
        """What tells BCC where to look."""
        return {"BCC_KERNEL_SOURCE": str(self.source)}

    def flags(self) -> list[str]:
        """Compiler flags for what BCC would not find."""
        if self.generated == self.source:
            return []
        arch = _ARCHITECTURES.get(platform.machine(), platform.machine())
        return [
            f"-I{self.generated / part}"
            for part in (
                "include",
                f"arch/{arch}/include/generated",
                f"arch/{arch}/include/generated/uapi",
                "include/generated/uapi",
            )
        ]

    def __str__(self) -> str:
        return str(self.archive or self.generated)


def find(
    root: Path = Path("/"),
    release: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Headers:
    """
    Look wherever a distribution puts them: the running kernel's first, else the newest.

    Args:
        root: Instead of ``/``.
        release: Instead of the running kernel's.
        environment: Instead of the process's: ``BCC_KERNEL_SOURCE`` wins over all else.

    Raises:
        FeatureMissing: If there are none, naming the package.
    """
    release = release or os.uname().release
    chosen = (os.environ if environment is None else environment).get("BCC_KERNEL_SOURCE")
    if chosen:
        found = _chosen(Path(chosen), root, release)
        if found is None:
            raise FeatureMissing(
                "find kernel headers", 0, f"BCC_KERNEL_SOURCE={chosen} is not a tree of them"
            )
        return found
    for directory, exact in _candidates(root, release):
        found = _tree(directory, root, exact=exact)
        if found is not None:
            return found
    raise FeatureMissing("find kernel headers", 0, f"none for {release}: {advice(root, release)}")


def advice(root: Path = Path("/"), release: str | None = None) -> str:
    """The command that installs BCC and the headers on this distribution."""
    command = next(filter(None, map(_PACKAGES.get, _families(root))), None)
    if command is None:
        return "install the distribution's BCC for Python (not PyPI's) and its kernel headers"
    machine = platform.machine()
    return command.format(
        release=release or os.uname().release, debian=_DEBIAN.get(machine, machine)
    )


@contextmanager
def unpacked(headers: Headers) -> Iterator[Headers]:
    """
    Headers that lie in a directory: an archive is unpacked for the length of the block.

    Raises:
        BpfError: If the archive cannot be read.
    """
    if headers.archive is None:
        yield headers
        return
    with TemporaryDirectory(prefix="kheaders-") as directory:
        try:
            with tarfile.open(headers.archive) as archive:
                archive.extractall(directory, filter="data")
        except (OSError, tarfile.TarError, EOFError) as err:
            raise BpfError(f"unpack {headers.archive}", 0, str(err)) from err
        yield Headers(Path(directory), Path(directory), headers.exact)


def _candidates(root: Path, release: str) -> Iterator[tuple[Path, bool]]:
    modules, sources = root / "lib/modules", root / "usr/src"
    yield modules / release / "build", True
    yield modules / release / "source", True
    yield sources / f"linux-headers-{release}", True
    yield sources / "kernels" / release, True
    yield root / _ARCHIVE, True
    others = [
        *modules.glob("*/build"),
        *sources.glob("linux-headers-*"),
        *sources.glob("kernels/*"),
        sources / "linux",
    ]
    for directory in sorted(others, key=_version, reverse=True):
        yield directory, False


def _chosen(directory: Path, root: Path, release: str) -> Headers | None:
    """What BCC_KERNEL_SOURCE names, which may be the half that was written."""
    for candidate, exact in ((directory, True), *_candidates(root, release)):
        found = _tree(candidate, root, exact=exact)
        if found and directory.resolve() in (found.source, found.generated):
            return found
    return None


def _tree(directory: Path, root: Path, *, exact: bool) -> Headers | None:
    """Headers from one directory, which may be either half."""
    if directory.name == _ARCHIVE.name:
        return Headers(directory, directory, exact, directory) if directory.exists() else None
    if not (directory / _GENERATED).exists():
        return None
    directory = directory.resolve()
    if (directory / _WRITTEN).exists():
        return Headers(directory, directory, exact)
    for other in _other_halves(directory, root):
        if (other / _WRITTEN).exists():
            return Headers(other.resolve(), directory, exact)
    return None


def _other_halves(generated: Path, root: Path) -> Iterator[Path]:
    """Where the written half may be: the generated one's Makefile includes the other's."""
    makefile = generated / "Makefile"
    if makefile.exists():
        for named in _OTHER_HALF.findall(makefile.read_text(errors="replace")):
            yield root / named.lstrip("/") if named.startswith("/") else generated / named
    yield generated.with_name(generated.name.rpartition("-")[0] + "-common")
    for source in (root / "lib/modules").glob("*/source"):
        if source.with_name("build").resolve() == generated:
            yield source


def _families(root: Path) -> list[str]:
    """ID and ID_LIKE. Source: os-release(5)."""
    path = root / "etc/os-release"
    fields = (
        dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
        if path.exists()
        else {}
    )
    values = [fields.get(name, "").strip("\"'") for name in ("ID", "ID_LIKE")]
    return [word for value in values for word in value.split()]


def _version(path: Path) -> list[int]:
    """Numbers in a path, so that 6.10 comes after 6.9."""
    return [int(number) for number in re.findall(r"\d+", str(path))]
