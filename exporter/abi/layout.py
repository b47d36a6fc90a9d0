"""
GENERATED from bpf/abi by `make abi`; never edited.

Layouts of what the kernel program writes: NumPy dtypes of its structs, and its enums.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class FlowDirection(IntEnum):
    """enum flow_direction."""

    FLOW_INGRESS = 0
    FLOW_EGRESS = 1
    FLOW_DIRECTIONS = 2


class TcpFlagSet(IntEnum):
    """enum tcp_flag_set."""

    TCP_SET_SYN_ACK = 1
    TCP_SET_FIN_ACK = 2
    TCP_SET_RST_ACK = 4


class Outcome(IntEnum):
    """enum outcome."""

    OUTCOME_AGGREGATED = 0
    OUTCOME_RING = 1
    OUTCOME_FILTERED = 2
    OUTCOME_SAMPLED_OUT = 3
    OUTCOME_NOT_IP = 4
    OUTCOME_MALFORMED = 5
    OUTCOME_LOST_MAP_FULL = 6
    OUTCOME_LOST_MAP_BUSY = 7
    OUTCOMES = 8


class ReplayContext(IntEnum):
    """enum replay_context."""

    REPLAY_OCTETS = 0
    REPLAY_TIME_LOW = 1
    REPLAY_TIME_HIGH = 2
    REPLAY_IFINDEX = 3
    REPLAY_FRAME_OCTETS = 4


#: struct flow_key
FLOW_KEY = np.dtype(
    {
        "names": [
            "src_addr",
            "dst_addr",
            "ifindex",
            "src_port",
            "dst_port",
            "netns",
            "vlan_id",
            "inner_vlan_id",
            "ip_protocol",
            "direction",
        ],
        "formats": [
            ("<u1", (16,)),
            ("<u1", (16,)),
            "<u4",
            "<u2",
            "<u2",
            "<u2",
            "<u2",
            "<u2",
            "<u1",
            "<u1",
        ],
        "offsets": [
            0,
            16,
            32,
            36,
            38,
            40,
            42,
            44,
            46,
            47,
        ],
        "itemsize": 48,
    }
)


#: struct flow_stats
FLOW_STATS = np.dtype(
    {
        "names": [
            "first_mono_ns",
            "last_mono_ns",
            "packets",
            "octets_l2",
            "octets_l3",
            "sampling_interval",
            "tcp_control_bits",
            "tcp_flag_sets",
            "dscp",
            "src_mac",
            "dst_mac",
            "_pad",
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<u4",
            "<u2",
            "<u1",
            "<u1",
            ("<u1", (6,)),
            ("<u1", (6,)),
            ("<u1", (4,)),
        ],
        "offsets": [
            0,
            8,
            16,
            24,
            32,
            40,
            44,
            46,
            47,
            48,
            54,
            60,
        ],
        "itemsize": 64,
    }
)


#: struct flow_record
FLOW_RECORD = np.dtype(
    {
        "names": [
            "key",
            "stats",
            "map_errno",
            "_pad",
        ],
        "formats": [
            FLOW_KEY,
            FLOW_STATS,
            "<u4",
            ("<u1", (4,)),
        ],
        "offsets": [
            0,
            48,
            112,
            116,
        ],
        "itemsize": 120,
    }
)


#: struct tally
TALLY = np.dtype(
    {
        "names": [
            "packets",
            "octets",
        ],
        "formats": [
            "<u8",
            "<u8",
        ],
        "offsets": [
            0,
            8,
        ],
        "itemsize": 16,
    }
)


#: struct counters
COUNTERS = np.dtype(
    {
        "names": [
            "seen",
            "outcome",
            "flows_created",
            "fragments_unmatched",
        ],
        "formats": [
            TALLY,
            (TALLY, (8,)),
            "<u8",
            "<u8",
        ],
        "offsets": [
            0,
            16,
            144,
            152,
        ],
        "itemsize": 160,
    }
)


#: struct dns_packet
DNS_PACKET = np.dtype(
    {
        "names": [
            "mono_ns",
            "src_addr",
            "dst_addr",
            "sequence",
            "octets",
            "copied",
            "src_port",
            "dst_port",
            "netns",
            "tcp_control_bits",
            "ip_protocol",
            "_pad",
        ],
        "formats": [
            "<u8",
            ("<u1", (16,)),
            ("<u1", (16,)),
            "<u4",
            "<u4",
            "<u2",
            "<u2",
            "<u2",
            "<u2",
            "<u2",
            "<u1",
            ("<u1", (5,)),
        ],
        "offsets": [
            0,
            8,
            24,
            40,
            44,
            48,
            50,
            52,
            54,
            56,
            58,
            59,
        ],
        "itemsize": 64,
    }
)


#: struct flow_owner
FLOW_OWNER = np.dtype(
    {
        "names": [
            "cookie",
            "cgroup_id",
            "first_mono_ns",
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u8",
        ],
        "offsets": [
            0,
            8,
            16,
        ],
        "itemsize": 24,
    }
)


#: struct socket_event
SOCKET_EVENT = np.dtype(
    {
        "names": [
            "cookie",
            "cgroup_id",
            "mono_ns",
            "pid",
            "tid",
            "command",
            "released",
            "_pad",
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u8",
            "<u4",
            "<u4",
            ("<u1", (16,)),
            "<u1",
            ("<u1", (7,)),
        ],
        "offsets": [
            0,
            8,
            16,
            24,
            28,
            32,
            48,
            49,
        ],
        "itemsize": 56,
    }
)
