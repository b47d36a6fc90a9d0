"""DNS as the kernel program copies it beside counting: packets to and from a server's ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import DNS_PACKET
from exporter.ebpf.maps import Map
from exporter.ebpf.ringbuf import RingBuffer

_HEADER = DNS_PACKET.itemsize
_SLOT = bytes(4)
#: A ring that nothing is written to: the smallest there is.
_LEAST_RING = 4096
_PORT_BITS = 16
_NUMBERS = ("src_port", "dst_port", "ip_protocol", "tcp_control_bits", "sequence", "octets")


@dataclass(frozen=True)
class DnsCopying:
    """
    What to copy.

    Args:
        ports: Of servers, one or two.
        ring_size: Octets of the ring buffer; a power of two, at least a page.
    """

    ports: tuple[int, ...] = ()
    ring_size: int = _LEAST_RING

    @property
    def setting(self) -> int:
        """The kernel program's ``dns_ports``."""
        return sum(port << _PORT_BITS * index for index, port in enumerate(self.ports[:2]))


#: Nothing is copied.
NO_COPYING = DnsCopying()


class DnsPacket(NamedTuple):
    """
    One packet at one observation point.

    Args:
        time_ns: Unix.
        src, dst: 16 octets; IPv4 as ::ffff/96.
        src_port, dst_port: Of UDP or TCP.
        protocol: 17 or 6.
        flags: TCP's control bits.
        sequence: TCP's sequence number.
        octets: Payload of the packet.
        payload: As much of it as was copied.
    """

    time_ns: int
    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    protocol: int
    flags: int
    sequence: int
    octets: int
    payload: bytes


@dataclass(frozen=True)
class DnsPackets:
    """
    What was copied since the last time.

    Args:
        packets: In the order that they were seen.
        lost: Packets that the ring had no room for, since the start.
    """

    packets: list[DnsPacket]
    lost: int = 0


def read_packets(ring: RingBuffer, offset_ns: int) -> list[DnsPacket]:
    """
    Everything that is complete in the ring.

    Args:
        ring: ``dns_ring``.
        offset_ns: Added to the kernel's times; see ``batch.clock``.
    """
    records = ring.take()
    if not records:
        return []
    heads = np.frombuffer(b"".join([record[:_HEADER] for record in records]), DNS_PACKET)
    payloads = [
        record[_HEADER : _HEADER + octets]
        for record, octets in zip(records, heads["copied"].tolist(), strict=True)
    ]
    return list(
        map(
            DnsPacket,
            (heads["mono_ns"] + np.uint64(offset_ns)).tolist(),
            _addresses(heads["src_addr"]),
            _addresses(heads["dst_addr"]),
            *(heads[name].tolist() for name in _NUMBERS),
            payloads,
        )
    )


def _addresses(column: NDArray[np.uint8]) -> list[bytes]:
    octets = column.tobytes()
    return [octets[at : at + 16] for at in range(0, len(octets), 16)]


def lost_packets(counter: Map) -> int:
    """What ``dns_lost`` has counted, of all CPUs."""
    return int(counter.per_cpu(_SLOT, np.dtype("<u8")).sum())
