"""
``flow-exporter top``: who and what is busiest, drain by drain.

The agent sums what somebody looks at, in the thread that serves them, and says after each drain
what the busiest did in it and since they began to look. The command keeps the history and shows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

import numpy as np
import orjson
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch
from exporter.batch.record import WITH_PORTS
from exporter.errors import ConfigError
from exporter.fanout.tap import Tap
from exporter.observe import Chosen, Wanted, follow
from exporter.sinks.encodings.series import FLOWS, OCTETS_L2, PACKETS, Series

#: Rows that the agent tells of after a drain, by what they did in it; as many by their totals.
ROWS = 100
#: Different keys that are told apart in one view; the rest is one row without a name.
_KEYS = 1 << 16
#: Drains that a row's history has.
HISTORY = 12

#: Octets, packets and flows.
Sums = tuple[int, int, int]
_ORDER = (OCTETS_L2, PACKETS, FLOWS)
NOTHING: Sums = (0, 0, 0)


#: What a row is called by: one text for each attribute; empty if it is not known.
Key = tuple[str, ...]
Conditions = list[tuple[str, str]]


@dataclass(frozen=True)
class View:
    """
    What traffic is summed by.

    Args:
        title: Of its column.
        sent: Attributes of who sends.
        received: The same of who receives; empty if a flow has it once.
        narrow: Conditions, as ``observe`` has them, that choose a row's flows; ``None`` if there
            are none for it.
        below: The view that a row is looked into with.
    """

    title: str
    sent: tuple[str, ...]
    received: tuple[str, ...] = ()
    narrow: Callable[[Key], Conditions] | None = None
    below: str = ""


def _ends(title: str, *names: str, narrow: str, below: str = "pairs") -> View:
    """Of either end; a row is chosen by one condition, whose value is the names with slashes."""
    sent, received = (tuple(f"{end}_{name}" for name in names) for end in ("src", "dst"))
    choose: Callable[[Key], Conditions] = lambda key: [(narrow, "/".join(key))]  # noqa: E731
    return View(title, sent, received, choose if narrow else None, below)


def _pair(key: Key) -> Conditions:
    """Between both, either way."""
    return [(f"{side}-ip", address) for side in ("from", "to") for address in key]


def _port(key: Key) -> Conditions:
    """Protocols without ports have no condition for one: their row has 0."""
    protocol, port = key
    return [("protocol", protocol)] + [("port", port)] * (int(protocol) in WITH_PORTS)


def _interface(key: Key) -> Conditions:
    """A row is of one direction."""
    return [("interface", key[0]), ("traffic-direction", ("ingress", "egress")[key[1] == "1"])]


VIEWS: dict[str, View] = {
    "talkers": _ends("ADDRESS", "addr", narrow="ip"),
    "pairs": View(
        "ADDRESSES", ("src_addr", "dst_addr"), ("dst_addr", "src_addr"), _pair, "ports"
    ),
    "ports": View("PORT", ("ip_protocol", "service_port"), (), _port, "talkers"),
    "protocols": View(
        "PROTOCOL", ("ip_protocol",), (), lambda key: [("protocol", key[0])], "ports"
    ),
    "interfaces": View("INTERFACE", ("interface", "flow_direction"), (), _interface, "talkers"),
    "pods": _ends("POD", "k8s_namespace_name", "k8s_pod_name", narrow="pod"),
    "workloads": _ends(
        "WORKLOAD", "k8s_namespace_name", "k8s_owner_name", narrow="workload", below="pods"
    ),
    "namespaces": _ends("NAMESPACE", "k8s_namespace_name", narrow="namespace", below="pods"),
    "processes": _ends("PROCESS", "process_command", "process_pid", narrow=""),
    "names": _ends("DNS NAME", "domain", narrow="fqdn", below="talkers"),
    "countries": _ends("COUNTRY", "geo_country_iso_code", narrow=""),
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """
    What somebody looks at.

    Args:
        view: Name out of :data:`VIEWS`.
        wanted: Which flows.

    Raises:
        ConfigError: If there is no such view.
    """

    view: str
    wanted: Wanted

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ConfigError(f"there is no view {self.view}: use one of {', '.join(VIEWS)}")

    def query(self) -> str:
        """As the query of a URL."""
        return f"{urlencode({'view': self.view})}&{self.wanted.query()}"

    @classmethod
    def of_query(cls, query: str) -> Asked:
        """Out of :meth:`query`. Raises ConfigError."""
        pairs = parse_qsl(query, keep_blank_values=True)
        view = next((text for name, text in pairs if name == "view"), "talkers")
        rest = urlencode([pair for pair in pairs if pair[0] != "view"])
        return cls(view, Wanted.of_query(rest))


def _sums(values: Sequence[int]) -> Sums:
    octets, packets, flows = values
    return octets, packets, flows


class _Summed:
    """Sums by one set of attributes, and what was added by the last batch."""

    def __init__(self, attributes: Sequence[str]) -> None:
        self._series = Series(attributes, _KEYS)
        self.keys: list[Key] = []
        self.slots: dict[Key, int] = {}
        self.all: NDArray[np.uint64] = np.zeros((0, 3), np.uint64)
        self.now = self.all

    def add(self, batch: FlowBatch) -> None:
        self._series.add(batch, 0)
        reading = self._series.read()
        for values in reading.values[len(self.keys) :]:
            key = tuple(str(value) for value in values)
            self.slots[key] = len(self.keys)
            self.keys.append(key)
        before = np.zeros((len(reading), 3), np.uint64)
        before[: len(self.all)] = self.all
        self.all = reading.sums[:, _ORDER]
        self.now = self.all - before

    def busiest(self, rows: int) -> set[Key]:
        """Those with most octets in the last batch, and in all."""
        found: set[Key] = set()
        for sums in (self.now, self.all):
            octets = sums[:, 0]
            some = min(rows, len(octets))
            order = np.argpartition(octets, len(octets) - some)[len(octets) - some :]
            found |= {self.keys[slot] for slot in order.tolist() if octets[slot]}
        return found

    def of(self, key: Key) -> tuple[Sums, Sums]:
        """What one did in the last batch, and in all."""
        slot = self.slots.get(key)
        if slot is None:
            return NOTHING, NOTHING
        now, everything = self.now[slot].tolist(), self.all[slot].tolist()
        return _sums(now), _sums(everything)


class Summary:
    """
    What the agent tells of one view.

    Args:
        view: What to sum by.
    """

    def __init__(self, view: View) -> None:
        self._sides = [_Summed(names) for names in (view.sent, view.received) if names]
        self._mirrored = view.received == view.sent[::-1] and len(view.sent) > 1

    def add(self, batch: FlowBatch) -> bytes:
        """One more batch; the line that tells of it."""
        for side in self._sides:
            side.add(batch)
        chosen = set().union(*(side.busiest(ROWS) for side in self._sides))
        if self._mirrored:
            # Each pair is there both ways round.
            chosen = {min(key, key[::-1]) for key in chosen}
        rows = []
        for key in chosen:
            sums = [side.of(key) for side in self._sides]
            rows.append([key, [now for now, _ in sums], [everything for _, everything in sums]])
        window, totals = batch.window, batch.totals
        told = {
            "seconds": (window.end_ns - window.start_ns) / 1e9,
            "totals": (totals.octets, totals.packets, totals.flows),
            "rows": rows,
        }
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def summed(tap: Tap, asked: Asked) -> Generator[bytes]:
    """
    What the agent answers: a JSON line after each drain, from now on.

    Raises:
        ConfigError: If it asks for what there is not; at once.
    """
    return _lines(tap, asked, Chosen(asked.wanted))


def _lines(tap: Tap, asked: Asked, chosen: Chosen) -> Generator[bytes]:
    summary = Summary(VIEWS[asked.view])
    with tap.watch() as watcher:
        yield from follow(watcher, chosen, lambda batch: (summary.add(batch),))


@dataclass
class Row:
    """
    One line of the table.

    Args:
        now: In the last drain, octets, packets and flows: sent and received, or all together.
        all: Since the beginning, likewise.
        history: Octets a second of the last drains, the newest last.
    """

    now: list[Sums]
    all: list[Sums]
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))


class Model:
    """What the command knows: the rows of one view, and their history."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.seconds = 0.0
        self.totals: Sums = NOTHING
        self.history: deque[float] = deque(maxlen=HISTORY)
        self.drains = 0
        self.missed = 0

    def take(self, line: bytes) -> None:
        """One line of the agent's."""
        told = orjson.loads(line)
        if "notice" in told:
            self.missed += told["notice"]["missed"]
            return
        self.drains += 1
        self.seconds = max(told["seconds"], 1e-3)
        self.totals = _sums(told["totals"])
        self.history.append(self.totals[0] / self.seconds)
        heard: set[Key] = set()
        for words, now, everything in told["rows"]:
            key = tuple(words)
            heard.add(key)
            row = self.rows.setdefault(key, Row([], []))
            row.now = [_sums(sums) for sums in now]
            row.all = [_sums(sums) for sums in everything]
        for key, row in self.rows.items():
            if key not in heard:
                row.now = [NOTHING for _ in row.now]
            row.history.append(sum(sums[0] for sums in row.now) / self.seconds)

    def ordered(self, by: str, containing: str = "") -> list[tuple[Key, Row]]:
        """Rows with some text in their key; most bytes, packets or flows now first, or in total."""
        measure = {"bytes": 0, "packets": 1, "flows": 2}.get(by)

        def size(item: tuple[Key, Row]) -> tuple[int, int]:
            row = item[1]
            everything = sum(sums[0] for sums in row.all)
            now = everything if measure is None else sum(sums[measure] for sums in row.now)
            return now, everything

        chosen = [item for item in self.rows.items() if containing in " ".join(item[0])]
        return sorted(chosen, key=size, reverse=True)
