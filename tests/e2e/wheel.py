"""The wheel of this checkout, and an environment that has it and nothing of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.container import ARCHITECTURE, ROOT

#: The distribution's, which every user can read, where it is new enough.
_SYSTEM = Path("/usr/bin/python3")


def build(root: Path, target: Path, *, umask: int = 0o022, **environment: str) -> Path:
    """What ``make wheel`` makes, of a checkout or a copy of one."""
    done = subprocess.run(
        (root / "tools/wheel.sh", sys.executable, target),
        capture_output=True,
        text=True,
        check=False,
        umask=umask,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000001", **environment},
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


def version(python: Path) -> tuple[int, ...]:
    """Major and minor; nothing of what is not there."""
    if not python.exists():
        return ()
    words = (python, "-c", "import sys; print(*sys.version_info[:2])")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return tuple(int(word) for word in done.stdout.split())


def install(wheel: Path, environment: Path) -> None:
    """Make a virtual environment of a wheel and what it depends on, as ``pip`` does it."""
    python = _SYSTEM if version(_SYSTEM) >= (3, 11) else Path(sys.executable)
    subprocess.run((python, "-m", "venv", "--without-pip", environment), check=True)
    cache = Path(os.environ.get("IMAGE_CACHE", Path.home() / ".cache/flow-exporter/image"))
    wheels = cache / f"inputs-{ARCHITECTURE}/wheels"
    # The image's dependencies are these; without the network where they are for this Python.
    fetched = wheels.exists() and version(python) == (3, 11)
    offline = ("--no-index", f"--find-links={wheels}") if fetched else ()
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin/python", "install")
    flags = ("--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt")
    subprocess.run((*pip, *flags, *offline, wheel), check=True)
