"""``flow-exporter consume`` against a real broker: all layouts, filters, sums, and rubbish."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from exporter.batch.attributes import Entities
from exporter.batch.batch import FlowBatch
from exporter.batch.record import WITH_PORTS, FlowRecord, records
from exporter.cli_consume import SUM_BY
from exporter.fields import FIELDS
from tests.e2e.agent import PROGRAM
from tests.e2e.broker import PASSWORD, USER, Broker
from tests.e2e.test_kafka import config, running, some_flows
from tests.strategies import POD, TEAM

TEAMS = (None, "blue")


def publish(broker: Broker, batch: FlowBatch, **options: Any) -> str:
    """A topic with these flows."""
    topic = broker.topic(partitions=3)
    with running(config(broker, topic, **options)) as sink:
        sink.put(batch)
        assert sink.settled().delivered == batch.totals
    return topic


def consume(broker: Broker, topic: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Everything that is on it now."""
    return subprocess.run(
        [PROGRAM, "consume", "--brokers", broker.address(), "--topic", topic, "--from-beginning",
         "--until-end", *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def summary(flows: list[FlowRecord], filtered: int = 0) -> str:
    packets, octets = sum(r.packets for r in flows), sum(r.octets_l2 for r in flows)
    return (f"flows: {len(flows)}  packets: {packets}  octets: {octets}  filtered: {filtered}  "
            "unreadable messages: 0\n")  # fmt: skip


@pytest.mark.parametrize("layout", ["netobserv", "packed", "json"])
def test_every_layout_is_read(broker: Broker, layout: str) -> None:
    """Counts and octets are those published; each flow is printed once."""
    batch = some_flows(300)
    done = consume(broker, publish(broker, batch, layout=layout))
    found = [(r["SrcAddr"], r["DstAddr"], r["Bytes"], r["Packets"], r["Interfaces"])
             for r in lines(done)]  # fmt: skip
    flows = list(records(batch))
    assert Counter(map(str, found)) == Counter(
        str((r.source, r.destination, r.octets_l2, r.packets, [p.name for p in r.points]))
        for r in flows
    )
    assert done.stderr == summary(flows)


def test_filters_and_sums(broker: Broker) -> None:
    """Each filter takes what it says; sums are exact, the most octets first."""
    batch = some_flows(600)
    flows, topic = list(records(batch)), publish(broker, batch, layout="packed")
    for arguments, wanted in (
        (["--protocol", "tcp"], [r for r in flows if r.ip_protocol == 6]),
        (["--from-ip", "10.0.0.0/16"], [r for r in flows if r.source.startswith("10.0.")]),
        (["--ip", "2001:db8::/48"], [r for r in flows if "2001:db8::" in r.source + r.destination]),
        (["--to-port", "443", "--interface", "veth0123456789a"],
         [r for r in flows if r.destination_port == 443 and r.ip_protocol in WITH_PORTS
          and len(r.points) == 2]),
        (["--not", "--protocol", "tcp", "--where", "source=10.0.*", "--where", "agent=192.0.2.7"],
         [r for r in flows if r.ip_protocol != 6 and r.source.startswith("10.0.")]),
    ):  # fmt: skip
        assert 0 < len(wanted) < len(flows)
        done = consume(broker, topic, *arguments)
        assert len(lines(done)) == len(wanted)
        assert done.stderr == summary(wanted, len(flows) - len(wanted))
    found = lines(consume(broker, topic, "--sum", "protocol,source"))
    expected: Counter[tuple[str, str]] = Counter()
    for r in flows:
        expected[FIELDS["protocol"](r), r.source] += r.octets_l2
    assert {(f["protocol"], f["source"]): f["octets"] for f in found} == expected
    assert [f["octets"] for f in found] == sorted((f["octets"] for f in found), reverse=True)
    assert len(lines(consume(broker, topic, "--count", "7"))) == 7


def test_what_enrichment_added(broker: Broker) -> None:
    """JSON on a topic comes back complete; filtered and summed by any path or name."""
    batch = some_flows(300)
    pods = (None, *(f"web-{n}" for n in range(7)))
    rows = np.arange(300, dtype=np.uint32) % 8
    pod = POD.of("source")
    batch = replace(
        batch, entities=(Entities(rows, {pod: pods}), Entities(rows % 2, {TEAM: TEAMS}))
    )
    topic = publish(broker, batch, layout="json", schema="otel")
    found = Counter(
        (
            r["source"]["address"],
            r["source"].get("k8s", {}).get("pod", {}).get("name"),
            r.get("labels", {}).get("team"),
        )
        for r in lines(consume(broker, topic, "--schema", "otel"))
    )
    flows = list(records(batch))
    assert found == Counter((r.source, r.metadata.get(pod), r.metadata.get(TEAM)) for r in flows)
    done = consume(broker, topic, "--schema", "otel", "--where", "source.k8s.pod.name=web-2",
                   "--sum", "labels.team,protocol")  # fmt: skip
    wanted: Counter[tuple[str, str]] = Counter()
    for r in flows:
        if r.metadata.get(pod) == "web-2":
            wanted[str(r.metadata.get(TEAM, "")), FIELDS["protocol"](r)] += r.packets
    assert {(one["labels.team"], one["protocol"]): one["packets"] for one in lines(done)} == wanted


def test_messages_of_others(broker: Broker) -> None:
    """What is no flow record is counted and named once, what is one is printed; exit code 1."""
    topic = publish(broker, some_flows(4))
    producer = KafkaProducer(bootstrap_servers=broker.address())
    for rubbish in (b"\xff\xff", b"{}", b'{"a":', b"\x0a\x02\x08\x01", b"\x1b[2Jhello"):
        producer.send(topic, rubbish)
    producer.send(topic, None, key=b"tombstone")
    producer.close()
    done = consume(broker, topic)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 4
    assert "unreadable messages: 6" in done.stderr
    assert done.stderr.count("a message that is no flow record") == 1
    assert "\x1b" not in done.stdout + done.stderr


def test_over_tls_with_a_password(broker: Broker, tmp_path: Path) -> None:
    """And without it, one line."""
    topic = publish(broker, some_flows(10))
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    command = [PROGRAM, "consume", "--brokers", broker.address("sasltls"), "--topic", topic,
               "--from-beginning", "--until-end", "--tls-ca", str(broker.authority.pem),
               "--sasl-username", USER, "--sasl-password-file", str(password)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert len(lines(done)) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--topic", "nowhere"], 1, "there is no topic nowhere"),
        (["--brokers", "localhost"], 2, "is not HOST:PORT"),
        (["--ip", "10.0.0.0/33"], 2, "10.0.0.0/33 is no address or network"),
        (["--sum", "colour"], 2, "cannot sum by colour: there are source"),
        (["--sum", "protcol"], 2, "cannot sum by protcol: did you mean protocol?"),
        (["--where", "labels.team"], 2, "where labels.team: write NAME=VALUE"),
        (["--protocol", "foo"], 2, "no protocol foo"),
        (["--brokers", "127.0.0.1:1"], 1, "127.0.0.1:1: "),
        (["--sasl-username", "me"], 2, "password_file"),
    ],
)
def test_mistakes_are_one_line(
    broker: Broker, arguments: list[str], code: int, message: str
) -> None:
    """That says what is wrong."""
    done = consume(broker, "flows-0", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_the_flag_lists_what_there_is() -> None:
    """``--sum`` names every field."""
    assert tuple(FIELDS) == SUM_BY
