"""
A spool that is found again: which batches still wait in it, which are lost, and how many rows.

A damaged header hides its batch, but not how much was in it: the next one has the sums of all
before it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporter.batch.batch import Totals
from exporter.errors import ConfigError
from exporter.fanout.spool.age import Stamp
from exporter.fanout.spool.cursor import Position
from exporter.fanout.spool.frame import Header, wrapped
from exporter.fanout.spool.layout import OWN, Layout, parse
from exporter.fanout.spool.segment import SUFFIX, Entry, Search, Segment, search

log = logging.getLogger(__name__)


@dataclass
class Found:
    """
    What an earlier agent left.

    Args:
        segments: With batches that are not settled, in order; no number is left out.
        layouts: Of those that were written by another version, by digest.
        position: How far it is settled.
        next_number: For the next batch.
        after: Sums over all batches before that one.
        stamp: The latest moment that is known.
    """

    segments: list[Segment] = field(default_factory=list)
    layouts: dict[bytes, Layout] = field(default_factory=dict)
    position: Position = field(default_factory=Position)
    next_number: int = 1
    after: Totals = field(default_factory=Totals)
    stamp: Stamp = field(default_factory=Stamp)


def recover(directory: Path, position: Position | None) -> Found:
    """
    Look through the segments of a directory; settled ones are deleted, a torn end is cut off.

    Args:
        directory: Locked.
        position: From the cursor.

    Raises:
        ConfigError: If another version wrote what this one cannot read.
        OSError: If a file cannot be read.
    """
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    found = Found()
    if position is not None:
        found.position, found.stamp = position, position.stamp
        found.next_number, found.after = position.settled + 1, position.before
    started = position is not None
    for path in paths:
        searched = search(path)
        _report(path, searched, last=path == paths[-1])
        if searched.frames and not started:
            # Without a cursor everything that is there waits.
            first = searched.frames[0][1]
            found.next_number, found.after = first.number, first.before
            found.position = Position(first.number - 1, first.number - 1, first.before)
            if first.number > 1:
                log.warning("spool %s: no cursor: all of it is delivered (again)", directory)
            started = True
        _take(found, path, searched)
    _note_dropped(found)
    return found


def _note_dropped(found: Found) -> None:
    """Batches that were dropped after all that is there: their numbers are not given again."""
    floor = found.position.floor
    if not found.segments and floor >= found.next_number:
        found.position = replace(found.position, settled=floor)
    for _ in range(found.next_number, floor + 1) if found.segments else ():
        found.segments[-1].note(Entry(0, 0, 0, 0, 0, 0))
    found.next_number = max(found.next_number, floor + 1)


def _report(path: Path, searched: Search, *, last: bool) -> None:
    """Say what is damaged; a torn end is cut off, so that nothing is written behind it."""
    end = searched.end
    for offset, octets in searched.damage:
        if offset < end or not last:
            log.warning("spool: %s: %d octets at %d are damaged", path, octets, offset)
    if last and end < searched.octets and searched.frames:
        os.truncate(path, end)
        log.warning(
            "spool: %s: cut off %d octets at the end: they are no whole batch",
            path,
            searched.octets - end,
        )


def _take(found: Found, path: Path, searched: Search) -> None:
    """Go on with the frames of one more segment."""
    segment = Segment(path, found.next_number)
    segment.octets = searched.end
    for number, (offset, header) in enumerate(searched.frames, 1):
        if header.stamp.age_ns >= found.stamp.age_ns:
            found.stamp = header.stamp
        if header.number < found.next_number:
            continue
        _note_gap(found, segment, header)
        _require_readable(found, path, searched, header)
        torn = searched.cut and number == len(searched.frames)
        size = 0 if torn else header.size
        if torn:
            log.warning("spool: %s: a batch of %d rows is torn", path, header.totals.flows)
        totals = header.totals
        segment.note(
            Entry(offset, size, totals.flows, totals.packets, totals.octets, header.stamp.age_ns)
        )
        found.next_number, found.after = header.number + 1, header.after
    if segment.last >= segment.first:
        found.segments.append(segment)
    elif searched.damage and not searched.frames:
        # Perhaps another program's, or a later version's: not ours to delete.
        aside = path.with_suffix(".damaged")
        path.rename(aside)
        log.warning("spool: %s holds no batch that can be read: it is %s now", path, aside.name)
    else:
        path.unlink()


def _note_gap(found: Found, segment: Segment, header: Header) -> None:
    """Batches whose headers cannot be read: their sums are what the next header has more."""
    missing = wrapped(header.before - found.after)
    for _ in range(found.next_number, header.number):
        segment.note(Entry(0, 0, missing.flows, missing.packets, missing.octets, 0))
        missing = Totals()
    found.next_number = header.number


def _require_readable(found: Found, path: Path, searched: Search, header: Header) -> None:
    if header.digest == OWN.digest or header.digest in found.layouts:
        return
    try:
        layout = parse(searched.layout or b"")
        why = f"column {layout.missing(OWN)}" if layout.missing(OWN) else ""
        if layout.digest != header.digest:
            why = "its layout is damaged"
    except ValueError as err:
        why = str(err)
    if why:
        raise ConfigError(
            f"{path} was written by another version of flow-exporter, which this one cannot read "
            f"({why}): let that version deliver it, or move the file away"
        )
    found.layouts[header.digest] = layout
