"""Runs a block of shell as it is written, ends what runs for ever, and compares what it printed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests import patience
from tests.documents import Block
from tests.e2e.village import Page

#: Seconds for one command.
_LONGEST = 60.0 * patience.FACTOR
#: Subcommand -> flags with which it ends by itself.
FOREVER: dict[str, set[str]] = {
    "run": {"--duration"},
    "observe": {"--first"},
    "top": {"--rounds"},
    "consume": {"--until-end", "--count", "--idle"},
    "kube-cache": set(),
}
#: An address with colons, or a word with a digit, with what is written around it; bars.
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_NUMBER = re.compile(r"\S*(?:\d|::)\S*|[▁-█]+")


def commands(script: str) -> list[str]:
    """The commands of a block, each with the lines that belong to it, as bash divides them."""
    found, lines = [], []
    for line in script.splitlines():
        lines.append(line)
        if all(not one.strip() or one.lstrip().startswith("#") for one in lines):
            lines = []
            continue
        text = "\n".join(lines)
        done = subprocess.run(
            ["bash", "-n"], input=text, capture_output=True, text=True, check=False
        )
        # A here-document that is not over yet is a warning; a backslash at the end not even that.
        if done.returncode == 0 and not done.stderr and not text.endswith("\\"):
            found.append(text)
            lines = []
    assert not lines, f"not a command: {lines}"
    return found


def is_endless(arguments: list[str]) -> bool:
    """Whether ``flow-exporter`` with these arguments runs until it is told to stop."""
    ends = FOREVER.get(arguments[0] if arguments else "")
    if ends is None:
        return False
    if arguments[0] == "observe" and not {"-f", "--follow"} & {*arguments}:
        return False
    return not any(one.partition("=")[0] in ends for one in arguments)


def shape(line: str) -> str:
    """What stays the same from one run to the next: words, but no numbers."""
    line = _COLOUR.sub("", line)
    return " ".join("#" if _NUMBER.fullmatch(word) else word for word in line.split())


def paths(value: Any, above: str = "") -> set[str]:
    """Paths of a JSON value's leaves; entries of lists are alike."""
    if isinstance(value, dict):
        return {one for key, below in value.items() for one in paths(below, f"{above}.{key}")}
    if isinstance(value, list):
        return {one for below in value for one in paths(below, f"{above}[]")}
    return {above}


def lacking(shown: Block, printed: str) -> list[str]:
    """What a document shows and the commands did not print, numbers aside."""
    if shown.language == "json":
        real = [paths(value) for value in _objects(printed)]
        return [str(value) for value in _objects(shown.text) if paths(value) not in real]
    lines = {shape(line) for line in printed.splitlines()}
    wanted = [line for line in shown.text.splitlines() if line.strip() not in ("", "...")]
    return [line for line in wanted if shape(line) not in lines]


def _objects(text: str) -> Iterator[Any]:
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            at += 1
        else:
            yield value


class Run:
    """
    One block, run.

    Args:
        block: Of shell.
        shown: The output that the document shows, if it does.
        page: Where.
        where: Directory that the commands begin in.
    """

    def __init__(self, block: Block, shown: Block | None, page: Page, where: Path) -> None:
        self._block, self._shown, self._page, self._where = block, shown, page, where
        self._commands = commands(block.text)
        self._files = page.directory / f"line-{block.line}"
        self._files.mkdir()

    @property
    def printed(self) -> str:
        """What all commands said."""
        return "".join(
            self._said(number, kind)
            for number in range(len(self._commands))
            for kind in ("out", "err")
        )

    def run(self) -> None:
        """As it is written, by ``bash -eu``; fails as the commands do."""
        script = self._files / "script"
        script.write_text(self._script())
        process = self._page.start(script, self._where, self._files / "log")
        try:
            self._attend(process)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, f"{self._block}: {self._now()}\n{self._tail()}"
        if self._shown is not None:
            missing = lacking(self._shown, self.printed)
            assert not missing, f"{self._shown}: not printed: {missing}\n{self.printed[-4000:]}"

    def _script(self) -> str:
        """The commands, told apart; one that was stopped has not failed."""
        parts = ["set -eu -o pipefail", f"world={self._files}"]
        for number, command in enumerate(self._commands):
            parts += [
                f"echo {number} >$world/now",
                "{",
                command,
                f"}} >$world/out.{number} 2>$world/err.{number} || [ -e $world/stopped.{number} ]",
            ]
        return "\n".join(parts) + "\n"

    def _attend(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _LONGEST
        current = -1
        while process.poll() is None:
            if self._number() != current:
                current, end = self._number(), time.monotonic() + _LONGEST
            assert time.monotonic() < end, (
                f"{self._block}: does not end: {self._now()}\n{self._tail()}"
            )
            for agent in self._endless(process):
                if current >= 0 and self._has_done(agent, current):
                    self._files.joinpath(f"stopped.{current}").touch()
                    with suppress(psutil.NoSuchProcess):
                        agent.send_signal(signal.SIGINT)
                        psutil.wait_procs([agent], _LONGEST)
            time.sleep(0.05)

    def _endless(self, process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
        """What runs until it is stopped, of what the script has started."""
        for pid in descendants(process.pid):
            with suppress(psutil.NoSuchProcess):
                one = psutil.Process(pid)
                # After the interpreter, as the script's first line has it.
                words = one.cmdline()[1:]
                if words and words[0].endswith("flow-exporter") and is_endless(words[1:]):
                    yield one

    def _has_done(self, agent: psutil.Process, number: int) -> bool:
        """Whether it has shown what it is for."""
        runs = False
        with suppress(psutil.NoSuchProcess):
            runs = "run" in agent.cmdline()
        if runs and not self._page.delivers(agent):
            return False
        # The summary of a run comes when it has ended.
        waits = self._shown is not None and not (runs and self._shown.language == "text")
        if waits and number == len(self._commands) - 1:
            assert self._shown is not None
            return not lacking(self._shown, self.printed)
        if runs:
            return True
        return "\n" in self._said(number, "out")

    def _number(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int((self._files / "now").read_text())
        return -1

    def _now(self) -> str:
        return self._commands[self._number()] if self._number() >= 0 else "before the first"

    def _said(self, number: int, kind: str) -> str:
        with suppress(FileNotFoundError):
            return (self._files / f"{kind}.{number}").read_text(errors="replace")
        return ""

    def _tail(self) -> str:
        log = self._files / "log"
        return (self.printed + (log.read_text() if log.exists() else ""))[-4000:]


def descendants(pid: int) -> Iterator[int]:
    """Processes below one. By the kernel's own lists: psutil looks at every process there is."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from descendants(child)
