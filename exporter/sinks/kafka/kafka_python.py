"""kafka-python: all of it Python, always installed."""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import time
from typing import Any

from exporter.credentials import secret
from exporter.errors import ConfigError, SinkError
from exporter.sinks.kafka.client import GIVE_UP, MARGIN, Complaints, Places, failure
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.encode import KafkaMessage

#: Compression -> the module that kafka-python does it with, and its distribution.
_CODECS = {"snappy": ("snappy", "python-snappy"), "lz4": ("lz4", "lz4"),
           "zstd": ("zstandard", "zstandard")}  # fmt: skip
#: Seconds that a call of the library may block: how soon a delivery notices that it is to stop.
_BLOCK = 0.25
#: Words that it logs -> what they mean.
_REASONS = (
    ("SaslAuthenticationFailed", "authentication"),
    ("Authentication failed", "authentication"),
    ("UnsupportedSaslMechanism", "authentication"),
    ("Handshake failed", "tls"),
    ("[SSL", "tls"),
    ("AuthorizationFailed", "authorization"),
    ("DNS", "unresolved"),
    ("UnknownTopicOrPartition", "topic_missing"),
)
_SAYS_NOTHING = re.compile(" not ready; |^Bootstrap failed|, retrying ")
_BACKOFF = re.compile(r" \(backoff .*\)$")


class KafkaPythonClient:
    """
    A producer of kafka-python.

    Args:
        config: Where to. Connects in the background, from the start.

    Raises:
        ConfigError: If a file cannot be read, or what the compression needs is not installed.
    """

    def __init__(self, config: KafkaConfig) -> None:
        codec, distribution = _CODECS.get(config.compression, ("gzip", ""))
        if importlib.util.find_spec(codec) is None:
            raise ConfigError(
                f"compression {config.compression} needs {distribution}: "
                "pip install 'flow-exporter[kafka-codecs]'"
            )
        self.complaints = Complaints(config.where)
        self.broken = False
        self._config = config
        self._producer: Any = None
        self._error: SinkError | None = None
        self._failed: dict[int, SinkError] = {}
        self._futures: dict[int, Any] = {}
        self._net: Any = None
        self._closing = False
        self._listener = _Listener(self.complaints, sasl=config.sasl is not None)
        settings = _settings(config)
        # Its constructor waits for a broker, and cannot be interrupted.
        self._maker = threading.Thread(
            target=self._make, args=(settings,), name=f"sink {config.name} connects", daemon=True
        )
        self._made = threading.Lock()
        self._maker.start()

    def connected(self, wait: float) -> bool:
        """See Client."""
        self._maker.join(wait)
        if self._error is not None:
            raise self._error
        return self._producer is not None

    def partitions(self, wait: float) -> int:  # noqa: ARG002 - _BLOCK
        """See Client."""
        from kafka.errors import KafkaError, KafkaTimeoutError

        topic = self._config.topic
        try:
            return len(self._producer.partitions_for(topic))
        except KafkaTimeoutError:
            self.complaints.note("topic_missing", f"topic {topic}: the brokers do not know it")
        except KafkaError as err:
            raise _failure(err) from err
        return 0

    def send(self, message: KafkaMessage, places: Places) -> None:
        """See Client."""
        from kafka import TopicPartition
        from kafka.errors import KafkaError

        producer, topic, futures = self._producer, self._config.topic, self._futures
        values, keys = message.values, message.keys
        # What KafkaProducer.send comes to, without a third of its time: looking for the topic and
        # the partition, which we know, and writing a line of the log for nobody, each time anew.
        append, wake = producer._accumulator.append, producer._sender.wakeup
        longest = self._config.max_octets
        unix_ms, now = time.time_ns() // 1_000_000, time.monotonic()
        headers: list[Any] = []
        for partition, indices in places.items():
            place = TopicPartition(topic, partition)
            for index in indices:
                key, value = keys[index] if keys else None, values[index]
                try:
                    if len(value) > longest:
                        # Which says how much too long it is.
                        futures[index] = producer.send(topic, value, key, None, partition)
                        continue
                    future, is_full, is_new, _ = append(place, unix_ms, key, value, headers, now)
                except (KafkaError, ValueError) as err:
                    self._failed[index] = _failure(err)
                    continue
                futures[index] = future
                if is_full or is_new:
                    wake()

    def settled(self, wait: float) -> bool:
        """See Client."""
        from kafka.errors import KafkaError, KafkaTimeoutError

        for future in self._futures.values():
            if not future.is_done:
                try:
                    future.get(wait)
                except KafkaTimeoutError:
                    return False
                except KafkaError:
                    continue
        return True

    def failures(self) -> dict[int, SinkError]:
        """See Client."""
        failed, self._failed = self._failed, {}
        for index, future in self._futures.items():
            if future.exception is not None:
                failed[index] = _failure(future.exception)
            elif not future.is_done:
                failed[index] = SinkError(
                    "unavailable", "the connection was given up", retryable=True
                )
        self._futures = {}
        if failed and self._producer is not None:
            # What a broker refused for good can end an idempotent producer: from then on it fails
            # everything with the reason of the first.
            manager = self._producer._transaction_manager
            self.broken = manager is not None and manager.has_fatal_error()
        return failed

    def abandon(self) -> None:
        """See Client."""
        with self._made:
            self._closing = True
            producer, self._producer = self._producer, None
            if producer is None and self._net is not None:
                # Ends the constructor's loop; no method that another thread may call does.
                self._net._manager.closed = True
        self.broken = True
        if producer is not None:
            _close(producer)
        logging.getLogger("kafka").removeHandler(self._listener)

    def _make(self, settings: dict[str, Any]) -> None:
        # Imported here: 10 MB that only this sink needs.
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        logger = logging.getLogger("kafka")
        # It complains of every attempt; the fan-out says once what is the matter.
        logger.propagate = False
        logger.addHandler(self._listener)
        self._listener.threads.add(threading.get_ident())
        try:
            producer = KafkaProducer(**settings, kafka_client=self._keep)
        except (KafkaError, OSError, ValueError) as err:
            self._error = _failure(err)
            # What it raises says less than what it logged.
            self.complaints.note("deadline", str(err))
            self._error = self.complaints.error(self._error.reason, str(err))
            if self._net is not None:
                self._net.close()
            self.broken = True
            return
        self._listener.threads.add(producer._sender.ident)
        self._listener.authenticating = False
        with self._made:
            if not self._closing:
                self._producer = producer
                return
        # Else it believes that its connections are closed already.
        self._net._manager.closed = False
        _close(producer)

    def _keep(self, **settings: Any) -> Any:
        """The library's network client, kept: its owner does not close it if it cannot connect."""
        from kafka.net.compat import KafkaNetClient

        self._net = KafkaNetClient(**settings)
        return self._net


class _Listener(logging.Handler):
    """What the library logs of one producer, told apart by its threads."""

    def __init__(self, complaints: Complaints, *, sasl: bool) -> None:
        super().__init__(logging.WARNING)
        self.threads: set[int | None] = set()
        #: The first connection is being made, and begins with a password.
        self.authenticating = sasl
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        text = record.getMessage()
        if record.thread in self.threads and not _SAYS_NOTHING.search(text):
            self._complaints.note(self._reason(text), _BACKOFF.sub("", text))

    def _reason(self, text: str) -> str:
        if self.authenticating and "socket disconnected" in text:
            # It closes the connection when it has refused a password, and the library often sees
            # that before it has read why.
            return "authentication"
        return next((reason for words, reason in _REASONS if words in text), "unavailable")


def _close(producer: Any) -> None:
    """Without waiting for what is under way."""
    from kafka.errors import KafkaError

    sender = producer._sender
    # Before close(): with things under way close() raises, and leaves the thread running.
    sender.force_close()
    sender.join(5)
    try:
        producer.close(0)
    except KafkaError:
        logging.getLogger(__name__).debug("closed with messages under way", exc_info=True)


def _failure(err: BaseException) -> SinkError:
    from kafka.errors import BrokerResponseError, KafkaTimeoutError

    detail = " ".join(str(err).split()) or type(err).__name__
    if isinstance(err, BrokerResponseError):
        return failure(err.errno, detail)
    if isinstance(err, KafkaTimeoutError):
        return SinkError("deadline", detail, retryable=True)
    return SinkError("unavailable", detail, retryable=True)


def connection(config: KafkaConfig) -> dict[str, Any]:
    """
    What producers and consumers are told of the brokers and ourselves.

    Raises:
        ConfigError: If a file cannot be read.
    """
    settings: dict[str, Any] = {
        "bootstrap_servers": list(config.brokers),
        "client_id": "flow-exporter",
        "bootstrap_timeout_ms": int(config.retry.timeout * 1000),
        "reconnect_backoff_max_ms": 1000,
        "metrics_enabled": False,
        "security_protocol": config.security_protocol,
    }
    if config.tls is not None:
        settings["ssl_context"] = config.tls.context()
    if config.sasl is not None:
        settings |= {
            "sasl_mechanism": config.sasl.mechanism,
            "sasl_plain_username": config.sasl.name(),
            "sasl_plain_password": secret(config.sasl.password_file),
        }
    return settings


def _settings(config: KafkaConfig) -> dict[str, Any]:
    """Source: the documentation of kafka.KafkaProducer."""
    milliseconds = config.retry.timeout * 1000
    settings = connection(config) | {
        "compression_type": None if config.compression == "none" else config.compression,
        "linger_ms": 5,
        "batch_size": config.max_octets,
        "max_request_size": config.max_octets + MARGIN,
        "delivery_timeout_ms": int(max(GIVE_UP * 1000, milliseconds + 1000)),
        "request_timeout_ms": int(milliseconds),
        "max_block_ms": int(_BLOCK * 1000),
    }
    if not config.idempotent:
        # Given only then: left out, brokers that are too old for it are written to without.
        settings |= {"enable_idempotence": False, "acks": "all"}
    return settings
