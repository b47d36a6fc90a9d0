"""A test that leaves a descriptor open fails: so that those that pass have left none."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.ebpf.maps import Map
from exporter.ebpf.mapspec import MapSpec
from tests.conftest import no_leaked_descriptors

HERE, ELSEWHERE = Path(__file__), Path(__file__).parents[1] / "unit" / "test_ledger.py"


def a_map() -> int:
    with Map.create(MapSpec("kept", "array", 4, 8, 1)) as made:
        return os.dup(made.fd)


def a_namespace() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def an_event() -> int:
    return os.eventfd(0)


def an_epoll() -> int:
    with select.epoll() as made:
        return os.dup(made.fileno())


def a_socket() -> int:
    with socket.socket(socket.AF_UNIX) as made:
        return os.dup(made.fileno())


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (a_map, HERE), (a_namespace, HERE), (an_event, HERE), (an_epoll, HERE), (a_socket, HERE),
        # Of a program or a namespace, no test of anything does.
        (a_map, ELSEWHERE), (a_namespace, ELSEWHERE),
    ],
)  # fmt: skip
def test_what_is_left_open_fails(make: Callable[[], int], path: Path) -> None:
    """Each kind is seen, and named; one that is closed again is none."""
    left: list[int] = []
    with pytest.raises(AssertionError, match="leaked descriptors"), no_leaked_descriptors(path):
        left.append(make())
    os.close(*left)
    with no_leaked_descriptors(path):
        os.close(make())
