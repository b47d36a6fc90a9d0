"""Wheels and Debian's packages as files below a directory, without what nobody reads."""

from __future__ import annotations

import base64
import csv
import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

#: Of Debian's packages: nobody reads manuals or converts EUC-JP in there, and there is no shell.
_UNUSED = (
    "bin",
    "boot",
    "etc/*",
    "home",
    "lib/*-linux-gnu/libmemusage*",
    "lib/*-linux-gnu/libpcprofile*",
    "lib/*-linux-gnu/libc_malloc_debug*",
    "media",
    "mnt",
    "opt",
    "root",
    "run/*",
    "sbin",
    "srv",
    "usr/bin/pdb3*",
    "usr/bin/py*versions",
    "usr/games",
    "usr/include",
    "usr/lib/*/audit",
    "usr/lib/*/gconv",
    "usr/lib/binfmt.d",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/sbin",
    "usr/share/[!cd]*",
    "usr/share/dict",
    "usr/share/doc-base",
    "usr/share/doc/*/[!c]*",
    "usr/share/doc/*/changelog*",
    "usr/src",
    "var/*",
    # Modules whose libraries are not in the image, and what imports them.
    "usr/lib/python3.11/curses",
    "usr/lib/python3.11/dbm",
    "usr/lib/python3.11/lib-dynload/_curses*",
    "usr/lib/python3.11/lib-dynload/_dbm*",
    "usr/lib/python3.11/lib-dynload/nis*",
    "usr/lib/python3.11/lib-dynload/readline*",
)
#: Of wheels: what compilers read, and a second copy of zstandard for Pythons that are not CPython.
_UNREAD = ("*.pyi", "*.pyx", "*.pxd", "*.pxi", "*.h", "*.a", "*.c.src", "zstandard/_cffi*")

#: Directories of a wheel's .data that belong into site-packages.
_MODULES = ("purelib", "platlib")


def packages(paths: list[Path], root: Path) -> None:
    """
    Unpack Debian's packages and do what their scripts would have done.

    Each leaves a stanza in /var/lib/dpkg/status.d, where scanners of images look.
    """
    for path in paths:
        subprocess.run(["dpkg-deb", "--extract", str(path), str(root)], check=True)
    _remove(root, _UNUSED)
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for path in paths:
        done = subprocess.run(["dpkg-deb", "--field", str(path)], check=True, capture_output=True)
        (status / path.name.split("_")[0]).write_bytes(done.stdout)
    certificates = root / "usr/share/ca-certificates"
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"".join(one.read_bytes() for one in sorted(certificates.glob("*/*.crt"))))
    shutil.rmtree(certificates)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")


def _remove(root: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)  # found twice, through a link


def wheels(paths: list[Path], site: Path) -> None:
    """
    Unpack wheels. RECORD lists what is there.

    Raises:
        ValueError: If a wheel brings what belongs elsewhere than into site-packages.
    """
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if _read(name)]
            data = [name for name in names if name.partition("/")[0].endswith(".data")]
            # Commands, manuals and units are not the image's.
            if modules := [name for name in data if name.split("/")[1] in _MODULES]:
                raise ValueError(f"{path.name} has modules elsewhere: {modules}")
            names = [name for name in names if name not in data]
            archive.extractall(site, names)
        _strip([site / name for name in names if name.endswith(".so")])
        _write_record(site, names)


def _read(name: str) -> bool:
    path = Path(name)
    return not ("tests" in path.parts or any(path.match(pattern) for pattern in _UNREAD))


def _strip(libraries: list[Path]) -> None:
    """Debug information is most of some wheels. Others are left as their makers tested them."""
    for library in libraries:
        if b".debug_info\0" in library.read_bytes():
            subprocess.run(["eu-strip", str(library)], check=True)


def _write_record(site: Path, names: list[str]) -> None:
    record = next(name for name in names if name.endswith(".dist-info/RECORD"))
    with (site / record).open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        for name in sorted(name for name in names if not name.endswith("/")):
            content = (site / name).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            row = (f"sha256={digest.rstrip('=')}", str(len(content)))
            writer.writerow((name, *(row if name != record else ("", ""))))
