"""A process of another user that has a socket. Started as root, so that it can be anywhere."""

from __future__ import annotations

import subprocess
import sys
from typing import Self

from tests.e2e.net import Netns

_NAME = "somebody"
#: Changing the user makes /proc/PID root's, until the process says otherwise.
_PROGRAM = """
import contextlib, ctypes, os, socket, sys
host, port, uid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
talking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
talking.connect((host, port))
libc, PR_SET_DUMPABLE = ctypes.CDLL(None), 4
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
with open("/proc/self/comm", "w") as comm:
    comm.write(NAME)
print(talking.getsockname()[1], flush=True)
for line in sys.stdin:
    with contextlib.suppress(ConnectionRefusedError):
        talking.send(b"more")
"""


class User:
    """
    The process, started.

    Args:
        netns: Where.
        uid: Whose.
        to: Address and UDP port to talk to.
    """

    name = _NAME

    def __init__(self, netns: Netns, uid: int, to: tuple[str, int]) -> None:
        program = _PROGRAM.replace("NAME", repr(_NAME))
        self._process = subprocess.Popen(
            netns.command(sys.executable, "-I", "-S", "-c", program, to[0], str(to[1]), str(uid)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def say(self) -> None:
        """A datagram."""
        assert self._process.stdin is not None
        self._process.stdin.write("more\n")
        self._process.stdin.flush()
