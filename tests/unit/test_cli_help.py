"""What ``--help`` says: examples that are real, in 80 columns."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys

import pytest

from exporter.cli import main, parser
from exporter.cli_examples import EXAMPLES, Example

PROGRAM = "flow-exporter"
ALL = [example for some in EXAMPLES.values() for example in some]


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Of the program and of each command."""
    whole = parser()
    (commands,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    return {"": whole, **commands.choices}


def arguments(line: str) -> list[str]:
    """Of our program in a line for the shell: without pipes and redirections."""
    (ours,) = re.findall(rf"{PROGRAM} ((?:\\\n|[^|>)\n])+)", line)
    return shlex.split(ours.replace("\\\n", " "))


def test_it_is_there_at_once() -> None:
    """Help, mistakes and the completion of words need no library of numbers, models or brokers."""
    heavy = {"asyncio", "confluent_kafka", "google", "grpc", "kafka", "numpy", "pydantic", "ssl"}
    asked = "import sys, exporter.cli; exporter.cli.parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert "exporter.cli_lag" in done.stdout.split()
    assert heavy & {*done.stdout.split()} == set()


def test_every_command_has_examples() -> None:
    """Two to four each, five of the program; and no examples of what there is not."""
    assert set(EXAMPLES) == set(parsers())
    assert {name: len(some) for name, some in EXAMPLES.items() if not 2 <= len(some) <= 4} == {
        "": 5
    }


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.line)
def test_examples_are_understood(example: Example) -> None:
    """Each is parsed, and is of the command that it stands at."""
    words = arguments(example.line)
    assert callable(parser().parse_args(words).command)
    assert example in EXAMPLES[words[0]] or example in EXAMPLES[""]


@pytest.mark.parametrize(
    "example",
    [example for example in ALL if arguments(example.line)[0] in ("run", "check")],
    ids=lambda example: example.line,
)
def test_examples_are_configurations(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    """What is run is valid, but for a file that is not there."""
    words = arguments(example.line)
    code = main(["check", *words[1:]])
    said = capsys.readouterr().err
    assert (code, said) == (0, "") or ("--config" in words and "cannot read" in said)


def test_an_example_with_a_wrong_flag_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """The test above is no rubber stamp."""
    with pytest.raises(SystemExit):
        parser().parse_args(arguments("flow-exporter top --by wishes | head"))
    assert "--by" in capsys.readouterr().err


@pytest.mark.parametrize("name", parsers())
def test_help_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns at most, examples at the end in one style, and every flag says what it is for."""
    monkeypatch.setenv("COLUMNS", "80")
    command = parsers()[name]
    lines = command.format_help().splitlines()
    assert [line for line in lines if len(line) > 80] == []
    after = lines[lines.index("examples:") + 1 :]
    for example in EXAMPLES[name]:
        assert f"  # {example.meaning}" in after
    assert all(action.help for action in command._actions if action.option_strings)


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says it, and ends well."""
    with pytest.raises(SystemExit) as end:
        main(["top", "--help"])
    assert end.value.code == 0
    assert "# who talks most\n  flow-exporter top\n" in capsys.readouterr().out
