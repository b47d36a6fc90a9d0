"""
The project's Markdown, taken apart: fenced blocks with the comments above them, headings, links.

How documents say what is to be done with a block is in docs/contributing/documents.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("b*/README.md")], key=str
)
#: Whose blocks of shell are run.
RUN = sorted(
    [
        ROOT / "README.md",
        ROOT / "docs" / "delivery.md",
        ROOT / "docs" / "operations" / "README.md",
        *ROOT.glob("docs/guide/**/*.md"),
        *ROOT.glob("docs/sinks/*.md"),
    ],
    key=str,
)
_FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- *([a-z ]+): *(.*?) *-->", re.DOTALL)
#: What stands between a block and the one before it, if it is only comments.
_ABOVE = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """
    A fenced block.

    Args:
        document: Its file.
        line: Of the opening fence, from 1.
        language: First word behind the fence.
        text: What is between the fences.
        said: Comments directly above it: key -> text.
    """

    document: Path
    line: int
    language: str
    text: str
    said: dict[str, str]

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"

    @property
    def needs(self) -> frozenset[str]:
        """Servers that have to be there."""
        return frozenset(re.findall(r"[a-z]+", self.said.get("needs", "")))


def name_of(document: Path) -> str:
    """For the test's name."""
    return str(document.relative_to(ROOT))


def blocks(document: Path) -> Iterator[Block]:
    """All of them, in order."""
    text = document.read_text()
    for match in _FENCE.finditer(text):
        above = _ABOVE.search(text[: match.start()])
        said = {
            key: " ".join(value.split())
            for key, value in _COMMENT.findall(above[0] if above else "")
        }
        line = text.count("\n", 0, match.start()) + 1
        yield Block(document, line, match[2], match[3], said)


def prose(document: Path) -> str:
    """The text without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", document.read_text()), flags=re.DOTALL)


def links(document: Path) -> list[str]:
    """Targets of all links and pictures."""
    return [one or other for one, other in _LINK.findall(prose(document))]


def anchors(document: Path) -> set[str]:
    """What can stand behind ``#``: headings, as GitHub names them."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(document)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(anchor)
    return found
