"""
``flow-exporter completion``: what a shell offers at Tab, as a script that it reads.

The script knows the flags itself, so that Tab starts no Python. Names of interfaces and network
namespaces are looked up at Tab, by the shell alone. Who runs a container names its interfaces, and
root presses Tab: a name that a shell could take for more than a word is not offered.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish")

DONE = 0

#: Names in a directory, after the last comma of the word. ``compgen -W`` and zsh's ``(words)``
#: would carry out a command in a name.
_BASH = """\
{function}() {{
  local name kept="${{1%"${{1##*,}}"}}"
  for name in {directory}/*; do
    name="${{name##*/}}"
    [[ "$name" == *[!A-Za-z0-9_.@-]* ]] && continue
    [[ "$kept$name" == "$1"* ]] && printf '%s\\n' "$kept$name"
  done
}}
"""
_ZSH = """\
{function}() {{
  setopt localoptions extendedglob
  local -a names
  names=({directory}/*(N:t))
  names=(${{(M)names:#[A-Za-z0-9_.@-]##}})
  _sequence compadd "$@" - -a names
}}
"""
_FISH = """\
function {function}
  set -l kept (string match -r '.*,' -- (commandline -ct))
  for name in {directory}/*
    set -l name (string replace -r '.*/' '' -- $name)
    string match -qr '^[A-Za-z0-9_.@-]+$' -- $name; and echo "$kept$name"
  end
end
"""


def _names_in(directory: str, function: str) -> Mapping[str, Any]:
    """What shtab wants to know of a completion: a function for each shell, and its text."""
    values = {"directory": directory, "function": function}
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "preamble": {
            "bash": _BASH.format(**values),
            "zsh": _ZSH.format(**values),
            "fish": _FISH.format(**values),
        },
    }


#: Attribute of the parsed arguments -> what its values are.
_NAMES = {
    "interfaces": _names_in("/sys/class/net", "_flow_exporter_interfaces"),
    "exclude_interfaces": _names_in("/sys/class/net", "_flow_exporter_interfaces"),
    "interface": _names_in("/sys/class/net", "_flow_exporter_interfaces"),
    "netns": _names_in("/var/run/netns", "_flow_exporter_namespaces"),
}
_FILES = ("file", "input_file", "bundle")


def add_arguments(
    parser: argparse.ArgumentParser, whole: Callable[[], argparse.ArgumentParser]
) -> None:
    """
    Add them; :func:`run` takes what they give.

    Args:
        parser: Of the command.
        whole: Makes the program's parser.
    """
    parser.set_defaults(whole=whole)
    parser.add_argument("shell", choices=SHELLS, help="that reads the script")


def run(parsed: argparse.Namespace) -> int:
    """The command. Returns its exit code."""
    print(script(parsed.whole(), parsed.shell))
    return DONE


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """
    The script for a shell.

    Args:
        parser: Changed: its arguments learn how they are completed.
        shell: One of :data:`SHELLS`.
    """
    # Imported here: no other command needs it.
    import shtab

    for action in _actions(parser):
        if action.dest in _NAMES:
            action.complete = _NAMES[action.dest]  # type: ignore[attr-defined] # what shtab reads
        elif action.type is Path or action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        if isinstance(action.metavar, str):
            # zsh takes what follows a colon for a command.
            action.metavar = action.metavar.replace(":", " ")
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to ask
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for one in action.choices.values():
                yield from _actions(one)
