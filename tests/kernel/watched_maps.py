"""Maps of the kernel made for one test."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from exporter.ebpf import _libbpf
from exporter.ebpf.maps import TYPES, Map, MapSpec

_NUMBERS = {name: number for number, name in TYPES.items()}
NO_PREALLOC = 1


@contextmanager
def kernel_map(
    kind: str, key_size: int, value_size: int, max_entries: int, flags: int = 0
) -> Iterator[Map]:
    """A map that is gone after the block."""
    options = _libbpf.sized(_libbpf.MapCreateOptions)
    options.map_flags = flags
    fd = _libbpf.library().bpf_map_create(
        _NUMBERS[kind], b"test", key_size, value_size, max_entries, _libbpf.ref(options)
    )
    with Map(fd, MapSpec("test", kind, key_size, value_size, max_entries, flags)) as made:
        yield made


def number(value: int) -> bytes:
    """Four octets."""
    return struct.pack("=I", value)


def prefix(text: str) -> bytes:
    """The LPM key of an IPv4 network."""
    network = ipaddress.IPv4Network(text)
    return struct.pack("=I", network.prefixlen) + network.network_address.packed


def content(table: Map) -> dict[bytes, bytes]:
    """All elements of a map that nobody changes."""
    found, key = {}, table.next_key()
    while key is not None:
        found[key] = table.lookup(key)
        key = table.next_key(key)
    return found
