"""
What a pod costs those who are told of it: a real kube-apiserver, and a shared cache.

Octets and CPU time of the API server are what it says of itself in ``/metrics``; those of the cache
are the messages of its stream. To take a change costs CPU time without anybody watching, too: that
is measured first, and taken off. Nothing is compressed, as with agents, which do not ask for it.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Table
from exporter._pb import kube_cache_pb2
from exporter.enrich.kubernetes.cache.messages import METHOD
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.source import KubernetesSource
from tests.e2e.agent import PROGRAM, wait_until
from tests.e2e.apiserver import ApiServer, reading
from tests.e2e.cluster import Cluster, Pod
from tests.e2e.population import Population, populate

PODS, WATCHERS, CHANGES = 4000, 20, 500
_RULES = reading("pods", "services", "nodes", "batch/jobs")


@dataclass(frozen=True)
class Said:
    """The API server's own sums: octets of answers to lists of pods, events to all watches, CPU."""

    listed: float
    events: float
    event_octets: float
    cpu: float


def run() -> Table:
    """Lists, watches and the cache's stream, by pod and by change."""
    table = Table(
        "kube",
        f"{PODS:,} pods of a real API server: what is listed and watched, by pod and by change",
        ("what", "API server", "cache"),
    )
    with tempfile.TemporaryDirectory() as directory, ApiServer(Path(directory)) as server:
        cluster = Cluster(server)
        made = populate(cluster, Population(pods=PODS, nodes=20, namespaces=5))
        # Not those in the hosts' network, of which the cache says nothing.
        pods = [pod for pod in made if pod.holds]
        config = server.kubeconfig(server.reader("agent", _RULES), "agent.kubeconfig")
        parts = [pods[CHANGES * number : CHANGES * (number + 1)] for number in range(5)]
        stream, changes = _through_cache(config, cluster, parts[4])
        alone = _cost(server, lambda: _change(cluster, parts[0]))
        with ExitStack() as stack:
            listing = _cost(server, lambda: _watchers(stack, config))
            # What the lists left behind is cleared away first.
            _watched(server, cluster, parts[1])
            watching = _cost(server, lambda: _watched(server, cluster, parts[2] + parts[3]))
    table.add("octets of a list, a pod", round(listing.listed / WATCHERS / PODS), round(stream))
    table.add("CPU us of a list, a pod", f"{1e6 * listing.cpu / WATCHERS / PODS:.1f}", "-")
    table.add("octets of a change, a watch", round(watching.event_octets / watching.events),
              round(changes))  # fmt: skip
    cpu = 1e6 * (watching.cpu / 2 - alone.cpu) / CHANGES / WATCHERS
    table.add("CPU us of a change, a watch", f"{cpu:.1f}", "-")
    return table


def _cost(server: ApiServer, what: Callable[[], None]) -> Said:
    before = _said(server)
    what()
    after = _said(server)
    return Said(*(getattr(after, n) - getattr(before, n) for n in Said.__dataclass_fields__))


def _said(server: ApiServer) -> Said:
    text = server.admin.text("GET", "/metrics")

    def total(name: str, *labels: str) -> float:
        lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for found, value in lines if all(one in found for one in labels))

    return Said(
        total("apiserver_response_sizes_sum", 'resource="pods"', 'verb="LIST"'),
        total("apiserver_watch_events_total", 'resource="pods"'),
        total("apiserver_watch_events_sizes_sum", 'resource="pods"'),
        total("process_cpu_seconds_total"),
    )


def _watchers(stack: ExitStack, config: Path) -> None:
    """So many agents' sources, all of which have listed everything."""
    sources = [
        KubernetesSource(KubernetesConfig.model_validate({"kubeconfig": config}))
        for _ in range(WATCHERS)
    ]
    for source in sources:
        source.open()
        stack.callback(source.close)
    wait_until(lambda: not any(one.state().problem for one in sources), "all is listed", 60)


def _change(cluster: Cluster, pods: list[Pod]) -> None:
    """A status is written of each pod."""
    for pod in pods:
        cluster.finish(pod)


def _watched(server: ApiServer, cluster: Cluster, pods: list[Pod]) -> None:
    before = _said(server).events
    _change(cluster, pods)
    told = len(pods) * WATCHERS
    wait_until(lambda: _said(server).events - before >= told, "all are told", 60)


@contextmanager
def cache(config: Path) -> Iterator[tuple[str, int]]:
    """One as a process: its address and its number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [PROGRAM, "kube-cache", "--kubeconfig", str(config), "--listen", address]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def _through_cache(config: Path, cluster: Cluster, pods: list[Pod]) -> tuple[float, float]:
    """
    Octets of the stream of one agent.

    Returns:
        Of a pod when everything is told, of a changed pod later.
    """
    import grpc

    told: list[tuple[int, int]] = []
    complete = threading.Event()
    with cache(config) as (address, _), grpc.insecure_channel(address) as channel:
        follow = channel.unary_stream(
            METHOD,
            request_serializer=kube_cache_pb2.Position.SerializeToString,
            response_deserializer=lambda octets: octets,
        )
        stream = follow(kube_cache_pb2.Position(), wait_for_ready=True, timeout=300)

        def listen() -> None:
            try:
                for octets in stream:
                    message = kube_cache_pb2.Changes.FromString(octets)
                    told.append((len(octets), _pods(message)))
                    if message.complete:
                        complete.set()
            except grpc.RpcError:
                return

        listener = threading.Thread(target=listen)
        listener.start()
        wait_until(complete.is_set, "everything is told", 60)
        begun = len(told)
        _change(cluster, pods)
        wait_until(lambda: sum(n for _, n in told[begun:]) >= len(pods), "changes are told", 60)
        stream.cancel()
        listener.join()
    return _mean(told[:begun]), _mean(told[begun:])


def _pods(message: kube_cache_pb2.Changes) -> int:
    """How many pods a message is about."""
    return sum(change.gone or change.thing.kind == "Pod" for change in message.changes)


def _mean(told: list[tuple[int, int]]) -> float:
    """Octets a pod of the messages that are about pods."""
    about = [(octets, pods) for octets, pods in told if pods]
    return sum(octets for octets, _ in about) / sum(pods for _, pods in about)
