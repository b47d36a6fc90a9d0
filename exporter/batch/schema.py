"""
The one table of columns: what each means, in which unit, and what other formats call it.

Adding a field means: a member in ``bpf/abi``, a row here, its test. The reference in
``docs/reference/record.md`` is generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """
    One column of a batch.

    Args:
        name: Attribute of FlowBatch.
        dtype: NumPy dtype of the column, rows first.
        unit: Of a value; empty for identifiers.
        meaning: One sentence.
        ipfix: IPFIX information element number, 0 for none.
        pbflow: Field of ``pbflow.Record``, empty for none.
        otel: Path in the JSON record with ``--schema otel``.
        netobserv: Key in the flat record with ``--schema netobserv``, empty for none.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    ipfix: int
    pbflow: str
    otel: str
    netobserv: str


COLUMNS = (
    Column("flow_start_ns", "u8", "ns, Unix", "First packet of the flow in this record.",
           156, "3 time_flow_start", "time.start", "TimeFlowStartMs"),
    Column("flow_end_ns", "u8", "ns, Unix", "Last packet of the flow in this record.",
           157, "4 time_flow_end", "time.end", "TimeFlowEndMs"),
    Column("src_addr", "16 x u1", "", "Source address; IPv4 as ::ffff/96.",
           8, "6.1 network.src_addr", "source.address", "SrcAddr"),
    Column("dst_addr", "16 x u1", "", "Destination address; IPv4 as ::ffff/96.",
           12, "6.2 network.dst_addr", "destination.address", "DstAddr"),
    Column("src_port", "u2", "", "Source port of TCP, UDP and SCTP; else 0.",
           7, "7.1 transport.src_port", "source.port", "SrcPort"),
    Column("dst_port", "u2", "", "Destination port; of ICMP and ICMPv6 type * 256 + code.",
           11, "7.2 transport.dst_port", "destination.port", "DstPort"),
    Column("ip_protocol", "u1", "", "IANA protocol number, after IPv6 extension headers.",
           4, "7.3 transport.protocol", "network.iana_number", "Proto"),
    Column("vlan_id", "u2", "", "Outer VLAN tag; 0 is untagged.",
           58, "", "network.vlan.id", ""),
    Column("inner_vlan_id", "u2", "", "Inner VLAN tag of two; 0 is none.",
           245, "", "network.inner.vlan.id", ""),
    Column("src_mac", "6 x u1", "", "Source MAC of the first packet; zero without a MAC header.",
           56, "5.1 data_link.src_mac", "source.mac", "SrcMac"),
    Column("dst_mac", "6 x u1", "", "Destination MAC of the first packet.",
           80, "5.2 data_link.dst_mac", "destination.mac", "DstMac"),
    Column("packet_count", "u8", "packets", "Packets on the wire in this record.",
           2, "9 packets", "flow.packets", "Packets"),
    Column("octet_count_l2", "u8", "octets", "Sum of the frames' lengths as the hook saw them.",
           352, "8 bytes", "flow.bytes", "Bytes"),
    Column("octet_count_l3", "u8", "octets", "Sum of the IP packets' lengths on the wire.",
           1, "", "flow.ip_bytes", ""),
    Column("tcp_control_bits", "u2", "", "OR of the TCP header's control bits (RFC 9565).",
           6, "13 flags", "flow.tcp_flags", "Flags"),
    Column("tcp_flag_sets", "u1", "", "1 SYN+ACK, 2 FIN+ACK, 4 RST+ACK in one packet.",
           0, "13 flags (0x100, 0x200, 0x400)", "", "Flags"),
    Column("dscp", "u1", "", "Differentiated services code point of the latest packet.",
           195, "6.3 network.dscp", "flow.dscp", "Dscp"),
    Column("flow_end_reason", "u1", "", "Why the record was cut: IPFIX flowEndReason.",
           136, "", "flow.end_reason", ""),
    Column("sampling_interval", "u4", "packets", "1 in N packets was taken; counts are not scaled.",
           34, "29 sampling", "sampling.interval", "Sampling"),
    Column("ifindex", "u4", "", "Interface of the observation point that was counted.",
           10, "26 dup_list", "flow.interfaces[].index", "Interfaces"),
    Column("flow_direction", "u1", "", "0 ingress, 1 egress, at that interface.",
           61, "2 direction", "flow.direction", "IfDirections"),
    Column("duplicate", "bool", "", "Seen elsewhere already (only with --dedupe mark).",
           0, "11 duplicate", "flow.duplicate", ""),
)  # fmt: skip
