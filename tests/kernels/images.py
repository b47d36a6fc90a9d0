"""
Debian's generic kernels: fetched by package name with an apt configuration of their own, cached.

Source: https://wiki.debian.org/DebianRepository/Format; packages of the source package linux.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
#: Seconds after which a newer package is looked for.
_FRESH = 7 * 24 * 3600


class CannotFetch(Exception):
    """The image is neither cached nor to be had."""


@dataclass(frozen=True)
class Kernel:
    """A kernel series and the Debian suite whose ``linux-image-amd64`` it is."""

    series: str
    suite: str

    def __str__(self) -> str:
        return self.series


@dataclass(frozen=True)
class Image:
    """An unpacked kernel: ``boot/vmlinuz-RELEASE`` and ``lib/modules/RELEASE``."""

    release: str
    directory: Path

    @property
    def vmlinuz(self) -> Path:
        return self.directory / "boot" / f"vmlinuz-{self.release}"


KERNELS = (
    Kernel("5.10", "bullseye"),
    Kernel("6.1", "bookworm"),
    Kernel("6.12", "trixie"),
    Kernel("newest", "sid"),
)


def cache() -> Path:
    """Where images are kept: outside of the checkout, shared by all of them."""
    given = os.environ.get("TEST_KERNELS_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "flow-exporter" / "kernels"


def fetch(kernel: Kernel) -> Image:
    """
    The suite's present kernel, from the cache if it was looked for within a week.

    Raises:
        CannotFetch: If it is not cached, and there is no network or no apt.
    """
    suite = cache() / kernel.suite
    cached = _cached(suite)
    if cached and time.time() - (suite / "release").stat().st_mtime < _FRESH:
        return cached
    try:
        return _fetch(kernel.suite, suite)
    except (OSError, subprocess.CalledProcessError) as err:
        if cached:
            return cached
        output = (getattr(err, "stderr", None) or "").strip()
        raise CannotFetch(f"Linux {kernel} of Debian {kernel.suite}: {output or err}") from err


def _cached(suite: Path) -> Image | None:
    with contextlib.suppress(FileNotFoundError):
        release = (suite / "release").read_text()
        image = Image(release, suite / release)
        if image.vmlinuz.exists():
            return image
    return None


def _fetch(name: str, suite: Path) -> Image:
    suite.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=suite, prefix="new-") as scratch:
        apt = _Apt(name, Path(scratch))
        meta = next(p for p in apt.depends("linux-image-amd64") if p.startswith("linux-image-"))
        release = meta.removeprefix("linux-image-")
        image = Image(release, suite / release)
        if not image.vmlinuz.exists():
            # Since 7.x an image is empty and depends on its binary and its modules.
            parts = [
                package
                for package in apt.depends(meta)
                if package in (f"linux-binary-{release}", f"linux-modules-{release}")
            ]
            unpacked = apt.unpack([meta, *parts])
            _arrange(unpacked, release)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(image.directory)
            unpacked.rename(image.directory)
    (suite / "release").write_text(release)
    for other in suite.iterdir():
        if other.is_dir() and other != image.directory:
            shutil.rmtree(other)
    return image


class _Apt:
    """apt of one suite, with lists and state of its own."""

    def __init__(self, suite: str, scratch: Path) -> None:
        self._scratch = scratch
        for part in ("state/lists/partial", "cache/archives/partial", "packages"):
            (scratch / part).mkdir(parents=True)
        sources = scratch / "sources.list"
        sources.write_text(f"deb [arch=amd64 signed-by={_KEYS}] {MIRROR} {suite} main\n")
        self._settings = [
            f"Dir::Etc::SourceList={sources}",
            "Dir::Etc::SourceParts=/dev/null",
            "Dir::Etc::Preferences=/dev/null",
            "Dir::Etc::PreferencesParts=/dev/null",
            f"Dir::State={scratch}/state",
            "Dir::State::status=/dev/null",
            f"Dir::Cache={scratch}/cache",
            "APT::Architecture=amd64",
            "APT::Architectures::=amd64",
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
        ]
        self._run("apt-get", "update", "--quiet", "--quiet", "--error-on=any")

    def depends(self, package: str) -> list[str]:
        """Names of the packages that one depends on."""
        lines = self._run("apt-cache", "depends", "--important", package).splitlines()
        return [line.split()[-1] for line in lines[1:]]

    def unpack(self, packages: list[str]) -> Path:
        """Download packages and unpack them over each other."""
        there = self._scratch / "packages"
        self._run("apt-get", "download", "--quiet", "--quiet", *packages, cwd=there)
        target = self._scratch / "unpacked"
        for package in there.glob("*.deb"):
            subprocess.run(
                ["dpkg-deb", "-x", package, target], check=True, capture_output=True, text=True
            )
            package.unlink()
        return target

    def _run(self, command: str, *arguments: str, cwd: Path | None = None) -> str:
        options = [word for setting in self._settings for word in ("-o", setting)]
        return subprocess.run(
            [command, *options, *arguments], check=True, capture_output=True, text=True, cwd=cwd
        ).stdout


def _arrange(unpacked: Path, release: str) -> None:
    """Everything where older packages have it, and the modules' dependencies known."""
    if not (unpacked / "lib").exists():
        (unpacked / "lib").symlink_to("usr/lib")
    vmlinuz = unpacked / "boot" / f"vmlinuz-{release}"
    if not vmlinuz.exists():
        vmlinuz.parent.mkdir(exist_ok=True)
        (unpacked / "lib" / "modules" / release / "vmlinuz").rename(vmlinuz)
    search = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    subprocess.run(
        ["depmod", "-b", unpacked, release], check=True, capture_output=True, text=True, env=search
    )
