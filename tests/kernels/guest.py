"""
A kernel booted in QEMU on this machine's own files: everything here is there, nothing there stays.

Without KVM, which is not to be had everywhere: every instruction is emulated, so a guest is about
ten times slower than the machine. The root is shared by 9p, with overlays where it is written to.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.images import Image

ROOT = Path(__file__).parents[2]
_VNG = Path(sys.executable).with_name("vng")
#: Programs that booting needs, and the Debian package or extra that has each.
_NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
}
#: Clearing every page that is handed out costs an emulated 5.10 two thirds of its time (measured).
_KERNEL_COMMAND_LINE = "init_on_alloc=0"
_SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing_parts() -> list[str]:
    """What has to be installed before a kernel can be booted."""
    lacking = [part for name, part in _NEEDED.items() if not shutil.which(name, path=_SEARCH)]
    return lacking if _VNG.exists() else [*lacking, "virtme-ng: pip install -e '.[kernels]'"]


@dataclass(frozen=True)
class Guest:
    """
    A virtual machine to be.

    Args:
        image: Its kernel.
        results: The one directory of this machine that it can write to.
        cpus: Virtual processors.
        memory: As QEMU has it.
    """

    image: Image
    results: Path
    cpus: int = 2
    memory: str = "2G"

    def run(self, *command: str, timeout: float) -> str:
        """
        Boot, run a command in the checkout as root, power off.

        Returns:
            The kernel's and the command's output.

        Raises:
            TimeoutError: If it takes longer; the message is the output until then.
        """
        environment = {
            "PATH": f"{_VNG.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TEST_PATIENCE": "10",
            "CI": os.environ.get("CI", ""),
        }
        words = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
        virtual_machine = [
            # Ends it even if this process is killed.
            "timeout", "--kill-after=5", str(timeout),
            str(_VNG), "--run", str(self.image.vmlinuz), "--user", "root", "--verbose",
            "--disable-kvm", "--disable-microvm", "--force-9p",
            "--cpus", str(self.cpus), "--memory", self.memory,
            "--cwd", str(ROOT), "--rwdir", str(self.results), "--append", _KERNEL_COMMAND_LINE,
            "--", shlex.join(words),
        ]  # fmt: skip
        console = self.results / "console.log"
        with console.open("wb") as log:
            process = subprocess.Popen(
                virtual_machine,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": f"{_VNG.parent}:{_SEARCH}"},
                process_group=0,
            )
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise TimeoutError(
                    f"after {timeout} s:\n{console.read_text(errors='replace')}"
                ) from None
            finally:
                # vng runs QEMU below a shell: all of them, whatever happened.
                _end_group(process)
        return console.read_text(errors="replace")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
