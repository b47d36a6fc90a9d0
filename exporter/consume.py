"""
``flow-exporter consume``: what is on a Kafka topic, printed, filtered and summed.

Reads each layout that the Kafka sink writes, and NetObserv's agents' records, told apart by their
first octet. Reads as nobody: no group, no committed offset, nothing changes for other consumers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import orjson

from exporter.batch.protocols import protocol_name
from exporter.batch.record import FlowRecord
from exporter.cli_observe import conditions_of
from exporter.credentials import TlsConfig
from exporter.decode import decode
from exporter.errors import ConfigError, DecodeError, ExporterError
from exporter.fanout.config import RetryConfig
from exporter.fields import checked, field, named
from exporter.observe import Chosen, Wanted, moment_ns
from exporter.quantities import duration
from exporter.sinks.encodings.jsonl import SHAPES
from exporter.sinks.kafka.config import KafkaConfig, SaslConfig
from exporter.sinks.stdout.table import count_text, end_text

DONE, FAILED = 0, 1
#: Somebody waits at the terminal.
_RETRY = RetryConfig(timeout=3)
#: How soon an idle topic is looked at again, in seconds.
_LOOK = 0.2


@dataclass
class Account:
    """What came of it. ``unreadable`` are messages, the others flows of which octets are L2."""

    flows: int = 0
    packets: int = 0
    octets: int = 0
    filtered: int = 0
    unreadable: int = 0

    def add(self, record: FlowRecord) -> None:
        """One more flow."""
        self.flows += 1
        self.packets += record.packets
        self.octets += record.octets_l2


def run(parsed: argparse.Namespace) -> int:
    """Read until told to stop. Returns the exit code: 1 if a message could not be read."""
    fields = _fields(parsed.sum)
    values = [field(name) for name in fields]
    account, sums = Account(), dict[tuple[str, ...], Account]()
    shown, chosen = Shown(parsed), Chosen(_wanted(parsed))
    with closing(_flows(parsed, account, chosen)) as flows, suppress(KeyboardInterrupt):
        for record in flows:
            account.add(record)
            if fields:
                key = tuple(value(record) for value in values)
                sums.setdefault(key, Account()).add(record)
            else:
                shown.flow(record)
    for key, sum_ in sorted(sums.items(), key=lambda item: -item[1].octets):
        shown.sum(fields, key, sum_)
    print(
        f"flows: {account.flows}  packets: {account.packets}  octets: {account.octets}  "
        f"filtered: {account.filtered}  unreadable messages: {account.unreadable}",
        file=sys.stderr,
    )
    return FAILED if account.unreadable else DONE


def _flows(parsed: argparse.Namespace, account: Account, chosen: Chosen) -> Generator[FlowRecord]:
    """What the conditions let pass; the rest, as far as it was looked at, is counted."""
    with closing(_values(parsed)) as polled:
        for values in polled:
            some = [record for value in values for record in _records(value, account)]
            rows = chosen.rows(some)
            looked_at = rows[-1] + 1 if rows and chosen.done else len(some)
            account.filtered += looked_at - len(rows)
            yield from (some[row] for row in rows)
            if chosen.done:
                return


class Shown:
    """How records and sums are printed: a line each, as text on a terminal, else as JSON."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        self._text = sys.stdout.isatty() and not parsed.json
        self._shape = SHAPES[parsed.schema]

    def flow(self, record: FlowRecord) -> None:
        """One line."""
        if not self._text:
            shaped = self._shape(record)
            if not record.octets_l3 and "flow" in shaped:
                # Not zero: not known.
                shaped["flow"].pop("ip_bytes", None)
            self._json(shaped)
            return
        protocol = record.ip_protocol
        source = end_text(record.source, record.source_port, protocol)
        destination = end_text(record.destination, record.destination_port, protocol)
        print(f"{source:<46} {destination:<46} {protocol_name(protocol):<10} "
              f"{count_text(record.packets):>7} {count_text(record.octets_l2):>7}B")  # fmt: skip

    def sum(self, fields: list[str], key: tuple[str, ...], account: Account) -> None:
        """One line."""
        if self._text:
            words = "  ".join(f"{word:<40}" for word in key)
            print(f"{words} {account.flows:>9,} {account.packets:>12,} {account.octets:>16,}")
            return
        self._json(
            dict(zip(fields, key, strict=True))
            | {"flows": account.flows, "packets": account.packets, "octets": account.octets}
        )

    @staticmethod
    def _json(value: dict[str, Any]) -> None:
        sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()


def _records(value: bytes | None, account: Account) -> list[FlowRecord]:
    """Of one message; says once what cannot be read."""
    try:
        # Kafka's way to delete a key is a message without a value.
        found = decode(value or b"")
    except DecodeError as err:
        account.unreadable += 1
        if account.unreadable == 1:
            print(f"flow-exporter: a message that is no flow record: {err}", file=sys.stderr)
        return []
    return [named(record) for record in found]


def _wanted(parsed: argparse.Namespace) -> Wanted:
    conditions, excluded = conditions_of(parsed)
    return Wanted(
        tuple(conditions),
        tuple(excluded),
        since_ns=moment_ns(parsed.since) if parsed.since else 0,
        until_ns=moment_ns(parsed.until) if parsed.until else 0,
        first=parsed.count or 0,
    )


def _fields(text: str | None) -> list[str]:
    return [checked(word.strip(), "sum by") for word in (text or "").split(",") if word.strip()]


def connection_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """
    Of kafka-python's clients, from the flags of ``cli_consume.add_connection``, checked as those of
    the sink are. Raises ConfigError.
    """
    from pydantic import ValidationError

    from exporter.sinks.kafka.kafka_python import connection

    files = {name: getattr(parsed, f"tls_{name}") for name in ("ca", "certificate", "key")}
    try:
        tls = TlsConfig(**files) if parsed.tls or any(files.values()) else None
        sasl = None
        if parsed.sasl_username is not None:
            sasl = SaslConfig(
                mechanism=parsed.sasl_mechanism,
                username=parsed.sasl_username,
                password_file=parsed.sasl_password_file,
            )
        config = KafkaConfig(
            brokers=parsed.brokers, topic=parsed.topic, tls=tls, sasl=sasl, retry=_RETRY
        )
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
    return connection(config)


def _values(parsed: argparse.Namespace) -> Generator[list[bytes | None]]:
    """Values of messages, of all partitions, as they come, until told to stop."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    settings = connection_settings(parsed)
    idle = _duration(parsed.idle)
    try:
        consumer = KafkaConsumer(
            **settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
        )
        try:
            places = [TopicPartition(parsed.topic, n) for n in _partitions(consumer, parsed.topic)]
            ends = consumer.end_offsets(places)
            consumer.assign(places)
            (consumer.seek_to_beginning if parsed.from_beginning else consumer.seek_to_end)(*places)
            heard = time.monotonic()
            while not (parsed.until_end and _at(consumer, ends)):
                found = consumer.poll(int(_LOOK * 1000), max_records=10_000)
                if found:
                    heard = time.monotonic()
                    yield [
                        message.value
                        for place, messages in found.items()
                        for message in messages
                        if not parsed.until_end or message.offset < ends[place]
                    ]
                if idle is not None and time.monotonic() - heard >= idle:
                    return
        finally:
            consumer.close(autocommit=False)
    except KafkaError as err:
        raise ExporterError(f"{parsed.brokers}: {' '.join(str(err).split())}") from err


def _partitions(consumer: Any, topic: str) -> list[int]:
    found = consumer.partitions_for_topic(topic)
    if not found:
        raise ExporterError(f"there is no topic {topic}")
    return sorted(found)


def _at(consumer: Any, ends: dict[Any, int]) -> bool:
    return all(consumer.position(place) >= end for place, end in ends.items())


def _duration(text: str | None) -> float | None:
    try:
        return None if text is None else float(duration(text))
    except ValueError as err:
        raise ConfigError(f"--idle: {err}") from None
