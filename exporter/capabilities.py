"""
Which capabilities of Linux the agent needs: the one place that knows.

The agent checks before it does anything, ``doctor`` prints it, docs/reference/capabilities.md is
made of it, and tests run each feature under exactly its set and without each member of it.
Source: capabilities(7); include/uapi/linux/capability.h.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.ebpf._libbpf import raise_capabilities
from exporter.errors import CaptureError

#: Name -> bit.
BITS = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
#: What the kernel takes CAP_SYS_ADMIN for, too. Source: bpf_capable(), perfmon_capable().
_WITH_SYS_ADMIN = ("CAP_BPF", "CAP_PERFMON")


@dataclass(frozen=True)
class Feature:
    """
    Something that needs capabilities.

    Args:
        name: A command, or the key of the configuration that asks for it.
        needs: Capability -> what it is for.
        without: How to do without, for the error; empty if there is no way.
    """

    name: str
    needs: Mapping[str, str]
    without: str = ""

    def missing(self, held: frozenset[str]) -> list[str]:
        """Those that are not held, in the order of ``needs``."""
        return [one for one in self.needs if one not in held]

    def asked(self, config: Any) -> bool:
        """Whether a configuration asks for it."""
        for part in self.name.split("."):
            config = getattr(config, part)
        return bool(config)


_OBJECTS = {
    "CAP_BPF": "make maps and load programs",
    "CAP_PERFMON": "have the verifier accept programs that compute with pointers",
    "CAP_NET_ADMIN": "load programs of the network, and attach them to interfaces",
}
_NAMESPACES = "enter other network namespaces"
_PROCESSES = "see the namespaces and descriptors of other users' processes"

#: What a command cannot do without.
COMMANDS = {
    "run": Feature("run", _OBJECTS),
    "replay": Feature("replay", _OBJECTS),
    "unpin": Feature(
        "unpin",
        {"CAP_BPF": "open pinned maps", "CAP_NET_ADMIN": "remove filters from interfaces"},
    ),
}
#: What a key of the configuration adds to ``run``.
KEYS = (
    Feature("capture.netns", {"CAP_SYS_ADMIN": _NAMESPACES}, "leave --netns and capture.netns out"),
    Feature(
        "capture.containers",
        {"CAP_SYS_ADMIN": _NAMESPACES, "CAP_SYS_PTRACE": _PROCESSES},
        "leave capture.containers out",
    ),
    Feature(
        "enrich.processes",
        {
            "CAP_SYS_ADMIN": _NAMESPACES,
            "CAP_SYS_PTRACE": _PROCESSES,
            "CAP_DAC_READ_SEARCH": "list the descriptors of other users' processes",
        },
        "leave enrich.processes out",
    ),
)


def effective() -> frozenset[str]:
    """
    Those of :data:`BITS` that this process can use now.

    Those that it may have and has not taken are taken first: the image's program begins with none
    in effect, so that it starts where not all are granted, and can say so.
    """
    now, permitted = _bits("CapEff"), _bits("CapPrm")
    if permitted & ~now:
        raise_capabilities()
        now = permitted
    return held_by(now)


def held_by(bits: int) -> frozenset[str]:
    """Those that a set such as CapEff of /proc/PID/status has, or makes up for."""
    held = {name for name, bit in BITS.items() if bits >> bit & 1}
    return frozenset(held.union(_WITH_SYS_ADMIN) if "CAP_SYS_ADMIN" in held else held)


def wanted(command: str, config: Any = None) -> Iterator[Feature]:
    """The command itself, and what a configuration adds to it."""
    yield COMMANDS[command]
    if config is not None:
        yield from (key for key in KEYS if key.asked(config))


def require(command: str, config: Any = None) -> None:
    """
    Raises:
        CaptureError: If something is missing: what needs it, its name, and what to do.
    """
    held = effective()
    lacking = [(one, one.missing(held)) for one in wanted(command, config) if one.missing(held)]
    if not lacking:
        return
    needs = "; ".join(f"'{one.name}' needs {', '.join(names)}" for one, names in lacking)
    names = dict.fromkeys(name for _, names in lacking for name in names)
    # Without the first, the others change nothing.
    ways_out = [one.without for one, _ in lacking if lacking[0][0].without]
    raise CaptureError(f"{needs}: {_advice(names)}{''.join(f', or {way}' for way in ways_out)}")


def _advice(names: Iterable[str]) -> str:
    """What to do to have them."""
    if os.geteuid() != 0:
        return "run it as root, for example with sudo, or grant them"
    short = " ".join(name.removeprefix("CAP_") for name in names)
    return f"root lacks them here, so add {short} to what the container or the service may have"


def _bits(which: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1], 16)
    return 0
