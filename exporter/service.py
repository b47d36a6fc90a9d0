"""
The agent as a process: a timer, signals, health, and an end that loses nothing.

SIGINT and SIGTERM drain once more, flush the sinks and return 0. SIGHUP, or another configuration
file than there was, changes the sinks.
"""

from __future__ import annotations

import logging
import os
import platform
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from exporter import __version__
from exporter.batch.batch import FlowEndReason
from exporter.batch.clock import Steps
from exporter.config import Config, hidden
from exporter.credentials import Watched, contexts
from exporter.errors import ExporterError, SinkError
from exporter.observe import Wanted, observed
from exporter.pipeline import Pipeline
from exporter.sinks.otlp.telemetry import TelemetryExporter
from exporter.sinks.stdout.deliver import DescriptorWriter
from exporter.status import RUN_DIRECTORY, Answer, Routes, StatusServer, as_json, text
from exporter.telemetry import EXPOSITION_TYPE, Metrics, Reading, exposition, printable, recent_log
from exporter.top import Asked, summed

if TYPE_CHECKING:
    from exporter.observe_server import ObserveServer

log = logging.getLogger(__name__)

#: How often the fill of the flow map is looked at, in seconds; two system calls.
_LOOK = 0.1
#: Drains may be this late before the agent calls itself ill, in seconds.
_GRACE = 30.0
#: Seconds that standard error may take nothing before the summary is not printed.
_PATIENCE = 1.0
_NOT_YET = "not capturing yet\n"


@dataclass(frozen=True)
class Source:
    """
    Where the configuration came from.

    Args:
        load: Reads it again. Raises ConfigError.
        file: Its change means another configuration.
    """

    load: Callable[[], Config]
    file: Path | None = None


class Service:
    """
    Runs a pipeline until it is told to stop.

    Args:
        config: Validated.
        source: For another one while it runs.
    """

    def __init__(self, config: Config, source: Source | None = None) -> None:
        self._config = config
        self._source = source
        self._file = Watched((source.file,) if source is not None and source.file else ())
        self._reload_wanted = False
        self._file_changed = False
        self._reloading: threading.Thread | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._capturing = False
        self._last_drain = time.monotonic()
        self._clock = Steps()
        self.pipeline = Pipeline(config, on_closed=self.stop)
        routes = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/ledger": self._ledger,
        }
        tap = self.pipeline.tap
        streams = {
            "/observe": lambda query: observed(tap, Wanted.of_query(query)),
            "/top": lambda query: summed(tap, Asked.of_query(query)),
        }
        page = self._page() if config.metrics.page else {}
        private = {**routes, "/config": self._configuration, "/log": self._log}
        self._servers = (
            StatusServer({**routes, **page}, for_people=set(page)),
            StatusServer(private, streams),
        )
        self._observe_server = self._make_observe_server()
        self._telemetry = self._make_telemetry()

    def run(self) -> int:
        """
        Start, drain until stopped, stop.

        Returns:
            The exit code: 0 if the ledger closed, 1 if not.

        Raises:
            ExporterError, BpfError: If it cannot start; nothing is left attached then.
        """
        handlers = self._handle_signals()
        try:
            self._start_servers()
            self.pipeline.start()
            try:
                self._capturing = True
                if self._telemetry is not None:
                    self._telemetry.start()
                self._loop()
            finally:
                self._capturing = False
                if self._reloading is not None:
                    self._reloading.join()
                if self._telemetry is not None:
                    self._telemetry.pause()
                self.pipeline.stop()
                if self._telemetry is not None:
                    self._telemetry.close()
        finally:
            for server in self._servers:
                server.close()
            if self._observe_server is not None:
                self._observe_server.close()
            for number, handler in handlers:
                signal.signal(number, handler)
        return self._summary()

    def stop(self) -> None:
        """Ask the loop to end. From any thread or signal."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def _loop(self) -> None:
        interval = self._config.capture.drain_interval
        threshold = self._config.capture.fill_threshold
        # At once if an earlier agent left something: it waits for its readers already.
        due = time.monotonic() + (0 if self._config.capture.pin else interval)
        while not self._stopping:
            now = time.monotonic()
            if now >= due:
                self._tick(FlowEndReason.ACTIVE_TIMEOUT)
                # Not from now: a slow drain must not stretch the interval. Missed ones are skipped.
                due = max(due + interval, time.monotonic())
            elif self.pipeline.fetcher.fill() >= threshold:
                self._tick(FlowEndReason.LACK_OF_RESOURCES)
                due = time.monotonic() + interval
            self._clock.look()
            self._look_for_configuration()
            self._sleep(min(due - time.monotonic(), _LOOK))

    def _tick(self, reason: FlowEndReason) -> None:
        self.pipeline.tick(reason)
        self._last_drain = time.monotonic()

    def _look_for_configuration(self) -> None:
        """Reload when told to, or when the file has changed and its writer has gone on."""
        if self._file.changed():
            self._file_changed = True
        elif self._file_changed:
            self._file_changed, self._reload_wanted = False, True
        busy = self._reloading is not None and self._reloading.is_alive()
        if self._reload_wanted and not busy and self._source is not None:
            self._reload_wanted = False
            # Removed sinks deliver what waits, which may take long: drains go on.
            self._reloading = threading.Thread(target=self._reload, name="reload", daemon=True)
            self._reloading.start()

    def _reload(self) -> None:
        assert self._source is not None, "there is something to load from"
        try:
            config = self._source.load()
            plan = self.pipeline.reload(config)
        except ExporterError as err:
            log.error("the new configuration is not used, the old one stays: %s", err)  # noqa: TRY400 - one line for the user
            return
        logging.getLogger().setLevel(plan.config.log_level.upper())
        log.info("configuration read again: %s", plan)
        if plan.ignored:
            log.warning("not changed, it needs a restart: %s", ", ".join(plan.ignored))

    def _sleep(self, seconds: float) -> None:
        select.select([self._wake], [], [], max(seconds, 0))

    def _handle_signals(
        self,
    ) -> list[tuple[int, Callable[[int, FrameType | None], object] | int | None]]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        def reload(_number: int, _frame: FrameType | None) -> None:
            self._reload_wanted = True

        handlers = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGHUP: reload}
        return [(number, signal.signal(number, handler)) for number, handler in handlers.items()]

    def _make_telemetry(self) -> TelemetryExporter | None:
        wanted = self._config.metrics
        if wanted.otlp is None:
            return None
        own = Metrics(self._reading)
        return TelemetryExporter(wanted.otlp, wanted.otlp_interval, own)

    def _make_observe_server(self) -> ObserveServer | None:
        if not self._config.observe.address:
            return None
        # Imported here: gRPC and its messages, which only those agents need that are asked.
        from exporter.observe_server import ObserveServer

        return ObserveServer(self._config.observe, self.pipeline.tap)

    def _start_servers(self) -> None:
        metrics, control = self._servers
        wanted = self._config.metrics
        if wanted.address:
            metrics.listen(*wanted.host_port(), contexts(wanted.tls, "metrics"))
        if self._observe_server is not None:
            self._observe_server.listen()
        try:
            control.listen_unix(RUN_DIRECTORY / f"{os.getpid()}.sock")
        except OSError as err:
            log.warning("no control socket, so no 'flow-exporter ledger': %s", err)

    def _summary(self) -> int:
        balance = self.pipeline.ledger.balance()
        published = balance.published
        lost = balance.kernel.lost.packets
        earlier = balance.carried.lost.packets
        dropped = sum(counts.dropped_total.flows for counts in balance.sinks.values())
        spooled = sum(counts.spooled.flows for counts in balance.sinks.values())
        _say(
            f"flows: {published.flows}  packets: {published.packets}  "
            f"octets: {published.octets}  lost: {lost}"
            + (f"  dropped by sinks: {dropped} flows" if dropped else "")
            + (f"  in spools: {spooled} flows" if spooled else "")
            + (f"  lost with earlier agents: {earlier}" if earlier else "")
        )
        problems = balance.problems()
        for problem in problems:
            _say(f"flow-exporter: the ledger does not close: {problem}")
        return 1 if problems else 0

    def _reading(self) -> Reading:
        return replace(self.pipeline.reading(), clock_steps=self._clock.count)

    def _metrics(self) -> Answer:
        if not self._capturing:
            return text(503, _NOT_YET)
        own = Metrics(self._reading)
        return 200, EXPOSITION_TYPE, exposition(own, *self.pipeline.flow_metrics())

    def _healthz(self) -> Answer:
        late = time.monotonic() - self._last_drain - self._config.capture.drain_interval
        if self._capturing and late > _GRACE:
            return text(503, f"the last drain is {late:.0f} s late\n")
        return text(200, "ok\n")

    def _readyz(self) -> Answer:
        """
        Ready while it captures: a destination that is away is no reason to send nobody here, or to
        restart an agent that holds its rows. The body says how each sink does, and which enricher
        has a problem.
        """
        if not self._capturing:
            return text(503, _NOT_YET)
        workers = self.pipeline.router.workers
        sinks = self.pipeline.ledger.balance().sinks
        enrichers = self.pipeline.enrichment.readings()
        problems = {name: one.state.problem for name, one in enrichers.items() if one.state.problem}
        fine = not problems and all(worker.healthy for worker in workers)
        lines = ["ok\n" if fine else "degraded\n"]
        lines += [printable(f"enricher {name}: {what}") + "\n" for name, what in problems.items()]
        for worker in workers:
            name = worker.sink.name
            waiting = f"{sinks[name].pending.flows} pending, {sinks[name].spooled.flows} spooled"
            error = f", last error: {worker.last_error}" if worker.last_error else ""
            lines.append(printable(f"sink {name}: {worker.circuit}, {waiting}{error}") + "\n")
        return text(200, "".join(lines))

    def _page(self) -> Routes:
        from exporter.page import Page

        about = {
            "version": __version__,
            "host": platform.node(),
            "kernel": platform.release(),
            "process": str(os.getpid()),
        }
        return Page(self.pipeline.tap, about, self._ledger, self._readyz).routes()

    def _configuration(self) -> Answer:
        """What is in force, after reloads too."""
        return as_json(hidden(self.pipeline.config))

    def _log(self) -> Answer:
        return text(200, "".join(f"{line}\n" for line in recent_log()))

    def _ledger(self) -> Answer:
        if not self._capturing:
            return text(503, _NOT_YET)
        return as_json(self.pipeline.ledger.balance().as_dict())


def _say(line: str) -> None:
    """A line on standard error, unless nobody takes it: a terminal that was stopped with Ctrl-S."""
    writer = DescriptorWriter(sys.stderr.fileno())
    try:
        writer.write(f"{line}\n".encode(), _PATIENCE)
    except SinkError:
        log.debug("nobody reads standard error")
    finally:
        writer.close()
