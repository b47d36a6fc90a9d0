"""
The wheel's tag, and that it is not built without what the kernel runs.

``pyproject.toml`` names this as setuptools' ``bdist_wheel``.
"""

from __future__ import annotations

from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.errors import SetupError

#: Built by make; a wheel without one of them installs and then captures nothing.
_BUILT = ("flow.bpf.o", "flow.bpf.c", "socket.bpf.o")
#: Bytecode for any little-endian machine; Linux with glibc on these is what it is made for:
#: docs/decisions/0025-wheel-and-image.md.
_PLATFORMS = "manylinux_2_17_x86_64.manylinux_2_17_aarch64"


class TaggedWheel(bdist_wheel):
    """A wheel for every Python 3 on Linux of the two machines."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platforms."""
        return "py3", "none", _PLATFORMS

    def run(self) -> None:
        """
        Build it.

        Raises:
            SetupError: If the kernel programs are not compiled.
        """
        missing = [name for name in _BUILT if not Path("exporter/capture", name).exists()]
        if missing:
            raise SetupError(f"not compiled: {', '.join(missing)}: run 'make setup' first")
        super().run()
