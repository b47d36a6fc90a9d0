"""
The agent as a process: a timer, signals, health, and an end that loses nothing.

SIGINT and SIGTERM drain once more, flush the sinks and return 0.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from exporter.batch.batch import FlowEndReason
from exporter.config import Config
from exporter.errors import SinkError
from exporter.pipeline import Pipeline
from exporter.sinks.stdout.deliver import DescriptorWriter
from exporter.status import RUN_DIRECTORY, Answer, StatusServer, as_json, text
from exporter.telemetry import EXPOSITION_TYPE, Metrics, exposition

log = logging.getLogger(__name__)

#: How often the fill of the flow map is looked at, in seconds; two system calls.
_LOOK = 0.1
#: Drains may be this late before the agent calls itself ill, in seconds.
_GRACE = 30.0
#: Seconds that standard error may take nothing before the summary is not printed.
_PATIENCE = 1.0
_NOT_YET = "not capturing yet\n"


class Service:
    """
    Runs a pipeline until it is told to stop.

    Args:
        config: Validated.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._capturing = False
        self._last_drain = time.monotonic()
        self.pipeline = Pipeline(config, on_closed=self.stop)
        routes = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/ledger": self._ledger,
        }
        self._servers = (StatusServer(routes), StatusServer(routes))

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
                self._loop()
            finally:
                self._capturing = False
                self.pipeline.stop()
        finally:
            for server in self._servers:
                server.close()
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
            self._sleep(min(due - time.monotonic(), _LOOK))

    def _tick(self, reason: FlowEndReason) -> None:
        self.pipeline.tick(reason)
        self._last_drain = time.monotonic()

    def _sleep(self, seconds: float) -> None:
        select.select([self._wake], [], [], max(seconds, 0))

    def _handle_signals(
        self,
    ) -> list[tuple[int, Callable[[int, FrameType | None], object] | int | None]]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        return [
            (number, signal.signal(number, handle)) for number in (signal.SIGINT, signal.SIGTERM)
        ]

    def _start_servers(self) -> None:
        metrics, control = self._servers
        if self._config.metrics.address:
            metrics.listen(*self._config.metrics.host_port())
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
        _say(
            f"flows: {published.flows}  packets: {published.packets}  "
            f"octets: {published.octets}  lost: {lost}"
            + (f"  dropped by sinks: {dropped} flows" if dropped else "")
            + (f"  lost with earlier agents: {earlier}" if earlier else "")
        )
        problems = balance.problems()
        for problem in problems:
            _say(f"flow-exporter: the ledger does not close: {problem}")
        return 1 if problems else 0

    def _metrics(self) -> Answer:
        if not self._capturing:
            return text(503, _NOT_YET)
        own = Metrics(self.pipeline.reading)
        return 200, EXPOSITION_TYPE, exposition(own, *self.pipeline.flow_metrics())

    def _healthz(self) -> Answer:
        late = time.monotonic() - self._last_drain - self._config.capture.drain_interval
        if self._capturing and late > _GRACE:
            return text(503, f"the last drain is {late:.0f} s late\n")
        return text(200, "ok\n")

    def _readyz(self) -> Answer:
        lines = [] if self._capturing else [_NOT_YET]
        lines += [
            f"sink {worker.sink.name}: not delivering\n"
            for worker in self.pipeline.router.workers
            if not worker.healthy
        ]
        return text(503, "".join(lines)) if lines else text(200, "ok\n")

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
