"""
Many elements at once, into and from arrays that the caller owns.

Where the kernel has no batch operation for a map type, elements are taken one by one; which it is
has been asked once per type and operation, and is remembered.
"""

from __future__ import annotations

import errno as errnos
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf import _libbpf
from exporter.ebpf.elements import ENOTSUPP, LOOKUPS_PER_ENTRY, Elements
from exporter.ebpf.mapspec import BPF_ANY

#: What the kernel may have for a map type.
OPERATIONS = ("lookup", "take", "update", "delete")
_MISSING = (errnos.EINVAL, errnos.EOPNOTSUPP, ENOTSUPP)
#: (map type, operation): whether the kernel has it. Not in it: not asked, or no answer yet.
_remembered: dict[tuple[str, str], bool] = {}

_Octets = NDArray[np.uint8]


class BatchCursor:
    """Where a batch operation goes on. ``done`` once the whole map has been visited."""

    def __init__(self) -> None:
        self.done = False
        self.started = False
        #: Where elements are taken one by one: the next key.
        self.key: bytes | None = None
        self._positions: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._turn = 0

    def arguments(self, key_size: int) -> tuple[Any, Any]:
        """
        Pointers for the call's in_batch and out_batch.

        Source: kernel/bpf/syscall.c generic_map_lookup_batch() writes a whole key there,
        kernel/bpf/hashtab.c a bucket number of 32 bits.
        """
        if not self._positions[0]:
            room = max(key_size, 8)
            self._positions = (bytearray(room), bytearray(room))
        before, after = self._positions[self._turn ^ 1], self._positions[self._turn]
        return (_libbpf.address(before) if self.started else None), _libbpf.address(after)

    def advance(self) -> None:
        """The call's out_batch becomes the next call's in_batch."""
        self.started = True
        self._turn ^= 1


@dataclass(frozen=True)
class Batch:
    """One batch call of :data:`OPERATIONS` on ``len(keys)`` elements; see :class:`Batches`."""

    operation: str
    keys: NDArray[Any]
    values: NDArray[Any] | None = None
    cursor: BatchCursor | None = None


class Batches(Elements):
    """Elements, and many of them at once."""

    def supports(self, operation: str) -> bool:
        """
        Whether the kernel does one of :data:`OPERATIONS` in batches for maps of this type.

        Asked with an empty batch, which changes nothing; an answer is remembered, no answer (the
        process may not, say) is taken for a yes and not remembered.
        """
        question = (self.spec.type, operation)
        if question not in _remembered:
            nothing = np.empty(0, np.uint8)
            cursor = BatchCursor() if operation in ("lookup", "take") else None
            errno, _ = self._call_batch(Batch(operation, nothing, nothing, cursor))
            if errno and errno not in _MISSING:
                return True
            _remembered[question] = not errno
        return _remembered[question]

    def lookup_batch(self, keys: NDArray[Any], values: NDArray[Any], cursor: BatchCursor) -> int:
        """
        Look up as many elements as the arrays hold; arguments, result and errors as
        :meth:`take_batch`.

        Each bucket of a hash is read at once, so that a key that stays is seen exactly once. Other
        types, and fallbacks, are walked key by key: under change a key may come twice.

        Source: kernel/bpf/syscall.c generic_map_lookup_batch() (5.6).
        """
        return self._read_batch("lookup", keys, values, cursor, self._call_lookup)

    def take_batch(self, keys: NDArray[Any], values: NDArray[Any], cursor: BatchCursor) -> int:
        """
        Look up and delete as many elements as the arrays hold.

        Args:
            keys: Shape (n,), C-contiguous, itemsize ``key_size``. Rows [0, result) are overwritten.
            values: First axis n, C-contiguous, ``value_octets`` octets a row. Likewise.
            cursor: A new one to begin with; ``cursor.done`` when the map has been walked through.

        Returns:
            Rows written. May be fewer than n although the map is not done: the kernel stops at the
            end of a hash bucket.

        Raises:
            BpfError: ENOSPC if a hash bucket has more elements than the arrays have rows; EINVAL
                if elements cannot be deleted.

        Source: kernel/bpf/hashtab.c __htab_map_lookup_and_delete_batch() (5.6).
        """
        return self._read_batch("take", keys, values, cursor, self._take)

    def update_batch(self, keys: NDArray[Any], values: NDArray[Any], flags: int = BPF_ANY) -> None:
        """
        Write many elements; with rules one by one, which the kernel cannot do in batches.

        Args:
            keys: Shape (n,), C-contiguous, itemsize ``key_size``.
            values: First axis n, C-contiguous, ``value_octets`` octets a row.
            flags: BPF_ANY, BPF_NOEXIST (all must be new) or BPF_EXIST (all must be there).

        Raises:
            MapFull: If there is no room for all of them; the first ones are written.
            KeyExists, KeyNotFound: As the flags say; those before it are written.
            BpfError: If the kernel refuses otherwise. All say how many were written.
        """
        rows = self._require_layouts(keys, values)
        # The kernel's batch knows no such rules: generic_map_update_batch() refuses these flags.
        if not flags and self.supports("update"):
            errno, done = self._call_batch(Batch("update", keys, values))
        else:
            errno, done = self._update_singly(keys, values, flags)
        if errno:
            raise self._error("update", OSError(errno, ""), f"{done} of {rows} written")

    def delete_batch(self, keys: NDArray[Any]) -> None:
        """
        Remove many elements.

        Args:
            keys: Shape (n,), C-contiguous, itemsize ``key_size``.

        Raises:
            KeyNotFound: At the first key that is not there; those before are removed.
            BpfError: If the kernel refuses otherwise. All say how many were removed.
        """
        self._require_layout(keys, self.spec.key_size)
        rows = len(keys)
        if self.supports("delete"):
            errno, done = self._call_batch(Batch("delete", keys))
        else:
            errno, done = self._delete_singly(keys)
        if errno:
            raise self._error("delete from", OSError(errno, ""), f"{done} of {rows} removed")

    def _read_batch(
        self,
        operation: str,
        keys: NDArray[Any],
        values: NDArray[Any],
        cursor: BatchCursor,
        singly: Callable[[bytes], bytes],
    ) -> int:
        self._require_layouts(keys, values)
        if not self.supports(operation):
            return self._read_singly(keys, values, cursor, singly)
        errno, count = self._call_batch(Batch(operation, keys, values, cursor))
        if errno == errnos.ENOENT:
            cursor.done = True
        elif errno:
            verb = "drain" if operation == "take" else "read"
            raise self._error(verb, OSError(errno, ""))
        else:
            cursor.advance()
        return count

    def _read_singly(
        self,
        keys: NDArray[Any],
        values: NDArray[Any],
        cursor: BatchCursor,
        singly: Callable[[bytes], bytes],
    ) -> int:
        key_rows, value_rows = _octets(keys), _octets(values)
        key = cursor.key if cursor.started else self.next_key()
        cursor.started, rows = True, 0
        # Bounded: each failure is somebody else's deletion, and those need not end.
        for _ in range(len(keys) + LOOKUPS_PER_ENTRY * self.spec.max_entries):
            if key is None or rows == len(keys):
                break
            following = self.next_key(key)
            try:
                value_rows[rows] = np.frombuffer(singly(key), np.uint8)
                key_rows[rows] = np.frombuffer(key, np.uint8)
                rows += 1
            except OSError as err:
                if err.errno != errnos.ENOENT:
                    raise self._error("read", err) from err
            key = following
        cursor.key, cursor.done = key, key is None
        return rows

    def _update_singly(
        self, keys: NDArray[Any], values: NDArray[Any], flags: int
    ) -> tuple[int, int]:
        pairs = zip(_octets(keys), _octets(values), strict=False)
        for done, (key, value) in enumerate(pairs):
            try:
                self._call_update(key.tobytes(), value.tobytes(), flags)
            except OSError as err:
                return err.errno or errnos.EIO, done
        return 0, len(keys)

    def _delete_singly(self, keys: NDArray[Any]) -> tuple[int, int]:
        for done, key in enumerate(_octets(keys)):
            try:
                self._call_delete(key.tobytes())
            except OSError as err:
                return err.errno or errnos.EIO, done
        return 0, len(keys)

    def _require_layouts(self, keys: NDArray[Any], values: NDArray[Any]) -> int:
        self._require_layout(keys, self.spec.key_size)
        self._require_layout(values, self.value_octets)
        if len(values) < len(keys):
            raise ValueError(f"values has {len(values)} rows, keys {len(keys)}")
        return len(keys)

    def _require_layout(self, array: NDArray[Any], octets: int) -> None:
        row = array.itemsize * math.prod(array.shape[1:])
        if row != octets or not array.flags.c_contiguous:
            raise ValueError(
                f"map {self.spec.name} wants contiguous rows of {octets} octets, not {row}"
            )

    @abstractmethod
    def _call_batch(self, batch: Batch) -> tuple[int, int]:
        """One batch call: errno, 0 if none, and rows done."""


def _octets(array: NDArray[Any]) -> _Octets:
    """Rows as octets, a view."""
    return array.reshape(len(array), math.prod(array.shape[1:])).view(np.uint8)
