"""
A picture of what a command shows on a terminal, for light and for dark pages.

``python tools/picture.py docs/flows --until 'SEEN AT' -- flow-exporter run`` writes docs/flows.svg
and docs/flows-dark.svg: the command runs in a terminal of tmux until its screen has the text, and
is ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

#: Colours of GitHub's pages: background, text, then the terminal's eight.
_LIGHT = TerminalTheme(
    (246, 248, 250),
    (31, 35, 40),
    [(36, 41, 47), (164, 14, 38), (17, 99, 41), (128, 88, 0),
     (9, 105, 218), (130, 80, 223), (27, 124, 131), (89, 99, 110)],
)  # fmt: skip
_DARK = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34),
     (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)],
)  # fmt: skip
_PATIENCE = 60


def screen(command: list[str], columns: int, rows: int, until: str) -> str:
    """What is on the terminal, with its colours, once it has the text. Raises TimeoutError."""
    with tempfile.TemporaryDirectory() as directory:
        tmux = ["tmux", "-S", f"{directory}/socket", "-f", "/dev/null"]
        size = ["-x", str(columns), "-y", str(rows)]
        subprocess.run([*tmux, "new-session", "-d", *size, *command], check=True)
        try:
            end = time.monotonic() + _PATIENCE
            while True:
                shown = subprocess.run(
                    [*tmux, "capture-pane", "-e", "-p"], capture_output=True, text=True, check=True
                ).stdout
                if re.search(until, shown):
                    return shown.rstrip("\n")
                if time.monotonic() > end:
                    raise TimeoutError(f"no {until!r} in {_PATIENCE} s:\n{shown}")
                time.sleep(0.1)
        finally:
            subprocess.run([*tmux, "send-keys", "C-c"], check=False)
            subprocess.run([*tmux, "kill-server"], check=False)


def picture(shown: str, columns: int, title: str, theme: TerminalTheme) -> str:
    """An SVG that asks nobody for anything: its fonts are the reader's."""
    console = Console(
        record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="standard"
    )
    console.print(Text.from_ansi(shown), no_wrap=True, crop=True)
    svg = console.export_svg(title=title, theme=theme, unique_id="flows", font_aspect_ratio=0.602)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    fonts = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'
    svg = svg.replace("Fira Code, monospace", fonts)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> int:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="path without .svg")
    parser.add_argument("--until", required=True, help="regular expression")
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--rows", type=int, default=14)
    parser.add_argument("--title", default="flow-exporter run")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    shown = screen(given.command, given.columns, given.rows, given.until)
    for suffix, theme in (("", _LIGHT), ("-dark", _DARK)):
        Path(f"{given.target}{suffix}.svg").write_text(
            picture(shown, given.columns, given.title, theme)
        )
    print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
