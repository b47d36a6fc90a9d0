"""How far groups are behind, of a real broker: printed, scraped, and asked by the boards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

from exporter.cli_lag import scraped
from exporter.errors import ExporterError
from exporter.lag import Groups, Lags
from tests import patience
from tests.e2e import boards
from tests.e2e.agent import PROGRAM, wait_until
from tests.e2e.broker import Broker
from tests.e2e.prometheus import Prometheus, check_metrics
from tests.e2e.test_dashboards import KAFKA
from tests.servers import Server, free_port

#: Messages in each of three partitions, and what is committed of the first two.
_WRITTEN, _READ = (100, 40, 7), (60, 40)


@pytest.fixture(scope="module")
def topic(broker: Broker) -> str:
    """
    A group has committed of two of its partitions, with a client library other than the one that
    asks; another group reads something else.
    """
    name, other = broker.topic(partitions=3), broker.topic()
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.address()})
    for partition, count in enumerate(_WRITTEN):
        for _ in range(count):
            producer.produce(name, b"flow", partition=partition)
    producer.produce(other, b"flow", partition=0)
    assert producer.flush(patience.LONGEST) == 0
    _commit(broker, f"readers-of-{name}", name, _READ)
    _commit(broker, f"others-of-{name}", other, (1,))
    return name


def _commit(broker: Broker, group: str, topic: str, offsets: tuple[int, ...]) -> None:
    """The first group that a broker hears of waits until there is a place for offsets."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": broker.address(), "group.id": group, "enable.auto.commit": False}
    )
    try:
        places = [confluent_kafka.TopicPartition(topic, n, at) for n, at in enumerate(offsets)]

        def committed() -> bool:
            try:
                found = consumer.commit(offsets=places, asynchronous=False)
            except confluent_kafka.KafkaException:
                return False
            return found is not None and all(one.error is None for one in found)

        wait_until(committed, f"offsets of {group}")
    finally:
        consumer.close()


def lag(brokers: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "lag", "--brokers", brokers, *arguments], capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def expected(topic: str) -> list[dict[str, Any]]:
    return [
        {"group": f"readers-of-{topic}", "topic": topic, "partition": number, "read": read,
         "end": end, "lag": end - (read or 0)}
        for number, (read, end) in enumerate(zip((*_READ, None), _WRITTEN, strict=True))
    ]  # fmt: skip


class Lag(Server):
    """The command as a server, at a port of this machine."""

    def __init__(self, brokers: str, topic: str, log: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__(
            [PROGRAM, "lag", "--brokers", brokers, "--topic", topic, "--metrics-address",
             self.address], log,
        )  # fmt: skip

    def _is_ready(self) -> bool:
        return self.get().startswith("# HELP")

    def get(self) -> str:
        """What it answers; empty while nobody does."""
        done = subprocess.run(
            ["curl", "--silent", "--max-time", "10", f"http://{self.address}/metrics"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    def stop(self) -> int:
        """As a service manager does; the exit code."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGTERM)
        return self._process.wait(patience.LONGEST)


def test_printed(broker: Broker, topic: str) -> None:
    """Of each partition; one that was never read is behind by all that is there."""
    done = lag(broker.address(), "--topic", topic)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected(topic)
    one = lag(broker.address(), "--topic", topic, "--group", f"readers-of-{topic}")
    assert one.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topic", "nowhere"], "there is no topic nowhere"),
        (["--topic", "{topic}", "--group", "nobody"], "group nobody has not read {topic}"),
    ],
)
def test_what_is_not_there(broker: Broker, topic: str, arguments: list[str], words: str) -> None:
    """One line, and exit code 1."""
    done = lag(broker.address(), *(word.format(topic=topic) for word in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"flow-exporter: {words.format(topic=topic)}\n"


class Away(Groups):
    """Of brokers that do not answer."""

    def read(self) -> Lags:
        raise ExporterError("kafka:9092: nobody answers")


def test_nobody_answers() -> None:
    """Printing is one line and exit code 1; a scrape is told why."""
    done = lag(f"127.0.0.1:{free_port()}", "--topic", "any")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"flow-exporter: 127\.0\.0\.1:\d+: .+\n", done.stderr)
    answer = scraped(Away({}, "any"))
    assert answer == (503, "text/plain; charset=utf-8", b"kafka:9092: nobody answers\n")


def test_scraped(broker: Broker, topic: str, tmp_path: Path) -> None:
    """A real Prometheus has the numbers, and each query of the board finds some."""
    with (
        Lag(broker.address(), topic, tmp_path / "lag.log") as server,
        Prometheus(None, tmp_path / "prometheus", server.address, interval="1s") as prometheus,
    ):
        check_metrics(server.get())
        queries = [query for query in boards.asked() if query.row == KAFKA]
        assert len(queries) == 4

        def answers() -> list[Any]:
            return [prometheus.query(query.expression) for query in queries]

        wait_until(lambda: all(answers()), "each panel has data")
        whole, parts, written, read = answers()
        group = ("consumergroup", f"readers-of-{topic}")
        total = sum(one["lag"] for one in expected(topic))
        assert whole == {frozenset({group, ("topic", topic)}): total}
        assert parts == {
            frozenset({group, ("topic", topic), ("partition", str(one["partition"]))}): one["lag"]
            for one in expected(topic)
        }
        assert len(written) == len(read) == 1
        for board, name, series, label in boards.choices():
            if name in ("topic", "group"):
                values = prometheus.values(series, label)
                assert values == {topic if name == "topic" else group[1]}, board
        assert server.stop() == 0
