"""Files of a real agent, of a process that is killed, and on a disk that is full."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from exporter.batch.batch import Totals
from exporter.config import load
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.file import deliver
from exporter.sinks.table import make
from exporter.testing import Row, make_batch
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, all_kinds, pair
from tests.e2e.writer import ROWS

_ROOT = Path(__file__).parents[2]


def files(directory: Path, suffix: str) -> list[Path]:
    """Those that readers look at, oldest first; the one that is being written is the newest."""
    found = [p for p in directory.iterdir() if suffix in p.name and not p.name.startswith(".")]
    return sorted(found, key=lambda path: ("-" not in path.name, path.name))


def json_records(directory: Path) -> list[dict[str, Any]]:
    """Of all files of lines."""
    records = []
    for path in files(directory, ".jsonl"):
        octets = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert octets.endswith(b"\n") or not octets, path
        records += [json.loads(line) for line in octets.splitlines()]
    return records


def parquet_records(directory: Path) -> list[dict[str, Any]]:
    """Of all Parquet files; times as text with nanoseconds."""
    records = []
    for path in files(directory, ".parquet"):
        table = pq.read_table(path)
        for name in ("flow_start_ns", "flow_end_ns"):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, table[name].cast("string"))
        records += table.to_pylist()
    return records


def test_every_field_is_in_the_files(network: Network, tmp_path: Path) -> None:
    """
    What was captured is in both kinds of files, over many rotations: the records that the agent
    printed, each once, and to the octet what the interface counted.
    """
    one, other = pair(network)
    out = tmp_path / "out"
    with Agent(
        one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s",
        "--sink", "stdout",
        "--sink", f"file://{out}/flows.jsonl?rotate.every=100ms&compression=gzip",
        "--sink", f"file://{out}/flows.parquet?rotate.octets=60KB",
    ) as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        all_kinds(one, other, flows=250)
        counters = disconnect(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    printed = agent.records()
    lines, rows = json_records(out), parquet_records(out)
    assert Counter(map(_canonical, lines)) == Counter(map(_canonical, printed))
    assert Counter(map(_from_parquet, rows)) == Counter(map(_from_json, printed))
    assert (sum(r["packet_count"] for r in rows), sum(r["octet_count_l2"] for r in rows)) == (
        counters.rx_packets + counters.tx_packets,
        counters.rx_octets + counters.tx_octets,
    )
    assert len(files(out, ".jsonl")) >= 2
    assert len(files(out, ".parquet")) >= 2
    assert {record["ip_protocol"] for record in rows} >= {1, 6, 17, 58}


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)


def _from_parquet(row: dict[str, Any]) -> tuple[Any, ...]:
    has_ports, tcp = row["ip_protocol"] in (6, 17, 132), row["ip_protocol"] == 6
    icmp = divmod(row["dst_port"], 256) if row["ip_protocol"] in (1, 58) else (None, None)
    return (
        row["flow_start_ns"].replace(" ", "T"), row["flow_end_ns"].replace(" ", "T"),
        row["src_addr"], row["dst_addr"], row["src_mac"], row["dst_mac"],
        row["src_port"] if has_ports else None, row["dst_port"] if has_ports else None,
        row["ip_protocol"], row["packet_count"], row["octet_count_l2"], row["octet_count_l3"],
        row["dscp"], row["tcp_control_bits"] if tcp else None, *icmp, row["sampling_interval"],
        ("ingress", "egress")[row["flow_direction"]],
        tuple((i["name"], i["index"], i["direction"]) for i in row["interfaces"]),
        row["interfaces"][0]["index"] == row["ifindex"], row["agent_address"], row["agent_name"],
    )  # fmt: skip


def _from_json(record: dict[str, Any]) -> tuple[Any, ...]:
    flow, source, destination = record["flow"], record["source"], record["destination"]
    icmp = flow.get("icmp", {"type": None, "code": None})
    return (
        record["time"]["start"], record["time"]["end"],
        source["address"], destination["address"], source["mac"], destination["mac"],
        source.get("port"), destination.get("port"),
        record["network"]["iana_number"], flow["packets"], flow["bytes"], flow["ip_bytes"],
        flow["dscp"], flow.get("tcp_flags"), icmp["type"], icmp["code"],
        record["sampling"]["interval"], flow["direction"],
        tuple((i["name"], i["index"], i["direction"]) for i in flow["interfaces"]),
        True, record["observer"]["address"], record["observer"]["name"],
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_killed_while_it_writes(tmp_path: Path, suffix: str) -> None:
    """
    kill -9 at any moment, rotations included: what was delivered is in the files after the next
    start, once, and of what was under way at most one message; no line is torn.
    """
    url = f"file://{tmp_path}/flows.{suffix}?rotate.octets=500KB"
    delivered: list[int] = []
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.writer", url], stdout=subprocess.PIPE, cwd=_ROOT
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(random.uniform(0.2, 0.6))
            writer.kill()
            said = writer.stdout.read().split()
        delivered.append(int(said[-1]))
    (config,) = load(None, {}, {"sinks": [url]}).sinks
    sink = make(config)
    sink.open()
    for message in sink.encode(make_batch(Row(packet_count=0))):
        sink.deliver(message, 10)
    sink.close()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    if suffix == "jsonl":
        found = [record["flow"]["packets"] for record in json_records(tmp_path)]
    else:
        found = [record["packet_count"] for record in parquet_records(tmp_path)]
    assert len(files(tmp_path, suffix)) > 5
    # Each process began at 0, as did the last record.
    starts = [at for at, number in enumerate(found) if number == 0]
    assert len(starts) == 6
    for begin, end, known in zip(starts, starts[1:], delivered, strict=False):
        assert found[begin:end] == list(range(end - begin))
        assert known <= end - begin <= known + ROWS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "flow-exporter-test", directory], check=True
    )
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_full_disk(small_disk: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    One clear line, retries that are counted, no part of a message; once there is room it goes on,
    and every record is there once.
    """
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(900_000))
    url = f"file://{small_disk}/flows.{suffix}?rotate.octets=200KB&compression=gzip"
    (config,) = load(None, {}, {"sinks": [url]}).sinks
    queue = BatchQueue(QueueConfig())
    retry = RetryConfig(first=0.02, longest=0.05, timeout=1)
    worker = SinkWorker(make(config.model_copy(update={"name": "file"})), queue, retry)
    worker.start()
    rows = 2500 if suffix == "parquet" else 800
    for number in range(4):
        queue.put(make_batch(*(Row(packet_count=rows * number + n) for n in range(rows))))
    wait_until(lambda: worker.retries > 3, "the disk is full")
    assert not worker.healthy
    assert "disk_full: " in caplog.text
    assert "No space left on device" in caplog.text
    assert queue.counts().dropped == {}
    ballast.unlink()
    wait_until(lambda: queue.counts().pending == Totals(), "it goes on")
    worker.stop(10)
    assert queue.counts().delivered.flows == 4 * rows
    if suffix == "jsonl":
        found = [record["flow"]["packets"] for record in json_records(small_disk)]
    else:
        found = [record["packet_count"] for record in parquet_records(small_disk)]
    assert found == list(range(4 * rows))


def test_no_room_to_finish(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is collected for a Parquet file stays until there is room for the file itself."""
    monkeypatch.setattr(deliver, "_AGAIN", 0.1)
    (config,) = load(
        None, {}, {"sinks": [f"file://{small_disk}/flows.parquet?rotate.every=100ms"]}
    ).sinks
    sink = make(config)
    sink.open()
    rng = np.random.default_rng(1)
    rows = make_batch(*(Row(packet_count=int(n)) for n in rng.integers(0, 1 << 60, 2000)))
    for message in sink.encode(rows):
        sink.deliver(message, 10)
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    (small_disk / "ballast").write_bytes(bytes(room))
    wait_until(lambda: "cannot finish a file: disk_full: " in caplog.text, "it is mentioned")
    assert files(small_disk, ".parquet") == []
    (small_disk / "ballast").unlink()
    wait_until(lambda: files(small_disk, ".parquet"), "it is finished")
    sink.close()
    found = [record["packet_count"] for record in parquet_records(small_disk)]
    assert found == rows.packet_count.tolist()
    assert len(list(small_disk.iterdir())) == 1
