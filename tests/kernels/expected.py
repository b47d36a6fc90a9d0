"""What each of Debian's kernels is known to have."""

from __future__ import annotations

#: Series: features that the one before it has not.
_YES_SINCE = {
    "5.10": {
        "bpf", "classifier", "map_in_map", "per_cpu_batch", "ring_buffer", "link_update", "bpffs",
        "batch_hash", "batch_array", "lpm_trie", "perf_event_array", "xdp_link", "kprobe",
        "uprobe", "tracepoint", "btf_tracepoint", "fentry", "kernel_btf",
        "socket_owner", "socket_maker",
    },
    "6.1": {"coarse_clock", "batch_percpu_array", "batch_lpm"},
    "6.12": {"tcx"},
    "newest": set(),
}  # fmt: skip

#: Why a test may be skipped, and on which kernels.
SKIPS = {"has no TCX links": {"5.10", "6.1"}, "has no coarse clock": {"5.10"}}


def has_features(series: str) -> set[str]:
    """Names of the probes that say yes on a kernel: what it brought, and all older ones."""
    order = list(_YES_SINCE)
    return set().union(*(_YES_SINCE[older] for older in order[: order.index(series) + 1]))
