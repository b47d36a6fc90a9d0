"""The committed captures are what the builders write."""

from __future__ import annotations

import pytest

from tests.packets.capture import DIRECTORY, Capture
from tests.packets.make_captures import captures, contents

_SMALL = 4096


@pytest.mark.parametrize("capture", captures(), ids=lambda capture: capture.name)
def test_regenerating_gives_the_same_octets(capture: Capture) -> None:
    """The file in the repository is small and is, octet for octet, what its builder makes."""
    committed = capture.path.read_bytes()
    assert committed == capture.build(), "run: python -m tests.packets.make_captures"
    assert len(committed) <= _SMALL
    assert capture.holds.endswith(".")


def test_nothing_else_is_among_the_captures() -> None:
    """Every file in the directory is built here, and the list for people is the current one."""
    names = {path.name for path in DIRECTORY.iterdir()}
    assert names == {capture.name for capture in captures()} | {"README.md"}
    assert (DIRECTORY / "README.md").read_text() == contents()
