"""Parquet: every field of any record, read back by pyarrow and by DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.batch.record import point_names, records
from exporter.batch.schema import COLUMNS
from exporter.sinks.encodings.arrow import ArrowColumns
from exporter.sinks.file.config import FileConfig
from exporter.sinks.file.finish import whole_messages
from exporter.sinks.file.sink import FileSink
from exporter.testing import Row, make_batch
from tests.strategies import ASN, COMMUNITY, NUMBER, POD, batches, enriched

Kind = Literal["text", "binary"]


def expected(batch: FlowBatch, kind: Kind, added: Sequence[Attribute] = ()) -> list[dict[str, Any]]:
    """Each row as Parquet is to have it."""
    lists = [point_names(points, batch) for points in batch.point_lists]
    wanted = []
    for row, record in enumerate(records(batch)):
        values: dict[str, Any] = {}
        for column in COLUMNS:
            value = getattr(batch, column.name)[row]
            values[column.name] = value.tobytes() if value.ndim else value.item()
        if kind == "text":
            values |= {
                "src_addr": record.source, "dst_addr": record.destination,
                "src_mac": record.source_mac, "dst_mac": record.destination_mac,
            }  # fmt: skip
        values["interfaces"] = [
            {"name": p.name, "index": p.ifindex, "netns": p.netns,
             "direction": ["ingress", "egress"][p.direction]}
            for p in (lists[batch.points[row]] if lists else ())
        ]  # fmt: skip
        values |= {"agent_address": record.agent_ip, "agent_name": record.agent_name}
        values |= {what.name: record.metadata.get(what) for what in added}
        wanted.append(values)
    return wanted


def as_numbers(table: Any) -> list[dict[str, Any]]:
    """Rows of a table with times as integers: Python has no nanoseconds."""
    for name in ("flow_start_ns", "flow_end_ns"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table[name].cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@pytest.mark.parametrize("kind", ["text", "binary"])
@given(batch=batches())
def test_every_column(kind: Kind, batch: FlowBatch) -> None:
    """Any row, all families and protocols, values at the edges of their columns."""
    made = ArrowColumns(kind).record_batch(batch)
    made.validate(full=True)
    wanted = expected(batch, kind)
    for row in wanted:
        for name in ("flow_start_ns", "flow_end_ns"):
            # Times are signed: what is after 2262 is not.
            row[name] = int(np.uint64(row[name]).astype(np.int64))
    assert as_numbers(pa.Table.from_batches([made])) == wanted


def in_range(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times are signed: what is after 2262 is not."""
    times = ("flow_start_ns", "flow_end_ns")
    return [row | {t: int(np.uint64(row[t]).astype(np.int64)) for t in times} for row in rows]


@given(batch=enriched())
def test_what_was_added(batch: FlowBatch) -> None:
    """Each attribute a column by its name, null where it is not known; also in an IPC stream."""
    columns = ArrowColumns("text", batch.attributes())
    made = columns.record_batch(batch)
    made.validate(full=True)
    wanted = in_range(expected(batch, "text", batch.attributes()))
    assert as_numbers(pa.Table.from_batches([made])) == wanted
    parts = (batch.take(slice(0, 5)), batch.take(slice(5, None)), batch)
    stream = columns.header + b"".join(columns.messages(part) for part in parts)
    with pa.ipc.open_stream(stream) as reader:
        assert as_numbers(reader.read_all()) == [*wanted, *wanted]
    kinds = {field.name: (str(field.type), field.nullable) for field in made.schema}
    for what in batch.attributes():
        text = "dictionary<values=string, indices=int32, ordered=0>"
        assert kinds[what.name] == ("uint64" if what.number else text, True)
    assert made.schema.field("flow_id").metadata[b"ipfix"] == b"148"


@given(batch=enriched())
def test_what_a_batch_does_not_have(batch: FlowBatch) -> None:
    """Attributes of the schema that no enricher knew anything of are null in all rows."""
    bare = replace(batch, entities=(), added={})
    table = pa.Table.from_batches([ArrowColumns("text", batch.attributes()).record_batch(bare)])
    assert as_numbers(table) == in_range(expected(bare, "text", batch.attributes()))


def test_names_that_are_taken() -> None:
    """A label that is called as a column, or as another, has a column of its own."""
    added = [Attribute(name, "") for name in ("agent.name", "x.a.b", "x.a_b")]
    assert ArrowColumns("text", added).schema.names[-3:] == ["agent_name_", "x_a_b", "x_a_b_"]


def test_the_types() -> None:
    """Of the one column table: unsigned integers of their size, times in UTC, no nulls."""
    schema = ArrowColumns("binary").schema
    assert [field.name for field in schema][: len(COLUMNS)] == [c.name for c in COLUMNS]
    kinds = {field.name: str(field.type) for field in schema}
    assert kinds["flow_start_ns"] == "timestamp[ns, tz=UTC]"
    assert kinds["src_addr"] == "fixed_size_binary[16]"
    assert kinds["dst_mac"] == "fixed_size_binary[6]"
    assert kinds["octet_count_l2"] == "uint64"
    assert kinds["duplicate"] == "bool"
    assert not any(field.nullable for field in schema)
    assert schema.field("dscp").metadata[b"ipfix"] == b"195"


POINTS = (Point(0, 2, 0), Point(3, 2, 1))
BATCH = make_batch(
    *(
        Row(
            src_addr=f"10.1.{n // 256}.{n % 256}" if n % 2 else f"2001:db8::{n:x}",
            dst_addr="192.0.2.1" if n % 2 else "::1",
            src_port=n,
            packet_count=(1 << 64) - 1 - n,
            octet_count_l2=n**3,
            flow_start_ns=1_700_000_000_000_000_000 + n,
            duplicate=n % 7 == 0,
            ip_protocol=n % 256,
            points=POINTS[: 1 + n % 2],
        )
        for n in range(5000)
    ),
    interfaces={POINTS[0]: Interface("eth0"), POINTS[1]: Interface("eth0", "blue")},
    observer=Observer("192.0.2.9", "node-1"),
)


def written(directory: Path, **keys: Any) -> Path:
    """The batch through the sink; the one file."""
    config = FileConfig.model_validate({"path": directory / "flows.parquet", **keys})
    sink = FileSink("file", config)
    sink.open()
    for part in (BATCH.take(slice(0, 1000)), BATCH.take(slice(1000, None))):
        for message in sink.encode(part):
            sink.deliver(message, 10)
    sink.close()
    (file,) = directory.glob("*.parquet")
    return file


@pytest.mark.parametrize("kind", ["text", "binary"])
@pytest.mark.parametrize("compression", ["auto", "none", "gzip", "snappy", "zstd"])
def test_read_by_pyarrow(tmp_path: Path, kind: Kind, compression: str) -> None:
    """What arrives is what was sent, row by row and field by field, however it is compressed."""
    file = written(tmp_path, addresses=kind, compression=compression)
    assert as_numbers(pq.read_table(file)) == expected(BATCH, kind)
    used = pq.ParquetFile(file).metadata.row_group(0).column(0).compression
    assert used == {"auto": "ZSTD", "none": "UNCOMPRESSED"}.get(compression, compression.upper())


PODS = (None, *(f"pod-{n}" for n in range(700)), "")


def with_pods(batch: FlowBatch, first: int) -> FlowBatch:
    """Half of the rows have a pod, some have texts and numbers of their own."""
    rows = (np.arange(len(batch), dtype=np.uint32) + first) % len(PODS)
    some = Entities(rows, {POD.of("source"): PODS, ASN.of("source"): (None, *range(701))})
    texts = [b"" if n % 3 else b"1:%d=" % n for n in range(len(batch))]
    ids = np.arange(len(batch), dtype=np.uint64) << np.uint64(40)
    added = {COMMUNITY: np.array(texts, "S9"), NUMBER: ids}
    return replace(batch, entities=(some,), added=added)


def test_files_with_what_was_added(tmp_path: Path) -> None:
    """
    The file's schema is what the enrichers add. A batch that has more begins another file: no row
    is lost, and those that came before are read as they were.
    """
    config = FileConfig.model_validate({"path": tmp_path / "flows.parquet"})
    added = (POD.of("source"), POD.of("destination"))
    sink = FileSink("file", config, added)
    sink.open()
    sent = [BATCH, with_pods(BATCH, 0), with_pods(BATCH, 300), BATCH]
    for batch in sent:
        for message in sink.encode(batch):
            sink.deliver(message, 10)
    sink.close()
    first, second = sorted(tmp_path.glob("*.parquet"))
    assert as_numbers(pq.read_table(first)) == expected(BATCH, "text", added)
    more = (*added, ASN.of("source"), COMMUNITY, NUMBER)
    assert as_numbers(pq.read_table(second)) == [
        row for batch in sent[1:] for row in expected(batch, "text", more)
    ]
    with duckdb.connect() as database:
        (rows,) = database.execute(
            "select count(*), count(src_k8s_pod_name), count(distinct src_k8s_pod_name), "
            f"sum(src_as_number), count(network_community_id) from '{second}'"
        ).fetchall()
    numbers = [
        row for batch in sent[1:3] for row in expected(batch, "text", more)
    ]  # fmt: skip
    names = [row["src_k8s_pod_name"] for row in numbers if row["src_k8s_pod_name"]]
    systems = [row["src_as_number"] for row in numbers if row["src_as_number"] is not None]
    texts = [row for row in numbers if row["network_community_id"]]
    assert rows == (15_000, len(names), 700, sum(systems), len(texts))


def test_a_torn_journal_with_dictionaries(tmp_path: Path) -> None:
    """Wherever it was cut, what is whole is found: a batch with its dictionaries, or none of it."""
    batch = with_pods(BATCH.take(slice(0, 20)), 5)
    columns = ArrowColumns("text", batch.attributes())
    parts = [columns.header, columns.messages(batch), columns.messages(batch.take(slice(0, 7)))]
    whole = b"".join(parts)
    ends = [sum(map(len, parts[: n + 1])) for n in range(3)]
    journal = tmp_path / "journal"
    for end in {*range(0, len(whole), 97), *ends, *(e + 1 for e in ends), *(e - 1 for e in ends)}:
        journal.write_bytes(whole[:end])
        flows, up_to = whole_messages(journal)
        assert flows == (27 if end >= ends[2] else 20 if end >= ends[1] else 0)
        assert not flows or up_to == (ends[2] if flows == 27 else ends[1])


def test_read_by_duckdb(tmp_path: Path) -> None:
    """Another reader finds the same: sums, addresses, times and interfaces."""
    file = written(tmp_path)
    with duckdb.connect() as database:
        rows = database.execute(
            "select src_port, src_addr, dst_mac, epoch_ns(flow_start_ns), packet_count, "
            "octet_count_l2, duplicate, ip_protocol, list_transform(interfaces, lambda i: i.name "
            f"|| i.index || i.direction || i.netns), agent_name from '{file}'"
        ).fetchall()
        (count, octets) = database.execute(
            f"select count(*), sum(octet_count_l2) from '{file}' where ip_protocol = 6"
        ).fetchall()[0]
    wanted = [
        (
            row["src_port"], row["src_addr"], row["dst_mac"], row["flow_start_ns"],
            row["packet_count"], row["octet_count_l2"], row["duplicate"], row["ip_protocol"],
            [f"{i['name']}{i['index']}{i['direction']}{i['netns']}" for i in row["interfaces"]],
            row["agent_name"],
        )
        for row in expected(BATCH, "text")
    ]  # fmt: skip
    assert rows == wanted
    tcp = BATCH.ip_protocol == 6
    assert (count, octets) == (tcp.sum(), BATCH.octet_count_l2[tcp].sum())
