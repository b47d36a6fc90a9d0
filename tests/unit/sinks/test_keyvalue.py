"""key=value lines: the same values as JSON has, quoted where they must be."""

from __future__ import annotations

import json
import re
import time
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.sinks.encodings import jsonl, keyvalue
from exporter.sinks.encodings.keyvalue import quoted
from exporter.testing import Row, make_batch
from tests.strategies import batches, enriched

_PAIR = re.compile(r'([^ ="]+)=("(?:[^"\\]|\\.)*"|[^ ="]*)(?: |$)')


def parsed(line: str) -> dict[str, str]:
    """The pairs of a line, quotes taken off; fails on anything else in it."""
    pairs, at = {}, 0
    while at < len(line):
        match = _PAIR.match(line, at)
        assert match, line[at:]
        key, value = match[1], match[2]
        pairs[key] = re.sub(r"\\(u[0-9a-f]{4}|.)", _unescaped, value[1:-1]) if (
            value.startswith('"')
        ) else value  # fmt: skip
        at = match.end()
    return pairs


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1][1:], 16)) if len(match[1]) > 1 else match[1]


def flattened(record: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A JSON record as pairs: paths with dots, lists with commas."""
    flat: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        elif key == "interfaces":
            for name in ("name", "index", "direction", "netns"):
                if any(name in one for one in value):
                    values = [str(one.get(name, "")) for one in value]
                    flat[f"{prefix}interfaces.{name}"] = ",".join(values)
        elif isinstance(value, list):
            flat[key] = ",".join(map(str, value))
        elif value is not None:
            flat[prefix + key] = json.dumps(value).strip('"') if value is True else str(value)
    flat.pop("Udns", None)
    return flat


@pytest.mark.parametrize("schema", ["otel", "netobserv"])
@given(batch=batches() | enriched())
def test_the_same_values_as_in_json(schema: Any, batch: FlowBatch) -> None:
    """Every key and value of the JSON record, and no others."""
    with mock.patch.object(time, "time", return_value=1_700_000_009.9):
        text = keyvalue.encode(batch, schema).decode()
        records = jsonl.encode(batch, jsonl.SHAPES[schema]).splitlines()
    assert text.count("\n") == len(batch)
    for line, record in zip(text.split("\n")[:-1], records, strict=True):
        assert parsed(line) == flattened(json.loads(record))


def test_a_line() -> None:
    """As it is read by people."""
    point = Point(0, 2, 1)
    batch = make_batch(
        Row(flow_end_reason=3, points=(point,)),
        interfaces={point: Interface("eth 0", "blue")},
        observer=Observer("192.0.2.9", "node-1"),
    )
    assert keyvalue.encode(batch, "otel").decode() == (
        "time.start=2023-11-14T22:13:20.000000000Z time.end=2023-11-14T22:13:21.000000000Z "
        "source.address=192.0.2.1 source.port=40000 source.mac=02:00:00:00:00:01 "
        "destination.address=198.51.100.2 destination.port=443 "
        "destination.mac=02:00:00:00:00:02 network.type=ipv4 network.transport=tcp "
        "network.iana_number=6 flow.bytes=1540 flow.ip_bytes=1400 flow.packets=10 "
        'flow.direction=ingress flow.dscp=0 flow.tcp_flags=16 flow.end_reason="end of flow '
        'detected" flow.interfaces.name="eth 0" flow.interfaces.index=2 '
        "flow.interfaces.direction=egress flow.interfaces.netns=blue observer.address=192.0.2.9 "
        "observer.name=node-1 sampling.interval=1\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eth0", "eth0"),
        ("wlan-ü", "wlan-ü"),
        ("", '""'),
        ("a b", '"a b"'),
        ('a"b', r'"a\"b"'),
        ("a=b", '"a=b"'),
        ("a\\b", r'"a\\b"'),
        ("a\x1b[2J", r'"a\u001b[2J"'),
        ("a\nb", r'"a\u000ab"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_quoting(text: str, expected: str) -> None:
    """Only where it must be; nothing that a terminal would act on."""
    assert quoted(text).decode() == expected


@given(st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF)))
def test_any_value_comes_back(text: str) -> None:
    """Whatever somebody calls an interface."""
    assert parsed(f"key={quoted(text).decode()} other=1") == {"key": text, "other": "1"}
