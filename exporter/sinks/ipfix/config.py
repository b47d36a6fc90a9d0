"""An IPFIX collector, and how to reach it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from exporter.credentials import TlsConfig
from exporter.fanout.config import DeliveryConfig
from exporter.quantities import Octets, Seconds, split_host_port

#: Length is a 16 bit field of the message header.
LONGEST = 65_535
#: A jumbo frame's IP packet. What a path takes beyond (loopback: 65536) is not used unless asked
#: for: nfacctd reads 10,000 octets of a datagram and throws the rest away.
LARGEST_FRAME = 9000


class IpfixConfig(DeliveryConfig):
    """
    A sink of type ``ipfix``.

    Args:
        target: ``host:port`` of the collector.
        transport: ``udp`` is at most once; ``tcp`` knows what the collector's host has.
        tls: Of ``tcp``; absent for plain text.
        observation_domain: Number of this agent among those behind one address; made of its
            address, or its name, if absent.
        template_interval: Seconds after which templates and options are sent again over UDP.
        max_octets: Octets of a message at most. If absent, over UDP what the path to the collector
            takes, a jumbo frame's 9000 at most; 65535 over TCP.
        max_flows: Records that are handed over, and over TCP repeated, at once.
        pace: Octets per second over UDP at most, headers of UDP and IP left out; 0 for as fast as
            the host can. A collector whose buffer a drain's burst overflows loses records, and
            nobody can tell but by their sequence numbers: nfcapd with Debian's default buffer got
            82,870 of 100,000 records at full speed, and all of them at 20 MB/s.
        time: Which elements carry a flow's start and end. Few collectors read nanoseconds.
    """

    type: Literal["ipfix"] = "ipfix"
    target: str
    transport: Literal["udp", "tcp"] = "udp"
    tls: TlsConfig | None = None
    observation_domain: int | None = Field(None, ge=0, lt=1 << 32)
    template_interval: Seconds = Field(60.0, gt=0, le=86_400)
    max_octets: Octets | None = Field(None, ge=512, le=LONGEST)
    max_flows: int = Field(10_000, ge=1)
    pace: Octets = Field(20_000_000, ge=0)
    time: Literal["milliseconds", "nanoseconds"] = "milliseconds"

    @field_validator("target")
    @classmethod
    def _is_address(cls, text: str) -> str:
        host, _ = split_host_port(text)
        if not host:
            raise ValueError(f"{text!r} has no host")
        return text

    @model_validator(mode="after")
    def _fits(self) -> IpfixConfig:
        if self.tls is not None and self.transport == "udp":
            raise ValueError("tls needs transport tcp")
        return self
