"""How far a long job is: a bar on standard error, if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Takes the packets and the octets of the file that were read.
Tell = Callable[[int, int], None]


@contextmanager
def progress(file: Path, *, quiet: bool) -> Iterator[Tell]:
    """
    Show how much of a file was read, until it was; then the bar goes away.

    Args:
        file: Its size is the whole; a pipe has none, and only what was read is shown.
        quiet: Show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _frames, _octets: None
        return
    # Imported here: only a person needs it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    from exporter.telemetry import printable

    size = file.stat().st_size if file.is_file() else None
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(printable(file.name), total=size, rate="")

        def tell(frames: int, octets: int) -> None:
            rate = frames / max(bar.tasks[0].elapsed or 0, 1e-3)
            bar.update(task, completed=octets, rate=f"{frames:,} packets, {rate:,.0f}/s")

        yield tell
