"""What the test of the documents' commands takes for equal, and for a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import Block, anchors, blocks
from tests.e2e.documented import commands, is_endless, lacking, shape

_ROW = "12:25:25 192.0.2.2:40698   192.0.2.1:443     tcp        7   473 FSPA  eth0←"


def shown(text: str, language: str = "text") -> Block:
    """An output as a document shows it."""
    return Block(Path("page.md"), 1, language, text, {})


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("23:59:01 192.0.2.1:1 [2001:db8::1]:9 tcp 18 21.2k FSPA eth0←", True),
        ("12:25:25 192.0.2.2:40698 192.0.2.1:443 udp 7 473 FSPA eth0←", False),
        ("12:25:25 192.0.2.2:40698 192.0.2.1:443 tcp 7 473 FSPA veth←", False),
        ("12:25:25 192.0.2.2:40698 192.0.2.1:443 tcp 473 FSPA eth0←", False),
    ],
)
def test_lines_are_equal_but_for_numbers(printed: str, found: bool) -> None:
    """Words and their number count, digits and addresses do not; nor do colours."""
    assert (lacking(shown(_ROW), f"other\n\x1b[7m{printed}\x1b[0m\n") == []) is found


def test_words_with_digits_are_numbers() -> None:
    assert shape("10.0.0.2   75.7k  ▁▂█  eth0 tcp ::1") == "# # # # tcp #"


def test_records_have_the_paths_that_are_shown() -> None:
    """Order, values and how many a list has do not matter; a key more or less does."""
    record = shown('{"a": 1, "b": [{"c": 2}, {"c": 3}]}', "json")
    assert lacking(record, 'log\n{"b": [{"c": 9}],\n "a": "x"}\n') == []
    assert lacking(record, '{"a": 1, "b": [{"c": 2, "d": 4}]}') != []
    assert lacking(record, '{"a": 1}') != []


def test_commands_have_all_their_lines() -> None:
    """Here-documents, continued lines and loops are one command each; comments are none."""
    script = (
        "# why\na --b \\\n  c\ncat <<'END'\n# text\nEND\n\nfor x in 1; do\n  echo\ndone\nd | e\n"
    )
    assert commands(script) == [
        "a --b \\\n  c", "cat <<'END'\n# text\nEND", "for x in 1; do\n  echo\ndone", "d | e"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "endless"),
    [
        ("run --sink stdout", True), ("run --duration 5s", False), ("run --duration=5s", False),
        ("observe --last 5", False), ("observe -f", True), ("top", True),
        ("observe -f --first 5", False), ("top --rounds 1", False), ("consume --topic t", True),
        ("consume --until-end", False), ("ledger", False), ("", False),
    ],
)  # fmt: skip
def test_what_runs_for_ever(words: str, endless: bool) -> None:
    assert is_endless(words.split()) is endless


def test_comments_are_those_above(tmp_path: Path) -> None:
    """Of each block its own comments and no others."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n\n<!-- needs: kafka, agent -->\n```sh\none\n```\n\n```sh\ntwo\n```\n\n"
        "<!-- not run: it\nis long -->\n\n```console\n$ three\n```\n## A b c\n"
    )
    one, two, three = blocks(page)
    assert (one.needs, one.line) == (frozenset({"kafka", "agent"}), 4)
    assert (two.needs, two.said) == (frozenset(), {})
    assert three.said == {"not run": "it is long"}
    assert anchors(page) == {"a-b-c", "a-b-c-1"}
