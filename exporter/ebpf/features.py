"""
What this kernel can do: probed, never read off a version number.

Each probe says yes, no, or could not tell, and why. Conclusive answers are remembered for the life
of the process; the others are asked anew.

Source: the kernel commit named beside each probe in :mod:`exporter.ebpf._probes`.
"""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Callable
from dataclasses import dataclass

from exporter.ebpf import _libbpf, _probes
from exporter.ebpf._probes import Answer, Probe
from exporter.ebpf.errors import FeatureMissing

__all__ = ["PROBES", "REQUIRED", "Answer", "Feature", "Probe", "probe", "require"]

_answers: dict[str, Probe] = {}
#: What a kernel says to a command, a type or a flag that it does not know.
_NOT_THERE = (errnos.EINVAL, errnos.ENOSYS, errnos.EOPNOTSUPP, _probes.ENOTSUPP)


def probe(name: str) -> Probe:
    """
    Ask one of :data:`PROBES`.

    Returns:
        yes or no if the kernel said so; could not tell if it would not (EPERM), if something that
        asking needs is missing, or if it failed in another way.

    Raises:
        KeyError: If there is no such probe.
    """
    if name in _answers:
        return _answers[name]
    try:
        answer = PROBES[name].ask()
    except _libbpf.MissingLibrary as err:
        answer = Probe(Answer.UNKNOWN, f"libbpf: {err}")
    except OSError as err:
        answer = _from_errno(err)
    if answer.answer is not Answer.UNKNOWN:
        _answers[name] = answer
    return answer


def require(*names: str) -> None:
    """
    Raises:
        FeatureMissing: Naming the first of ``names`` that this kernel conclusively lacks, and the
            kernel that brought it.
    """
    for name in names:
        answer = probe(name)
        if answer.answer is Answer.NO:
            feature = PROBES[name]
            raise FeatureMissing(
                f"this kernel has no {feature.title}",
                0,
                f"Linux {feature.since} brought it, this is {os.uname().release}",
            )


def _from_errno(err: OSError) -> Probe:
    number = err.errno or 0
    name = "ENOTSUPP" if number == _probes.ENOTSUPP else errnos.errorcode.get(number, str(number))
    if number in (errnos.EPERM, errnos.EACCES):
        if os.geteuid() == 0:
            return Probe(Answer.UNKNOWN, f"not permitted ({name}), though by root")
        return Probe(Answer.UNKNOWN, "not permitted: run as root or with CAP_BPF")
    return Probe(Answer.NO if number in _NOT_THERE else Answer.UNKNOWN, name)


@dataclass(frozen=True)
class Feature:
    """
    Something a kernel may have.

    Args:
        title: What it is, for people.
        since: The Linux release that brought it.
        cost: What its absence costs; "required" where nothing works without.
        ask: The probe. May raise OSError.
    """

    title: str
    since: str
    cost: str
    ask: Callable[[], Probe]


_ONE_BY_ONE = "its entries are read one by one"

PROBES: dict[str, Feature] = {
    "bpf": Feature("BPF maps", "3.18", "required", _probes.array_map),
    "classifier": Feature("TC classifier programs", "4.1", "required", _probes.classifier),
    "map_in_map": Feature("array of maps", "4.12", "required", _probes.map_in_map),
    "per_cpu_batch": Feature(
        "batch operations on per-CPU hashes", "5.6", "required", _probes.batch_percpu_hash
    ),
    "ring_buffer": Feature("ring buffer", "5.8", "required", _probes.ring_buffer),
    "coarse_clock": Feature(
        "coarse clock", "5.11", "--clock coarse is not available", _probes.coarse_clock
    ),
    "tcx": Feature("TCX links", "6.6", "filters on a clsact qdisc are used instead", _probes.tcx),
    "link_update": Feature(
        "links that are updated and pinned",
        "5.7",
        "programs are not replaced without a gap",
        _probes.link_update,
    ),
    "bpffs": Feature(
        "pins in a BPF file system", "4.4", "nothing outlives the process", _probes.bpffs
    ),
    "batch_hash": Feature("batch operations on hashes", "5.6", _ONE_BY_ONE, _probes.batch_hash),
    "batch_array": Feature("batch operations on arrays", "5.6", _ONE_BY_ONE, _probes.batch_array),
    "batch_percpu_array": Feature(
        "batch operations on per-CPU arrays", "5.13", _ONE_BY_ONE, _probes.batch_percpu_array
    ),
    "batch_lpm": Feature("batch operations on LPM tries", "5.13", _ONE_BY_ONE, _probes.batch_lpm),
    "lpm_trie": Feature("LPM tries", "4.11", "no lookup by prefix", _probes.lpm_trie),
    "perf_event_array": Feature(
        "perf event arrays", "4.3", "no events through perf buffers", _probes.perf_event_array
    ),
    "xdp_link": Feature("XDP links", "5.9", "XDP is attached by netlink", _probes.xdp_link),
    "socket_owner": Feature(
        "sockets of packets", "4.18", "no process or container of flows", _probes.socket_owner
    ),
    "socket_maker": Feature(
        "programs on sockets that are made",
        "5.9",
        "the process of a flow is looked for, and only if its socket lives",
        _probes.socket_maker,
    ),
    "kprobe": Feature("kprobes", "4.17", "no programs on kernel functions", _probes.kprobe),
    "uprobe": Feature("uprobes", "4.17", "no programs on functions of processes", _probes.uprobe),
    "tracepoint": Feature("tracepoints", "4.7", "no programs on tracepoints", _probes.tracepoint),
    "btf_tracepoint": Feature(
        "BTF tracepoints", "5.5", "plain tracepoints are used instead", _probes.btf_tracepoint
    ),
    "fentry": Feature("fentry", "5.5", "kprobes are used instead", _probes.fentry),
    "kernel_btf": Feature(
        "kernel BTF", "5.4", "no program that needs relocation can be loaded", _probes.kernel_btf
    ),
}

#: Without these there is no capture.
REQUIRED = tuple(name for name, feature in PROBES.items() if feature.cost == "required")
