"""What the agent depends on, for pip: ``requirements.py PYPROJECT EXTRA[,EXTRA]``."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print it. Exit code 2 if there is no such extra."""
    project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    print(*project["dependencies"], sep="\n")
    for extra in filter(None, sys.argv[2].split(",")):
        if extra not in project["optional-dependencies"]:
            sys.exit(f"image: no such extra: {extra}")
        print(*project["optional-dependencies"][extra], sep="\n")


if __name__ == "__main__":
    main()
