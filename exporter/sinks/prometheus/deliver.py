"""The sums, and where they are scraped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch
from exporter.credentials import ServerTlsConfig, contexts
from exporter.quantities import split_host_port
from exporter.sinks.encodings.series import Series
from exporter.sinks.prometheus.config import PrometheusConfig
from exporter.sinks.prometheus.encode import families
from exporter.sinks.prometheus.names import NAMES
from exporter.status import Answer, StatusServer
from exporter.telemetry import EXPOSITION_TYPE, exposition


class FlowMetrics:
    """
    Sums that are scraped. May be scraped from any thread.

    Args:
        config: By what, and what all of it is called.
        added: What enrichment adds.
    """

    def __init__(self, config: PrometheusConfig, added: Sequence[Attribute] = ()) -> None:
        self._added = added
        self._names = NAMES[config.schema_name]
        self._series = Series(config.labels, config.limit, config.idle)
        self.forgotten = 0

    def __len__(self) -> int:
        """How many series there are."""
        return len(self._series)

    def add(self, batch: FlowBatch) -> None:
        """Add the flows of a batch."""
        self._series.add(batch, batch.window.start_ns or time.time_ns())

    def collect(self) -> Iterator[Any]:
        """
        Metric families, as prometheus_client wants them; then idle series are forgotten.

        Only here, so that a series' last value has been scraped before it goes: while nobody
        scrapes, nothing is forgotten.
        """
        reading = self._series.read()
        yield from families(reading, self._series.attributes, self._names, self._added)
        self.forgotten += self._series.expire()


class OwnAddress:
    """
    ``/metrics`` of one sink.

    Args:
        metrics: What to serve.
        name: Of the sink, for the log.
    """

    def __init__(self, metrics: FlowMetrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self._server = StatusServer({"/metrics": self._answer})

    def listen(self, address: str, tls: ServerTlsConfig | None) -> None:
        """
        Begin to serve.

        Raises:
            CaptureError: If the address cannot be had.
            ConfigError: If a certificate cannot be used.
        """
        self._server.listen(*split_host_port(address), contexts(tls, f"sink {self._name}"))

    def close(self) -> None:
        """Again is fine."""
        self._server.close()

    def _answer(self) -> Answer:
        return 200, EXPOSITION_TYPE, exposition(self._metrics)
