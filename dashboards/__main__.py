"""Write the files, or say which are not what the code gives."""

from __future__ import annotations

import argparse
from pathlib import Path

from dashboards.catalogue import BOARDS
from dashboards.grafana import to_json

TARGET = Path(__file__).parents[1] / "helm" / "flow-exporter" / "dashboards"


def files() -> dict[Path, str]:
    """What should be there."""
    return {TARGET / f"{board.uid}.json": to_json(board) for board in BOARDS}


def stale() -> list[Path]:
    """Files that are missing, other than the code's, or nobody's."""
    wanted = files()
    there = set(TARGET.glob("*.json"))
    changed = [path for path, text in wanted.items() if path in there and path.read_text() != text]
    return sorted({*changed, *(there ^ wanted.keys())})


def main() -> int:
    """Returns 1 if --check finds something."""
    parser = argparse.ArgumentParser(prog="python -m dashboards")
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        for path in stale():
            print(f"{path}: run make dashboards")
        return 1 if stale() else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for path in set(TARGET.glob("*.json")) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
