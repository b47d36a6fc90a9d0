"""``flow-exporter replay``: small maps, schemas, and files that cannot be read."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from exporter.replay.replay import replay as replay_here
from tests.kernel.loader import both_loaders, chosen, config
from tests.packets import capture_writer as writer
from tests.packets.broken import IPV4_TRANSPORT_AT
from tests.packets.capture import DIRECTORY
from tests.packets.capture_writer import Packet, pcap, timed
from tests.packets.command import replay
from tests.packets.flow import Counts, Key, Reading
from tests.packets.frames import (
    ACK,
    CLIENT,
    CLIENT_MAC,
    CLIENT_PORT,
    FIN,
    PSH,
    RST,
    SERVER,
    SERVER_MAC,
    SERVER_PORT,
    SYN,
    data,
    ethernet,
    ipv4,
    tcp,
)
from tests.packets.make_captures import captures

_ICMP, _TCP, _UDP, _SCTP, _ICMPV6 = 1, 6, 17, 132, 58


def _crowd(packets: int, flows: int) -> tuple[bytes, Reading]:
    """A capture of TCP flows in a fixed disorder, and what it holds."""
    choose = random.Random(20)
    frames, expected = [], Reading()
    for _ in range(packets):
        port, bits, octets = choose.randrange(flows), 1 << choose.randrange(12), choose.randrange(9)
        frames.append((port, bits, octets, ethernet(ipv4(tcp(bits, octets, sport=port)))))
    written = timed(frame for *_, frame in frames)
    for (port, bits, octets, frame), packet in zip(frames, written, strict=True):
        counts = Counts(
            packets=1,
            octets_l2=len(frame),
            octets_l3=40 + octets,
            tcp_flags=bits,
            dscp=0,
            start_ns=packet.time_ns,
            end_ns=packet.time_ns,
            source_mac=CLIENT_MAC,
            destination_mac=SERVER_MAC,
        )
        expected.frames += 1
        expected.add(Key(CLIENT, SERVER, port, SERVER_PORT, _TCP), counts)
    return pcap(written), expected


@both_loaders
@pytest.mark.parametrize(
    ("packets", "flags"),
    [(5000, ["--max-flows", "16"]), (1500, ["--max-flows", "16", "--ring-size", "4096"])],
    ids=["small map", "small map and ring"],
)
def test_more_flows_than_the_maps_hold(packets: int, flags: list[str], tmp_path: Path) -> None:
    """A flow map of 16 flows, even with a ring of 32 records: one exact record per flow."""
    path = tmp_path / "crowd.pcap"
    content, expected = _crowd(packets, flows=700)
    path.write_bytes(content)
    done = replay(path, *flags, "--loader", chosen())
    assert (done.code, done.errors) == (0, [])
    assert done.reading() == expected
    assert done.summary["lost"] == 0


@both_loaders
def test_ledger_closes_although_the_map_is_full(tmp_path: Path) -> None:
    """Packets that went through the ring are counted like those that the map had room for."""
    path = tmp_path / "crowd.pcap"
    content, expected = _crowd(packets=4500, flows=300)
    path.write_bytes(content)
    allowed = os.sched_getaffinity(0)
    replayed = replay_here(path, config(max_flows=16))
    kernel = replayed.balance.kernel
    assert replayed.balance.final
    assert replayed.balance.problems() == []
    assert kernel.seen.packets == replayed.frames == 4500
    assert kernel.outcome("ring").packets > 4000
    assert kernel.recorded.octets == sum(flow.octets_l2 for flow in expected.flows.values())
    assert len(replayed.batch) == len(expected.flows) == 300
    assert os.sched_getaffinity(0) == allowed


def noise(packets: int) -> list[Packet]:
    """Frames of all Ethernet captures with octets changed, cut or added in a fixed disorder."""
    choose = random.Random(7)
    frames = [
        content[start:end]
        for content in (capture.build() for capture in captures())
        if content[:4] == pcap([])[:4] and content[20:24] == pcap([])[20:24]
        for start, end in _bounds(content)
    ]
    noisy = []
    for number in range(packets):
        frame = bytearray(choose.choice(frames))
        for _ in range(choose.randrange(4)):
            if frame:
                frame[choose.randrange(min(len(frame), 90))] = choose.randrange(256)
        frame = frame[: choose.randrange(len(frame) + 1)] if choose.random() < 0.3 else frame
        longer = choose.choice((0, 0, 3, 1500, 2**32 - 1 - len(frame)))
        noisy.append(Packet(bytes(frame), number, len(frame) + longer))
    return [*noisy, *(Packet(choose.randbytes(n % 120), n, n % 120) for n in range(packets))]


def _bounds(content: bytes) -> list[tuple[int, int]]:
    bounds, at = [], 24
    while at < len(content):
        end = at + 16 + int.from_bytes(content[at + 8 : at + 12], "little")
        bounds.append((at + 16, end))
        at = end
    return bounds


@both_loaders
def test_noise_is_counted(tmp_path: Path) -> None:
    """Thousands of mutilated frames, some of absurd lengths: each one has its place."""
    path = tmp_path / "noise.pcap"
    path.write_bytes(pcap(noise(packets=2500)))
    done = replay(path, "--loader", chosen())
    summary = done.summary
    assert (done.code, done.errors) == (0, [])
    assert summary["frames"] == 5000
    assert summary["packets"] + summary["not IP"] + summary["malformed"] == 5000
    assert min(summary["packets"], summary["not IP"], summary["malformed"]) > 500
    assert summary["lost"] == 0


@both_loaders
def test_snapped_within_the_tcp_header(tmp_path: Path) -> None:
    """Fourteen octets of it have the ports and the flags; with thirteen it is malformed."""
    segment = timed([ethernet(ipv4(tcp(PSH | ACK, octets=1460)))])[0]
    path = tmp_path / "snapped.pcap"
    path.write_bytes(pcap([segment.snapped(IPV4_TRANSPORT_AT + size) for size in (14, 13)]))
    done = replay(path, "--loader", chosen())
    ((key, counts),) = done.flows().items()
    assert key == Key(CLIENT, SERVER, CLIENT_PORT, SERVER_PORT, _TCP)
    assert counts[:4] == (1, 1514, 1500, PSH | ACK)
    assert done.summary["malformed"] == 1


@both_loaders
def test_first_fragment_with_eight_octets_of_sctp(tmp_path: Path) -> None:
    """The ports are in it, although the header of twelve octets is not."""
    ports = data(0x8E, 0x3C, 0x96, 0x0C, 0, 0, 0, 1)
    first = ethernet(ipv4(ports, proto=_SCTP, id=5, flags="MF"))
    later = ethernet(ipv4(data(*range(40)), proto=_SCTP, id=5, frag=1))
    path = tmp_path / "fragments.pcap"
    path.write_bytes(pcap(timed([first, later])))
    ((key, counts),) = replay(path, "--loader", chosen()).flows().items()
    assert key == Key(CLIENT, SERVER, 36412, 38412, _SCTP)
    assert counts[:4] == (2, 42 + 74, 28 + 60, None)


def _interfaces(name: str) -> set[tuple[str, int]]:
    """Names and numbers of the interfaces in the records of a capture."""
    records = replay(DIRECTORY / name).records
    return {(i["name"], i["index"]) for record in records for i in record["flow"]["interfaces"]}


def test_interfaces_have_the_names_in_the_file() -> None:
    """Interfaces are numbered from 1, over all sections; one without a name is its number."""
    assert _interfaces("two_interfaces.pcapng") == {("eth0", 1), ("wg0", 2)}
    assert _interfaces("big_endian_section.pcapng") == {("en0", 1), ("utun0", 2), ("3", 3)}
    assert _interfaces("ethernet_tcp.pcap") == {("1", 1)}


#: What every record of flowlogs-pipeline's decoder has, if it was seen at an interface.
_ALWAYS = {
    *("SrcMac", "DstMac", "Etype", "SrcAddr", "DstAddr", "Proto", "Dscp", "Bytes", "Packets"),
    *("TimeFlowStartMs", "TimeFlowEndMs", "TimeReceived", "Sampling"),
    *("AgentIP", "IfDirections", "Interfaces", "Udns"),
}
_PORTS, _ICMP_KEYS = {"SrcPort", "DstPort"}, {"IcmpType", "IcmpCode"}
_KEYS = {
    _TCP: _ALWAYS | _PORTS | {"Flags"},
    _UDP: _ALWAYS | _PORTS,
    _SCTP: _ALWAYS | _PORTS,
    _ICMP: _ALWAYS | _ICMP_KEYS,
    _ICMPV6: _ALWAYS | _ICMP_KEYS,
}


@pytest.mark.parametrize(
    ("name", "protocols"),
    [
        ("ethernet_tcp.pcap", {_TCP}),
        ("udp_sctp.pcap", {_UDP, _SCTP}),
        ("icmp_icmpv6.pcap", {_ICMP, _ICMPV6}),
        ("other_protocols.pcap", {2, 4, 41, 47, 50, 51, 59, 89, 253}),
    ],
)
def test_netobserv_keys(name: str, protocols: set[int]) -> None:
    """A flat record has the keys of its protocol and no others, and the nested record's values."""
    flat = replay(DIRECTORY / name, "--schema", "netobserv").records
    nested = replay(DIRECTORY / name).records
    assert {record["Proto"] for record in flat} == protocols
    for record, other in zip(flat, nested, strict=True):
        assert set(record) == _KEYS.get(record["Proto"], _ALWAYS)
        _agree(record, other)


def _agree(flat: dict[str, Any], nested: dict[str, Any]) -> None:
    flow, source, destination = nested["flow"], nested["source"], nested["destination"]
    assert (flat["SrcAddr"], flat["DstAddr"]) == (source["address"], destination["address"])
    assert (flat["SrcMac"], flat["DstMac"]) == (source["mac"], destination["mac"])
    assert (flat["Bytes"], flat["Packets"]) == (flow["bytes"], flow["packets"])
    assert flat["Etype"] == {"ipv4": 0x0800, "ipv6": 0x86DD}[nested["network"]["type"]]
    assert flat["TimeFlowStartMs"] <= flat["TimeFlowEndMs"] <= flat["TimeReceived"] * 1000
    assert (flat["Interfaces"], flat["IfDirections"], flat["Udns"]) == (["1"], [0], [""])
    assert flat["Sampling"] == 1
    if "SrcPort" in flat:
        assert (flat["SrcPort"], flat["DstPort"]) == (source["port"], destination["port"])
    if "IcmpType" in flat:
        assert {"type": flat["IcmpType"], "code": flat["IcmpCode"]} == flow["icmp"]


def test_netobserv_flags_say_what_stood_together() -> None:
    """0x100, 0x200 and 0x400: SYN, FIN or RST with ACK in one packet of the flow."""
    records = replay(DIRECTORY / "ethernet_tcp.pcap", "--schema", "netobserv").records
    flags = {(record["SrcAddr"], record["Etype"]): record["Flags"] for record in records}
    assert sorted(flags.values()) == sorted(
        [
            SYN | ACK | PSH | FIN | 0x200,
            SYN | ACK | PSH | FIN | 0x100 | 0x200,
            SYN | ACK | PSH,
            SYN | ACK | RST | 0x100,
        ]
    )
    assert flags[CLIENT, 0x0800] == SYN | ACK | PSH | FIN | 0x200


def _written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "capture"
    path.write_bytes(content)
    return path


def _one_error(path: Path) -> str:
    """The error of a file of which nothing can be read: one line, no records, exit code 1."""
    done = replay(path)
    assert (done.code, done.records, done.summary) == (1, [], {})
    (error,) = done.errors
    assert error.startswith("flow-exporter: ")
    assert str(path) in error
    return error


def test_missing_file(tmp_path: Path) -> None:
    """The error names the file and says that it is not there."""
    assert "No such file or directory" in _one_error(tmp_path / "nowhere.pcap")


def test_directory(tmp_path: Path) -> None:
    """A directory is no capture."""
    assert "Is a directory" in _one_error(tmp_path)


def test_file_that_the_system_cannot_read() -> None:
    """A file that opens and then gives an error is one error, too."""
    assert "Input/output error" in _one_error(Path("/proc/self/mem"))


_UNREADABLE = {
    "empty": (b"", "too short"),
    "two octets": (b"\xd4\xc3", "too short"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "neither pcap nor pcapng"),
    "pcap, in its header": (pcap([])[:20], "ends within its header"),
    "pcap, in a packet": (pcap(timed([bytes(60)]))[:50], "ends within packet 1"),
    "pcapng, in its header": (writer.section()[:20], "ends within a block"),
    "pcapng, in a length": (
        writer.section() + writer.interface()[:6],
        "ends within a block's length",
    ),
    "pcap of 802.11": (
        pcap(timed([bytes(60)]), link_type=105),
        "link layer 105 cannot be replayed",
    ),
    "pcapng of USB": (
        writer.section() + writer.interface(189) + writer.enhanced(timed([bytes(60)])[0]),
        "link layer 189 cannot be replayed",
    ),
}


@pytest.mark.parametrize("kind", _UNREADABLE)
def test_nothing_can_be_read(kind: str, tmp_path: Path) -> None:
    """Empty, foreign, cut before the first packet, or of an unknown link layer: one line."""
    content, words = _UNREADABLE[kind]
    assert words in _one_error(_written(tmp_path, content))


def _two_packets() -> tuple[Packet, Packet]:
    one, two = timed([ethernet(ipv4(tcp(SYN))), ethernet(ipv4(tcp(ACK)))])
    return one, two


_FILES = {
    "pcap": (pcap(_two_packets())[:-1], "ends within packet 2"),
    "pcap, header": (
        pcap(_two_packets())[: 24 + 16 + 54 + 3],
        "ends within the header of packet 2",
    ),
    "pcap, length": (
        pcap(_two_packets()[:1]) + b"\xff" * 16,
        "packet 2 claims 4294967295 octets: damaged",
    ),
    "pcapng": (
        b"".join([writer.section(), writer.interface(), *map(writer.enhanced, _two_packets())])[
            :-1
        ],
        "ends within a block",
    ),
    "pcapng, link layer": (
        b"".join(
            [
                writer.section(),
                writer.interface(),
                writer.interface(147),
                writer.enhanced(_two_packets()[0]),
                writer.enhanced(_two_packets()[1], 1),
            ]
        ),
        "link layer 147 cannot be replayed",
    ),
}


@pytest.mark.parametrize("kind", _FILES)
def test_damage_further_on(kind: str, tmp_path: Path) -> None:
    """What came before the damage is reported and summed up; then one line, and exit code 1."""
    content, words = _FILES[kind]
    done = replay(_written(tmp_path, content))
    ((key, counts),) = done.flows().items()
    assert key == Key(CLIENT, SERVER, CLIENT_PORT, SERVER_PORT, _TCP)
    assert counts[:4] == (1, 54, 40, SYN)
    assert (done.summary["frames"], done.summary["packets"]) == (1, 1)
    (error,) = done.errors
    assert error.startswith("flow-exporter: ")
    assert words in error
    assert done.code == 1


def test_capture_without_packets(tmp_path: Path) -> None:
    """An empty capture is whole: no records, and no error."""
    done = replay(_written(tmp_path, pcap([])))
    assert (done.code, done.records, done.errors) == (0, [], [])
    assert set(done.summary.values()) == {0}


def test_wrong_use(tmp_path: Path) -> None:
    """A schema or a size that there is not is an error of usage: one line, exit code 2."""
    path = _written(tmp_path, pcap([]))
    for flags in (["--schema", "xml"], ["--max-flows", "1"], ["--ring-size", "5000"]):
        done = replay(path, *flags)
        assert (done.code, done.records, done.summary) == (2, [], {})
        assert len(done.errors) == 1
