"""``flow-exporter top``: its flags, its keys, and what is on the screen."""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from exporter import cli_observe

if TYPE_CHECKING:
    from exporter.status import Lines
    from exporter.top import Asked, Conditions, Key, Model, Row, View

    #: How an agent is asked for what is looked at.
    Agent = Callable[[Asked], AbstractContextManager[Lines]]

DONE, FAILED = 0, 1
ORDERS = ("bytes", "packets", "flows", "total")
#: As ``exporter.top.VIEWS``.
VIEWS = ("talkers", "pairs", "ports", "protocols", "interfaces", "pods", "workloads", "namespaces",
         "processes", "names", "countries")  # fmt: skip

_NOTES = """\
keys:
  Tab, Shift-Tab  next view, view before     up, down  choose a row
  Enter           look into the row          Esc       back
  /               rows with some text        s         next order
  space           stop and go on             q         leave
"""
_HELP = "Tab view  Enter into  Esc back  / text  s sort  space stop  q leave"
_KEY = re.compile(r"\x1b\[[A-Z]|.", re.DOTALL)
_BARS = " ▁▂▃▄▅▆▇█"
#: Columns of rates, totals and history at the right.
_NUMBER, _SPARK = 8, 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them; :func:`run` takes what they give."""
    parser.epilog = f"{parser.epilog}\n{_NOTES}"
    add = parser.add_argument
    add("--by", choices=VIEWS, default="talkers", metavar="VIEW",
        help=f"{', '.join(VIEWS[:-1])} or {VIEWS[-1]}; default: talkers")  # fmt: skip
    add("--sort", choices=ORDERS, default="bytes", help="most of what comes first")
    add("--rounds", type=int, default=0, metavar="N", help="stop after N drains; default: never")
    cli_observe.add_server(parser)
    cli_observe.add_conditions(parser)


@dataclass
class Look:
    """
    What is looked at.

    Args:
        view: Name.
        conditions: Of the flows, and those that are left out.
        order: One of :data:`ORDERS`.
        containing: Rows have this text.
        chosen: Number of the chosen row.
        typing: Text is being typed.
        stopped: The screen stays as it is.
        above: Where Esc leads.
    """

    view: str
    conditions: Conditions
    excluded: Conditions
    order: str = "bytes"
    containing: str = ""
    chosen: int = 0
    typing: bool = False
    stopped: bool = False
    above: list[Look] = field(default_factory=list)


def run(parsed: argparse.Namespace) -> int:
    """The command. Returns its exit code."""
    look = Look(parsed.by, *cli_observe.conditions_of(parsed), order=parsed.sort)
    session = _Session(_agent(parsed), look, parsed.rounds)
    if sys.stdin.isatty() and sys.stdout.isatty():
        with _screen():
            return session.watch()
    return session.print()


def _agent(parsed: argparse.Namespace) -> Agent:
    """
    How the one that is looked at is asked.

    Raises:
        ExporterError: If there is none, or there are several.
    """
    from exporter.errors import ConfigError
    from exporter.status import find_agent, listen

    servers = cli_observe.servers_of(parsed)
    if len(servers) > 1:
        raise ConfigError("top shows one agent: give one --server")
    if servers:
        from exporter.observe_remote import summed

        return lambda asked: summed(servers[0], asked)
    path = find_agent(parsed.pid)
    return lambda asked: listen(path, f"/top?{asked.query()}")


class _Session:
    """One agent, looked at until somebody leaves."""

    def __init__(self, agent: Agent, look: Look, rounds: int) -> None:
        from exporter.top import Model

        self._agent = agent
        self._look = look
        self._rounds = rounds
        self._model = Model()
        self._again = True

    def print(self) -> int:
        """Tables, one after the other: nobody is at the keyboard."""
        for _ in self._lines():
            width = int(os.environ.get("COLUMNS", "80"))
            rows = len(self._model.rows) + 4
            lines = screen(self._model, self._look, width, rows, marked=False)
            print("\n".join(lines[:-1]), flush=True)
        return DONE

    def watch(self) -> int:
        """The screen, redrawn after each drain and each key."""
        while True:
            if self._watch_one():
                return DONE

    def _watch_one(self) -> bool:
        """One view. Returns whether to leave."""
        from exporter.top import Model

        self._model = Model()
        self._draw()
        with self._stream() as lines:
            while True:
                ready, _, _ = select.select([sys.stdin, lines], [], [], 1)
                if sys.stdin in ready:
                    before = (self._look.view, self._look.conditions)
                    typed = os.read(sys.stdin.fileno(), 1024).decode(errors="replace")
                    if any(press(self._look, self._model, key) for key in _KEY.findall(typed)):
                        return True
                    if (self._look.view, self._look.conditions) != before:
                        return False
                if lines in ready and self._take(lines.some()):
                    return True
                self._draw()

    def _take(self, lines: list[bytes] | None) -> bool:
        """What the agent says. Returns whether that was all."""
        for line in lines or ():
            if line != b"\n" and not self._look.stopped:
                self._model.take(line)
        enough = bool(self._rounds) and self._model.drains >= self._rounds
        return lines is None or enough

    def _lines(self) -> Iterator[bytes]:
        with self._stream() as lines:
            for line in lines:
                if line != b"\n":
                    self._model.take(line)
                    yield line
                    if self._rounds and self._model.drains >= self._rounds:
                        return

    @contextmanager
    def _stream(self) -> Iterator[Lines]:
        from exporter.observe import Wanted
        from exporter.top import Asked

        look = self._look
        wanted = Wanted(tuple(look.conditions), tuple(look.excluded), follow=True)
        with self._agent(Asked(look.view, wanted)) as lines:
            yield lines

    def _draw(self) -> None:
        size = os.get_terminal_size()
        lines = screen(self._model, self._look, size.columns, size.lines)
        text = "\r\n".join(f"{line}\x1b[K" for line in lines)
        sys.stdout.write(f"\x1b[H{text}\x1b[J")
        sys.stdout.flush()


@contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other screen, without echo; as it was afterwards."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def press(look: Look, model: Model, key: str) -> bool:
    """
    One key, applied.

    Args:
        look: Changed.
        model: Whose rows are chosen from.
        key: A character, or the sequence that a terminal sends for the key.

    Returns:
        Whether to leave.
    """
    if look.typing:
        _type(look, key)
    elif key in ("q", "\x03", "\x04"):
        return True
    elif key in ("\t", "\x1b[Z"):
        step = 1 if key == "\t" else -1
        look.view = VIEWS[(VIEWS.index(look.view) + step) % len(VIEWS)]
        look.chosen = 0
    elif key in ("\x1b[A", "\x1b[B", "k", "j"):
        step = -1 if key in ("\x1b[A", "k") else 1
        rows = len(model.ordered(look.order, look.containing))
        look.chosen = max(min(look.chosen + step, rows - 1), 0)
    elif key in ("\r", "\n"):
        _into(look, model)
    elif key == "\x1b":
        _back(look)
    elif key == "/":
        look.typing, look.containing = True, ""
    elif key == "s":
        look.order = ORDERS[(ORDERS.index(look.order) + 1) % len(ORDERS)]
    elif key == " ":
        look.stopped = not look.stopped
    return False


def _type(look: Look, key: str) -> None:
    if key in ("\r", "\n", "\x1b"):
        look.typing = False
        if key == "\x1b":
            look.containing = ""
    elif key in ("\x7f", "\b"):
        look.containing = look.containing[:-1]
    elif key.isprintable():
        look.containing += key


def _into(look: Look, model: Model) -> None:
    """Look into the chosen row."""
    from exporter.top import VIEWS as ALL

    view, rows = ALL[look.view], model.ordered(look.order, look.containing)
    if view.narrow is None or look.chosen >= len(rows):
        return
    key = rows[look.chosen][0]
    if not all(key):
        return
    look.above.append(replace(look, above=[]))
    look.conditions = [*look.conditions, *view.narrow(key)]
    look.view, look.chosen, look.containing = view.below, 0, ""


def _back(look: Look) -> None:
    if look.above:
        before = look.above.pop()
        look.view, look.conditions = before.view, before.conditions
        look.chosen, look.containing = before.chosen, before.containing


def screen(model: Model, look: Look, width: int, height: int, *, marked: bool = True) -> list[str]:
    """
    What is on the screen.

    Args:
        model: What is known.
        look: What is looked at.
        width: Columns.
        height: Lines.
        marked: Whether somebody is there to choose a row.

    Returns:
        ``height`` lines at most of ``width`` characters at most; the chosen row is inverted by the
        escape sequences around it.
    """
    from exporter.top import VIEWS as ALL

    view = ALL[look.view]
    lines = [_head(model, width), _about(look, width), _headings(view, width)]
    room = max(height - len(lines) - 1, 1)
    rows = model.ordered(look.order, look.containing)
    first = max(min(look.chosen - room + 1, len(rows) - room), 0)
    for number, (key, row) in enumerate(rows[first : first + room], first):
        line = _row(view, key, row, model, width)
        lines.append(f"\x1b[7m{line}\x1b[0m" if marked and number == look.chosen else line)
    if not rows:
        lines.append("nothing yet" if not model.drains else "no flows")
    foot = f"/{look.containing}▏" if look.typing else _HELP
    lines += [""] * (height - len(lines) - 1)
    return [*lines, foot[:width]]


def _head(model: Model, width: int) -> str:
    from exporter.sinks.stdout.table import count_text

    seconds = model.seconds or 1
    octets, packets, flows = model.totals
    text = (
        f"{count_text(8 * octets / seconds)}bit/s  {count_text(packets / seconds)} packets/s  "
        f"{flows} flows in {seconds:.1f} s"
    )
    if model.missed:
        text += f"  {model.missed} not seen"
    return f"{text[: width - _SPARK - 1]:<{width - _SPARK}}{spark(model.history)}"


def _about(look: Look, width: int) -> str:
    words = [f"by {look.view}", f"most {look.order} first"]
    words += [f"{name} {text}" for name, text in look.conditions]
    words += [f"not {name} {text}" for name, text in look.excluded]
    words += [f"with {look.containing!r}"] if look.containing else []
    words += ["stopped"] if look.stopped else []
    text = "  ".join(words)
    return text if len(text) <= width else text[: width - 1] + "…"


def _headings(view: View, width: int) -> str:
    rates = ("SENT/s", "RECV/s") if view.received else ("BIT/s",)
    cells = "".join(f"{name:>{_NUMBER}}" for name in (*rates, "PKT/s", "TOTAL"))
    return f"{view.title:<{_room(view, width)}}{cells} {'HISTORY':<{_SPARK - 1}}"[:width]


def _room(view: View, width: int) -> int:
    numbers = 4 if view.received else 3
    return max(width - numbers * _NUMBER - _SPARK, 10)


def _row(view: View, key: Key, row: Row, model: Model, width: int) -> str:
    from exporter.sinks.stdout.table import count_text

    room = _room(view, width)
    name = name_of(view, key)
    if len(name) >= room:
        name = name[: room - 2] + "…"
    seconds = model.seconds or 1
    rates = [count_text(8 * now[0] / seconds) for now in row.now]
    packets = count_text(sum(now[1] for now in row.now) / seconds)
    total = count_text(sum(sums[0] for sums in row.all)) + "B"
    cells = "".join(f"{cell:>{_NUMBER}}" for cell in (*rates, packets, total))
    return f"{name:<{room}}{cells} {spark(row.history, _SPARK - 1)}"[:width]


def name_of(view: View, key: Key) -> str:
    """What a row is called, without what a terminal would act on."""
    from exporter.batch.protocols import protocol_name
    from exporter.telemetry import printable

    if view.sent[0] == "ip_protocol":
        name = protocol_name(int(key[0]))
        return "/".join((name, *key[1:])) if key[1:] not in ((), ("0",)) else name
    if view.title == "INTERFACE":
        return printable(key[0]) + " " + ("in", "out")[key[1] == "1"]
    if view.title == "ADDRESSES":
        return f"{key[0]} {key[1]}"
    return printable("/".join(part for part in key if part)) or "(unknown)"


def spark(values: Sequence[float] | Any, width: int = _SPARK) -> str:
    """A bar for each value, the newest at the right; the highest is full."""
    shown = list(values)[-width:]
    most = max(shown, default=0)
    bars = [_BARS[max(round(8 * value / most), 1)] if value else _BARS[0] for value in shown]
    return "".join(bars).rjust(width)
