"""Expressions give what CEL gives, for whole batches, and say what is wrong with them."""

from __future__ import annotations

import ipaddress
import string
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cel_expr_python import cel
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Point
from exporter.batch.record import FlowRecord, records
from exporter.enrich.expression import language
from exporter.enrich.expression.fields import fields
from exporter.enrich.expression.program import Program
from exporter.enrich.expression.values import Text
from exporter.errors import ConfigError
from exporter.testing import Row, make_batch
from tests.strategies import IPV4, IPV6, batches

NAMESPACE = Attribute("source.k8s.namespace.name", "")
ASN = Attribute("destination.as.number", "", number=True)
ID = Attribute("flow.id", "", number=True)
COMMUNITY = Attribute("network.community_id", "")
AWAY = Attribute("source.geo.country", "")
ODD = Attribute("source.k8s.label.app/name", "")
FIELDS = fields((NAMESPACE, ASN, ID, COMMUNITY, AWAY, ODD))
NAMES = ("default", "kube-system", "ünïcode", "a.b")


def values(text: str, batch: FlowBatch) -> list[Any]:
    """Of every row."""
    found = Program(text, FIELDS).evaluate(batch)
    if isinstance(found, Text):
        texts = [found.texts[code] for code in np.broadcast_to(found.codes, len(batch))]
        return list(texts)
    return list(np.broadcast_to(np.asarray(found), len(batch)).tolist())


@st.composite
def enriched(draw: st.DrawFn) -> FlowBatch:
    """With an attribute of text and one of numbers, each unknown in some rows."""
    batch = draw(batches(max_rows=8))
    numbers = st.lists(st.integers(0, len(NAMES)), min_size=len(batch), max_size=len(batch))
    entities = (
        Entities(np.array(draw(numbers), np.uint32), {NAMESPACE: (None, *NAMES)}),
        Entities(np.array(draw(numbers), np.uint32), {ASN: (None, 1, 2, 4_200_000_000, 64_512)}),
    )
    return replace(batch, entities=entities)


def of_row(record: FlowRecord) -> dict[str, Any]:
    """What CEL's own evaluator is given for a row."""
    return {
        "source.address": record.source,
        "destination.address": record.destination,
        "source.port": record.source_port,
        "destination.port": 0 if record.icmp else record.destination_port,
        "network.iana_number": record.ip_protocol,
        "flow.packets": min(record.packets, 2**63 - 1),
        "flow.dscp": record.dscp,
        "flow.direction": ("ingress", "egress")[record.direction],
        "network.type": f"ipv{record.ip_version}",
        NAMESPACE.otel: record.metadata.get(NAMESPACE, ""),
        ASN.otel: record.metadata.get(ASN, 0),
    }


_NUMBERS = ("source.port", "destination.port", "network.iana_number", "flow.dscp", ASN.otel)
_TEXTS = ("flow.direction", "network.type", NAMESPACE.otel)
_ADDRESSES = ("source.address", "destination.address")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def number_expressions(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(_NUMBERS) | st.integers(0, 70_000).map(str)
    if not depth:
        return leaf
    below = number_expressions(depth - 1)
    return (
        leaf
        | st.tuples(below, st.sampled_from("+-*"), below).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | st.tuples(below, st.sampled_from("/%"), st.integers(1, 99)).map(
            lambda p: f"({p[0]} {p[1]} {p[2]})"
        )
        | below.map(lambda text: f"(-{text})")
        | text_expressions(depth - 1).map(lambda text: f"size({text})")
        | st.tuples(flag_expressions(depth - 1), below, below).map(
            lambda p: f"({p[0]} ? {p[1]} : {p[2]})"
        )
    )


def text_expressions(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(_TEXTS) | st.sampled_from(
        ("ingress", "ipv4", "e", "", "kube-", "ü", "default")
    ).map(_quoted)
    if not depth:
        return leaf
    below = text_expressions(depth - 1)
    return (
        leaf
        | st.tuples(below, below).map(lambda p: f"({p[0]} + {p[1]})")
        | st.tuples(flag_expressions(depth - 1), below, below).map(
            lambda p: f"({p[0]} ? {p[1]} : {p[2]})"
        )
    )


def flag_expressions(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(("true", "false")) | st.tuples(
        st.sampled_from(_ADDRESSES), st.sampled_from(("==", "!=")),
        st.sampled_from((*map(_quoted, (*IPV4, *IPV6)), *_ADDRESSES)),
    ).map(lambda p: f"({' '.join(p)})")  # fmt: skip
    if not depth:
        return leaf
    signs = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))
    numbers, texts = number_expressions(depth - 1), text_expressions(depth - 1)
    below = flag_expressions(depth - 1)
    functions = st.sampled_from(("startsWith", "endsWith", "contains"))
    patterns = st.sampled_from(("^ip", "s+$", "(e|ü)", "^$")).map(_quoted)
    lists = st.lists(st.integers(0, 500).map(str), min_size=1, max_size=4).map(", ".join)
    known = st.lists(st.sampled_from(NAMES).map(_quoted), min_size=1, max_size=3).map(", ".join)
    return (
        leaf
        | st.tuples(numbers, signs, numbers).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | st.tuples(texts, signs, texts).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | st.tuples(below, st.sampled_from(("&&", "||")), below).map(lambda p: f"({' '.join(p)})")
        | below.map(lambda text: f"(!{text})")
        | st.tuples(texts, functions, texts).map(lambda p: f"{p[0]}.{p[1]}({p[2]})")
        | st.tuples(texts, patterns).map(lambda p: f"{p[0]}.matches({p[1]})")
        | st.tuples(numbers, lists).map(lambda p: f"({p[0]} in [{p[1]}])")
        | st.tuples(texts, known).map(lambda p: f"({p[0]} in [{p[1]}])")
    )


_ENVIRONMENT = cel.NewEnv(
    variables={
        **dict.fromkeys((*_NUMBERS, "flow.packets"), cel.Type.INT),
        **dict.fromkeys((*_TEXTS, *_ADDRESSES), cel.Type.STRING),
    }
)


@settings(max_examples=100)
@given(enriched(), number_expressions(3) | text_expressions(3) | flag_expressions(3))
def test_as_cel_evaluates_it(batch: FlowBatch, text: str) -> None:
    """Any expression: of every row what the language's own evaluator says, row by row."""
    program = _ENVIRONMENT.compile(text)
    expected = [program.eval(data=of_row(record)) for record in records(batch)]
    # An overflow is an error there, and the largest number here.
    known = [one.value() if one.type() != cel.Type.ERROR else None for one in expected]
    for found, value in zip(values(text, batch), known, strict=True):
        assert value is None or found == value


NETWORKS = ("10.0.0.0/8", "192.0.2.255/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "fe80::/64",
            "127.0.0.0/8", "ff02::1:ff00:0/104", "::1/128")  # fmt: skip


@settings(max_examples=40)
@given(batches(), st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=4))
def test_networks(batch: FlowBatch, networks: list[str]) -> None:
    """As the standard library has it; an IPv4 address is in no IPv6 network."""
    listed = ", ".join(map(_quoted, networks))
    found = values(f"cidr(source.address, [{listed}])", batch)
    for record, inside in zip(records(batch), found, strict=True):
        address = ipaddress.ip_address(record.source)
        assert inside == any(address in ipaddress.ip_network(one) for one in networks)
    alone = [values(f'cidr(source.address, "{one}")', batch) for one in networks]
    assert found == [any(row) for row in zip(*alone, strict=True)]


def test_every_column() -> None:
    """What JSON calls it, and what is in no single column."""
    points = (Point(0, 2, 0), Point(3, 9, 1))
    batch = make_batch(
        Row(points=points, vlan_id=5, inner_vlan_id=6, sampling_interval=7, dscp=8),
        Row("::1", "::2", 0, 3 << 8 | 1, 58, direction=1, points=points[1:]),
        interfaces={points[0]: Interface("eth0", "blue")},
    )
    expected = {
        "network.transport": ["tcp", "ipv6-icmp"],
        "network.type": ["ipv4", "ipv6"],
        "network.vlan.id": [5, 0],
        "network.inner.vlan.id": [6, 0],
        "flow.bytes": [1540, 1540],
        "flow.ip_bytes": [1400, 1400],
        "flow.packets": [10, 10],
        "flow.tcp_flags": [16, 16],
        "flow.dscp": [8, 0],
        "flow.direction": ["ingress", "egress"],
        "flow.icmp.type": [-1, 3],
        "flow.icmp.code": [-1, 1],
        "sampling.interval": [7, 1],
        "interface.name": ["eth0", "9"],
        "interface.netns": ["blue", ""],
        "source.address == destination.address": [False, False],
        'destination.address in ["198.51.100.2", "::2"]': [True, True],
        '"::1" != source.address': [True, False],
    }
    assert {text: values(text, batch) for text in expected} == expected
    assert values("interface.name", make_batch(Row())) == [""]


def test_columns_that_were_added() -> None:
    """Numbers of 64 bits end where CEL's do; texts are texts; what is not there is unknown."""
    batch = replace(
        make_batch(*[Row()] * 3),
        added={
            ID: np.array([1, 2**63 - 1, 2**64 - 1], np.uint64),
            COMMUNITY: np.array([b"1:a=", b"", b"1:a="]),
        },
    )
    assert values("flow.id", batch) == [1, 2**63 - 1, 2**63 - 1]
    assert values("network.community_id", batch) == ["1:a=", "", "1:a="]
    assert values("source.geo.country", batch) == [""] * 3
    assert values("destination.as.number", batch) == [0] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flow.packets / flow.dscp", 0),
        ("flow.packets % flow.dscp", 0),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("9223372036854775807 + flow.packets", 2**63 - 1),
        ("-9223372036854775807 - flow.packets", -(2**63)),
        ("4611686018427387904 * flow.packets", 2**63 - 1),
    ],
)
def test_numbers_that_cel_has_no_answer_for(text: str, expected: int) -> None:
    """There is always one: 0, or the largest that there is."""
    assert values(text, make_batch(Row(packet_count=10))) == [expected]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "column 1: Syntax error"),
        ("source.port ==", "column 15: Syntax error"),
        ("source.prt == 3", "column 7: there is no source.prt: did you mean source.port?"),
        ("true && nothing", "column 9: there is no nothing"),
        ('source.port == "x"', "column 13: found no matching overload for '_==_'"),
        ("1.5 < 2.5", "column 1: only texts, whole numbers, true and false"),
        ("[1].map(x, x)", "only names, values, operators and functions"),
        ("[1, 2].exists(x, x == source.port)", "only names, values, operators and functions"),
        ('{"a": 1}.a == 1', "only names, values, operators and functions"),
        ("dyn(source.port) == 1", "column 4: dyn is not possible here"),
        ('source.address.startsWith("10.")', "an address can only be compared"),
        ('source.address == "10.0.0"', "column 16: '10.0.0': not an address"),
        ("source.address == network.type", "with one that is written out"),
        ('cidr(network.type, "10.0.0.0/8")', "cidr() takes source.address or"),
        ('cidr(source.address, "10.0.0.1/8")', "has host bits: did you mean 10.0.0.0/8?"),
        ('cidr(source.address, "ten")', "'ten': not a network such as 10.0.0.0/8"),
        ("cidr(source.address, network.type)", "networks that are written out"),
        ('network.type.matches("(")', "column 21: '(' is not a pattern that RE2 takes"),
        ("network.type.matches(network.type)", "a pattern that is written out"),
        ("source.port in [source.port]", "a list can only have texts and numbers"),
        ("source.port in []", "at least one"),
        ("(" * 40 + "1" + ")" * 40, "recursion limit exceeded"),
        ("1 + " * 400 + "1", "recursion depth"),
        (" || ".join(["source.port == 1"] * 90), "too long: at most 256"),
        ("x" * 5000, "5000 characters are too many"),
    ],
)
def test_what_is_wrong(text: str, problem: str) -> None:
    """One line, with the column where it is."""
    with pytest.raises(ConfigError) as caught:
        Program(text, FIELDS)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=300)
@given(st.text(alphabet=string.printable + "ü\0\U0001f600", max_size=60))
def test_anything_that_is_written(text: str) -> None:
    """Whatever it is, it is an expression or one line about what is wrong."""
    try:
        Program(text, FIELDS)
    except ConfigError as err:
        assert "\n" not in str(err)  # noqa: PT017 - raising is not what is tested


def test_matches_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that would take a backtracking engine for ever takes no time, and memory ends."""
    monkeypatch.setattr(language, "_REMEMBERED", 3)
    matches = language.matcher("^(a+)+$")
    texts = ["a" * 50_000 + "b", "aa", "b", "\udc80", "aaa", "aa"]
    assert [matches(text) for text in texts] == [False, True, False, False, True, True]


@pytest.mark.parametrize(
    ("module", "package"), [("cel_expr_python", "cel-expr-python"), ("re2", "google-re2")]
)
def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    """What is missing, and how to get it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"expressions need {package}: pip install") as caught:
        Program('network.type.matches("a")', FIELDS)
    assert "flow-exporter[expressions]" in str(caught.value)


def test_names_that_are_no_identifiers() -> None:
    """Cannot be referred to, and break nothing."""
    assert ODD.otel not in FIELDS
    assert NAMESPACE.otel in FIELDS
