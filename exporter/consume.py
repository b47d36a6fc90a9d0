"""
``flow-exporter consume``: what is on a Kafka topic, printed, filtered and summed.

Reads each layout that the Kafka sink writes, and NetObserv's agents' records, told apart by their
first octet. Reads as nobody: no group, no committed offset, nothing changes for other consumers.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson

from exporter.batch.protocols import PROTOCOLS, protocol_name
from exporter.batch.record import FlowRecord
from exporter.credentials import TlsConfig
from exporter.decode import decode
from exporter.enrich.known import by_any_name, recognised
from exporter.errors import ConfigError, DecodeError, ExporterError
from exporter.fanout.config import RetryConfig
from exporter.quantities import duration
from exporter.sinks.encodings.jsonl import SHAPES
from exporter.sinks.kafka.config import KafkaConfig, SaslConfig
from exporter.sinks.stdout.table import count_text, end_text

DONE, FAILED = 0, 1
#: Somebody waits at the terminal.
_RETRY = RetryConfig(timeout=3)
#: How soon an idle topic is looked at again, in seconds.
_LOOK = 0.2

#: What flows can be summed by.
FIELDS: dict[str, Callable[[FlowRecord], str]] = {
    "source": lambda r: r.source,
    "destination": lambda r: r.destination,
    "source_port": lambda r: str(r.source_port),
    "destination_port": lambda r: str(r.destination_port),
    "protocol": lambda r: protocol_name(r.ip_protocol),
    "interface": lambda r: r.interface,
    "agent": lambda r: r.agent_ip,
}


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
    values = [_field(field) for field in fields]
    account, sums = Account(), dict[tuple[str, ...], Account]()
    shown = Shown(parsed)
    with closing(_flows(parsed, account)) as flows, suppress(KeyboardInterrupt):
        for record in flows:
            account.add(record)
            if fields:
                key = tuple(value(record) for value in values)
                sums.setdefault(key, Account()).add(record)
            else:
                shown.flow(record)
            if account.flows == parsed.count:
                break
    for key, sum_ in sorted(sums.items(), key=lambda item: -item[1].octets):
        shown.sum(fields, key, sum_)
    print(
        f"flows: {account.flows}  packets: {account.packets}  octets: {account.octets}  "
        f"filtered: {account.filtered}  unreadable messages: {account.unreadable}",
        file=sys.stderr,
    )
    return FAILED if account.unreadable else DONE


def _flows(parsed: argparse.Namespace, account: Account) -> Generator[FlowRecord]:
    """What the filters let pass; the rest is counted."""
    wanted = _filter(parsed)
    with closing(_values(parsed)) as values:
        for value in values:
            for record in _records(value, account):
                if wanted(record):
                    yield record
                else:
                    account.filtered += 1


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
    return [
        replace(record, metadata=recognised(record.metadata)) if record.metadata else record
        for record in found
    ]


def _filter(parsed: argparse.Namespace) -> Callable[[FlowRecord], bool]:
    tests: list[Callable[[FlowRecord], bool]] = []
    for flag, ends in (
        ("ip", ("source", "destination")),
        ("from_ip", ("source",)),
        ("to_ip", ("destination",)),
    ):
        if (text := getattr(parsed, flag)) is not None:
            tests.append(_within(_network(text), ends))
    for flag, ends in (
        ("port", ("source_port", "destination_port")),
        ("from_port", ("source_port",)),
        ("to_port", ("destination_port",)),
    ):
        if (port := getattr(parsed, flag)) is not None:
            tests.append(lambda r, port=port, ends=ends: port in [getattr(r, e) for e in ends])  # type: ignore[misc]
    if parsed.protocol is not None:
        number = _protocol(parsed.protocol)
        tests.append(lambda r: r.ip_protocol == number)
    if parsed.interface is not None:
        tests.append(lambda r: any(point.name == parsed.interface for point in r.points))
    tests += [_equal(text) for text in parsed.where or ()]
    return lambda record: all(test(record) for test in tests)


def _equal(text: str) -> Callable[[FlowRecord], bool]:
    """``NAME=VALUE``; without a value, where nothing is known."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--where {text}: write NAME=VALUE")
    of = _field(_checked(name.strip(), "ask for"))
    return lambda record: of(record) == value


def _field(name: str) -> Callable[[FlowRecord], str]:
    """A field, or something that enrichment added, by any of its names; empty if it is absent."""
    if name in FIELDS:
        return FIELDS[name]
    name = name.removeprefix(".")

    def value(record: FlowRecord) -> str:
        for what, known in record.metadata.items():
            if name in (what.otel, what.netobserv, what.name):
                return str(known)
        return ""

    return value


def _within(network: Any, ends: tuple[str, ...]) -> Callable[[FlowRecord], bool]:
    return lambda r: any(ipaddress.ip_address(getattr(r, end)) in network for end in ends)


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as err:
        raise ConfigError(f"{text} is no address or network: {err}") from None


def _protocol(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    for number, name in PROTOCOLS.items():
        if name == text.lower():
            return number
    raise ConfigError(f"there is no protocol {text}: use a number")


def _fields(text: str | None) -> list[str]:
    return [_checked(word.strip(), "sum by") for word in (text or "").split(",") if word.strip()]


def _checked(name: str, verb: str) -> str:
    """
    A name that there is, or a path, which may be a label of somebody's. With a dot before it, any
    name is taken: a label in flat records has no other.
    """
    known = [*FIELDS, *by_any_name()]
    if name in known or name.startswith("."):
        return name
    is_path = "." in name
    near = difflib.get_close_matches(name, known, 1, cutoff=0.9 if is_path else 0.7)
    if is_path and not near:
        return name
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIELDS)}, and paths"
    raise ConfigError(f"cannot {verb} {name}: {advice}")


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


def _values(parsed: argparse.Namespace) -> Generator[bytes | None]:
    """Values of messages, of all partitions, until told to stop."""
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
                for place, messages in found.items():
                    heard = time.monotonic()
                    for message in messages:
                        if not parsed.until_end or message.offset < ends[place]:
                            yield message.value
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
