"""What is said when capabilities are missing, and what makes up for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from exporter import capabilities
from exporter.capabilities import BITS, COMMANDS, KEYS, held_by, require
from exporter.config import load
from exporter.errors import CaptureError


def said(monkeypatch: pytest.MonkeyPatch, held: set[str], uid: int, **config: Any) -> str:
    """The error of ``run`` with these; empty if there is none."""
    monkeypatch.setattr(capabilities, "effective", lambda: frozenset(held))
    monkeypatch.setattr("os.geteuid", lambda: uid)
    try:
        require("run", load(None, {}, config))
    except CaptureError as err:
        return str(err)
    return ""


@pytest.mark.parametrize("name", BITS)
def test_bits_are_the_kernels(name: str) -> None:
    """As linux/capability.h has them."""
    header = Path("/usr/include/linux/capability.h").read_text()
    found = re.search(rf"^#define {name}\s+(\d+)$", header, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == BITS[name]


def test_sys_admin_makes_up_for_two() -> None:
    """As it does in the kernel, and for no other."""
    assert held_by(1 << BITS["CAP_SYS_ADMIN"]) == {"CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"}
    assert held_by(1 << BITS["CAP_NET_ADMIN"]) == {"CAP_NET_ADMIN"}
    assert held_by(0) == frozenset()


def test_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is missing is said at once, in the order of need."""
    line = said(
        monkeypatch, {"CAP_BPF"}, 0, capture={"netns": "blue", "containers": True},
        enrich={"processes": {}},
    )  # fmt: skip
    assert line == (
        "'run' needs CAP_PERFMON, CAP_NET_ADMIN; 'capture.netns' needs CAP_SYS_ADMIN; "
        "'capture.containers' needs CAP_SYS_ADMIN, CAP_SYS_PTRACE; 'enrich.processes' needs "
        "CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH: root lacks them here, so add PERFMON "
        "NET_ADMIN SYS_ADMIN SYS_PTRACE DAC_READ_SEARCH to what the container or the service may "
        "have"
    )


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root may become it; what was not asked for is not needed."""
    held = set(COMMANDS["run"].needs)
    assert said(monkeypatch, held, 1000) == ""
    assert said(monkeypatch, held, 1000, capture={"netns": "blue"}) == (
        "'capture.netns' needs CAP_SYS_ADMIN: run it as root, for example with sudo, or grant "
        "them, or leave --netns and capture.netns out"
    )


def test_keys_exist() -> None:
    """Each is one of the configuration's, and off unless asked for."""
    config = load(None, {}, {})
    assert [key.name for key in KEYS if key.asked(config)] == []
