"""
``flow-exporter doctor``: what this host can do, what the agent does, and what to do about it.

Exit codes: 0 flows can be captured here and, with ``--check-sinks``, every destination was reached;
1 not so, or the bundle could not be written; 2 the command or the configuration was wrong. The
report is printed in each case.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.doctor import Finding

MEANING = "what this host can do, and what a bug report needs"
DONE, FAILED, USAGE = 0, 1, 2

#: Only what is not well, and in colours that are dark enough for white and light enough for black:
#: the standard green and yellow cannot be read on white.
_COLOURS = {"no": "1;31", "could not tell": "35"}
_ANSWER = 14

Sections = Mapping[str, "Sequence[Finding]"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them; :func:`run` takes what they give."""
    add = parser.add_argument
    add("--json", action="store_true", help="JSON, also on a terminal")
    add("--check-sinks", action="store_true", help="open a connection to each destination")
    add("--pid", type=int, help="of the agent, if several are running")
    add(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="write all of it, and what the running agent says of itself, into a new .tar.gz",
    )


def run(parsed: argparse.Namespace, load: Callable[[], Any]) -> int:
    """
    The command.

    Args:
        parsed: Its arguments.
        load: Reads the configuration.

    Returns:
        Its exit code.
    """
    from exporter import doctor, doctor_facts

    said, config = doctor_facts.configuration(load)
    of_agent, answers = doctor_facts.agent(parsed.pid)
    sections: dict[str, Sequence[Finding]] = {
        "program": list(doctor_facts.versions()),
        "capturing": doctor.examine(config.capture if config is not None else None),
        "limits": list(doctor_facts.limits()),
        "interfaces": list(doctor_facts.interfaces()),
        "clocks": list(doctor_facts.clocks()),
        "configuration": said,
        "agent": of_agent,
    }
    if parsed.check_sinks and config is not None:
        sections["destinations"] = list(doctor_facts.destinations(config))
    heading, colour = doctor.heading(), sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if parsed.bundle is not None:
        _bundle(parsed.bundle, heading, sections, answers)
    if parsed.json or not sys.stdout.isatty():
        print(json.dumps([asdict(one) for some in sections.values() for one in some], indent=2))
    else:
        print(as_text(heading, sections, shutil.get_terminal_size().columns, colour=colour))
    if config is None:
        return USAGE
    reached = all(one.answer != "no" for one in sections.get("destinations", ()))
    return DONE if doctor.can_capture(sections["capturing"]) and reached else FAILED


def as_text(heading: str, sections: Sections, width: int, *, colour: bool = False) -> str:
    """The report for people, in lines of ``width`` characters at most."""
    lines = [heading]
    for title, findings in sections.items():
        lines += ["", title]
        for one in findings:
            lines += _lines(one, width, colour=colour)
    advised = sum(1 for findings in sections.values() for one in findings if one.advice)
    lines += ["", f"{advised} with advice (->)" if advised else "nothing to be done"]
    return "\n".join(lines)


def _lines(one: Finding, width: int, *, colour: bool) -> list[str]:
    from exporter.telemetry import printable

    room = max(width - _ANSWER - 4, 20)
    text = textwrap.wrap(printable(f"{one.subject}: {one.detail}"), room)
    text += textwrap.wrap(f"-> {one.advice}", room, subsequent_indent="   ") if one.advice else []
    answer = f"{one.answer:<{_ANSWER}}"
    if colour and one.answer in _COLOURS:
        answer = f"\x1b[{_COLOURS[one.answer]}m{answer}\x1b[0m"
    gap = " " * (_ANSWER + 4)
    return [f"  {answer}  {text[0]}", *(gap + line for line in text[1:])]


def _bundle(path: Path, heading: str, sections: Sections, answers: Mapping[str, bytes]) -> None:
    """
    Write a file that did not exist, for its owner alone.

    Raises:
        ControlError: If it cannot be written.
    """
    from exporter.errors import ControlError

    everything = {title: [asdict(one) for one in some] for title, some in sections.items()}
    files = {
        "doctor.txt": as_text(heading, sections, 100).encode() + b"\n",
        "doctor.json": json.dumps(everything, indent=2).encode(),
        **{f"agent/{name}": answer for name, answer in answers.items()},
    }
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"flow-exporter-doctor/{name}")
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
                archive.addfile(entry, io.BytesIO(content))
    except OSError as err:
        raise ControlError(f"{path} cannot be written: {err.strerror}") from err
    print(
        f"{path}: {', '.join(files)}. It names hosts, interfaces and addresses: look through it "
        "before you send it on.",
        file=sys.stderr,
    )
