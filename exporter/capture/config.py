"""What to capture, and with how much memory."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from exporter.ebpf.cpus import possible_cpus
from exporter.quantities import Octets, Seconds, words

#: Octets per flow map entry beside the CPUs' slots: struct htab_elem (48), key (48), the pointer to
#: the slots (8), and the entry's share of the bucket array, 16 octets for up to two buckets.
_ENTRY_OCTETS = 48 + 48 + 8 + 32
_SLOT_OCTETS = 64
_MAPS = 2


def _pattern(text: str) -> str:
    """A name, or ``/regex/``. Raises ValueError for a regex that does not compile."""
    if len(text) >= 2 and text.startswith("/") and text.endswith("/"):
        try:
            re.compile(text[1:-1])
        except re.error as err:
            raise ValueError(f"{text} is not a regular expression: {err}") from err
    elif not text:
        raise ValueError("an empty name")
    return text


Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], BeforeValidator(words)]


class CaptureConfig(BaseModel):
    """
    The ``capture`` section.

    Args:
        interfaces: Names or ``/regex/`` of interfaces to observe; empty is every one.
        exclude_interfaces: Names or ``/regex/`` never to observe. Wins over ``interfaces``.
        netns: Names or ``/regex/`` of network namespaces in /var/run/netns to observe beside the
            agent's own.
        ingress, egress: Which hooks.
        hook: ``auto`` takes TCX where the kernel has it, else a clsact filter.
        loader: ``libbpf`` loads the packaged kernel program, ``bcc`` compiles its source on this
            host; ``auto`` does the second where the first fails.
        watch: How interfaces that come and go are noticed. ``poll`` where netlink is not allowed.
        poll_interval: Seconds between looks, with ``watch: poll`` and for namespaces.
        containers: Whether to find out which container and pod is behind each veth, by looking
            through /proc each ``poll_interval`` and whenever an interface comes.
        drain_interval: Seconds from one drain to the next.
        fill_threshold: Share of the flow map in use at which a drain comes early.
        flow_memory: Octets for the flow maps of the kernel, both of them, all CPUs.
        max_flows: Flows between two drains; instead of ``flow_memory``.
        ring_size: Octets of the ring buffer for packets that the flow map could not take; a power
            of two, at least a page. 16 MiB hold 131,072 packets.
        sampling: 1 in N packets is taken.
        gso: ``segments`` counts a super-packet as the packets on the wire, ``packet`` as one.
        pin: Where maps and attachments are kept when the agent ends, so that its successor goes on
            without a gap: a path in a BPF file system; ``auto`` is /sys/fs/bpf/flow-exporter.
            Empty leaves nothing behind.
        clock: ``coarse`` costs about 15 ns a packet less; a flow's start is exact, its end up to a
            kernel tick (1-10 ms) early. ``auto`` is coarse where the kernel has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interfaces: Patterns = ()
    exclude_interfaces: Patterns = ("lo",)
    netns: Patterns = ()
    ingress: bool = True
    egress: bool = True
    hook: Literal["auto", "tcx", "tc"] = "auto"
    loader: Literal["auto", "libbpf", "bcc"] = "auto"
    watch: Literal["netlink", "poll"] = "netlink"
    poll_interval: Seconds = Field(1.0, gt=0, le=3600)
    containers: bool = False
    drain_interval: Seconds = Field(5.0, ge=0.01, le=3600)
    fill_threshold: float = Field(0.7, gt=0, le=1)
    flow_memory: Octets = Field(64 << 20, ge=64 << 10)
    max_flows: int | None = Field(None, ge=16, le=1 << 26)
    ring_size: Octets = Field(16 << 20, ge=4096, le=1 << 30)
    sampling: int = Field(1, ge=1, le=1 << 31)
    gso: Literal["segments", "packet"] = "segments"
    pin: str = ""
    clock: Literal["auto", "precise", "coarse"] = "auto"

    @field_validator("ring_size")
    @classmethod
    def _is_power_of_two(cls, octets: int) -> int:
        if octets & (octets - 1):
            raise ValueError(f"must be a power of two, such as {1 << (octets.bit_length() - 1)}")
        return octets

    @field_validator("pin")
    @classmethod
    def _is_pin_path(cls, text: str) -> str:
        if text not in ("", "auto"):
            path = PurePosixPath(text)
            if not path.is_absolute() or ".." in path.parts:
                raise ValueError("must be 'auto' or an absolute path")
            if "." in path.name:
                raise ValueError("names in a BPF file system have no dots")
        return text

    def capacity(self) -> int:
        """Flows that each of the two flow maps holds."""
        if self.max_flows is not None:
            return self.max_flows
        return max(self.flow_memory // (_MAPS * entry_octets()), 16)


def entry_octets() -> int:
    """Kernel memory of one flow in one map, all CPUs."""
    return _ENTRY_OCTETS + _SLOT_OCTETS * possible_cpus()


def selects(patterns: tuple[str, ...], name: str) -> bool:
    """Whether one of the patterns is the name, or a ``/regex/`` that finds something in it."""
    return any(
        re.search(pattern[1:-1], name) is not None
        if len(pattern) >= 2 and pattern.startswith("/") and pattern.endswith("/")
        else pattern == name
        for pattern in patterns
    )
