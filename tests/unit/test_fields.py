"""``where``: whole batches are chosen from as single records would be, by any name of anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.assemble import assemble
from exporter.batch.attributes import Entities
from exporter.batch.batch import FlowBatch
from exporter.batch.match import Match
from exporter.batch.record import FlowRecord, records
from exporter.decode import decode_json
from exporter.enrich.known import by_name
from exporter.errors import ConfigError
from exporter.fields import FIELDS, check_conditions, field, named
from exporter.sinks.encodings.jsonl import SHAPES, encode
from exporter.testing import Row, make_batch
from tests.strategies import enriched

NAMES = (
    *FIELDS, "source.k8s.pod.name", "src_k8s_pod_name", "DstK8S_Name", "dst_as_number", "SrcAS",
    "labels.team", ".team", "flow.initiator", "flow_id", "FlowId", "network.community_id", "none",
)  # fmt: skip


def is_so(record: FlowRecord, name: str, text: str) -> bool:
    value = field(name)(record)
    if text.endswith("*"):
        return value != "" and value.startswith(text[:-1])
    return value == text


@given(enriched(), st.sampled_from(NAMES), st.data())
def test_any_name(batch: FlowBatch, name: str, data: st.DataObject) -> None:
    """What it is, what it begins with, that it is unknown; names alone, and of two names both."""
    some = list(records(batch))
    values = sorted({field(name)(record) for record in some})
    texts = [*values, *(value[:2] + "*" for value in values), "", "*", "größe", "80"]
    text = data.draw(st.sampled_from(texts))
    mask = Match([("where", f"{name}={text}")]).mask(batch)
    assert mask.tolist() == [is_so(record, name, text) for record in some]
    other = data.draw(st.sampled_from(texts))
    mask = Match([("where", f"{name}={text}"), ("where", f"{name}={other}")]).mask(batch)
    assert mask.tolist() == [is_so(r, name, text) or is_so(r, name, other) for r in some]
    both = [("where", f"{name}={text}"), ("protocol", "tcp")]
    expected = [is_so(r, name, text) and r.ip_protocol == 6 for r in some]
    assert Match(both).mask(batch).tolist() == expected
    assert Match(both[1:], both[:1]).mask(batch).tolist() == [
        r.ip_protocol == 6 and not is_so(r, name, text) for r in some
    ]


@pytest.mark.parametrize("schema", SHAPES)
def test_what_is_read_back(schema: str) -> None:
    """A record of either schema is asked for by the same names."""
    namespace = by_name()["src_k8s_namespace_name"]
    shop = Entities(np.array([1], np.uint32), {namespace: (None, "shop")})
    line = encode(replace(make_batch(Row()), entities=(shop,)), SHAPES[schema])
    record = named(decode_json(line))
    for name in ("source.k8s.namespace.name", "src_k8s_namespace_name", "SrcK8S_Namespace"):
        assert field(name)(record) == "shop"
    for pair in (("namespace", "shop"), ("where", "SrcK8S_Namespace=shop")):
        assert Match([pair]).mask(assemble([record])).tolist() == [True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("protcol=tcp", "cannot ask for protcol: did you mean protocol?"),
        ("colour=red", "cannot ask for colour: there are source"),
        ("src_k8s_pod_nam=a", "cannot ask for src_k8s_pod_nam: did you mean src_k8s_pod_name?"),
    ],
)
def test_what_is_mistyped(text: str, says: str) -> None:
    """One line; names that may be somebody's own are taken."""
    check_conditions([("where", "labels.mine=1"), ("where", ".mine=1"), ("ip", "colour=red")])
    with pytest.raises(ConfigError) as raised:
        check_conditions([("where", text)])
    assert str(raised.value).startswith(says)
