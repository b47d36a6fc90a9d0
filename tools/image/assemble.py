"""
The files of the image: ``assemble.py base`` for what is the same until a dependency changes,
``assemble.py agent`` for the agent and the list of what is in both.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bill
import unpack
from layer import Special, write

SITE = "usr/local/lib/python3.11/dist-packages"
PYTHON = "usr/bin/python3.11"
#: The control socket and, by custom, a spool.
WRITABLE = ("run/flow-exporter", "var/lib/flow-exporter")
#: Whom the image runs as; no other image or host has this number by custom but distroless'.
USER = 65532
#: What the agent may be granted: docs/decisions/0025-wheel-and-image.md. The pod grants fewer.
GRANTABLE = (
    "bpf",
    "dac_read_search",
    "net_admin",
    "perfmon",
    "sys_admin",
    "sys_ptrace",
    "sys_resource",
)


def main() -> None:
    """Parse the command line and write the layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(required=True)
    base = kinds.add_parser("base")
    base.add_argument("inputs", type=Path, help="debs/ and wheels/, as fetch.sh leaves them")
    base.add_argument("work", type=Path, help="an empty directory")
    base.add_argument("layer", type=Path)
    base.set_defaults(function=_base)
    agent = kinds.add_parser("agent")
    agent.add_argument("inputs", type=Path)
    agent.add_argument("work", type=Path)
    agent.add_argument("layer", type=Path)
    agent.add_argument("wheel", type=Path)
    agent.add_argument("bill", type=Path, help="to write: CycloneDX, JSON")
    agent.set_defaults(function=_agent)
    parsed = parser.parse_args()
    parsed.function(parsed)


def _base(parsed: argparse.Namespace) -> None:
    """Debian's packages and the wheels."""
    root = parsed.work / "root"
    unpack.packages(sorted(parsed.inputs.glob("debs/*.deb")), root)
    unpack.wheels(sorted(parsed.inputs.glob("wheels/*.whl")), root / SITE)
    _furnish(root)
    special = Special(
        owners=dict.fromkeys(WRITABLE, USER),
        capabilities={PYTHON: GRANTABLE},
        modes={"tmp": 0o1777},
    )
    write(root, parsed.layer, special)


def _agent(parsed: argparse.Namespace) -> None:
    """The agent's own wheel, its command, and the bill of materials of both layers."""
    root = parsed.work / "root"
    unpack.wheels([parsed.wheel], root / SITE)
    command = root / "usr/bin/flow-exporter"
    command.parent.mkdir(parents=True)
    command.write_text(
        f"#!/{PYTHON} -IB\nimport sys\n\nfrom exporter.cli import main\n\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    modified = int(os.environ["SOURCE_DATE_EPOCH"])
    text = bill.write(parsed.inputs, parsed.wheel, modified)
    parsed.bill.write_text(text)
    inside = root / "usr/share/sbom/flow-exporter.cdx.json"
    inside.parent.mkdir(parents=True)
    inside.write_text(text)
    write(root, parsed.layer, Special(), modified)


def _furnish(root: Path) -> None:
    """Where the runtime mounts, where the agent writes, and who it is."""
    for directory in ("proc", "sys", "dev", "tmp", *WRITABLE):
        (root / directory).mkdir(parents=True, exist_ok=True)
    name = "flow-exporter"
    (root / "etc/passwd").write_text(
        f"root:x:0:0:root:/:/nonexistent\n{name}:x:{USER}:{USER}:{name}:/:/nonexistent\n"
    )
    (root / "etc/group").write_text(f"root:x:0:\n{name}:x:{USER}:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")


if __name__ == "__main__":
    main()
