"""What finished files, and those that are not finished yet, are called; and which may go."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exporter.sinks.file.config import FileConfig, KeepConfig

_STAMP = r"\d{8}T\d{6}\.\d{6}Z(?:-\d+)?"


@dataclass(frozen=True)
class Names:
    """
    Of the files of one sink. All are in one directory, so that renaming is atomic.

    Args:
        directory: Where.
        stem: What the names begin with.
        suffix: ``.jsonl`` or ``.parquet``, of the path; what is added when it is compressed is not
            in it.
    """

    directory: Path
    stem: str
    suffix: str

    @classmethod
    def of(cls, config: FileConfig) -> Names:
        """Those of a configuration."""
        return cls(config.path.parent, config.path.stem, config.path.suffix)

    @property
    def active(self) -> Path:
        """Where lines are appended."""
        return self.directory / f"{self.stem}{self.suffix}"

    def stamp(self) -> str:
        """A name's middle for a file that begins or ends now, which nothing has yet."""
        stamp = _now()
        taken, number = stamp, 0
        # The clock may have been set back.
        names = [path.name for path in self.directory.iterdir()]
        while any(f"{self.stem}-{taken}." in name for name in names):
            number += 1
            taken = f"{stamp}-{number}"
        return taken

    def finished(self, stamp: str, added: str = "") -> Path:
        """A finished file; ``added`` such as ``.gz``."""
        return self.directory / f"{self.stem}-{stamp}{self.suffix}{added}"

    def journal(self, stamp: str) -> Path:
        """Where what will be a Parquet file is collected."""
        return self.directory / f".{self.stem}-{stamp}.journal"

    def unfinished(self, stamp: str, added: str = "") -> Path:
        """A finished file that is still being written."""
        return self.directory / f".{self.finished(stamp, added).name}.tmp"

    def stamp_of(self, path: Path) -> str:
        """The stamp in the name of one of these."""
        match = re.search(_STAMP, path.name[len(self.stem) :])
        assert match, path
        return match[0]

    def all_finished(self) -> list[Path]:
        """Finished files, compressed or not, oldest first."""
        pattern = rf"{re.escape(self.stem)}-{_STAMP}{re.escape(self.suffix)}(\.gz)?"
        return sorted(self._matching(pattern), key=self.stamp_of)

    def left_journals(self) -> list[Path]:
        """Oldest first; those that are being written too."""
        return sorted(self._matching(rf"\.{re.escape(self.stem)}-{_STAMP}\.journal"))

    def left_unfinished(self) -> list[Path]:
        """What was being written when a process was killed."""
        name = rf"{re.escape(self.stem)}-{_STAMP}{re.escape(self.suffix)}"
        return list(self._matching(rf"\.{name}(\.gz)?\.tmp"))

    def prune(self, keep: KeepConfig) -> list[Path]:
        """
        Remove the finished files that are too many, too old or too much.

        Those with a name from the future are the oldest: they were finished before somebody set the
        clock back, and what is finished now is not to go for them.

        Returns:
            Which those were.

        Raises:
            OSError: If one cannot be removed.
        """
        gone: list[Path] = []
        files = octets = 0
        now, present = time.time(), _now()
        found = sorted(
            self.all_finished(), key=lambda path: self.stamp_of(path)[: len(present)] <= present
        )
        for path in reversed(found):
            status = path.stat()
            files, octets = files + 1, octets + status.st_size
            if (
                0 < keep.files < files
                or 0 < keep.octets < octets
                or 0 < keep.age < now - status.st_mtime
            ):
                path.unlink()
                gone.append(path)
        return gone

    def _matching(self, pattern: str) -> Iterator[Path]:
        for path in self.directory.iterdir():
            if re.fullmatch(pattern, path.name):
                yield path


def _now() -> str:
    second, micro = divmod(time.time_ns() // 1000, 1_000_000)
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(second)) + f".{micro:06d}Z"
