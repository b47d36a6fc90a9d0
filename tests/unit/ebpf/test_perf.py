"""What the kernel writes into a perf buffer, taken apart in both ways."""

from __future__ import annotations

import mmap
import struct

import numpy as np
import pytest

from exporter.ebpf.perf import PerfCounts, _arrays, _samples, legal_size

PAGE = mmap.PAGESIZE


def sample(data: bytes) -> bytes:
    """PERF_RECORD_SAMPLE with PERF_SAMPLE_RAW, filled up with what was there before."""
    room = (4 + len(data) + 7) // 8 * 8
    fill = b"\xee" * (room - 4 - len(data))
    return struct.pack("=IHHI", 9, 0, 8 + room, room - 4) + data + fill


def lost(count: int) -> bytes:
    """PERF_RECORD_LOST of event 5."""
    return struct.pack("=IHHQQ", 2, 0, 24, 5, count)


THROTTLE = struct.pack("=IHHQQQ", 5, 0, 32, 1, 2, 3)


@pytest.mark.parametrize(
    ("octets", "size"),
    [(0, 1), (1, 1), (PAGE, 1), (PAGE + 1, 2), (2 * PAGE, 2), (3 * PAGE, 4), (5 * PAGE, 8)],
)
def test_legal_sizes(octets: int, size: int) -> None:
    """Sizes are rounded up to a power of two of pages."""
    assert legal_size(octets) == size * PAGE


@pytest.mark.parametrize(
    ("content", "numbers", "counts"),
    [
        (b"", [], PerfCounts()),
        (sample(b"\1" * 6), [1], PerfCounts(1)),
        (lost(7), [], PerfCounts(0, 7)),
        (THROTTLE, [], PerfCounts(0, 0, 1)),
        (
            lost(3) + sample(b"\1" * 6) + sample(b"\2" * 6) + THROTTLE + lost(4)
            + sample(b"\3" * 6) + lost(1),
            [1, 2, 3],
            PerfCounts(3, 8, 1),
        ),
    ],
)  # fmt: skip
def test_records(content: bytes, numbers: list[int], counts: PerfCounts) -> None:
    """Samples, lost counts and others, one by one and in bulk, with equal outcome."""
    one_by_one, counted = _samples(content, 3, 6)
    assert [each.data for each in one_by_one] == [bytes([number]) * 6 for number in numbers]
    assert {each.cpu for each in one_by_one} <= {3}
    assert counted == counts
    runs, counted = _arrays(content, np.dtype("V6"))
    assert b"".join(run.tobytes() for run in runs) == b"".join(each.data for each in one_by_one)
    assert counted == counts


def test_unknown_size() -> None:
    """Without a size a sample keeps what it was filled up with."""
    found, _ = _samples(sample(b"\1" * 6) + sample(b"\2" * 12), 0, None)
    assert [each.data for each in found] == [b"\1" * 6 + b"\xee" * 6, b"\2" * 12]


def test_another_size() -> None:
    """A sample that cannot have the size is refused both ways."""
    content = sample(b"\1" * 12) + sample(b"\1" * 24)
    with pytest.raises(ValueError, match="28 octets cannot be one of 12"):
        _samples(content, 0, 12)
    with pytest.raises(ValueError, match="28 octets cannot be one of 12"):
        _arrays(content, np.dtype("V12"))
