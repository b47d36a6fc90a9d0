"""The real program under exactly so many capabilities, as root or as nobody."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from tests.arch.source import ROOT
from tests.e2e.agent import PROGRAM, Agent

#: The user that owns nothing.
NOBODY = 65534
#: capability(7) -> bit, for who asks /proc.
BIT = {"DAC_READ_SEARCH": 2, "NET_ADMIN": 12, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "PERFMON": 38,
       "BPF": 39}  # fmt: skip
#: What "run" needs, and nothing more.
BASE = ("BPF", "PERFMON", "NET_ADMIN")
#: $0 is a directory that only its owner enters, as root's home may be; up to --, what in it anybody
#: may read. Only for a mount namespace of its own, which `ip netns exec` makes.
_ENTERABLE = """
set -e
mount -t tmpfs -o mode=755 none /mnt
number=0
for one; do
    [ "$one" != -- ] || break
    number=$((number + 1)); mkdir "/mnt/$number"; mount --bind "$one" "/mnt/$number"
done
mount -t tmpfs -o mode=755 none "$0"
number=0
while [ "$1" != -- ]; do
    number=$((number + 1)); mkdir -p "$1"; mount --bind "/mnt/$number" "$1"; shift
done
shift
exec "$@"
"""


def limited(capabilities: Collection[str], uid: int = 0) -> list[str]:
    """
    The program under exactly these, in every set, and without a way to more.

    Args:
        capabilities: Without CAP_.
        uid: Of root, whose sets are limited, or of another user, who has them as ambient ones.
    """
    sets = ",".join(["-all", *(f"+{one.lower()}" for one in capabilities)])
    words = ["setpriv", "--no-new-privs", f"--inh-caps={sets}", f"--bounding-set={sets}"]
    if uid:
        words += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", f"--ambient-caps={sets}"]
    return [*(_enterable() if uid else ()), *words, PROGRAM]


def _enterable() -> list[str]:
    """What makes Python and this project readable for others, wherever they are."""
    needed = [str(path) for path in {Path(sys.base_prefix), Path(sys.prefix), ROOT}]
    closed = {
        str(parent)
        for path in needed
        for parent in Path(path).parents
        if not parent.stat().st_mode & 0o001
    }
    words: list[str] = []
    # The outermost hides those below it.
    for place in sorted(closed, key=len)[:1]:
        inside = [path for path in needed if Path(path).is_relative_to(place)]
        words += ["sh", "-c", _ENTERABLE, place, *inside, "--"]
    return words


def status(agent: Agent) -> dict[str, str]:
    """/proc/PID/status of the agent, by the names of its lines."""
    text = Path(f"/proc/{agent.process.pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines())


def bits(capabilities: Collection[str]) -> str:
    """As /proc writes a set of capabilities."""
    return f"{sum(1 << BIT[one] for one in capabilities):016x}"
