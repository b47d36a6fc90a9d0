"""Any link layer as Ethernet: the packet behind it, its length and its direction stay."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import CaptureFileError
from exporter.replay.capture_file import CapturedPacket
from exporter.replay.link_layer import Frame, frame

NULL, ETHERNET, RAW, LOOP, COOKED, IPV4, IPV6, COOKED2 = 0, 1, 101, 108, 113, 228, 229, 276
KNOWN = (NULL, ETHERNET, 12, 14, RAW, LOOP, COOKED, IPV4, IPV6, COOKED2)
FOUR, SIX = b"\x45" + bytes(19), b"\x60" + bytes(39)
FOUR_TYPE, SIX_TYPE, NOT_IP = b"\x08\x00", b"\x86\xdd", b"\xff\xff"
NO_MACS = bytes(12)
MAC = b"\x02\x00\x5e\x00\x00\x01"


def framed(
    data: bytes, link_type: int, *, octets: int | None = None, outbound: bool = False
) -> Frame | None:
    """The frame of a packet that was captured whole unless ``octets`` says otherwise."""
    length = len(data) if octets is None else octets
    return frame(CapturedPacket(data, length, 1, link_type, outbound=outbound))


@pytest.mark.parametrize("outbound", [False, True])
def test_ethernet_stays_as_it_is(outbound: bool) -> None:
    """Nothing of an Ethernet frame changes."""
    data = MAC * 2 + SIX_TYPE + SIX
    assert framed(data, ETHERNET, octets=1500, outbound=outbound) == Frame(data, 1500, outbound)


@pytest.mark.parametrize("link_type", [12, 14, RAW])
def test_raw_ip_goes_by_its_version(link_type: int) -> None:
    """The first four bits tell IPv4 from IPv6; any other version is not IP."""
    assert framed(FOUR, link_type) == Frame(NO_MACS + FOUR_TYPE + FOUR, 34, False)
    assert framed(SIX, link_type) == Frame(NO_MACS + SIX_TYPE + SIX, 54, False)
    assert framed(b"\x55", link_type) == Frame(NO_MACS + NOT_IP + b"\x55", 15, False)


def test_link_types_of_one_version_do_not_go_by_it() -> None:
    """Another version under the link type of one is for the parser to refuse."""
    assert framed(SIX, IPV4) == Frame(NO_MACS + FOUR_TYPE + SIX, 54, False)
    assert framed(FOUR, IPV6) == Frame(NO_MACS + SIX_TYPE + FOUR, 34, False)


def test_length_on_the_wire_follows_the_header() -> None:
    """A snapped packet's frame is as long as the packet was, with Ethernet's header for its own."""
    for link_type, header in ((RAW, 0), (LOOP, 4), (COOKED, 16), (COOKED2, 20)):
        whole = framed(bytes(header) + FOUR, link_type, octets=1480 + header)
        assert whole is not None
        assert (len(whole.data), whole.octets) == (34, 1494)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("family", "ethertype"),
    [(2, FOUR_TYPE), (24, SIX_TYPE), (28, SIX_TYPE), (30, SIX_TYPE), (7, NOT_IP), (23, NOT_IP)],
)
def test_null_family_is_in_either_byte_order(order: str, family: int, ethertype: bytes) -> None:
    """The family is in the byte order of the host that captured, which the file may not tell."""
    data = struct.pack(f"{order}I", family) + FOUR
    assert framed(data, NULL) == Frame(NO_MACS + ethertype + FOUR, 34, False)


def test_loop_family_is_in_network_order() -> None:
    """OpenBSD's loopback has one byte order."""
    assert framed(struct.pack(">I", 24) + SIX, LOOP) == Frame(NO_MACS + SIX_TYPE + SIX, 54, False)
    other = framed(struct.pack("<I", 2) + FOUR, LOOP)
    assert other == Frame(NO_MACS + NOT_IP + FOUR, 34, False)


def _cooked(kind: int, length: int, protocol: int = 0x0800) -> bytes:
    return struct.pack(">HHH8sH", kind, 1, length, MAC + b"\xaa\xbb", protocol) + FOUR


def _cooked2(kind: int, length: int, protocol: int = 0x0800) -> bytes:
    fields = (protocol, 0, 3, 1, kind, length, MAC + b"\xaa\xbb")
    return struct.pack(">HHIHBB8s", *fields) + FOUR


@pytest.mark.parametrize(("link_type", "cooked"), [(COOKED, _cooked), (COOKED2, _cooked2)])
@pytest.mark.parametrize("kind", range(7))
def test_cooked_packet_type_is_the_direction(link_type: int, cooked: object, kind: int) -> None:
    """Only type 4 was sent by the host that captured; the source's MAC is kept."""
    assert callable(cooked)
    expected = Frame(bytes(6) + MAC + FOUR_TYPE + FOUR, 34, kind == 4)
    assert framed(cooked(kind, 6), link_type) == expected


@pytest.mark.parametrize(("link_type", "cooked"), [(COOKED, _cooked), (COOKED2, _cooked2)])
def test_cooked_address_of_another_length_is_no_mac(link_type: int, cooked: object) -> None:
    """Tunnels have no address, or one of four or eight octets; the protocol is kept as it is."""
    assert callable(cooked)
    for length in (0, 4, 8):
        expected = Frame(bytes(12) + b"\x81\x00" + FOUR, 34, False)
        assert framed(cooked(0, length, 0x8100), link_type) == expected


@pytest.mark.parametrize(
    ("link_type", "header"),
    [
        (ETHERNET, 14),
        *((link_type, 1) for link_type in (RAW, 12, 14, IPV4, IPV6)),
        *((link_type, 4) for link_type in (NULL, LOOP)),
        (COOKED, 16),
        (COOKED2, 20),
    ],
)
def test_header_that_is_not_all_there(link_type: int, header: int) -> None:
    """No frame is made of less than a link-layer header, and one of exactly that."""
    for length in range(header):
        assert framed((b"\x08\x00\x45" * 7)[:length], link_type) is None
    assert framed((b"\x08\x00\x45" * 7)[:header], link_type) is not None


@pytest.mark.parametrize("link_type", [105, 127, 147, 189, 195, 0xFFFF])
def test_unknown_link_type(link_type: int) -> None:
    """What cannot be replayed is an error that says what can."""
    with pytest.raises(CaptureFileError, match=f"link layer {link_type} .*Ethernet"):
        framed(FOUR, link_type)


@given(st.sampled_from(KNOWN), st.binary(max_size=64), st.integers(0, 2**32 - 1))
def test_random_packets(link_type: int, data: bytes, more: int) -> None:
    """Any octets are a frame with a whole Ethernet header, or none."""
    made = framed(data, link_type, octets=len(data) + more)
    assert made is None or 14 <= len(made.data) <= made.octets
