"""What goes over the wire to a collector, octet by octet."""

from __future__ import annotations

from pathlib import Path

from exporter._pb import flow_pb2
from exporter.batch.batch import Interface, Observer, Point
from exporter.sinks.encodings.pbflow import encode
from exporter.testing import Row, make_batch

DUMP = Path(__file__).with_name("records.dump")
EGRESS, INGRESS = Point(0, 2, 1), Point(0, 3, 0)


def octets_of(dump: Path) -> bytes:
    """The octets of an annotated dump: what stands before the # of each line."""
    return bytes.fromhex("".join(line.split("#", 1)[0] for line in dump.read_text().splitlines()))


def test_records_are_as_in_the_dump() -> None:
    """A SYN+ACK'd flow over IPv4, seen at two points, is written as the dump explains."""
    batch = make_batch(
        Row(
            src_addr="10.1.2.3",
            dst_addr="10.4.5.6",
            src_port=40000,
            dst_port=443,
            ip_protocol=6,
            direction=1,
            flow_start_ns=1_700_000_000_000_000_001,
            flow_end_ns=1_700_000_001_500_000_000,
            packet_count=3,
            octet_count_l2=300,
            sampling_interval=1,
            tcp_control_bits=0x12,
            tcp_flag_sets=1,
            dscp=46,
            src_mac="02:00:00:00:00:01",
            dst_mac="02:00:00:00:00:fe",
            points=(EGRESS, INGRESS),
        ),
        interfaces={EGRESS: Interface("eth0")},
        observer=Observer("192.0.2.9", "node-1"),
    )
    (message,) = encode(batch, 10_000, 3_500_000)
    assert message.payload.hex(" ") == octets_of(DUMP).hex(" ")


def test_the_dump_is_what_its_comments_say() -> None:
    """An independent decoder reads in the dump what its comments claim."""
    (record,) = flow_pb2.Records.FromString(octets_of(DUMP)).entries
    assert record == flow_pb2.Record(
        eth_protocol=0x0800,
        direction="EGRESS",
        time_flow_start={"seconds": 1_700_000_000, "nanos": 1},
        time_flow_end={"seconds": 1_700_000_001, "nanos": 500_000_000},
        data_link={"src_mac": 0x020000000001, "dst_mac": 0x0200000000FE},
        network={"src_addr": {"ipv4": 0x0A010203}, "dst_addr": {"ipv4": 0x0A040506}, "dscp": 46},
        transport={"src_port": 40000, "dst_port": 443, "protocol": 6},
        bytes=300,
        packets=3,
        agent_ip={"ipv4": 0xC0000209},
        flags=0x112,
        sampling=1,
        dup_list=[{"interface": "eth0", "direction": "EGRESS"}, {"interface": "3"}],
    )
