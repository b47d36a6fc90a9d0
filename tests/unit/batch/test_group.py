"""Equal rows are found exactly, whatever the hashes do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from exporter.batch import group
from exporter.batch.group import Groups, group_rows, hash_words, labels

Rows = list[tuple[int, int]]

#: Few different rows, so that equal ones and neighbours of equal ones are likely.
ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0, 1, 1 << 63))), max_size=40)


def words_of(rows: Rows) -> NDArray[np.uint64]:
    return np.array(rows, np.uint64).reshape(len(rows), 2)


def assert_grouped(rows: Rows, groups: Groups) -> None:
    """Every row is in exactly one group, and a group is all rows with one value."""
    order = groups.order.tolist()
    assert sorted(order) == list(range(len(rows)))
    ends = [*groups.starts.tolist()[1:], len(rows)]
    parts = [order[s:e] for s, e in zip(groups.starts.tolist(), ends, strict=True)] if rows else []
    values = [{rows[row] for row in part} for part in parts]
    assert all(len(value) == 1 for value in values)
    assert len(values) == len(set(rows))
    assert groups.sizes().tolist() == [len(part) for part in parts]
    assert groups.labels().tolist() == [n for n, part in enumerate(parts) for _ in part]


@given(ROWS)
def test_group_rows(rows: Rows) -> None:
    """Equal rows come together, different ones do not."""
    assert_grouped(rows, group_rows(words_of(rows)))


@given(ROWS, st.integers(1, 3))
def test_group_rows_with_colliding_hashes(rows: Rows, values: int) -> None:
    """With a hash of one, two or three values the groups are the same."""
    words = words_of(rows)
    assert_grouped(rows, group_rows(words, hash_words(words) % np.uint64(values)))


def test_accumulate_is_exact_with_colliding_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls: a hash that collides costs time only."""
    from exporter.batch.build import accumulate
    from exporter.testing import Row, make_batch

    def colliding(words: NDArray[np.uint64], _seed: object = None) -> NDArray[np.uint64]:
        return words[:, 4] & np.uint64(1)

    monkeypatch.setattr(group, "hash_words", colliding)
    batch = make_batch(*(Row(src_port=n % 7, packet_count=1) for n in range(70)))
    merged = accumulate(batch)
    assert sorted(merged.src_port.tolist()) == list(range(7))
    assert merged.packet_count.tolist() == [10] * 7


def test_hash_depends_on_every_word_and_the_seed() -> None:
    """A bit in any word, and another seed, give another hash."""
    words = np.zeros((1 + 64 * 3, 3), np.uint64)
    for bit in range(64 * 3):
        words[1 + bit, bit // 64] = np.uint64(1) << np.uint64(bit % 64)
    hashes = hash_words(words)
    assert len(set(hashes.tolist())) == len(words)
    assert not np.any(hashes == hash_words(words, group.OTHER_SEED))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=10))
def test_labels(sizes: list[int]) -> None:
    """Runs are numbered one after the other."""
    starts = np.cumsum([0, *sizes[:-1]])
    expected = [number for number, size in enumerate(sizes) for _ in range(size)]
    assert labels(starts, sum(sizes)).tolist() == expected
