"""What a test run gives a program besides the packet and gets back: __sk_buff and xdp_md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporter.ebpf import _libbpf, _programs

#: Program types whose test run takes a ``struct __sk_buff``.
SKB_TYPES = frozenset(
    {"socket_filter", "sched_cls", "sched_act", "cgroup_skb", "lwt_in", "lwt_out", "lwt_xmit",
     "lwt_seg6local", "sk_skb"}
)  # fmt: skip


@dataclass(frozen=True)
class SkbContext:
    """
    Fields of a socket buffer that a test run can set; read-only afterwards are those it changed.

    Args:
        mark: ``skb->mark``.
        priority: ``skb->priority``.
        ingress_ifindex: Where the packet came in; only read by the kernel since 5.19.
        ifindex: The device it is on, an interface of the calling thread's namespace; 0 is loopback.
        cb: Up to five 32-bit words.
        tstamp_ns: ``skb->tstamp``.
        wire_octets: Octets on the wire; 0 is the packet's own length.
        gso_segments: ``gso_segs``.
        gso_octets: ``gso_size``.
        hwtstamp_ns: The hardware's time stamp.

    Source: net/bpf/test_run.c convert___skb_to_skb().
    """

    mark: int = 0
    priority: int = 0
    ingress_ifindex: int = 0
    ifindex: int = 0
    cb: tuple[int, ...] = ()
    tstamp_ns: int = 0
    wire_octets: int = 0
    gso_segments: int = 0
    gso_octets: int = 0
    hwtstamp_ns: int = 0

    def raw(self, _length: int) -> Any:
        """The C structure."""
        context = _libbpf.SkBuff()
        for field, name in _SKB_FIELDS.items():
            setattr(context, name, getattr(self, field))
        for index, word in enumerate(self.cb):
            context.cb[index] = word
        return context

    @classmethod
    def of(cls, raw: Any) -> SkbContext:
        """From the C structure after a run."""
        fields = {field: int(getattr(raw, name)) for field, name in _SKB_FIELDS.items()}
        return cls(cb=tuple(raw.cb), **fields)


_SKB_FIELDS = {
    "mark": "mark",
    "priority": "priority",
    "ingress_ifindex": "ingress_ifindex",
    "ifindex": "ifindex",
    "tstamp_ns": "tstamp",
    "wire_octets": "wire_len",
    "gso_segments": "gso_segs",
    "gso_octets": "gso_size",
    "hwtstamp_ns": "hwtstamp",
}


@dataclass(frozen=True)
class XdpContext:
    """
    What a test run can set of a ``struct xdp_md``.

    Args:
        metadata_octets: How many octets at the packet's beginning are metadata; a multiple of 4,
            at most 32 on older kernels.
        ingress_ifindex: The interface, with ``rx_queue_index``; 0 is loopback.
        rx_queue_index: The receive queue, which the interface must have registered.

    Source: net/bpf/test_run.c xdp_convert_md_to_buff().
    """

    metadata_octets: int = 0
    ingress_ifindex: int = 0
    rx_queue_index: int = 0

    def raw(self, length: int) -> Any:
        """The C structure for a packet of ``length`` octets, metadata included."""
        return _programs.XdpContext(
            data=self.metadata_octets,
            data_end=length,
            ingress_ifindex=self.ingress_ifindex,
            rx_queue_index=self.rx_queue_index,
        )

    @classmethod
    def of(cls, raw: Any) -> XdpContext:
        """From the C structure after a run."""
        return cls(int(raw.data), int(raw.ingress_ifindex), int(raw.rx_queue_index))
