"""The captures that are committed: what each holds, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DIRECTORY = Path(__file__).with_name("captures")


@dataclass(frozen=True)
class Capture:
    """
    A capture.

    Args:
        name: Of the file.
        holds: One sentence.
        build: Its content, the same each time.
        not_ip: Frames in it that are not IP.
        malformed: Frames in it of which no flow can be told.
        preferences: What tshark must be told to read it.
    """

    name: str
    holds: str
    build: Callable[[], bytes]
    not_ip: int
    malformed: int
    preferences: tuple[str, ...]

    @property
    def path(self) -> Path:
        return DIRECTORY / self.name


CAPTURES: dict[str, Capture] = {}


def capture(
    *,
    kind: Literal["pcap", "pcapng"] = "pcap",
    not_ip: int = 0,
    malformed: int = 0,
    preferences: tuple[str, ...] = (),
) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """A function whose name is the file's and whose docstring says what is in it."""

    def register(build: Callable[[], bytes]) -> Callable[[], bytes]:
        name = f"{build.__name__}.{kind}"
        holds = " ".join((build.__doc__ or "").split())
        CAPTURES[name] = Capture(name, holds, build, not_ip, malformed, preferences)
        return build

    return register
