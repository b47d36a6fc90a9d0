"""A fetcher on real interfaces of test namespaces, in this process."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from exporter.batch.batch import FlowBatch, concatenate
from exporter.batch.record import FlowRecord, records
from exporter.capture.fetcher import FlowFetcher, Namespace, NetworkInterface
from tests.e2e.net import End, Network, connect, plug
from tests.kernel.loader import config

ETH_ALL = 3
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15


@contextmanager
def watching(*ends: End, ethernet: bool = True, **settings: Any) -> Iterator[FlowFetcher]:
    """A fetcher that observes ends, each in its own namespace with numbers from 1."""
    with FlowFetcher(config(**settings)) as fetcher:
        for number, end in enumerate(ends, 1):
            fetcher.register(
                NetworkInterface(
                    end.netns.index(end.device),
                    end.device,
                    ethernet,
                    Namespace(number, end.netns.name, end.netns.path),
                )
            )
        yield fetcher


def take(fetcher: FlowFetcher) -> FlowBatch:
    """Everything counted since the last time, by earlier agents too, points not set."""
    parts = [*fetcher.take_inherited(), fetcher.lookup_and_delete_map()]
    return concatenate([*parts, fetcher.read_ring_buffer()])


def flows(fetcher: FlowFetcher) -> list[FlowRecord]:
    """As :func:`take`, as values."""
    return list(records(take(fetcher)))


def quiet_pair(network: Network, *, mtu: int = 1500) -> tuple[End, End]:
    """A veth pair that is up and on which nobody speaks but the test."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    one.netns.quiet()
    other.netns.quiet()
    plug(one, other, mtu=mtu)
    connect(one, other)
    return one, other


def send(end: End, *frames: bytes) -> None:
    """Frames out of a device as they are."""
    with end.netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((end.device, 0))
        for frame in frames:
            raw.send(frame)


def send_in_pieces(end: End, frame: bytes, linear: int) -> None:
    """
    A frame whose buffer has only its first ``linear`` octets in one piece.

    Source: net/packet/af_packet.c packet_alloc_skb(): with a virtio header, ``hdr_len`` octets are
    linear once the frame is longer than a page.
    """
    assert len(frame) > 4096, "shorter frames are linear whatever is asked for"
    header = struct.pack("=BBHHHH", 0, 0, linear, 0, 0, 0)
    with end.netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((end.device, 0))
        raw.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        raw.send(header + frame)
