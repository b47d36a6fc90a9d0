"""
confluent-kafka: librdkafka, which sends from threads of its own, without the interpreter's lock.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from exporter.credentials import secret
from exporter.errors import ConfigError, SinkError
from exporter.sinks.kafka.client import GIVE_UP, MARGIN, Complaints, Places, failure
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.encode import KafkaMessage

#: Partitions may be added: seconds until they are asked for again.
_REFRESH = 60.0
#: Seconds between questions while there is no answer: each makes the library connect at once.
_ASK = 0.5


class ConfluentClient:
    """
    A producer of confluent-kafka.

    Args:
        config: Where to. Connects by itself, in the background, from the start.

    Raises:
        ConfigError: If a file cannot be read, or the library refuses the configuration.
    """

    def __init__(self, config: KafkaConfig) -> None:
        # Imported here: 4 MB that only this sink needs, and perhaps not there.
        import confluent_kafka

        self._library = confluent_kafka
        self.complaints = Complaints(config.where)
        self.broken = False
        self._config = config
        self._message: KafkaMessage | None = None
        self._refused: list[tuple[Any, Any, SinkError]] = []
        self._failed: dict[int, SinkError] = {}
        self._count, self._asked = 0, 0.0
        try:
            self._producer: Any = confluent_kafka.Producer(
                _settings(config) | {"error_cb": self._complain}
            )
        except confluent_kafka.KafkaException as err:
            raise ConfigError(f"sink {config.name}: {_text(err.args[0])}") from None

    def connected(self, wait: float) -> bool:  # noqa: ARG002 - it connects by itself
        """There is one."""
        return True

    def partitions(self, wait: float) -> int:
        """See Client."""
        age = time.monotonic() - self._asked
        if self._count and age < _REFRESH:
            return self._count
        if age < _ASK:
            self._producer.poll(wait)
            return 0
        self._asked = time.monotonic()
        try:
            listed = self._producer.list_topics(self._config.topic, timeout=max(wait, 0.01))
        except self._library.KafkaException as err:
            # It fails at once while there is no connection: poll waits, and hears why.
            self._complain(err.args[0])
            self._producer.poll(wait)
            return 0
        topic = listed.topics[self._config.topic]
        if topic.error is not None:
            refused = failure(topic.error.code(), _text(topic.error))
            self.complaints.note(
                refused.reason, f"topic {self._config.topic}: {_text(topic.error)}"
            )
            if refused.reason == "topic_missing":
                self._producer.poll(wait)
                return 0
            raise refused
        self._count = len(topic.partitions)
        return self._count

    def send(self, message: KafkaMessage, places: Places) -> None:
        """See Client."""
        self._message = message
        values, keys = message.values, message.keys
        for partition, which in places.items():
            # The library takes one partition for all of a batch.
            batch: list[dict[str, Any]] = (
                [{"value": values[i]} for i in which]
                if keys is None
                else [{"value": values[i], "key": keys[i]} for i in which]
            )
            queued = self._producer.produce_batch(
                self._config.topic, batch, partition=partition, on_delivery=self._report
            )
            if queued < len(batch):
                self._failed |= {
                    i: failure(entry["_error"].code(), _text(entry["_error"]))
                    for i, entry in zip(which, batch, strict=True)
                    if "_error" in entry
                }
            self._producer.poll(0)

    def settled(self, wait: float) -> bool:
        """See Client."""
        # Unlike poll, flush does not linger.
        return bool(self._producer.flush(wait) == 0)

    def failures(self) -> dict[int, SinkError]:
        """See Client."""
        failed, self._failed = self._failed, {}
        if self._refused and self._message is not None:
            # Reports have keys and values: which is which of two that are equal does not matter.
            places: dict[tuple[Any, Any], deque[int]] = defaultdict(deque)
            keys: Sequence[bytes | None] = self._message.keys or [None] * len(self._message.values)
            for index, pair in enumerate(zip(keys, self._message.values, strict=True)):
                places[pair].append(index)
            for key, value, err in self._refused:
                failed[places[key, value].popleft()] = err
            self._refused = []
        if any(err.reason in ("topic_missing", "unavailable") for err in failed.values()):
            self._count = 0
        return failed

    def abandon(self) -> None:
        """See Client."""
        self._producer.purge()
        # Reports of what was purged.
        self._producer.flush(1)
        self.broken = True

    def _report(self, err: Any, message: Any) -> None:
        """One value did not arrive."""
        if err is not None:
            self._refused.append((message.key(), message.value(), failure(err.code(), _text(err))))

    def _complain(self, err: Any) -> None:
        """What is wrong with a broker."""
        codes = self._library.KafkaError
        # An underscore is how the library names what no broker says.
        reasons = {
            codes._AUTHENTICATION: "authentication",  # noqa: SLF001
            codes.SASL_AUTHENTICATION_FAILED: "authentication",
            codes._SSL: "tls",  # noqa: SLF001
            codes._RESOLVE: "unresolved",  # noqa: SLF001
            codes.TOPIC_AUTHORIZATION_FAILED: "authorization",
            codes.CLUSTER_AUTHORIZATION_FAILED: "authorization",
        }
        text = _text(err)
        # What a broker says of our certificate comes after the handshake, as the transport's error.
        default = "tls" if "SSL routines" in text or "SSL handshake" in text else "unavailable"
        self.complaints.note(reasons.get(err.code(), default), text)
        if err.fatal():
            self.broken = True


def _settings(config: KafkaConfig) -> dict[str, Any]:
    """Source: librdkafka's CONFIGURATION.md."""
    settings: dict[str, Any] = {
        "bootstrap.servers": ",".join(config.brokers),
        "client.id": "flow-exporter",
        "acks": "all",
        "enable.idempotence": config.idempotent,
        "compression.type": config.compression,
        "linger.ms": 5,
        "batch.size": config.max_octets,
        "batch.num.messages": min(config.max_flows, 1_000_000),
        "message.max.bytes": config.max_octets + MARGIN,
        "queue.buffering.max.messages": max(config.max_flows * 2, 100_000),
        "queue.buffering.max.kbytes": 1 << 21,
        "message.timeout.ms": int(GIVE_UP * 1000),
        "request.timeout.ms": int(config.retry.timeout * 1000),
        "reconnect.backoff.max.ms": 1000,
        "delivery.report.only.error": True,
        # What matters comes to error_cb; the rest would go to standard error, unasked.
        "log_level": 0,
    }
    if config.tls is not None:
        # For its errors, which name the file.
        config.tls.context()
        settings |= {
            name: str(path)
            for name, path in (
                ("ssl.ca.location", config.tls.ca),
                ("ssl.certificate.location", config.tls.certificate),
                ("ssl.key.location", config.tls.key),
            )
            if path is not None
        }
    if config.sasl is not None:
        settings |= {
            "sasl.mechanism": config.sasl.mechanism,
            "sasl.username": config.sasl.name(),
            "sasl.password": secret(config.sasl.password_file),
        }
    return settings | {"security.protocol": config.security_protocol}


def _text(err: Any) -> str:
    return str(err.str())
