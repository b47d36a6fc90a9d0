"""
The pages that are made from the command line's own parser: a manual page and docs/reference/cli.md.

roff: man(7) of groff, without what mandoc does not have. One walk over the parser makes both.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator

from exporter import __version__
from exporter.cli import parser
from exporter.cli_examples import EXAMPLES, Example

#: Of the version: not of the day on which the page is made, which would never be current.
_DATE = "2026-11-21"
_EXIT_CODES = (
    ("0", "done"),
    ("1", "it could not be done, or the ledger does not close"),
    ("2", "the command or the configuration was wrong"),
)
_FILES = (
    ("/run/flow-exporter/PID.sock", "where a running agent answers ledger, observe and top"),
    ("/sys/fs/bpf/flow-exporter", "what run --pin leaves for the next agent"),
)
_ENVIRONMENT = (
    (
        "FLOW_EXPORTER_SECTION__KEY",
        "a key of the configuration, as FLOW_EXPORTER_CAPTURE__SAMPLING",
    ),
    ("NO_COLOR", "no colours, if it is set to anything"),
    ("COLUMNS", "how wide help is, and top in a pipe"),
)


def commands() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, meaning and parser of each command; the program itself is the first, without a name."""
    whole = parser()
    yield "", str(whole.description), whole
    for action in whole._actions:  # noqa: SLF001 - argparse has no public way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            meanings = {one.dest: one.help for one in action._choices_actions}  # noqa: SLF001
            for name, one in action.choices.items():
                yield name, str(meanings[name]), one


def groups(of: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Title and arguments of each group of a command that has any, without ``--help``."""
    for group in of._action_groups:  # noqa: SLF001
        actions = [
            action
            for action in group._group_actions  # noqa: SLF001
            if action.help != argparse.SUPPRESS
            and not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))  # noqa: SLF001
        ]
        if actions:
            yield str(group.title), actions


def words(action: argparse.Action) -> tuple[list[str], str]:
    """What an argument is called, each way, and its value as it is written; empty for none."""
    formatter = argparse.HelpFormatter("")
    if not action.option_strings:
        return [formatter._metavar_formatter(action, action.dest)(1)[0]], ""  # noqa: SLF001
    value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())  # noqa: SLF001
    return list(action.option_strings), value


def meaning(action: argparse.Action) -> str:
    """Its help, whole."""
    return " ".join(str(action.help or "").split())


def notes(of: argparse.ArgumentParser, name: str) -> str:
    """What a command's help says after its examples."""
    lines = (of.epilog or "").splitlines()
    last = EXAMPLES[name][-1].line.splitlines()[-1]
    end = max(number for number, line in enumerate(lines) if line.strip() == last.strip())
    return "\n".join(lines[end + 1 :]).strip("\n")


def cli_page() -> str:
    """Markdown: every command with its arguments and examples."""
    parts = [
        "# Command line\n",
        "`flow-exporter COMMAND --help` says the same; so does the manual page,",
        "[flow-exporter.1](flow-exporter.1). Exit codes:",
        "; ".join(f"{code}: {text}" for code, text in _EXIT_CODES) + ".\n",
    ]
    for name, text, of in commands():
        parts += [
            f"## flow-exporter {name}".rstrip(),
            "",
            f"{text[:1].upper()}{text[1:].rstrip('.')}.\n",
        ]
        parts += ["```console", *(line for one in EXAMPLES[name] for line in _shell(one)), "```\n"]
        for title, actions in groups(of):
            head = "argument" if title == "positional arguments" else title.removesuffix("s")
            parts += [f"| {head} | meaning |", "| --- | --- |"]
            parts += [f"| {_cell(action)} | {_escaped(meaning(action))} |" for action in actions]
            parts.append("")
        if rest := notes(of, name):
            parts += ["```text", rest, "```\n"]
    return "\n".join(parts).rstrip("\n") + "\n"


def _shell(example: Example) -> Iterator[str]:
    yield f"# {example.meaning}"
    yield f"$ {example.line}"


def _cell(action: argparse.Action) -> str:
    names, value = words(action)
    return ", ".join(f"`{name} {value}`".replace(" `", "`") for name in names).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def man_page() -> str:
    """roff: the same, for ``man``."""
    lines = [
        '.\\" Made by `make docs`; never edited.',
        f'.TH FLOW\\-EXPORTER 1 {_DATE} "flow\\-exporter {__version__}" "User Commands"',
        # Neither hyphens nor wide gaps: what stands here is typed.
        ".nh",
        ".ad l",
        ".SH NAME",
        "flow\\-exporter \\- network flows from eBPF, every packet accounted for",
        ".SH SYNOPSIS",
        ".B flow\\-exporter",
        ".I COMMAND",
        "[\\fIARGUMENTS\\fR]",
        ".br",
        ".B flow\\-exporter",
        "[\\fICOMMAND\\fR]",
        ".B \\-\\-help",
        ".SH DESCRIPTION",
        *_wrapped(
            "Who talks to whom on this host, and how much. A program in the kernel counts every "
            "packet at the interfaces; the agent sends records of the flows to its sinks. Every "
            "packet ends in one line of a ledger that must balance."
        ),
        ".PP",
        *_wrapped(
            "Everything can be set in a YAML file, in the environment, and the common things with "
            "flags; flags win over the environment, and the environment over the file."
        ),
        ".SH COMMANDS",
    ]
    for name, text, of in commands():
        if name:
            lines += [f".SS {_roff(name)}", f"{_roff(text[:1].upper() + text[1:])}."]
            lines += _arguments(of)
            lines += _literal(notes(of, name).splitlines())
            lines += [".PP", "Examples:", *_examples(EXAMPLES[name])]
    lines += [".SH EXAMPLES", *_examples(EXAMPLES[""])]
    for title, table in (
        ("EXIT STATUS", _EXIT_CODES),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
    ):
        lines.append(f".SH {title}")
        for term, text in table:
            lines += [".TP", f".B {_roff(term)}", *_wrapped(text)]
    lines += [".SH SEE ALSO", ".BR tc (8),", ".BR bpf (2)"]
    return "\n".join(lines) + "\n"


def _arguments(of: argparse.ArgumentParser) -> Iterator[str]:
    for title, actions in groups(of):
        if title not in ("positional arguments", "options"):
            yield from (".PP", f"{_roff(title[:1].upper() + title[1:])}:")
        for action in actions:
            names, value = words(action)
            yield ".TP"
            font = "B" if action.option_strings else "I"
            shown = ", ".join(f"\\f{font}{_roff(name)}\\fR" for name in names)
            # A list of choices may be broken after each.
            broken = _roff(value).replace(",", ",\\:")
            yield f"{shown} \\fI{broken}\\fR" if value else shown
            yield from _wrapped(meaning(action))


def _examples(examples: tuple[Example, ...]) -> Iterator[str]:
    for example in examples:
        text = example.meaning[:1].upper() + example.meaning[1:]
        yield from (".TP 4", _roff(text if text.endswith("?") else f"{text}:"), ".nf")
        yield from (_roff(line) for line in example.line.splitlines())
        yield ".fi"


def _literal(lines: list[str]) -> Iterator[str]:
    if lines:
        yield from (".PP", ".nf", *(_roff(line) for line in lines), ".fi")


def _wrapped(text: str) -> list[str]:
    """Lines of text that are no requests, and short: what is broken is filled again."""
    lines = textwrap.wrap(text, 72, break_on_hyphens=False, break_long_words=False)
    return [_roff(line) for line in lines]


def _roff(text: str) -> str:
    """``text`` with what roff acts on escaped; a hyphen stays one that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    text = text.replace("`", "\\(ga").replace("'", "\\(aq").replace('"', "\\(dq")
    return re.sub(r"^\.", "\\&.", text)
