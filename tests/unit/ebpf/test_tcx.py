"""Anchors: places that make sense."""

from __future__ import annotations

import pytest

from exporter.ebpf._programs import Relative
from exporter.ebpf.tcx import Anchor, Place

BEFORE, AFTER = 8, 16


@pytest.mark.parametrize(
    ("anchor", "relative"),
    [
        (Anchor(), Relative(AFTER)),
        (Anchor("head"), Relative(BEFORE)),
        (Anchor("tail"), Relative(AFTER)),
        (Anchor("before", link_id=7), Relative(BEFORE, 7, is_link=True)),
        (Anchor("after", program_id=9), Relative(AFTER, 9)),
    ],
)
def test_what_the_kernel_is_told(anchor: Anchor, relative: Relative) -> None:
    """Head is before nothing, tail after nothing; the others name a link or a program."""
    assert anchor.relative == relative


@pytest.mark.parametrize(
    ("place", "link_id", "program_id"),
    [("head", 1, 0), ("tail", 0, 1), ("before", 0, 0), ("after", 1, 1)],
)
def test_places_that_make_no_sense(place: Place, link_id: int, program_id: int) -> None:
    """An end beside something, or beside nothing, or beside two."""
    with pytest.raises(ValueError, match=f"{place} wants"):
        Anchor(place, link_id=link_id, program_id=program_id)
