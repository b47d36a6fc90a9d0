"""Sockets are joined to rows as a table in Python would do it."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.abi.layout import FLOW_KEY
from exporter.batch.batch import FlowBatch
from exporter.batch.build import allocate
from exporter.capture.owners import Owned, OwnerReader

ROWS, OFFSET = 3000, 10**18
Key = tuple[int, int, int, int]


def keys(rng: np.random.Generator, count: int) -> np.ndarray:
    """Distinct flow keys of few values, so that many are each other's opposite."""
    found = np.zeros(count * 4, FLOW_KEY)
    found["src_addr"][:, 15], found["dst_addr"][:, 15] = rng.integers(0, 5, (2, len(found)))
    found["src_port"], found["dst_port"] = rng.integers(0, 12, (2, len(found)))
    found["ifindex"] = rng.integers(1, 3, len(found))
    found["direction"] = rng.integers(0, 2, len(found))
    return np.unique(found)[:count]


def as_key(key: np.void) -> tuple[int, ...]:
    return (
        *(int(key[name][15]) for name in ("src_addr", "dst_addr")),
        *(int(key[name]) for name in ("src_port", "dst_port", "ifindex", "direction")),
    )


def opposite(key: tuple[int, ...]) -> tuple[int, ...]:
    source, destination, source_port, destination_port, ifindex, direction = key
    return destination, source, destination_port, source_port, ifindex, 1 - direction


def batch_of(rows: np.ndarray, starts: np.ndarray) -> FlowBatch:
    batch = allocate(len(rows))
    batch.key[:] = rows
    batch.flow_start_ns[:] = starts + OFFSET
    return batch


def noted(rng: np.random.Generator, batch: FlowBatch, share: float) -> Owned:
    """Some of a batch's rows; the start of every tenth is another's."""
    rows = np.flatnonzero(rng.random(len(batch)) < share)
    starts = batch.flow_start_ns[rows] - np.uint64(OFFSET) + (rng.random(len(rows)) < 0.1)
    cookies = rng.integers(1, 50, len(rows)).astype(np.uint64)
    words = batch.key_words()[rows]
    return Owned(words, starts.astype(np.uint64), cookies, cookies * np.uint64(7))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_as_a_table(share: float) -> None:
    """By key and start, and by the opposite key; another socket in another reading is unknown."""
    rng = np.random.default_rng(int(share * 100))
    rows = keys(rng, ROWS)
    batch = batch_of(rows, rng.integers(1, 1 << 40, len(rows)).astype(np.uint64))
    kept, last = noted(rng, batch, share / 10), noted(rng, batch, share)
    reader = OwnerReader()
    reader.note(kept, 0, OFFSET)
    reader.note(last, 0, OFFSET)
    by_entry: dict[object, set[int]] = {}
    names = {words.tobytes(): as_key(key) for words, key in zip(batch.key_words(), rows)}  # noqa: B905
    for known in (kept, last):
        for words, start, cookie in zip(known.words, known.starts, known.cookies, strict=True):
            key = names[words.tobytes()]
            by_entry.setdefault((key, int(start)), set()).add(int(cookie))
            by_entry.setdefault(key, set()).add(int(cookie))
    source, destination = reader.ends(batch)
    for row, key in enumerate(map(as_key, rows)):
        start = int(batch.flow_start_ns[row]) - OFFSET
        for end, found in ((source, by_entry.get((key, start), set())),
                           (destination, by_entry.get(opposite(key), set()))):  # fmt: skip
            expected = next(iter(found)) if len(found) == 1 else 0
            assert (end.cookies[row], end.cgroups[row]) == (expected, expected * 7)
    assert bool(destination.cookies.any()) == (share > 0)
