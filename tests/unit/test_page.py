"""What the page is told: exact numbers, of those who are asked for, in bounded memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from exporter import page
from exporter.fanout.tap import Tap
from exporter.page import Page
from exporter.status import as_json, text
from exporter.testing import Row, make_batch
from exporter.top import VIEWS, Model
from exporter.top import Row as Line
from tests.patience import wait_until

LARGE = (1 << 53) + 1


def made(tap: Tap, ledger: Any = None) -> Callable[[str], dict[str, Any]]:
    """Asks a page for a view."""
    routes = Page(
        tap,
        {"host": "<h>"},
        lambda: as_json(ledger or {"closes": True, "seen": {"packets": LARGE}}),
        lambda: text(200, "ok\nsink null: closed\n"),
    ).routes()

    def ask(view: str) -> dict[str, Any]:
        status, kind, body = routes[f"/page/{view}"]()
        assert (status, kind) == (200, "application/json")
        answer: dict[str, Any] = json.loads(body)
        return answer

    return ask


def followers() -> list[threading.Thread]:
    """Threads that follow a view."""
    return [thread for thread in threading.enumerate() if thread.name == "page"]


def test_large_numbers_are_exact() -> None:
    """Whole numbers are text, which no browser rounds; what is true stays so."""
    tap = Tap()
    data = made(tap)("talkers")
    tap.close()
    wait_until(lambda: not followers(), "its thread has ended")
    assert data["ledger"] == {"closes": True, "seen": {"packets": str(LARGE)}}
    assert data["ready"] == ["ok", "sink null: closed"]
    assert data["views"] == list(VIEWS)


def test_sums_begin_when_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before is not in them; a view that nobody asks for any more is given up."""
    monkeypatch.setattr(page, "_LOOK", 0.01)
    tap = Tap()
    ask = made(tap)
    batch = make_batch(Row(octet_count_l2=1000, packet_count=3))
    tap.publish(batch)
    assert not followers()
    assert ask("talkers")["view"]["rows"] == []
    wait_until(lambda: tap._watchers, "it is followed")
    tap.publish(batch)
    tap.publish(batch)
    wait_until(lambda: ask("talkers")["view"]["drains"] == "2", "both are taken")
    view = ask("talkers")["view"]
    assert len(view["rows"]) == 2
    assert {sum(int(sums[0]) for sums in row["all"]) for row in view["rows"]} == {2000}
    monkeypatch.setattr(page, "_IDLE", 0.0)
    wait_until(lambda: not tap._watchers, "nobody looks")
    wait_until(lambda: not followers(), "its thread has ended")
    monkeypatch.setattr(page, "_IDLE", 60.0)
    assert ask("talkers")["view"]["drains"] == "0"
    tap.close()
    wait_until(lambda: not followers(), "its thread has ended")


def test_rows_are_bounded() -> None:
    """The largest are kept."""
    model = Model()
    model.rows = {(str(n),): Line([(0, 0, 0)], [(n, 1, 1)]) for n in range(2 * page._KEPT + 1)}
    page._bound(model)
    assert len(model.rows) == page._KEPT
    assert (str(2 * page._KEPT),) in model.rows
    assert ("0",) not in model.rows


def test_the_files_are_there() -> None:
    """Everything that the page names is served, and it names nothing of anybody else's."""
    routes = Page(Tap(), {}, lambda: text(503, "not yet\n"), lambda: text(200, "ok\n")).routes()
    whole = b"".join(routes[path]()[2] for path in ("/", "/page.css", "/page.js"))
    assert b"//" not in whole.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b"")
    assert all(routes[path]()[0] == 200 for path in ("/icon.svg", "/"))
    assert routes["/page/talkers"]()[0] == 503
    html = routes["/"]()[2]
    assert b"style=" not in html
    assert b"onload" not in html
    assert b"<script src" in html
