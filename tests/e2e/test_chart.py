"""
The Helm chart and a real API server: what it takes, and what its accounts need to be allowed.

kubeconform has the server's own schemas. The agent and the cache run as the chart starts them, with
the tokens of the chart's accounts; the server's audit log says what they asked for.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests import patience
from tests.chart.chart import (
    CASES,
    NAMESPACE,
    Object,
    Values,
    configuration,
    container,
    environment,
    one_of,
    render,
    tools,
)
from tests.chart.schemas import LOCATION, write_custom, write_kinds
from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.apiserver import ApiServer, Request
from tests.e2e.kubeclient import Refused
from tests.e2e.net import End, Netns, Network, connect, disconnect, plug, veth
from tests.kernel.bpffs import bpffs

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_PORT = 9401
_CACHE = "t-flow-exporter-kube-cache"
_TO = ("--host", "192.0.2.2", "--flows", 10, "--size", 64, "--first_port", 9000)


@dataclass(frozen=True)
class Cluster:
    """
    A server that knows the Prometheus operator's resources.

    Args:
        server: Real.
        here: Where it and the agents run.
        schemas: For kubeconform.
    """

    server: ApiServer
    here: End
    schemas: Path

    def place(self, one: Object) -> str:
        """The path of an object, as discovery has it."""
        version = one["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        known = self.server.admin.call("GET", root)["resources"]
        (kind,) = [r for r in known if r["kind"] == one["kind"] and "/" not in r["name"]]
        name, metadata = kind["name"], one["metadata"]
        if not kind["namespaced"]:
            return f"{root}/{name}/{metadata['name']}"
        return f"{root}/namespaces/{metadata['namespace']}/{name}/{metadata['name']}"

    def apply(self, one: Object, *, dry: bool) -> Object:
        """As ``kubectl apply --server-side --validate=strict``. Raises Refused."""
        words = "fieldManager=test&force=true&fieldValidation=Strict"
        path = f"{self.place(one)}?{words}" + ("&dryRun=All" if dry else "")
        return self.server.admin.apply(path, one)

    def asked(self, account: str) -> set[tuple[str, str, str]]:
        """(group, resource, verb) of all that an account asked for. Nothing was refused."""
        found = set()
        for one in self.server.requests():
            if one.account == f"{NAMESPACE}:{account}":
                assert one.code not in (401, 403), one
                found.add((_group(one), one.resource, one.verb))
        return found


def _group(request: Request) -> str:
    parts = request.path.split("/")
    return parts[2] if parts[1] == "apis" else ""


def _granted(objects: list[Object], role: str) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in one_of(objects, "ClusterRole", role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all of this file, in a namespace with a device that packets come to."""
    definitions = sorted((tools() / "crd").glob("*.yaml"))
    directory, schemas = (tmp_path_factory.mktemp(name) for name in ("kubernetes", "schemas"))
    network = Network()
    try:
        here, there = End(network.namespace("kube"), "va"), End(network.namespace("peer"), "vb")
        for end in (here, there):
            end.netns.quiet()
        veth(here, there)
        with ApiServer(directory, here.netns) as server:
            admin = server.admin
            write_kinds(admin.call("GET", "/openapi/v2"), schemas)
            for path in definitions:
                admin.ensure(_CRDS, write_custom(path, schemas))
            admin.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            group = "/apis/monitoring.coreos.com/v1"
            wait_until(lambda: len(_kinds(server, group)) == len(definitions), "CRDs are served")
            yield Cluster(server, here, schemas)
    finally:
        network.close()


def _kinds(server: ApiServer, group: str) -> set[str]:
    try:
        return {one["kind"] for one in server.admin.call("GET", group)["resources"]}
    except Refused:
        return set()


def _kubeconform(cluster: Cluster, objects: list[Object]) -> dict[str, Any]:
    """What it says of each."""
    done = subprocess.run(
        [str(tools() / "kubeconform"), "-strict", "-verbose", "-output=json",
         f"-schema-location={cluster.schemas}/{LOCATION}"],
        input="\n---\n".join(map(json.dumps, objects)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = json.loads(done.stdout)["resources"]
    return {f"{one['kind']}/{one['name']}": (one["status"], one.get("msg")) for one in said}


@pytest.mark.parametrize("case", CASES)
def test_objects_are_what_the_server_knows(cluster: Cluster, case: str) -> None:
    """By its own schemas, with kubeconform, and by itself: nothing is unknown, nothing is wrong."""
    objects = render(CASES[case])
    said = _kubeconform(cluster, objects)
    assert len(said) == len(objects)
    assert {name: one for name, one in said.items() if one[0] != "statusValid"} == {}
    for one in objects:
        cluster.apply(one, dry=True)


def test_mistakes_are_found(cluster: Cluster) -> None:
    """A key that there is not, deep inside, by both; so the other test can fail."""
    objects = render(CASES["everything"])
    container(one_of(objects, "DaemonSet"))["securityContext"]["capabilites"] = {}
    one_of(objects, "ServiceMonitor")["spec"]["endpoints"][0]["intervall"] = "1s"
    said = _kubeconform(cluster, objects)
    wrong = {name for name, one in said.items() if one[0] != "statusValid"}
    assert wrong == {"DaemonSet/t-flow-exporter", "ServiceMonitor/t-flow-exporter"}
    for kind in ("DaemonSet", "ServiceMonitor"):
        with pytest.raises(Refused, match=r"unknown field|field not declared"):
            cluster.apply(one_of(objects, kind), dry=True)


def test_pod_security(cluster: Cluster) -> None:
    """
    The cache is a pod of the strictest level; agents need a namespace that takes any, as host
    networking alone does.
    """
    name = "strict"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.server.admin.ensure(
        "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}}
    )
    objects = render(CASES["everything"])
    path = f"/api/v1/namespaces/{name}/pods?dryRun=All"

    def create(workload: Object) -> Object:
        template = workload["spec"]["template"]
        metadata = {"name": "one", "namespace": name, "labels": template["metadata"]["labels"]}
        # The class is made with the first of them.
        spec = {key: one for key, one in template["spec"].items() if key != "priorityClassName"}
        return cluster.server.admin.call("POST", path, {"metadata": metadata, "spec": spec})

    create(one_of(objects, "Deployment", _CACHE))
    with pytest.raises(Refused, match="host namespaces"):
        create(one_of(objects, "DaemonSet"))


def publish(directory: Path, text: str) -> Path:
    """
    A volume of the ConfigMap, as a kubelet writes and changes it: by one link; its file.

    Source: kubernetes pkg/volume/util/atomic_writer.go.
    """
    directory.mkdir(exist_ok=True)
    made = directory / f"..v{len(list(directory.glob('..v*')))}"
    made.mkdir()
    (made / "config.yaml").write_text(text)
    (directory / "..data_tmp").symlink_to(made.name)
    (directory / "..data_tmp").rename(directory / "..data")
    seen = directory / "config.yaml"
    if not seen.is_symlink():
        seen.symlink_to("..data/config.yaml")
    return seen


@dataclass(frozen=True)
class Started:
    """
    How something is started as the chart does it.

    Args:
        directory: Of its own.
        objects: What was rendered.
        more: Environment of the test's, which is over the chart's configuration.
    """

    directory: Path
    objects: list[Object]
    more: dict[str, str]

    def agent(self, netns: Netns) -> Agent:
        """The agent's container: its arguments, its environment, and its capabilities only."""
        daemonset = one_of(self.objects, "DaemonSet")
        config = publish(self.directory / "config", configuration(self.objects))
        command, *arguments = container(daemonset)["args"]
        assert command == "run"
        (given,) = [one for one in arguments if one.startswith("--config=")]
        arguments[arguments.index(given)] = f"--config={config}"
        program = _program(daemonset, environment(daemonset) | self.more)
        return Agent(netns, self.directory, *arguments, program=program)


def _program(workload: Object, environment: dict[str, str]) -> list[str]:
    """flow-exporter with a container's capabilities, none of which it can get more of."""
    given = container(workload)["securityContext"]["capabilities"]
    assert given["drop"] == ["ALL"]
    kept = "".join(f",+{one.lower()}" for one in given.get("add", ()))
    return [
        "env", *(f"{name}={value}" for name, value in environment.items()),
        "setpriv", f"--bounding-set=-all{kept}", "--inh-caps=-all", "--no-new-privs", PROGRAM,
    ]  # fmt: skip


def _status(netns: Netns, path: str) -> int:
    with netns.entered():
        connection = HTTPConnection("127.0.0.1", _PORT, timeout=10 * patience.FACTOR)
        connection.request("GET", path)
        return connection.getresponse().status


def _install(cluster: Cluster, values: Values) -> list[Object]:
    """Accounts and roles for real; what was rendered."""
    objects = render(values)
    for one in objects:
        if one["kind"] in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
            cluster.apply(one, dry=False)
    return objects


def _kubeconfig(cluster: Cluster, account: str) -> str:
    token = cluster.server.token(NAMESPACE, account)
    return str(cluster.server.kubeconfig(token, account))


@pytest.mark.parametrize("owners", ["names", "watch"])
def test_the_agents_role_is_what_it_uses(cluster: Cluster, tmp_path: Path, owners: str) -> None:
    """Nothing is refused to it, and nothing is granted that it does not ask for; it is ready."""
    account = f"agent-{owners}"
    objects = _install(cluster, {"fullnameOverride": account, "kubernetes": {"owners": owners}})
    for one in objects:
        # The release's name for the helpers that look for objects.
        one["metadata"]["name"] = one["metadata"]["name"].replace(account, "t-flow-exporter")
    granted = _granted(objects, "t-flow-exporter")
    more = {
        "FLOW_EXPORTER_ENRICH__KUBERNETES__KUBECONFIG": _kubeconfig(cluster, account),
        "FLOW_EXPORTER_CAPTURE__PIN": "",
    }
    with Started(tmp_path, objects, more).agent(cluster.here.netns) as agent:
        wait_until(lambda: len(cluster.asked(account)) >= len(granted), "it has asked for all")
        probes = container(one_of(objects, "DaemonSet"))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert _status(cluster.here.netns, probes[probe]["httpGet"]["path"]) == 200, probe
        wait_until(lambda: agent.metrics()[_HEALTHY] == 1, "Kubernetes enrichment is well")
        assert agent.stop(signal.SIGTERM) == 0
    assert cluster.asked(account) == granted


_HEALTHY = 'flow_exporter_enrich_healthy{enricher="kubernetes"}'


@contextmanager
def _kube_cache(cluster: Cluster, directory: Path, objects: list[Object]) -> Iterator[None]:
    """The cache as the chart starts it."""
    deployment = one_of(objects, "Deployment", _CACHE)
    kubeconfig = f"--kubeconfig={_kubeconfig(cluster, _CACHE)}"
    command = [*_program(deployment, {}), *container(deployment)["args"], kubeconfig]
    log = directory / "cache.log"
    with log.open("wb") as file:
        process = subprocess.Popen(cluster.here.netns.command(*command), stderr=file)
    try:
        wait_until(lambda: "listening on" in log.read_text() or process.poll(), "the cache listens")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(patience.LONGEST)


def test_with_a_cache_only_that_asks(cluster: Cluster, tmp_path: Path) -> None:
    """Its role is what it uses; the agents' account has none, and asks for nothing."""
    values = {"kubeCache": {"enabled": True}, "kubernetes": {"owners": "watch"}}
    objects = _install(cluster, values)
    granted = _granted(objects, _CACHE)
    service = f"grpc://{_CACHE}:50055"
    assert service in configuration(objects)
    with _kube_cache(cluster, tmp_path, objects):
        wait_until(lambda: len(cluster.asked(_CACHE)) >= len(granted), "it has asked for all")
        more = {
            "FLOW_EXPORTER_ENRICH__KUBERNETES__CACHE": service.replace(_CACHE, "127.0.0.1"),
            "FLOW_EXPORTER_CAPTURE__PIN": "",
        }
        with Started(tmp_path, objects, more).agent(cluster.here.netns) as agent:
            wait_until(lambda: agent.metrics()[_HEALTHY] == 1, "the agent has it from the cache")
    assert cluster.asked(_CACHE) == granted
    assert cluster.asked("t-flow-exporter") == set()


def test_a_changed_configmap_is_taken_up(network: Network, tmp_path: Path) -> None:
    """A sink more, by the next rendering: the running agent has it, once the kubelet has."""
    here, there = End(network.namespace("node"), "va"), End(network.namespace("peer"), "vb")
    veth(here, there)
    before: Values = {"kubernetes": {"enabled": False}}
    after = {**before, "config": {"sinks": [{"type": "null", "name": "more"}]}}
    with Started(tmp_path, render(before), {"FLOW_EXPORTER_CAPTURE__PIN": ""}).agent(
        here.netns
    ) as agent:
        publish(tmp_path / "config", configuration(render(after)))
        wait_until(lambda: agent.says("sink more added"), "the agent reads it again")
        assert not agent.says("it needs a restart")


def test_an_upgrade_loses_nothing(network: Network, tmp_path: Path) -> None:
    """
    With the chart's capabilities and pins: what passes while one pod has ended and the next has not
    begun is in the books of the next, to the octet, and nothing is lost.
    """
    here, there = End(network.namespace("node"), "va"), End(network.namespace("peer"), "vb")
    for end in (here, there):
        end.netns.quiet()
    objects = render({"kubernetes": {"enabled": False}, "prometheus": {"labels": ["interface"]}})
    with bpffs(tmp_path) as point:
        pins = str(point / "flow-exporter")
        more = {
            "FLOW_EXPORTER_CAPTURE__PIN": pins,
            "FLOW_EXPORTER_CAPTURE__DRAIN_INTERVAL": "0.2",
        }
        started = Started(tmp_path, objects, more)
        plug(here, there)
        with started.agent(here.netns) as agent:
            connect(here, there, (["192.0.2.1/24"], ["192.0.2.2/24"]))
            traffic.run(here.netns, "udp", *_TO, "--count", 100)
            agent.wait_drained()
            assert agent.stop(signal.SIGTERM) == 0
        traffic.run(here.netns, "udp", *_TO, "--count", 1000)
        with started.agent(here.netns) as agent:
            counters = disconnect(here)
            ledger = agent.wait_drained()
            assert agent.stop(signal.SIGTERM) == 0
        unpin = [PROGRAM, "unpin", pins]
        subprocess.run(here.netns.command(*unpin), check=True, capture_output=True)
    assert ledger["earlier_agents"]["lost"] == {"packets": 0, "octets": 0}
    assert counters.tx_packets >= 1100
    assert ledger["kernel"]["seen"] == {
        "packets": counters.tx_packets + counters.rx_packets,
        "octets": counters.tx_octets + counters.rx_octets,
    }
