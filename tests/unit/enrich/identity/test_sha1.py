"""SHA-1 of whole columns is hashlib's, message by message."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exporter.enrich.identity.sha1 import sha1


@given(st.lists(st.binary(max_size=55), min_size=1, max_size=10))
def test_as_hashlib_has_it(messages: list[bytes]) -> None:
    """Every length that fits into one block."""
    padded = b"".join(
        (message + b"\x80").ljust(56, b"\0") + (8 * len(message)).to_bytes(8, "big")
        for message in messages
    )
    blocks = np.frombuffer(padded, ">u4").reshape(len(messages), 16).T.astype(np.uint32, order="C")
    found = sha1(blocks).T.astype(">u4", order="C")
    assert [row.tobytes() for row in found] == [
        hashlib.sha1(message, usedforsecurity=False).digest() for message in messages
    ]
