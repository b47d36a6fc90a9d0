"""
Who has an address, as a real API server says while pods come, go and hand their addresses on.

The truth is written down by the test that moves the addresses; every attribution is checked against
it. One API server for all of this file: ten thousand pods take a while.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exporter.batch.batch import Window
from exporter.batch.record import records
from exporter.enrich.config import EnrichConfig
from exporter.enrich.ends import EndEnricher
from exporter.enrich.kubernetes import access
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.history import chain
from exporter.enrich.kubernetes.reflector import AWAY, LAG
from exporter.enrich.kubernetes.source import KubernetesSource
from exporter.enrich.observer import AgentConfig
from exporter.enrich.table import Enrichment, Surroundings, make
from exporter.testing import Row, make_batch
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.apiserver import UNCACHED, ApiServer, reading
from tests.e2e.cluster import Cluster, Pod
from tests.e2e.net import End, Network, connect, plug
from tests.e2e.population import Population, populate
from tests.e2e.truth import Truth, packed
from tests.patience import LONGEST
from tests.servers import free_port

SECOND = 1_000_000_000
PODS = 10_000
#: Seconds that the API server is away.
OUTAGE = float(os.environ.get("TEST_OUTAGE", "1"))
#: Seconds after which another pod may get an address: network plugins wait, for the sake of packets
#: that are still on the way (the VPC plugin of AWS 30 s).
COOLDOWN = 1.5
#: What the agent's role must have, and nothing else.
RULES = reading("pods", "services", "nodes", "batch/jobs")


@dataclass
class World:
    """
    A cluster in motion.

    Args:
        server: Real.
        cluster: What is in it.
        pods: That are there now.
    """

    server: ApiServer
    cluster: Cluster
    pods: list[Pod]
    #: Addresses that changed hands at once, and others that did after a while.
    hot: list[str] = field(default_factory=list)
    cold: list[str] = field(default_factory=list)
    made: int = 0
    #: No flow is older.
    begun_ns: int = field(default_factory=time.time_ns)
    #: How long an agent may not know of a change, in seconds: an address is not handed on within
    #: that time, or its flows are drained later than that.
    late: float = COOLDOWN

    @property
    def truth(self) -> Truth:
        return self.cluster.truth

    def config(self, **more: object) -> KubernetesConfig:
        token = self.server.reader("agent", RULES)
        path = self.server.kubeconfig(token, "agent.kubeconfig")
        return KubernetesConfig.model_validate({"kubeconfig": path, "labels": ("app",), **more})

    def shuffle(self, seed: int, stop: threading.Event) -> None:
        """Delete, make, and hand addresses on, until told to stop."""
        rng = random.Random(seed)
        waiting: list[tuple[float, Pod]] = []
        while not stop.is_set():
            pod = self.pods.pop(rng.randrange(len(self.pods)))
            if not pod.holds:
                continue
            self.made += 1
            name = f"late-{seed}-{self.made}"
            if rng.random() < 0.3:
                heir = self.cluster.move(pod, pod.thing.namespace, name)
                self.hot += pod.addresses
                self.pods.append(heir)
            else:
                self.cluster.delete(pod)
                waiting.append((time.monotonic() + self.late, pod))
            while waiting and waiting[0][0] < time.monotonic():
                _, old = waiting.pop(0)
                namespace = old.thing.namespace
                heir = self.cluster.make_pod(namespace, f"{name}-b", old.addresses, old.node)
                self.pods.append(heir)
                self.cold += old.addresses
                break

    @contextmanager
    def shuffling(self) -> Iterator[None]:
        stop = threading.Event()
        threads = [
            threading.Thread(target=self.shuffle, args=(seed, stop), daemon=True) for seed in (1, 2)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Ten thousand pods on a hundred nodes."""
    with ApiServer(tmp_path_factory.mktemp("kubernetes")) as server:
        cluster = Cluster(server)
        pods = populate(cluster, Population(pods=PODS, dual=True))
        yield World(server, cluster, pods)


@dataclass
class Checker:
    """
    Drains batches of flows through the real enrichment, and judges every end.

    Args:
        world: The truth.
        source: What is tested.
        enrichment: With nothing else.
        lag: How long it may not know of a change: then it knows nothing, or who had an address
            last if nobody has it. Never may it name one who has it no more while another has.
    """

    world: World
    source: KubernetesSource
    enrichment: Enrichment
    lag: int = 3 * SECOND
    verdicts: Counter[str] = field(default_factory=Counter)

    def drain(self, addresses: list[tuple[str, int, int]]) -> None:
        """Flows to addresses, each with its start and its end."""
        if not addresses:
            return
        begun = min(start for _, start, _ in addresses)
        rows = [
            Row(src_addr="192.0.2.1", dst_addr=address, flow_start_ns=start, flow_end_ns=end)
            for address, start, end in addresses
        ]
        batch = make_batch(*rows, window=Window(begun, time.time_ns()))
        before = self.in_doubt()
        enriched = self.enrichment.apply(batch)
        listing = before or self.in_doubt()
        for (address, start, end), record in zip(addresses, records(enriched), strict=True):
            said = {what.otel.removeprefix("destination."): value
                    for what, value in record.metadata.items()}  # fmt: skip
            self.judge(address, (start, end), said, listing=listing)

    def watch(self, rng: random.Random) -> None:
        """Flows of the moment, for two seconds and until many were of pods: a machine is slow."""
        begun, before = time.monotonic(), self.verdicts["Pod"]
        while time.monotonic() < begun + 2 or (many := self.verdicts["Pod"] - before) <= 500:
            assert time.monotonic() < begun + LONGEST, f"only {many} flows of pods"
            self.drain(flows(self.world, rng, 300))

    def story(self, address: str, end: int, said: Mapping[str, object]) -> str:
        """What there was and what was known of an address; seconds after the flow's end."""

        def after(when: int | None) -> str:
            return "-" if when is None else f"{(when - end) / SECOND:.3f}"

        lines = [f"{address}: {said}; drained at {after(time.time_ns())}"]
        for one in self.world.truth.of(address)[-3:]:
            times = (one.since_ns, one.known_ns, one.until_ns, one.gone_ns)
            lines.append(f"truth: {one.what.name} {[after(when) for when in times]}")
        for hold in chain(self.source.index._holds.get(packed(address)))[:3]:
            thing = self.source.index.object(hold.slot)
            bounds = (hold.possible_from, hold.there_from, hold.sure_from, hold.sure_to,
                     hold.possible_to)  # fmt: skip
            lines.append(f"known: {thing and thing.name} {[after(when) for when in bounds]}")
        return "\n".join(lines)

    def in_doubt(self) -> bool:
        """Whether it is being told everything anew."""
        return any(feed.in_doubt for feed in self.source.feeds)

    def judge(
        self, address: str, span: tuple[int, int], said: Mapping[str, object], *, listing: bool
    ) -> None:
        start, end = span
        kind, namespace, name = (
            str(said.get(f"k8s.{key}", "")) for key in ("kind", "namespace.name", "name")
        )
        verdict = self.world.truth.expect(address, start, end, self.lag)
        assert verdict.accepts(kind, namespace, name) or not kind, self.story(address, end, said)
        # Beside a change one may not know, but nowhere else.
        sure = self.world.truth.expect(address, start, end, self.lag, self.lag)
        assert kind or listing or sure.unknown, self.story(address, end, said)
        self.verdicts[kind or "unknown"] += 1
        for what in ("Pod", "Service"):
            named = said.get(f"k8s.{what.lower()}.name", "")
            assert named == (name if kind == what else ""), said
        if kind:
            things = [one for one in (*verdict.right, *verdict.left) if one.name == name]
            assert said["k8s.owner.kind"], said
            assert (said["k8s.owner.kind"], said["k8s.owner.name"]) == things[0].owner
            assert said.get("k8s.zone", "") == things[0].zone
            assert said.get("k8s.node.name", "") == things[0].node
            if kind == "Pod":
                assert said["k8s.pod.uid"] == things[0].uid
                assert said["k8s.label.app"] == things[0].labels["app"]


@contextmanager
def checking(world: World, **more: object) -> Iterator[Checker]:
    """The real enrichment, up to date."""
    config = EnrichConfig(kubernetes=world.config(**more))
    enrichment = make(config, AgentConfig(address="192.0.2.1"), Surroundings(dict))
    (ends,) = (one for one in enrichment._enrichers if isinstance(one, EndEnricher))
    (source,) = ends._sources
    assert isinstance(source, KubernetesSource)
    enrichment.open()
    try:
        wait_until(lambda: not source.state().problem, "all is listed")
        yield Checker(world, source, enrichment)
    finally:
        enrichment.close()


def lists(world: World) -> Counter[str]:
    """How often each resource was listed, by the server's own account."""
    asked = [one for one in world.server.requests() if one.account.endswith(":agent")]
    begun = [one for one in asked if one.verb == "list" and "continue=" not in one.path]
    return Counter(one.resource for one in begun)


def flows(world: World, rng: random.Random, count: int) -> list[tuple[str, int, int]]:
    """
    Flows of the last seconds, many with addresses that have changed hands.

    Those whose addresses were handed on at once ended a moment ago: no agent can know by then.
    """
    now = time.time_ns()
    found = []
    some = [address for pod in rng.sample([*world.pods], 50) for address in pod.addresses]
    moved = {*world.hot, *world.cold}
    still = [address for address in some if address not in moved]
    for late, some in (
        (int(world.late * SECOND), world.hot[-60:]),
        (0, world.cold[-60:]),
        (0, still),
    ):
        for _ in range(count // 3 if some else 0):
            end = now - late - rng.randrange(3 * SECOND)
            found.append((rng.choice(some), end - rng.randrange(SECOND), end))
    return [one for one in found if one[1] > world.begun_ns]


def test_ten_thousand_pods(world: World) -> None:
    """Every address of the cluster is who the test made it: owners, zones, labels, nodes."""
    before = lists(world)
    with checking(world) as checker:
        now = time.time_ns()
        addresses = world.truth.addresses()
        assert len(addresses) > 2 * PODS * 0.9
        checker.drain([(address, now, now) for address in addresses])
        assert checker.verdicts["unknown"] == 0
        assert checker.verdicts["Node"] == 2 * len(world.cluster.nodes)
        assert checker.verdicts["Service"] == 2 * len(world.cluster.services)
        # The service of the API server itself is not of the test's making.
        assert checker.source.state().entries == len(addresses) + 1
    once = {"pods": 1, "services": 1, "nodes": 1, "jobs": 1}
    assert lists(world) - before == once


def test_while_pods_come_and_go(world: World) -> None:
    """No flow is given to a wrong pod, nor to nobody without need, while addresses move."""
    rng = random.Random(5)
    before = lists(world)
    with checking(world) as checker, world.shuffling():
        wait_until(lambda: len(world.hot) > 50 and len(world.cold) > 50, "addresses move")
        checker.watch(rng)
    assert checker.verdicts["unknown"] < checker.verdicts["Pod"]
    assert (lists(world) - before)["pods"] == 1


def away(world: World) -> Counter[str]:
    """
    Let the server be away for a while, and be busy as soon as it is back.

    Returns:
        What was listed because of that.
    """
    rng = random.Random(6)
    with checking(world) as checker:
        world.late = AWAY + LAG
        checker.lag = int(2 * world.late * SECOND)
        before = lists(world)
        world.server.kill()
        try:
            wait_until(lambda: checker.source.state().problem, "it is noticed")
            until = time.monotonic() + OUTAGE
            while time.monotonic() < until:
                checker.drain(flows(world, rng, 300))
                time.sleep(0.1)
            assert "answers are" in checker.source.state().problem
        finally:
            world.server.start()
        with world.shuffling():
            checker.watch(rng)
        wait_until(lambda: not checker.source.state().problem, "it is well again")
        time.sleep(LAG)
        now = time.time_ns()
        checker.drain([(a, now, now) for pod in world.pods[-100:] for a in pod.addresses])
        world.late = COOLDOWN
        return lists(world) - before


def test_server_away(world: World) -> None:
    """
    Last answers stay, and none is wrong. What a restarted server cannot say any more is listed
    once: its cache begins with its start.
    """
    assert all(count == 1 for count in away(world).values())


def test_server_away_that_remembers(tmp_path: Path) -> None:
    """Nothing is listed anew if the server can say what happened since."""
    with ApiServer(tmp_path, flags=UNCACHED) as server:
        cluster = Cluster(server)
        pods = populate(cluster, Population(pods=400, nodes=5, namespaces=3, dual=True))
        assert away(World(server, cluster, pods)) == {}


_MEASURE = """
import sys, time
from pathlib import Path
import exporter.pipeline
from exporter.batch.batch import Window
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.table import Surroundings, make
from exporter.enrich.config import EnrichConfig
from exporter.enrich.observer import AgentConfig
from exporter.testing import Row, make_batch

def resident():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

now = time.time_ns()
window = Window(now, now)
rows = make_batch(*(Row(dst_addr=line.strip(), flow_start_ns=now, flow_end_ns=now)
                    for line in sys.stdin), window=window)
before = resident()
config = EnrichConfig(kubernetes=KubernetesConfig(kubeconfig=sys.argv[1], labels="app"))
enrichment = make(config, AgentConfig(address="192.0.2.1"), Surroundings(dict))
enrichment.open()
while enrichment.readings()["kubernetes"].state.problem:
    time.sleep(0.05)
for _ in range(3):
    (_, destinations) = enrichment.apply(rows).entities
assert (destinations.rows > 0).mean() > 0.95
print(resident() - before)
enrichment.close()
"""


def test_memory(world: World) -> None:
    """The most that an agent ever has for ten thousand pods is under 60 MB."""
    kubeconfig = world.config().kubeconfig
    addresses = "\n".join(address for pod in world.pods for address in pod.addresses)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(kubeconfig)],
        input=addresses, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 5 < float(done.stdout) < 60


def test_what_it_may_not(world: World) -> None:
    """Without a right it says which, and knows the rest."""
    token = world.server.reader("less", reading("pods", "services", "batch/jobs"))
    path = world.server.kubeconfig(token, "less.kubeconfig")
    source = KubernetesSource(KubernetesConfig(kubeconfig=path))
    source.open()
    try:
        wait_until(lambda: len(source.index) > PODS, "pods are listed")
        wait_until(lambda: "Node: HTTP 403" in source.state().problem, "it says what is forbidden")
    finally:
        source.close()


def test_a_token_that_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service account's token is read again: the first one is good for nothing."""
    good = world.server.reader("agent", RULES)
    directory = world.server.account_files("no token at all", "rotated")
    monkeypatch.setattr(access, "ACCOUNT", directory)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(world.server.port))
    source = KubernetesSource(KubernetesConfig())
    source.open()
    try:
        wait_until(lambda: "HTTP 401" in source.state().problem, "it is refused")
        (directory / "token").write_text(good)
        wait_until(lambda: not source.state().problem, "it is let in")
    finally:
        source.close()


def test_an_agent(network: Network, tmp_path: Path) -> None:
    """Packets between pods' addresses, captured: the pods' names in both schemas."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    plug(one, other)
    connect(one, other, (("10.128.9.1/24",), ("10.128.9.2/24",)))
    with ApiServer(tmp_path, one.netns) as server:
        cluster = Cluster(server)
        cluster.namespaces("shop")
        (node,) = cluster.make_nodes(1)
        owner = cluster.owner("Deployment", "shop", "web")
        client = cluster.make_pod(owner, "web-5d4f8c7b9-1", ["10.128.9.1"], node)
        cluster.make_pod("shop", "database", ["10.128.9.2"], node)
        config = tmp_path / "agent.yaml"
        kubeconfig = server.kubeconfig(server.reader("agent", RULES))
        config.write_text(f"enrich: {{kubernetes: {{kubeconfig: {kubeconfig}}}}}")
        arguments = ["--config", str(config), "--interfaces", "va", "--drain-interval", "0.2s",
                     "--sink", "stdout", "--metrics-address", "127.0.0.1:9401"]  # fmt: skip
        with Agent(one.netns, tmp_path, *arguments) as agent:
            wait_until(
                lambda: agent.metrics()['flow_exporter_enrich_healthy{enricher="kubernetes"}'] == 1,
                "all is listed",
            )
            one.netns.run("ping", "-c", "3", "-i", "0.2", "10.128.9.2")
            wait_until(lambda: len(agent.records()) >= 2, "flows are exported")
            agent.stop()
        (said, *_) = [r for r in agent.records() if r["source"]["address"] == "10.128.9.1"]
    assert said["source"]["k8s"] == {
        "kind": "Pod",
        "name": "web-5d4f8c7b9-1",
        "namespace": {"name": "shop"},
        "owner": {"kind": "Deployment", "name": "web"},
        "node": {"name": "node-0", "ip": "172.20.0.1"},
        "zone": "eu-west-1a",
        "pod": {"name": "web-5d4f8c7b9-1", "uid": client.thing.uid},
    }
    assert said["destination"]["k8s"]["owner"] == {"kind": "Pod", "name": "database"}


def test_a_cache_for_many(tmp_path: Path) -> None:
    """Twenty agents ask the API server eighty lists by themselves, and four through a cache."""
    with ApiServer(tmp_path) as server:
        cluster = Cluster(server)
        pods = populate(cluster, Population(pods=400, nodes=5, namespaces=3, dual=True))
        world = World(server, cluster, pods)
        with ExitStack() as stack:
            sources = [stack.enter_context(opened(world.config())) for _ in range(20)]
            wait_until(lambda: not any(one.state().problem for one in sources), "all is listed")
        asked = lists(world)
        assert asked == {"pods": 20, "services": 20, "nodes": 20, "jobs": 20}
        with cache_of(world) as address, ExitStack() as stack:
            config = KubernetesConfig(cache=address, labels=("app",))
            sources = [stack.enter_context(opened(config)) for _ in range(20)]
            wait_until(lambda: not any(one.state().problem for one in sources), "all is told")
            assert lists(world) - asked == {"pods": 1, "services": 1, "nodes": 1, "jobs": 1}
            # As the API server says it, and so later changes.
            with checking(world, cache=address) as checker:
                now = time.time_ns()
                addresses = world.truth.addresses()
                checker.drain([(address, now, now) for address in addresses])
                assert checker.verdicts["unknown"] == 0
                with world.shuffling():
                    checker.watch(random.Random(7))


@contextmanager
def opened(config: KubernetesConfig) -> Iterator[KubernetesSource]:
    source = KubernetesSource(config)
    source.open()
    try:
        yield source
    finally:
        source.close()


@contextmanager
def cache_of(world: World) -> Iterator[str]:
    """``flow-exporter kube-cache`` as a process."""
    kubeconfig = world.config().kubeconfig
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [PROGRAM, "kube-cache", "--kubeconfig", str(kubeconfig), "--listen", address,
         "--labels", "other,app"],
    )  # fmt: skip
    try:
        yield f"grpc://{address}"
    finally:
        process.terminate()
        assert process.wait(30) == 0
