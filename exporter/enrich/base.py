"""
What an enricher is: adds to a batch, never drops or reorders rows.

Most of what can be known is about addresses. An :class:`AddressSource` is asked about each distinct
address of a batch once; ``enrich.ends`` spreads its answers over both ends of all rows.

None raises for the sake of a source that is away, slow or wrong: what it does not know is unknown,
:meth:`Enricher.state` says why, and capture and export go on. None waits for anything in ``apply``:
what has to be fetched is fetched by a thread of its own, and used once it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute, EndAttribute, Value
from exporter.batch.batch import U1, U4, U8, FlowBatch, Window
from exporter.batch.group import hash_words


@dataclass(frozen=True)
class State:
    """
    How an enricher does.

    Args:
        problem: Why its answers are not what they should be, in one line; empty if they are.
        hits: Questions answered from what it holds in memory.
        misses: Questions that it had to ask elsewhere, or could not answer.
        evictions: What it forgot for want of room.
        entries: What it holds.
        events: What else it counts, by name.
        age: Seconds since all was known that it should know; absent if nobody tells it.
    """

    problem: str = ""
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    entries: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    age: float | None = None


@dataclass(frozen=True)
class Reading:
    """
    Of one enricher.

    Args:
        state: As it says.
        seconds: Spent in it since the start, on the thread that drains.
        errors: Batches that it added nothing to because of a mistake in it.
    """

    state: State
    seconds: float
    errors: int = 0


class Lifecycle(Protocol):
    """What is opened before the first batch and closed after the last."""

    #: For metrics, logs and /readyz: one word, unique in an agent.
    name: str

    def open(self) -> None:
        """
        Begin to fetch. Does not wait for what is remote.

        Raises:
            ExporterError: If it can never work as configured, in one line.
        """

    def close(self) -> None:
        """Stop, and give everything back. Again is fine, and without ``open`` too."""

    def state(self) -> State:
        """From any thread, at any time."""


class Enricher(Lifecycle, Protocol):
    """
    Adds what it knows to a batch.

    ``requires`` and ``provides`` name attributes of FlowBatch, so that the pipeline can refuse an
    order that cannot work; what goes into ``entities`` and ``added`` is in ``attributes``.
    """

    requires: tuple[str, ...]
    provides: tuple[str, ...]
    attributes: tuple[Attribute, ...]

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with something added; the same rows in the same order."""


class Local:
    """For enrichers that fetch nothing: there is nothing to open, and nothing to go wrong."""

    def open(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def state(self) -> State:
        """Fine."""
        return State()


@dataclass(frozen=True)
class Addresses:
    """
    The distinct addresses of a batch, each once.

    They come nearly in the order of their hashes, so that looking them up among sorted hashes goes
    through memory in order. Only speed depends on it.

    Args:
        octets: uint8, shape (u, 16); IPv4 as ::ffff/96.
        window: The time that the batch is of.
    """

    octets: U1
    window: Window

    def __len__(self) -> int:
        return len(self.octets)

    def is_ipv4(self) -> NDArray[np.bool_]:
        """bool, shape (u,)."""
        words = self.words()
        low = words[:, 1] & np.uint64(0xFFFFFFFF)
        return np.asarray((words[:, 0] == 0) & (low == 0xFFFF0000))

    def words(self) -> NDArray[np.uint64]:
        """As uint64, shape (u, 2), least significant octet first: for comparing, not for order."""
        return np.ascontiguousarray(self.octets).view(np.uint64).reshape(len(self.octets), 2)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """``hash_words(self.words())``, once for all sources."""
        return hash_words(self.words())

    def packed(self) -> list[bytes]:
        """Each as 16 octets, for tables in Python."""
        joined = self.octets.tobytes()
        return [joined[at : at + 16] for at in range(0, len(joined), 16)]


@dataclass(frozen=True)
class Timed:
    """
    Addresses that were one thing's and another's.

    Args:
        which: bool, shape (u,): of these.
        decide: Entities of r flows, uint32, shape (r,): from the number of each one's address
            (int64), its start and its end (uint64, Unix ns).
    """

    which: NDArray[np.bool_]
    decide: Callable[[NDArray[np.int64], U8, U8], U4]


@dataclass(frozen=True)
class Found:
    """
    What a source knows of addresses.

    Args:
        numbers: uint32, shape (u,): which entity each address is; 0 is unknown.
        values: By attribute, one value per entity; those of entity 0 are unknown.
        timed: For what depends on when a flow was, if anything does.
    """

    numbers: U4
    values: Mapping[EndAttribute, tuple[Value, ...]]
    timed: Timed | None = None


@runtime_checkable
class AddressSource(Lifecycle, Protocol):
    """Knows something of addresses, whichever end of a flow they are."""

    attributes: tuple[EndAttribute, ...]

    def look_up(self, addresses: Addresses) -> Found:
        """What is known now. Does not wait."""
