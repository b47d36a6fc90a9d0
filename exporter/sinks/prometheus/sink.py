"""
Flow metrics that Prometheus scrapes.

What is delivered is in sums in memory, and is lost with the process, as every counter is; while the
process lives, the sums are of all flows, whether somebody scrapes or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch
from exporter.fanout.contract import Message
from exporter.sinks.prometheus.config import PrometheusConfig
from exporter.sinks.prometheus.deliver import FlowMetrics, OwnAddress


class PrometheusSink:
    """
    Sums by labels.

    Args:
        name: For logs and counters.
        config: Which labels, and where they are scraped.
        added: What enrichment adds.
    """

    def __init__(
        self, name: str, config: PrometheusConfig, added: Sequence[Attribute] = ()
    ) -> None:
        self.name = name
        self.metrics = FlowMetrics(config, added)
        self._config = config
        self._own = OwnAddress(self.metrics, name) if config.address else None

    @property
    def at_agents(self) -> bool:
        """Whether the agent's own address is to have its metrics."""
        return self._own is None

    def open(self) -> None:
        """Raises CaptureError if its own address cannot be had, ConfigError for a certificate."""
        if self._own is not None:
            self._own.listen(self._config.address, self._config.tls)

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """One message without octets: what is added are the rows."""
        yield Message(b"", batch)

    def deliver(self, message: Message, timeout: float) -> None:  # noqa: ARG002 - never waits
        """Add the flows."""
        self.metrics.add(message.rows)

    def split(self, _message: Message) -> Iterator[Message]:
        """Never asked for."""
        return iter(())

    def close(self) -> None:
        """Close its own address."""
        if self._own is not None:
            self._own.close()
