"""Parquet: every field of any record, read back by pyarrow and by DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.batch.record import point_names, records
from exporter.batch.schema import COLUMNS
from exporter.sinks.encodings.arrow import ArrowColumns
from exporter.sinks.file.config import FileConfig
from exporter.sinks.file.sink import FileSink
from exporter.testing import Row, make_batch
from tests.strategies import batches

Kind = Literal["text", "binary"]


def expected(batch: FlowBatch, kind: Kind) -> list[dict[str, Any]]:
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
