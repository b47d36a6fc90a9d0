"""Reading captures: every format as it is meant, and any damage as one error."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import CaptureFileError
from exporter.replay.capture_file import CapturedPacket, CaptureFile
from tests.packets import capture_writer as writer
from tests.packets.capture_writer import FIRST_NS, Order, Packet, pcap, timed

ORDERS: tuple[Order, ...] = ("<", ">")
PACKETS = timed([b"first, odd", b"second packet", b"third"])
US = FIRST_NS // 1000 * 1000


def read(content: bytes) -> tuple[list[CapturedPacket], str]:
    """All packets, and the error that reading ended with, or nothing."""
    packets: list[CapturedPacket] = []
    try:
        for packet in CaptureFile(io.BytesIO(content)).packets():
            packets.append(packet)  # noqa: PERF402 - what was read before the error counts
    except CaptureFileError as err:
        return packets, str(err)
    return packets, ""


def whole(content: bytes) -> list[CapturedPacket]:
    """All packets of a file that must be in order."""
    packets, error = read(content)
    assert error == ""
    return packets


def damage(content: bytes) -> str:
    """The error of a file that must be damaged, before any packet."""
    packets, error = read(content)
    assert packets == []
    assert error
    return error


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ns_per_unit", [1, 1000])
def test_pcap_of_either_byte_order_and_resolution(
    order: Order, ns_per_unit: Literal[1, 1000]
) -> None:
    """Data, lengths and link type are as written; times to the file's resolution."""
    content = pcap(PACKETS, order=order, ns_per_unit=ns_per_unit, link_type=113)
    read_back = [(packet.data, packet.octets, packet.link_type) for packet in whole(content)]
    assert read_back == [(packet.data, packet.octets, 113) for packet in PACKETS]
    times = [packet.time_ns // ns_per_unit * ns_per_unit for packet in PACKETS]
    assert [packet.time_ns for packet in whole(content)] == times


def test_pcap_of_no_packets() -> None:
    """A header alone is a whole file."""
    assert whole(pcap([])) == []


def test_pcap_time_of_the_last_second() -> None:
    """Seconds are unsigned: a time after 2038 is not before 1970."""
    last = Packet(b"x", (2**32 - 1) * 10**9 + 999_999_999, 1)
    assert whole(pcap([last]))[0].time_ns == last.time_ns


def test_snapped_packet_keeps_its_length_on_the_wire() -> None:
    """The data is what was captured, the length what was on the wire."""
    packet = whole(pcap([Packet(b"snap", FIRST_NS, 1514)]))[0]
    assert (packet.data, packet.octets) == (b"snap", 1514)


def test_length_on_the_wire_is_at_least_what_was_captured() -> None:
    """A writer that says less is not believed."""
    assert whole(pcap([Packet(b"captured", FIRST_NS, 3)]))[0].octets == 8


@pytest.mark.parametrize("upper", [0x04000000, 0x44000000, 0xF4000000, 0x03FF0000])
def test_pcap_link_type_is_the_lower_half(upper: int) -> None:
    """What the upper half says of check sequences is no part of the link type."""
    assert whole(pcap(PACKETS, link_type=upper | 1))[0].link_type == 1


def _pcapng(*blocks: bytes) -> bytes:
    return b"".join([writer.section(), *blocks])


@pytest.mark.parametrize("order", ORDERS)
def test_pcapng_of_either_byte_order(order: Order) -> None:
    """Every kind of packet block is read, in microseconds where nothing else is said."""
    content = b"".join(
        [
            writer.section(order),
            writer.interface(101, order=order),
            writer.enhanced(PACKETS[0], order=order),
            writer.obsolete(PACKETS[1], order=order),
            writer.simple(PACKETS[2], order=order),
        ]
    )
    packets = whole(content)
    assert [packet.data for packet in packets] == [packet.data for packet in PACKETS]
    assert [packet.octets for packet in packets] == [packet.octets for packet in PACKETS]
    assert [packet.time_ns for packet in packets] == [US, (US + writer.STEP_NS) // 1000 * 1000, 0]
    assert {packet.link_type for packet in packets} == {101}


@pytest.mark.parametrize(
    ("code", "per_second"),
    [
        *((power, 10**power) for power in (0, 3, 6, 9, 12)),
        *((0x80 | power, 2**power) for power in (0, 10, 20, 30, 40)),
    ],
)
def test_if_tsresol(code: int, per_second: int) -> None:
    """Resolutions are powers of ten, or of two where the upper bit is set; ns are rounded down."""
    ticks = FIRST_NS * per_second // 10**9 % 2**64
    described = writer.interface(options=writer.option(writer.IF_TSRESOL, bytes([code])))
    packets = whole(_pcapng(described, writer.enhanced(PACKETS[0], ticks=ticks)))
    assert packets[0].time_ns == ticks * 10**9 // per_second


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_if_tsresol_of_absurd_power(code: int) -> None:
    """The finest resolutions that can be said are no error: the packet is at the epoch."""
    described = writer.interface(options=writer.option(writer.IF_TSRESOL, bytes([code])))
    packets = whole(_pcapng(described, writer.enhanced(PACKETS[0], ticks=2**64 - 1)))
    assert packets[0].time_ns == 0


@pytest.mark.parametrize("offset", [3600, -3600, 0])
def test_if_tsoffset(offset: int) -> None:
    """The offset is whole seconds, added to each time, and may be negative."""
    option = writer.option(writer.IF_TSOFFSET, struct.pack("<q", offset))
    packets = whole(_pcapng(writer.interface(options=option), writer.enhanced(PACKETS[0])))
    assert packets[0].time_ns == US + offset * 10**9


def test_options_of_other_lengths_or_kinds_are_ignored() -> None:
    """A resolution of two octets, an offset of four and an unknown option change nothing."""
    options = (
        writer.option(writer.IF_TSRESOL, b"\x09\x09")
        + writer.option(writer.IF_TSOFFSET, b"\x01\0\0\0")
        + writer.option(4242, b"what?")
        + struct.pack("<HH", 7, 500)  # reaches beyond the block
    )
    packets = whole(_pcapng(writer.interface(options=options), writer.enhanced(PACKETS[0])))
    assert packets[0].time_ns == US


def test_several_interfaces_and_their_names() -> None:
    """Packets are of the interface they name; an interface without a name has none."""
    options = writer.option(writer.IF_NAME, b"eth0\0")
    odd = writer.option(writer.IF_NAME, b"\xff0")
    source = CaptureFile(
        io.BytesIO(
            _pcapng(
                writer.interface(1, options),
                writer.interface(101),
                writer.interface(113, odd),
                writer.enhanced(PACKETS[0], 2),
                writer.enhanced(PACKETS[1], 0),
                writer.enhanced(PACKETS[2], 1),
            )
        )
    )
    packets = list(source.packets())
    assert [(packet.interface, packet.link_type) for packet in packets] == [
        (2, 113),
        (0, 1),
        (1, 101),
    ]
    assert source.names == {0: "eth0", 2: "\ufffd0"}


def test_several_sections_count_their_interfaces_on() -> None:
    """Each section describes its own interfaces, in its own byte order; numbers do not repeat."""
    name = writer.option(writer.IF_NAME, b"en1", ">")
    source = CaptureFile(
        io.BytesIO(
            b"".join(
                [
                    writer.section(),
                    writer.interface(1),
                    writer.interface(1),
                    writer.enhanced(PACKETS[0], 1),
                    writer.section(">"),
                    writer.interface(101, name, ">"),
                    writer.enhanced(PACKETS[1], 0, order=">"),
                    writer.section(),
                ]
            )
        )
    )
    packets = list(source.packets())
    assert [(packet.interface, packet.link_type) for packet in packets] == [(1, 1), (2, 101)]
    assert source.names == {2: "en1"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("write", [writer.enhanced, writer.obsolete])
@pytest.mark.parametrize(
    ("flags", "outbound"),
    [(0, False), (writer.INBOUND, False), (writer.OUTBOUND, True), (3, False), (0xFFFFFFFE, True)],
)
def test_direction_flags(
    order: Order,
    write: Callable[..., bytes],
    flags: int,
    outbound: bool,
) -> None:
    """The two lowest bits say the direction: 2 is outbound; the others say something else."""
    option = writer.option(writer.FLAGS, struct.pack(f"{order}I", flags), order)
    comment = writer.option(1, b"a comment", order)
    content = b"".join(
        [
            writer.section(order),
            writer.interface(order=order),
            write(PACKETS[0], options=comment + option, order=order),
            write(PACKETS[1], order=order),
        ]
    )
    assert [packet.outbound for packet in whole(content)] == [outbound, False]


def test_simple_packet_is_cut_where_its_interface_snaps() -> None:
    """What fills the block up to four octets is no part of the packet."""
    snapped = Packet(b"0123456789", FIRST_NS, 61)
    packets = whole(_pcapng(writer.interface(snaplen=10), writer.simple(snapped)))
    assert (packets[0].data, packets[0].octets) == (b"0123456789", 61)


def test_other_blocks_are_skipped() -> None:
    """Names, statistics, secrets and blocks that nobody knows are not packets."""
    blocks = [writer.block(kind, b"whatever") for kind in (4, 5, 10, 0xBAD, 0x80000001)]
    content = _pcapng(*blocks, writer.interface(), *blocks, writer.enhanced(PACKETS[0]), *blocks)
    assert [packet.data for packet in whole(content)] == [PACKETS[0].data]


def _files() -> dict[str, bytes]:
    """A small file of each kind."""
    described = writer.interface(options=writer.option(writer.IF_NAME, b"lan"), snaplen=64)
    return {
        "pcap": pcap(PACKETS),
        "pcap, big-endian": pcap(PACKETS, order=">", ns_per_unit=1000),
        "pcapng": _pcapng(
            described,
            writer.enhanced(PACKETS[0]),
            writer.obsolete(PACKETS[1]),
            writer.simple(PACKETS[2]),
        ),
        "pcapng, big-endian": b"".join(
            [
                writer.section(">"),
                writer.interface(order=">"),
                *(writer.enhanced(packet, order=">") for packet in PACKETS),
            ]
        ),
    }


def _edges(content: bytes) -> dict[int, int]:
    """Where a file may end in order -> packets up to there, by the lengths in the file."""
    order: Order = ">" if content[0] == 0xA1 or content[8] == 0x1A else "<"
    at, packets, edges = 0, 0, {}
    if content[0] == 0x0A:
        while at < len(content):
            kind, length = struct.unpack_from(f"{order}II", content, at)
            at += length
            packets += kind in (writer.OBSOLETE, writer.SIMPLE, writer.ENHANCED)
            edges[at] = packets
        return edges
    at = 24
    edges[at] = 0
    while at < len(content):
        at += 16 + struct.unpack_from(f"{order}I", content, at + 8)[0]
        packets += 1
        edges[at] = packets
    return edges


@pytest.mark.parametrize("kind", _files())
def test_file_cut_at_every_octet(kind: str) -> None:
    """What was whole before the cut is handed out, then one error says so, and never another."""
    content = _files()[kind]
    intact, edges = whole(content), _edges(content)
    assert edges[len(content)] == len(PACKETS)
    for length in range(len(content)):
        packets, error = read(content[:length])
        complete = max((count for edge, count in edges.items() if edge <= length), default=0)
        assert packets == intact[:complete], f"cut at {length}"
        assert (error == "") == (length in edges), f"cut at {length}: {error}"


@pytest.mark.parametrize("kind", _files())
def test_every_octet_damaged(kind: str) -> None:
    """Any single octet that is wrong leaves a file that is read, or one error."""
    content = _files()[kind]
    for at in range(len(content)):
        for value in (0x00, 0x7F, 0xFF):
            packets, _ = read(content[:at] + bytes([value]) + content[at + 1 :])
            assert len(packets) <= len(PACKETS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xd4",
        b"\xd4\xc3\xb2",
        b"\x0a\x0d\x0d",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        b"\x1f\x8b\x08\x00" + bytes(40),
        b"text\n",
        bytes(64),
    ],
)
def test_foreign_file(content: bytes) -> None:
    """Nothing is read from what is no capture."""
    assert "capture" in damage(content) or "neither pcap nor pcapng" in damage(content)


def test_damaged_blocks() -> None:
    """A block whose lengths differ, are odd, too short or too long ends the file with an error."""
    section, described = writer.section(), writer.interface()
    good = writer.enhanced(PACKETS[0])
    for length in (0, 4, 8, 11, 13, len(good) + 4, 2**32 - 4, 2**32 - 1):
        packets, error = read(section + described + struct.pack("<II", 6, length) + good[8:])
        assert packets == []
        assert error
    packets, error = read(section + described + good + good[:-4] + bytes(4))
    assert len(packets) == 1
    assert "two lengths" in error


def test_damaged_section_header() -> None:
    """A section without a byte order, or too short for one, is an error."""
    assert "byte order" in damage(writer.block(writer.SECTION, bytes(16)))
    assert damage(struct.pack("<III", writer.SECTION, 12, 12))
    assert damage(struct.pack("<IIII", writer.SECTION, 12, 0x1A2B3C4D, 12))


def test_packets_without_their_interface() -> None:
    """A packet of an interface that the section does not describe is an error."""
    assert damage(_pcapng(writer.enhanced(PACKETS[0])))
    assert damage(_pcapng(writer.simple(PACKETS[0])))
    assert damage(_pcapng(writer.interface(), writer.enhanced(PACKETS[0], 1)))
    assert damage(_pcapng(writer.interface(), writer.section(), writer.enhanced(PACKETS[0])))


def test_blocks_shorter_than_what_they_hold() -> None:
    """Blocks too short for their fields or for their packet are errors."""
    for kind in (writer.INTERFACE, writer.SIMPLE, writer.ENHANCED, writer.OBSOLETE):
        assert damage(_pcapng(writer.interface(), writer.block(kind, b"")))
    for layout in ("<IIIII", "<HHIIII"):
        kind = writer.ENHANCED if layout == "<IIIII" else writer.OBSOLETE
        fields = [0] * (len(layout) - 3) + [100, 100]
        body = struct.pack(layout, *fields) + bytes(96)
        assert damage(_pcapng(writer.interface(), writer.block(kind, body)))
    longer = struct.pack("<I", 100) + bytes(96)
    assert damage(_pcapng(writer.interface(), writer.block(writer.SIMPLE, longer)))


_LIES = {
    "pcap": pcap([])[:24] + struct.pack("<IIII", 0, 0, 2**32 - 1, 2**32 - 1),
    "pcap, believable": pcap([])[:24] + struct.pack("<IIII", 0, 0, 100 << 20, 100 << 20),
    "pcapng": _pcapng(writer.interface(), struct.pack("<II", 6, 2**32 - 4)),
    "pcapng, believable": _pcapng(writer.interface(), struct.pack("<II", 6, 100 << 20)),
    "pcapng, section": struct.pack("<III", writer.SECTION, 100 << 20, 0x1A2B3C4D),
}


@pytest.mark.parametrize("lie", _LIES)
def test_lengths_that_lie_allocate_nothing(lie: str, tmp_path: Path) -> None:
    """A length far beyond the file's end is an error, and costs no more than a read buffer."""
    path = tmp_path / "lie"
    path.write_bytes(_LIES[lie] + bytes(100))
    with path.open("rb") as stream:
        source = CaptureFile(stream)
        tracemalloc.start()
        try:
            with pytest.raises(CaptureFileError):
                list(source.packets())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1 << 20


class _Failing(io.BytesIO):
    """A disk that gives up after a number of octets."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 60:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_stream_that_fails() -> None:
    """An error of the disk is an error of the file, after the packets before it."""
    source = CaptureFile(_Failing(pcap(PACKETS))).packets()
    assert next(source).data == PACKETS[0].data
    with pytest.raises(CaptureFileError, match="Input/output error"):
        list(source)


@given(st.binary(max_size=400))
@example(b"")
def test_random_octets(content: bytes) -> None:
    """Any octets are packets and at most one error, never another exception."""
    packets, error = read(content)
    assert error or packets == whole(content)


@given(st.sampled_from(sorted(_files())), st.binary(max_size=200), st.integers(0, 300))
def test_random_octets_within_a_file(kind: str, noise: bytes, at: int) -> None:
    """A file that turns into noise hands out what came before it."""
    content = _files()[kind]
    complete = max((n for edge, n in _edges(content).items() if edge <= at), default=0)
    packets, _ = read(content[:at] + noise)
    assert packets[:complete] == whole(content)[:complete]
    assert all(packet.octets >= len(packet.data) for packet in packets)
