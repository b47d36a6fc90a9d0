"""What is run within a guest: tests that are quick where every instruction is emulated."""

from __future__ import annotations

import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Capability: patterns of test names without parameters; a test belongs to the first it matches.
CAPABILITIES: dict[str, tuple[str, ...]] = {
    "features": ("tests/kernel/test_features.py::*",),
    "GENEVE": ("tests/kernel/test_devices.py::test_geneve",),
    "VLAN, dummy, WireGuard": (
        "tests/kernel/test_devices.py::test_a_vlan_device",
        "tests/kernel/test_devices.py::test_a_dummy_device",
        "tests/kernel/test_devices.py::test_wireguard",
    ),
    "TCX or clsact": (
        "tests/kernel/test_links.py::test_a_program_that_drops",
        "tests/kernel/test_links.py::test_our_qdisc_stays_while_others_use_it",
    ),
    "kprobe": ("tests/kernel/test_tracing.py::test_kprobe*",),
    "other tracing": (
        "tests/kernel/test_tracing.py::test_uprobe_of_a_library",
        "tests/kernel/test_tracing.py::test_tracepoint",
        "tests/kernel/test_tracing.py::test_raw_tracepoints",
    ),
    "DNS, socket owners": (
        "tests/kernel/test_dns.py::test_udp",
        "tests/kernel/test_dns.py::test_tcp",
        "tests/kernel/test_owners.py::test_sockets_of_both_ends",
    ),
    "upgrade": (
        "tests/kernel/test_pinning.py::*",
        "tests/kernel/test_migration.py::*",
        "tests/kernel/test_take_over.py::test_nothing_was_read",
        "tests/kernel/test_take_over.py::test_killed_within_a_drain",
        "tests/kernel/test_take_over.py::test_killed_within_a_drain_that_is_kept",
        "tests/kernel/test_replace.py::test_no_packet_is_unseen",
        "tests/e2e/test_upgrade.py::test_killed_between_drains_under_traffic",
    ),
    "replay": ("tests/kernel/test_replay.py::test_netobserv_flags_say_what_stood_together",),
    "capture and drain": (
        "tests/kernel/test_devices.py::test_a_veth_pair",
        "tests/kernel/test_fetcher.py::test_a_full_ring_loses_by_name",
        "tests/kernel/test_fetcher.py::test_single_elements",
        "tests/kernel/test_fetcher.py::test_walk_and_delete",
        "tests/kernel/test_hooks.py::test_an_interface_without_mac_header",
        "tests/kernel/test_hooks.py::test_fragments_at_a_live_hook",
        "tests/kernel/test_hooks.py::test_times_are_those_of_the_packets",
    ),
}


def capability(name: str) -> str | None:
    """
    Which capability a test shows, if it is run within guests at all.

    The packaged object is what runs there: BCC needs the headers of the kernel that runs.
    """
    function, _, parameters = name.partition("[")
    if "bcc" in parameters:
        return None
    for title, patterns in CAPABILITIES.items():
        if any(fnmatch.fnmatchcase(function, pattern) for pattern in patterns):
            return title
    return None


def files() -> list[str]:
    """The files that have tests to run."""
    patterns = {pattern.split("::")[0] for found in CAPABILITIES.values() for pattern in found}
    found = {path for pattern in patterns if "/" in pattern for path in ROOT.glob(pattern)}
    return sorted(str(path.relative_to(ROOT)) for path in found)
