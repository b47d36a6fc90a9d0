"""What this host can and cannot do, and what each missing thing costs."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exporter.capture.census import SO_NETNS_COOKIE
from exporter.capture.cgroups import cgroup_root
from exporter.capture.config import CaptureConfig, entry_octets
from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf import features
from exporter.ebpf._libbpf import MissingLibrary, library, raise_capabilities
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.errors import FeatureMissing
from exporter.ebpf.features import Answer
from exporter.ebpf.pinning import DEFAULT_ROOT, in_bpffs

#: Bits of CapEff: include/uapi/linux/capability.h.
_NET_ADMIN, _SYS_ADMIN, _PERFMON, _BPF = 12, 21, 38, 39


@dataclass(frozen=True)
class Finding:
    """
    One line of the report.

    Args:
        subject: What was looked at.
        answer: yes, no, or could not tell.
        detail: What was found.
        advice: What its absence costs, or what to do; empty if all is well.
        required: Without it nothing is captured.
    """

    subject: str
    answer: str
    detail: str
    advice: str
    required: bool


def missing_privileges() -> list[str]:
    """
    Names of the capabilities that capturing needs and this process lacks.

    Those that it may have and has not taken are taken first: the image's program begins with none
    in effect, so that it starts where not all are granted, and can say so.
    """
    effective, permitted = _capabilities("CapEff"), _capabilities("CapPrm")
    if permitted & ~effective:
        raise_capabilities()
        effective = permitted
    if effective >> _SYS_ADMIN & 1:
        return [] if effective >> _NET_ADMIN & 1 else ["CAP_NET_ADMIN"]
    wanted = {"CAP_BPF": _BPF, "CAP_PERFMON": _PERFMON, "CAP_NET_ADMIN": _NET_ADMIN}
    return [name for name, bit in wanted.items() if not effective >> bit & 1]


def examine() -> list[Finding]:
    """Everything that decides whether and how well this host can be observed."""
    return [*_host(), *_kernel(), *_mounts(), *_identities(), *_memory()]


def _host() -> Iterator[Finding]:
    missing = missing_privileges()
    yield Finding(
        "privileges",
        "no" if missing else "yes",
        f"lacks {', '.join(missing)}" if missing else "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
        "run as root, or grant them" if missing else "",
        True,
    )
    mounted = in_bpffs(DEFAULT_ROOT)
    yield Finding(
        "BPF file system",
        "yes" if mounted else "no",
        str(DEFAULT_ROOT) if mounted else f"none at {DEFAULT_ROOT}",
        "" if mounted else "'run --pin' mounts one",
        False,
    )
    yield from _loaders()


def _loaders() -> Iterator[Finding]:
    """Either of two ways to bring the kernel program into the kernel; both go through libbpf."""
    try:
        library()
        yield Finding("libbpf", "yes", "libbpf.so.1", "", True)
    except MissingLibrary as err:
        advice = "nothing is captured without it (Debian: apt install libbpf1)"
        yield Finding("libbpf", "no", str(err), advice, True)
    compiler = _bcc()
    there = OBJECT_PATH.exists()
    yield Finding(
        "kernel program",
        "yes" if there else "no",
        str(OBJECT_PATH) if there else "not compiled",
        "" if there else "run 'make setup'; with BCC it is compiled at each start instead",
        compiler.answer == "no",
    )
    yield compiler


def _bcc() -> Finding:
    # Where no loader but libbpf's is needed its modules are not, either.
    from exporter.ebpf.bcc.compiler import find_module
    from exporter.ebpf.bcc.headers import find

    try:
        detail = f"module in {find_module()}, kernel headers in {find()}"
    except FeatureMissing as err:
        cost = "no --loader bcc, and no way out where the packaged program cannot be loaded"
        return Finding("BCC", "no", str(err), cost, False)
    return Finding("BCC", "yes", detail, "", False)


def _kernel() -> Iterator[Finding]:
    for name, feature in features.PROBES.items():
        probe = features.probe(name)
        absent = probe.answer is not Answer.YES
        yield Finding(
            feature.title,
            probe.answer.value,
            probe.reason or f"since Linux {feature.since}",
            (feature.cost if feature.cost != "required" else "nothing is captured without it")
            if absent
            else "",
            feature.cost == "required",
        )
    batches = Path("/proc/sys/net/core/bpf_jit_enable")
    if batches.exists():
        enabled = batches.read_text().strip() != "0"
        yield Finding(
            "JIT compiler",
            "yes" if enabled else "no",
            "net.core.bpf_jit_enable",
            "" if enabled else "each packet costs several times as much: sysctl -w it to 1",
            False,
        )


def _mounts() -> Iterator[Finding]:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    place = next((place for _, place, kind, *_ in mounts if kind == "tracefs"), None)
    yield Finding(
        "tracefs mounted",
        "yes" if place else "no",
        place or "not mounted",
        "" if place else "a program on a tracepoint looks for it at a mount of its own",
        False,
    )


def _identities() -> Iterator[Finding]:
    """What says whose a socket or an interface is."""
    root = cgroup_root()
    yield Finding(
        "cgroup2 mounted",
        "yes" if root else "no",
        str(root or "not mounted"),
        ""
        if root
        else "enrich.processes learns of sockets late, and of no container by its cgroup",
        False,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
            answer, detail = "yes", "since Linux 5.14"
        except OSError as err:
            answer, detail = "no", err.strerror or str(err)
    cost = "capture.containers knows only who is in a namespace now, not who was"
    yield Finding("cookies of namespaces", answer, detail, "" if answer == "yes" else cost, False)


def _memory() -> Iterator[Finding]:
    try:
        cpus = possible_cpus()
    except (MissingLibrary, OSError) as err:
        yield Finding("flow map memory", Answer.UNKNOWN.value, str(err), "", False)
        return
    config = CaptureConfig()
    yield Finding(
        "flow map memory",
        "yes",
        f"{config.flow_memory >> 20} MiB hold {config.capacity()} flows a drain: "
        f"{2 * entry_octets()} octets a flow for {cpus} possible CPUs",
        "",
        False,
    )


def can_capture(findings: list[Finding]) -> bool:
    """Whether nothing that is required is conclusively missing."""
    return not any(finding.required and finding.answer == "no" for finding in findings)


def heading() -> str:
    """Which host this is."""
    return f"{platform.node()}: Linux {os.uname().release} {platform.machine()}"


def _capabilities(which: str) -> int:
    """A set of this process, by its name in /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1], 16)
    return 0
