"""
The composition root: every stage is made here, in the order that data flows, and only then started.

::

    fetcher -> drain -> dedupe -> enrich ... -> exclude -> router -> [queue -> sink] per sink
       ^
    watcher (interfaces come and go)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, FlowEndReason
from exporter.batch.clock import unix_offset_ns
from exporter.capture.dns import NO_COPYING
from exporter.capture.drain import Drain
from exporter.capture.fetcher import Beside, FlowFetcher
from exporter.capture.interfaces import InterfaceWatcher
from exporter.capture.store import PinStore
from exporter.config import Config
from exporter.dedupe.dedupe import Deduper
from exporter.ebpf.errors import BpfError
from exporter.enrich.labels import Labels
from exporter.enrich.table import Surroundings, labels
from exporter.enrich.table import make as make_enrichment
from exporter.exclude.excluder import Excluder
from exporter.fanout.queue import BatchQueue
from exporter.fanout.router import Router
from exporter.fanout.spool.spool import Spool
from exporter.fanout.tap import Tap
from exporter.fanout.worker import SinkWorker
from exporter.ledger import Kept, Ledger, Removed
from exporter.reload import Plan, named
from exporter.reload import plan as plan_reload
from exporter.sinks.prometheus.deliver import FlowMetrics
from exporter.sinks.prometheus.sink import PrometheusSink
from exporter.sinks.table import SinkConfig, make
from exporter.telemetry import Enricher, Reading

log = logging.getLogger(__name__)


class Pipeline:
    """
    The whole agent but for its clock: ``start`` it, ``tick`` it, ``stop`` it.

    Args:
        config: Validated. Nothing is opened before :meth:`start`.
        on_closed: Called when a sink's destination is gone for good.
    """

    def __init__(self, config: Config, on_closed: Callable[[], None] = lambda: None) -> None:
        self.config = config.model_copy(update={"sinks": named(config.sinks)})
        self._on_closed = on_closed
        self._store = PinStore(config.capture.pin) if config.capture.pin else None
        names = config.enrich.names
        copying = NO_COPYING if names is None else names.copying()
        self.fetcher = FlowFetcher(
            config.capture,
            store=self._store,
            beside=Beside(copying, owners=config.enrich.processes is not None),
        )
        self.watcher = InterfaceWatcher(config.capture, self.fetcher)
        self._drain = Drain(self.fetcher)
        self._deduper = Deduper(config.dedupe)
        self.enrichment = make_enrichment(
            config.enrich,
            config.agent,
            Surroundings(
                names=lambda: self.watcher.names,
                dns=lambda: self.fetcher.read_dns(unix_offset_ns()),
                owners=lambda: self.fetcher.owners,
            ),
        )
        self._excluder = Excluder(config.exclude, self.enrichment.attributes())
        self.ledger = Ledger(self.fetcher.counts)
        self.router = Router(
            [self._worker(sink, self.enrichment.attributes()) for sink in self.config.sinks],
            self.ledger,
        )
        self.tap = Tap()
        self._keep_what_is_read()
        self._drains: Counter[str] = Counter()

    def start(self) -> None:
        """
        Open the sinks, load the program, attach it.

        Raises:
            ExporterError, BpfError: If something is missing; nothing is left attached then.
        """
        try:
            self.fetcher.open()
            self.router.start()
            self.enrichment.open()
            self.watcher.start()
            self._take_over()
            log.info("capturing on %d interface(s)", self.fetcher.points())
        except BaseException:
            self.watcher.close()
            self.enrichment.close()
            self.router.stop(0)
            self.fetcher.close()
            raise

    def tick(self, reason: FlowEndReason) -> FlowBatch:
        """
        Drain once and publish.

        Args:
            reason: Why now.

        Returns:
            What was published.
        """
        self._drains[reason.text] += 1
        try:
            self._pass_on_inherited(reason)
            batch = self._drain.take(reason)
        except BpfError:
            self.watcher.turnover.failed()
            raise
        drained = batch.totals
        batch, removed = self._refine(batch)
        self.watcher.turnover.drained()
        self.router.publish(batch, drained, removed, self.fetcher.kept())
        try:
            self._settle()
        finally:
            self.fetcher.release()
        self.tap.publish(batch)
        return batch

    def _pass_on_inherited(self, reason: FlowEndReason) -> None:
        """What earlier agents left: it is given up when all of it is published."""
        inherited = self._drain.take_inherited(reason)
        for number, drained in enumerate(inherited, 1):
            batch, removed = self._refine(drained)
            last = number == len(inherited)
            self.router.publish(batch, drained.totals, removed, Kept() if last else None)
            self._settle()
            self.tap.publish(batch)

    def _refine(self, drained: FlowBatch) -> tuple[FlowBatch, Removed]:
        """What is to be published of a drain, and what became of the rest."""
        batch = self._deduper.apply(drained)
        deduplicated = drained.totals - batch.totals
        batch, excluded = self._excluder.apply(self.enrichment.apply(batch))
        return batch, Removed(deduplicated, excluded)

    def stop(self) -> None:
        """
        Detach, drain what is left, let the sinks deliver it, unload. In data order.

        What is pinned stays attached and goes on counting.
        """
        self.watcher.close()
        if self._store is None:
            self.fetcher.detach()
        try:
            self.tick(FlowEndReason.FORCED_END)
            self.ledger.close_kernel(counts_on=self._store is not None)
        finally:
            self.tap.close()
            self.enrichment.close()
            self.router.stop(self.config.shutdown_timeout)
            self._settle()
            self.fetcher.close()

    def reload(self, config: Config) -> Plan:
        """
        Go over to another configuration, as far as that goes without a restart. Blocks while sinks
        that are removed deliver what waits; drains go on meanwhile, on another thread.

        Args:
            config: Validated.

        Returns:
            What was done.

        Raises:
            ExporterError: If a sink can never work, or an expression is wrong; nothing was changed
                then.
        """
        plan = plan_reload(self.config, config)
        saying = labels(plan.config.enrich, self.enrichment)
        known = self.enrichment.attributes(but=Labels.name)
        added = (*known, *(saying.attributes if saying else ()))
        excluder = Excluder(plan.config.exclude, added)
        queues = {worker.sink.name: worker.queue for worker in self.router.workers}
        self.router.change(
            add=[self._worker(sink, added) for sink in plan.add],
            retarget=[self._worker(sink, added, queues[sink.name]) for sink in plan.retarget],
            remove=plan.remove,
            timeout=plan.config.shutdown_timeout,
        )
        for sink in plan.retarget:
            queues[sink.name].configure(sink.queue)
        # A drain between the two lines finds labels that an exclusion does not know yet, or misses
        # some that it does: they are unknown then.
        self.enrichment.use(saying)
        self._excluder = excluder
        self.config = plan.config
        self._keep_what_is_read()
        return plan

    def _worker(
        self, config: SinkConfig, added: tuple[Attribute, ...], queue: BatchQueue | None = None
    ) -> SinkWorker:
        """A sink with a queue of its own, or with another's; ``added`` is what enrichment adds."""
        if queue is None:
            spool = self.config.spool_of(config)
            queue = BatchQueue(config.queue, Spool(spool, config.name) if spool else None)
        sink = make(config, added)
        return SinkWorker(sink, queue, config.retry, self._on_closed, self._settle)

    def _keep_what_is_read(self) -> None:
        """
        With pins and a spool a kill at any moment loses nothing: the kernel has a drain until the
        disk has it.
        """
        spools = any(self.config.spool_of(sink) for sink in self.config.sinks)
        self.fetcher.keeps = self._store is not None and spools

    def _take_over(self) -> None:
        """From an agent that left its pins behind."""
        if self._store is not None:
            self.fetcher.take_over(unix_offset_ns())
            self.ledger.carry(self._store.carried)

    def _settle(self) -> None:
        """Keep what the sinks need no more: a successor counts the rest as lost with us."""
        if self._store is not None:
            with self.ledger.booking():
                self._store.settle(self.ledger.settled(), self.ledger.kept)

    def flow_metrics(self) -> tuple[FlowMetrics, ...]:
        """Of the sinks whose metrics the agent's own address has."""
        sinks = (worker.sink for worker in self.router.workers)
        return tuple(
            sink.metrics for sink in sinks if isinstance(sink, PrometheusSink) and sink.at_agents
        )

    def reading(self) -> Reading:
        """What the metrics are made of."""
        workers = self.router.workers
        summing = [w.sink for w in workers if isinstance(w.sink, PrometheusSink)]
        return Reading(
            balance=self.ledger.balance(),
            drains=dict(self._drains),
            drain_seconds=self._drain.times.seconds,
            interfaces=self.fetcher.points(),
            attach_failures=self.watcher.attach_failures,
            map_capacity=self.fetcher.capacity,
            map_fill=self.fetcher.fill(),
            map_pressure=self.fetcher.pressure(),
            dedupe_flows=len(self._deduper.window),
            dedupe_evictions=self._deduper.window.evictions,
            enrichers={
                name: Enricher(reading.seconds, **vars(reading.state), errors=reading.errors)
                for name, reading in self.enrichment.readings().items()
            },
            sink_retries={worker.sink.name: worker.retries for worker in workers},
            sink_healthy={worker.sink.name: worker.healthy for worker in workers},
            sink_circuit={worker.sink.name: worker.circuit for worker in workers},
            spool_errors={worker.sink.name: worker.queue.spool_errors for worker in workers},
            queue_limit={worker.sink.name: worker.queue.limit for worker in workers},
            spool_octets={
                worker.sink.name: octets
                for worker in workers
                if (octets := worker.queue.spool_octets) is not None
            },
            flow_series={sink.name: len(sink.metrics) for sink in summing},
            flow_series_forgotten={sink.name: sink.metrics.forgotten for sink in summing},
            watchers=self.tap.watchers,
            watchers_missed=self.tap.missed,
        )
