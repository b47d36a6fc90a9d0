"""
Flow records to an IPFIX collector.

Over UDP at most once. Over TCP and TLS a message counts as delivered when the collector's host has
acknowledged all of it; see ``stream`` for what that is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch
from exporter.fanout.contract import Message
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.datagram import DatagramTransport
from exporter.sinks.ipfix.deliver import Transport
from exporter.sinks.ipfix.encode import Flows, encode
from exporter.sinks.ipfix.stream import StreamTransport
from exporter.sinks.ipfix.template import flow_template


class IpfixSink:
    """
    An IPFIX collector.

    Args:
        name: For logs and counters.
        config: Where to and how much at once.
        added: What enrichment adds.
    """

    def __init__(self, name: str, config: IpfixConfig, added: Sequence[Attribute] = ()) -> None:
        self.name = name
        self._config = config
        self._templates = {
            version: flow_template(version, config.time, added) for version in (4, 6)
        }
        templates = tuple(self._templates.values())
        self._transport: Transport = (
            DatagramTransport(config, templates)
            if config.transport == "udp"
            else StreamTransport(config, templates)
        )

    def open(self) -> None:
        """Raises ConfigError if a certificate file cannot be read."""
        if self._config.tls is not None:
            self._config.tls.context()

    def encode(self, batch: FlowBatch) -> Iterator[Flows]:
        """Data Records of one address family each; headers come with delivery."""
        return encode(batch, self._templates, self._config.max_flows)

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError."""
        assert isinstance(message, Flows)
        self._transport.send(message, timeout)

    def split(self, _message: Message) -> Iterator[Message]:
        """None: messages are cut to what the path takes when they are delivered."""
        return iter(())

    def close(self) -> None:
        """Close the socket."""
        self._transport.close()
