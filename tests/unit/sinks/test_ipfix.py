"""IPFIX: what is encoded is what was captured, and headers and templates keep to RFC 7011."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.batch.record import records
from exporter.batch.schema import COLUMNS
from exporter.config import load
from exporter.enrich.known import known_attributes
from exporter.errors import ConfigError
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.encode import (
    Flows,
    data_set,
    encode,
    interface_names,
    interface_number,
    interface_record,
    observation_domain,
)
from exporter.sinks.ipfix.session import Session
from exporter.sinks.ipfix.template import flow_template, sent
from exporter.testing import Row, make_batch
from tests import strategies
from tests.strategies import ASN
from tests.wire.flows import by_family, expected
from tests.wire.ipfix import ELEMENTS, Read, Reader

MILLISECONDS = {version: flow_template(version, "milliseconds") for version in (4, 6)}
NANOSECONDS = {version: flow_template(version, "nanoseconds") for version in (4, 6)}
DOMAIN = 0xC0000207


def messages(
    batch: FlowBatch, templates: Any = MILLISECONDS, rows: int = 1000, limit: int = 1400
) -> Iterator[bytes]:
    """Everything that would be sent for a batch in a new session, whole messages."""
    session = Session(DOMAIN, templates.values(), 0)
    for flows in encode(batch, templates, rows):
        yield from (octets for octets, _ in session.due(flows, limit))
        yield session.header(4 + len(flows.payload), len(flows.rows), 1_700_000_000) + (
            data_set(flows.template, len(flows.payload)) + flows.payload
        )


def read(batch: FlowBatch, templates: Any = MILLISECONDS, rows: int = 1000) -> list[Read]:
    reader = Reader()
    return [reader.message(message) for message in messages(batch, templates, rows)]


def flows_of(read: list[Read]) -> list[dict[str, Any]]:
    return [record for one in read for number, record in one.records if number in (256, 257)]


@given(strategies.batches(), st.integers(1, 5))
def test_what_is_read_is_what_was_captured(batch: FlowBatch, rows: int) -> None:
    """Every column of every row, whatever the values; each row in exactly one message."""
    assert flows_of(read(batch, rows=rows)) == expected(by_family(batch))


BIFLOW = Attribute("flow.biflow_direction", "RFC 5103.", ipfix=239, number=True)


@given(strategies.enriched(), st.data())
def test_what_was_added(batch: FlowBatch, data: st.DataObject) -> None:
    """Integers with an element, at their ends; 0 is unknown. The rest is not sent."""
    rows = range(len(batch))
    directions = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    batch = replace(batch, added={**batch.added, BIFLOW: np.array(directions, np.uint8)})
    added = batch.attributes()
    templates = {version: flow_template(version, "milliseconds", added) for version in (4, 6)}
    batch = by_family(batch)
    wanted = []
    for plain, record in zip(expected(batch), records(batch), strict=True):
        said = {what.name: value for what, value in record.metadata.items()}
        more = {
            "bgpSourceAsNumber": said.get("src_as_number", 0),
            "bgpDestinationAsNumber": said.get("dst_as_number", 0),
            "flowId": said["flow_id"],
            "biflowDirection": said["flow_biflow_direction"],
        }
        wanted.append(plain | more)
    assert flows_of(read(batch, templates)) == wanted


def test_what_batches_do_not_have_yet_or_elements_cannot_hold() -> None:
    """The template is that of the enrichers: a batch without them, or too large a number, has 0."""
    added = (ASN.of("source"), BIFLOW, strategies.NUMBER, strategies.POD.of("source"))
    templates = {version: flow_template(version, "milliseconds", added) for version in (4, 6)}
    names = ("bgpSourceAsNumber", "biflowDirection", "flowId")
    batch = make_batch(Row(), Row(), Row())
    assert [[flow[name] for name in names] for flow in flows_of(read(batch, templates))] == [
        [0, 0, 0]
    ] * 3
    some = Entities(np.array([1, 2, 0], np.uint32), {added[0]: (None, 1 << 32, 7)})
    batch = replace(batch, entities=(some,), added={BIFLOW: np.array([256, 1, 2], np.uint64)})
    assert [[flow[name] for name in names] for flow in flows_of(read(batch, templates))] == [
        [0, 0, 0], [7, 1, 0], [0, 2, 0],
    ]  # fmt: skip


def test_every_element_of_enrichers_can_be_sent() -> None:
    """An integer that an enricher has an element for has its length here; texts are not sent."""
    wanted = {what.ipfix for what in known_attributes() if what.number and what.ipfix}
    assert set(sent(known_attributes())) == wanted
    assert wanted <= set(ELEMENTS)


@given(strategies.batches(max_rows=4))
def test_nanoseconds_are_exact(batch: FlowBatch) -> None:
    """NTP's fractions give the very nanosecond, for times that its 32 bits of seconds can hold."""
    day = 86_400 * 10**9
    start = batch.flow_start_ns % (50 * 365 * day)
    end = batch.flow_end_ns % (50 * 365 * day)
    batch = replace(batch, flow_start_ns=start, flow_end_ns=end)
    assert flows_of(read(batch, NANOSECONDS)) == expected(by_family(batch), "nanoseconds")


@pytest.mark.parametrize("rest", [0, 1, 2, 499_999_999, 500_000_000, 999_999_998, 999_999_999])
def test_the_edges_of_a_second(rest: int) -> None:
    """The fraction neither overflows into the next second nor loses a nanosecond."""
    row = Row(flow_start_ns=1_700_000_000_000_000_000 + rest)
    (flow,) = flows_of(read(make_batch(row), NANOSECONDS))
    assert flow["flowStartNanoseconds"] == row.flow_start_ns


def test_every_column_of_the_table_is_sent() -> None:
    """A column that the table gives an element has it, or its equal of the other family."""
    sent = set(MILLISECONDS[4].elements) | set(NANOSECONDS[4].elements)
    assert {column.ipfix for column in COLUMNS if column.ipfix} <= sent
    for templates in (MILLISECONDS, NANOSECONDS):
        for template in templates.values():
            assert len(set(template.elements)) == len(template.elements)
            assert set(template.elements) <= set(ELEMENTS)


def test_sequence_numbers_count_data_records() -> None:
    """Options' records count, templates do not. RFC 7011 section 3.1."""
    rows = [Row(points=(Point(0, 2, 0),))] * 5
    batch = make_batch(*rows, interfaces={Point(0, 2, 0): Interface("eth0")})
    heads = [(one.sequence, len(one.records)) for one in read(batch, rows=2)]
    # One of sampling and one interface, then 2, 2 and 1 flows.
    assert heads == [(0, 2), (2, 2), (4, 2), (6, 1)]
    assert {one.domain for one in read(batch)} == {DOMAIN}


def test_the_sequence_number_wraps() -> None:
    """After 2^32 - 1 comes 0."""
    session = Session(DOMAIN, MILLISECONDS.values(), 0)
    session.sequence = 2**32 - 1
    (flows,) = encode(make_batch(Row(), Row()), MILLISECONDS, 10)
    list(session.due(flows, 1400))
    (sequence,) = struct.unpack_from(">8xI", session.header(0, 2, 0))
    assert sequence == 0
    (sequence,) = struct.unpack_from(">8xI", session.header(0, 2, 0))
    assert sequence == 2


def test_templates_come_first_and_once() -> None:
    """All four with the first message; a session without repetition tells nothing twice."""
    first, *others = read(make_batch(*[Row()] * 9), rows=2)
    assert first.templates == [256, 257, 258, 259]
    assert [one.templates for one in others] == [[]] * 5


def test_templates_are_repeated_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the interval everything is told again: templates, sampling and interfaces."""
    now = 100.0
    monkeypatch.setattr("exporter.sinks.ipfix.session.time.monotonic", lambda: now)
    session = Session(DOMAIN, MILLISECONDS.values(), 60)
    point = Point(0, 2, 0)
    batch = make_batch(Row(points=(point,)), interfaces={point: Interface("eth0")})
    (flows,) = encode(batch, MILLISECONDS, 10)

    def told() -> list[int]:
        reader = Reader({}) if not seen else seen[0]
        seen[:] = [reader]
        found = [reader.message(octets) for octets, _ in session.due(flows, 1400)]
        return [n for one in found for n in [*one.templates, *(n for n, _ in one.records)]]

    seen: list[Reader] = []
    everything = [256, 257, 258, 259, 258, 259]
    assert told() == everything
    now += 59
    assert told() == []
    now += 1
    assert told() == everything
    now += 1
    assert told() == []


def test_interfaces_are_told_when_they_are_new() -> None:
    """A name that is new or has changed goes before the flows that need it; others do not."""
    one, two = Point(0, 2, 0), Point(5, 2, 1)
    reader, session = Reader(), Session(DOMAIN, MILLISECONDS.values(), 0)

    def names(interfaces: dict[Point, Interface]) -> dict[int, str]:
        batch = make_batch(Row(points=(one, two)), interfaces=interfaces)
        (flows,) = encode(batch, MILLISECONDS, 10)
        found = [reader.message(octets) for octets, _ in session.due(flows, 1400)]
        return {
            r["ingressInterface"]: r["interfaceName"]
            for read in found
            for number, r in read.records
            if number == 259
        }

    assert names({one: Interface("eth0")}) == {2: "eth0"}
    assert names({one: Interface("eth0")}) == {}
    foreign = 2**31 + 5 * 2**16 + 2
    assert names({one: Interface("eth0"), two: Interface("eth0", "blue")}) == {foreign: "blue/eth0"}
    assert names({one: Interface("wan0")}) == {2: "wan0"}


def test_many_interfaces_take_many_messages() -> None:
    """A thousand names are cut to messages within the limit; all arrive."""
    points = [Point(0, number, 0) for number in range(1, 1001)]
    batch = make_batch(
        Row(points=tuple(points)),
        interfaces={point: Interface(f"veth{point.ifindex:08x}") for point in points},
    )
    (flows,) = encode(batch, MILLISECONDS, 10)
    session, reader = Session(DOMAIN, MILLISECONDS.values(), 0), Reader()
    sent = [octets for octets, _ in session.due(flows, 512)]
    found = [record for one in sent for _, record in reader.message(one).records]
    assert max(map(len, sent)) <= 512
    assert [record["interfaceName"] for record in found[1:]] == [
        f"veth{number:08x}" for number in range(1, 1001)
    ]
    assert reader.missing == 0


@pytest.mark.parametrize(("interval", "space"), [(1, 0), (100, 99), (2**32 - 1, 2**32 - 2)])
def test_sampling_is_told(interval: int, space: int) -> None:
    """1 in N, as probability and as interval and space."""
    first, *_ = read(make_batch(Row(sampling_interval=interval)))
    assert first.records[0] == (
        258,
        {
            "observationDomainId": DOMAIN,
            "samplingInterval": interval,
            "samplingPacketInterval": 1,
            "samplingPacketSpace": space,
            "samplingProbability": 1 / interval,
        },
    )


def test_an_empty_batch_is_nothing() -> None:
    """No rows, no messages."""
    assert list(encode(make_batch(), MILLISECONDS, 10)) == []


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=400))
def test_names_are_cut_between_characters(name: str) -> None:
    """The longest name that one octet of length can say, valid UTF-8 whatever it was cut from."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    record = interface_record(7, name)
    assert record[4] == len(record) - 5 <= 254
    assert name.startswith(record[5:].decode())
    assert len(name.encode()) - 254 < 4 or len(record) > 5 + 250


@pytest.mark.parametrize(
    ("observer", "domain"),
    [
        (Observer("192.0.2.7", "a"), int(ipaddress.ip_address("192.0.2.7"))),
        (Observer("2001:db8::7", "a"), 2532382061),
        (Observer("", "node-1"), 334634079),
        (Observer("0.0.0.0", ""), 1),
        (Observer(), 1),
    ],
)
def test_the_observation_domain_is_stable(observer: Observer, domain: int) -> None:
    """Made of the address, else of the name; the same for every start; never 0."""
    assert observation_domain(observer) == domain


def test_interfaces_of_namespaces_do_not_collide() -> None:
    """Equal indexes in different namespaces differ; the agent's own stay as they are."""
    points = [Point(netns, ifindex, 0) for netns in (0, 1, 2) for ifindex in (1, 2, 65_535)]
    assert len({interface_number(point.netns, point.ifindex) for point in points}) == len(points)
    assert interface_number(0, 100_000) == 100_000
    assert interface_names({Point(1, 2, 0): Interface("eth0", "pod")}) == {2147549186: "pod/eth0"}


@pytest.mark.parametrize(
    ("url", "section"),
    [
        ("ipfix+udp://c:4739", {"target": "c:4739", "transport": "udp"}),
        ("ipfix+tcp://[::1]:4740?tls.server_name=c", {
            "target": "[::1]:4740", "transport": "tcp", "tls": {"server_name": "c"},
        }),
        ("ipfix+udp://c:1?observation_domain=7&pace=10MB&time=nanoseconds&max_octets=1kib", {
            "target": "c:1", "observation_domain": 7, "pace": 10_000_000, "time": "nanoseconds",
            "max_octets": 1024,
        }),
    ],
)  # fmt: skip
def test_urls(url: str, section: dict[str, Any]) -> None:
    """Schemes and options become the sink's section."""
    assert load(None, {}, {"sinks": [url]}).sinks == (IpfixConfig.model_validate(section),)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ipfix://c:1", "use one of"),
        ("ipfix+udp://c", "write ipfix+udp://HOST:PORT"),
        ("ipfix+udp://c:1?tls.server_name=c", "tls needs transport tcp"),
        ("ipfix+udp://c:1?max_octets=511", "greater than or equal to 512"),
        ("ipfix+udp://c:1?max_octets=65536", "less than or equal to 65535"),
        ("ipfix+udp://c:1?observation_domain=4294967296", "less than 4294967296"),
        ("ipfix+tcp://c:1?template_intervall=3", "did you mean template_interval?"),
    ],
)
def test_wrong_urls(url: str, words: str) -> None:
    """One line that says what would do."""
    with pytest.raises(ConfigError, match=words.replace("?", r"\?").replace("+", r"\+")) as caught:
        load(None, {}, {"sinks": [url]})
    assert "\n" not in str(caught.value)


def test_a_message_says_what_it_needs() -> None:
    """Messages carry their template, and what their batch knows of interfaces and sampling."""
    point = Point(0, 2, 0)
    batch = make_batch(
        Row(points=(point,), sampling_interval=3),
        Row(points=(point,), src_addr="::1", dst_addr="::2"),
        interfaces={point: Interface("eth0")},
    )
    made = list(encode(batch, MILLISECONDS, 10))
    assert all(isinstance(one, Flows) for one in made)
    assert [one.template.number for one in made] == [256, 257]
    assert {one.sampling for one in made} == {3}
    assert [one.names for one in made] == [{2: "eth0"}] * 2
