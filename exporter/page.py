"""
A page for people at the metrics address: live talkers and the ledger, with ``metrics.page``.

Read-only, and nothing comes from elsewhere: the headers of ``exporter.status`` forbid a browser
anything but what is served here. Names of interfaces, pods and processes are others' to choose;
they go as JSON to a script that makes text of them, never HTML.

Nothing is summed unless somebody looks: a view is followed from the first time that it is asked
for until nobody has asked for a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from exporter.cli_top import name_of
from exporter.fanout.tap import Tap
from exporter.status import Answer, Routes, as_json
from exporter.top import VIEWS, Key, Model, Row, Summary

_WEB = Path(__file__).with_name("web")
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
#: Seconds after which a view that nobody asks for is forgotten.
_IDLE = 60.0
#: Seconds between two looks at whether somebody still asks.
_LOOK = 1.0
#: Rows that are sent, and rows that are remembered for their totals.
_SHOWN, _KEPT = 50, 1000


class _Feed:
    """One view of the tap. Thread-safe."""

    def __init__(self, tap: Tap, name: str) -> None:
        self._tap = tap
        self._name = name
        self._lock = threading.Lock()
        self._asked = 0.0
        self._model = Model()
        self._following = False

    def read(self) -> dict[str, Any]:
        """What it shows now; it is followed from now on."""
        with self._lock:
            self._asked = time.monotonic()
            if not self._following:
                self._following = True
                self._model = Model()
                threading.Thread(target=self._follow, name="page", daemon=True).start()
            return _told(self._name, self._model)

    def _follow(self) -> None:
        summary = Summary(VIEWS[self._name])
        with self._tap.watch() as watcher:
            while not (watcher.closed or self._is_forgotten()):
                batch = watcher.take(_LOOK)
                line = summary.add(batch) if batch is not None else b""
                with self._lock:
                    self._model.missed += watcher.missed()
                    if line:
                        self._model.take(line)
                        _bound(self._model)

    def _is_forgotten(self) -> bool:
        with self._lock:
            # Told while it is held: whoever asks next finds somebody who follows, or begins.
            self._following = time.monotonic() - self._asked < _IDLE
            return not self._following


def _bound(model: Model) -> None:
    """Keep the rows with the largest totals: many come and are never seen again."""
    if len(model.rows) > 2 * _KEPT:
        model.rows = dict(model.ordered("total")[:_KEPT])


def _told(name: str, model: Model) -> dict[str, Any]:
    view = VIEWS[name]

    def row(key: Key, row: Row) -> dict[str, Any]:
        return {
            "name": name_of(view, key),
            "now": row.now,
            "all": row.all,
            "history": list(row.history),
        }

    return {
        "title": view.title.capitalize().replace("Dns", "DNS"),
        "ends": bool(view.received),
        "drains": model.drains,
        "seconds": model.seconds,
        "totals": model.totals,
        "missed": model.missed,
        "history": list(model.history),
        "rows": [row(*item) for item in model.ordered("bytes")[:_SHOWN]],
    }


class Page:
    """
    The page.

    Args:
        tap: What is published.
        about: The agent's version, host and the like, by what it is called.
        ledger: The balance, as ``/ledger`` has it.
        ready: What ``/readyz`` says.
    """

    def __init__(
        self,
        tap: Tap,
        about: Mapping[str, str],
        ledger: Callable[[], Answer],
        ready: Callable[[], Answer],
    ) -> None:
        self._about = dict(about)
        self._ledger = ledger
        self._ready = ready
        self._feeds = {name: _Feed(tap, name) for name in VIEWS}

    def routes(self) -> Routes:
        """To be served beside the others."""
        routes: dict[str, Callable[[], Answer]] = {
            path: partial(_file, name, kind) for path, (name, kind) in _FILES.items()
        }
        for name in VIEWS:
            routes[f"/page/{name}"] = partial(self._data, name)
        return routes

    def _data(self, name: str) -> Answer:
        import json

        status, kind, body = self._ledger()
        if status != 200:
            return status, kind, body
        data = {
            "about": self._about,
            "views": list(VIEWS),
            "view": self._feeds[name].read(),
            "ledger": json.loads(body),
            "ready": self._ready()[2].decode().splitlines(),
        }
        return as_json(_exact(data))


def _file(name: str, kind: str) -> Answer:
    return 200, kind, (_WEB / name).read_bytes()


def _exact(value: Any) -> Any:
    """Whole numbers as text: a browser's own end to be exact at 2**53 octets."""
    if isinstance(value, dict):
        return {key: _exact(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(one) for one in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
