"""
Write the captures that the tests replay: ``python -m tests.packets.make_captures``.

They are committed, so that anyone can open them; a test says that this writes the same octets.
"""

from __future__ import annotations

from tests.packets import broken, internet, link
from tests.packets.capture import CAPTURES, DIRECTORY, Capture

#: Where captures are registered: by importing them.
SOURCES = (internet, link, broken)


def contents() -> str:
    """The list of captures, for people."""
    lines = ["# Captures", "", "Written by `python -m tests.packets.make_captures`.", ""]
    lines += [f"- `{capture.name}`: {capture.holds}" for capture in captures()]
    return "\n".join(lines) + "\n"


def captures() -> list[Capture]:
    """All of them, by name."""
    return [CAPTURES[name] for name in sorted(CAPTURES)]


def main() -> None:
    """Replace what is in the directory."""
    DIRECTORY.mkdir(exist_ok=True)
    for stale in DIRECTORY.iterdir():
        stale.unlink()
    for capture in captures():
        capture.path.write_bytes(capture.build())
    (DIRECTORY / "README.md").write_text(contents())


if __name__ == "__main__":
    main()
