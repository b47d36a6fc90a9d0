"""
Everything that a cluster's controllers and kubelets would write to an API server, and the truth.

There is no cluster: nodes, pods, services and owners are made by requests as a cluster makes them,
by several threads. Each change of an address is in :class:`tests.e2e.truth.Truth`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from tests.e2e import manifests
from tests.e2e.apiserver import ApiServer
from tests.e2e.kubeclient import Client
from tests.e2e.manifests import PATHS, Object
from tests.e2e.truth import NODE, POD, SERVICE, Hold, Thing, Truth

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

#: Where addresses of pods and of nodes begin.
_PODS4, _PODS6 = IPv4Address("10.128.0.1"), IPv6Address("fd00:10:244::1")
_NODES4, _NODES6 = IPv4Address("172.20.0.1"), IPv6Address("fd00:172:20::1")
_ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")
#: So many endpoints go into one slice.
_SLICE = 100


@dataclass(frozen=True)
class Owner:
    """
    What controls pods.

    Args:
        direct: The object that a pod names: a ReplicaSet, a Job.
        top: The kind and the name of what owns that in turn: a Deployment, a CronJob.
        namespace: Of both.
        app: The label ``app`` of its pods; its service has this name.
    """

    direct: Object
    top: tuple[str, str]
    namespace: str
    app: str


@dataclass(frozen=True)
class Pod:
    """
    A pod that was made.

    Args:
        thing: What its addresses are attributed to.
        node: Where it runs.
        addresses: Its own; the node's for one of the host's network.
        started: When it was made.
        holds: Of its addresses; none for one of the host's network.
    """

    thing: Thing
    node: Thing
    addresses: tuple[str, ...]
    started: str
    holds: tuple[Hold, ...] = field(default=(), hash=False, compare=False)

    @property
    def path(self) -> str:
        return f"{PATHS[POD].format(self.thing.namespace)}/{self.thing.name}"


#: What make_pod is told.
Plan = tuple[Owner | str, str, Sequence[str], Thing]


#: Pods that differ in little: those of one owner.
_Like = tuple[str, str, bool]


def _like(plan: Plan) -> _Like:
    owner, _, addresses, _ = plan
    if isinstance(owner, str):
        return owner, "", bool(addresses)
    return owner.namespace, str(owner.direct["metadata"]["uid"]), bool(addresses)


class Cluster:
    """
    Makes, moves and deletes.

    Args:
        server: Who is told.
        threads: That tell it.

    ``pods`` are those that were made in bulk, ``services`` and ``nodes`` those that are there.
    """

    def __init__(self, server: ApiServer, threads: int = 8) -> None:
        self.truth = Truth()
        self.nodes: list[Thing] = []
        self.pods: list[Pod] = []
        self.services: dict[tuple[str, str], Thing] = {}
        self._service_holds: dict[str, list[Hold]] = {}
        self._node_addresses: dict[str, tuple[str, ...]] = {}
        self._slices: dict[tuple[str, str], frozenset[str]] = {}
        self._server = server
        self._client: Client = server.admin
        self._threads = threads
        self._taken = 0

    def each(self, function: Callable[[_Item], _Made], items: Iterable[_Item]) -> list[_Made]:
        """Do it for each with several threads; answers in the same order."""
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(function, items))

    def make(self, kind: str, body: Object, namespace: str = "") -> Object:
        """Any object."""
        return self._client.call("POST", PATHS[kind].format(namespace), body) | {"kind": kind}

    def namespaces(self, *names: str) -> None:
        """Make them."""
        for name in names:
            self._client.ensure(PATHS["Namespace"], {"metadata": {"name": name}})

    def make_nodes(self, count: int) -> list[Thing]:
        """Nodes in three zones, with one address of each family."""
        first = len(self.nodes)
        made = self.each(self._make_node, range(first, first + count))
        self.nodes += made
        return made

    def owner(self, kind: str, namespace: str, name: str) -> Owner:
        """
        What controls pods; for a Deployment its ReplicaSet too, for a CronJob a Job of it.

        Args:
            kind: Deployment, ReplicaSet, DaemonSet, StatefulSet, CronJob or Job.
            namespace: Where.
            name: Of the one at the top.
        """
        if kind == "CronJob":
            top = self.make(kind, manifests.cron_job(name), namespace)
            body = manifests.workload("Job", f"{name}-29000000", top)
            return Owner(self.make("Job", body, namespace), (kind, name), namespace, name)
        top = self.make(kind, manifests.workload(kind, name), namespace)
        if kind == "Deployment":
            body = manifests.workload("ReplicaSet", f"{name}-{manifests.HASH}", top)
            direct = self.make("ReplicaSet", body, namespace)
            return Owner(direct, (kind, name), namespace, name)
        return Owner(top, (kind, name), namespace, name)

    def free_addresses(self, families: Sequence[str] = ("IPv4",)) -> tuple[str, ...]:
        """Addresses that no pod ever had, one of each family."""
        self._taken += 1
        first = {"IPv4": _PODS4, "IPv6": _PODS6}
        return tuple(str(first[family] + self._taken) for family in families)

    def make_pod(self, owner: Owner | str, name: str, addresses: Sequence[str], node: Thing) -> Pod:
        """
        A pod that runs.

        Args:
            owner: What controls it; for one that nobody does, its namespace.
            name: Its own.
            addresses: Its own; none for one in the host's network.
            node: Where it runs.
        """
        body = self._body(owner, name, node, host_network=not addresses)
        namespace = owner if isinstance(owner, str) else owner.namespace
        made = self._client.call("POST", PATHS[POD].format(namespace), body)
        thing = Thing(
            POD, name, namespace, made["metadata"]["uid"],
            owner=(POD, name) if isinstance(owner, str) else owner.top,
            node=node.name, zone=node.zone, labels=made["metadata"]["labels"],
        )  # fmt: skip
        started = manifests.now()
        holds = tuple(self.truth.take(address, thing) for address in addresses)
        pod = Pod(thing, node, tuple(addresses) or self._node_addresses[node.name], started, holds)
        self._tell(pod)
        self.truth.known(*holds)
        return pod

    def make_pods(self, plans: Iterable[Plan]) -> list[Pod]:
        """Many, with several threads: arguments of :meth:`make_pod`."""
        made = self.each(lambda plan: self.make_pod(*plan), plans)
        self.pods += made
        return made

    def store_pods(self, plans: Iterable[Plan]) -> list[Pod]:
        """
        Likewise, ten times as fast: written into etcd.

        The API server makes the first pod of each owner; the others are copies of it, with names,
        identifiers, nodes and addresses of their own.
        """
        planned = list(plans)
        firsts = {_like(plan): plan for plan in reversed(planned)}
        patterns = dict(zip(firsts, self.each(self._pattern, firsts.values()), strict=True))
        made: dict[int, Pod] = {id(firsts[key]): pod for key, (pod, _) in patterns.items()}
        with self._server.etcd() as etcd:
            etcd.put(self._copies(planned, patterns, made))
        # The answer is not given before the server has heard of all of them.
        self._client.call("GET", "/api/v1/pods?limit=1")
        pods = [made[id(plan)] for plan in planned]
        self.truth.known(*(hold for pod in pods for hold in pod.holds if hold.known_ns is None))
        self.pods += pods
        return pods

    def _pattern(self, plan: Plan) -> tuple[Pod, Object]:
        """A pod from the API server, and all that it says of it."""
        pod = self.make_pod(*plan)
        return pod, self._client.call("GET", pod.path)

    def _copies(
        self,
        plans: Iterable[Plan],
        patterns: Mapping[_Like, tuple[Pod, Object]],
        made: dict[int, Pod],
    ) -> Iterator[tuple[str, bytes]]:
        """Keys and values of etcd; the pods are added to ``made``."""
        for plan in plans:
            if id(plan) not in made:
                _, name, addresses, node = plan
                first, pattern = patterns[_like(plan)]
                uid = str(uuid.uuid4())
                labels = dict(first.thing.labels) | _placed(node)
                thing = replace(first.thing, name=name, uid=uid, node=node.name, zone=node.zone)
                if first.thing.owner[0] == POD:
                    labels["app"] = name
                    thing = replace(thing, owner=(POD, name))
                thing = replace(thing, labels=labels)
                holds = tuple(self.truth.take(address, thing) for address in addresses)
                hosts = self._node_addresses[node.name]
                made[id(plan)] = Pod(thing, node, tuple(addresses) or hosts, first.started, holds)
                body = manifests.copy_of_pod(pattern, thing, addresses or hosts, hosts)
                yield f"/registry/pods/{thing.namespace}/{name}", json.dumps(body).encode()

    def finish(self, pod: Pod) -> None:
        """
        A pod's containers end, as those of a Job: its addresses are free.

        The object stays, and says for ever that they were its own.
        """
        finished = manifests.now()
        self.truth.leave(*pod.holds)
        self._tell(pod, finished)
        self.truth.gone(*pod.holds)

    def terminate(self, pod: Pod) -> None:
        """Ask a pod to end. It has its addresses until :meth:`finish` or :meth:`delete`."""
        self._client.call("DELETE", f"{pod.path}?gracePeriodSeconds=30")

    def delete(self, pod: Pod) -> None:
        """A pod is gone at once, and its addresses are free, if they were not before."""
        open_holds = [hold for hold in pod.holds if hold.until_ns is None]
        self.truth.leave(*open_holds)
        self._client.call("DELETE", f"{pod.path}?gracePeriodSeconds=0")
        self.truth.gone(*open_holds)

    def move(self, pod: Pod, owner: Owner | str, name: str) -> Pod:
        """A pod is deleted, and another has its addresses at once. That one, on the same node."""
        self.delete(pod)
        return self.make_pod(owner, name, pod.addresses if pod.holds else (), pod.node)

    def hand_over(self, pod: Pod, owner: Owner | str, name: str) -> Pod:
        """
        Likewise, but the first is still there, and says that the addresses are its own, when the
        second has them already: it is asked to end, its containers end, its object goes last.
        """
        self.terminate(pod)
        self.finish(pod)
        made = self.make_pod(owner, name, pod.addresses, pod.node)
        self.delete(pod)
        return made

    def make_service(
        self, namespace: str, name: str, pods: Sequence[Pod], families: Sequence[str] = ("IPv4",)
    ) -> Thing:
        """A service with addresses from the server, and slices of its endpoints."""
        made = self.make(SERVICE, manifests.service(name, families), namespace)
        thing = Thing(SERVICE, name, namespace, made["metadata"]["uid"], owner=(SERVICE, name))
        holds = [self.truth.take(address, thing) for address in made["spec"]["clusterIPs"]]
        self.truth.known(*holds)
        self._service_holds[thing.uid] = holds
        self.services[namespace, name] = thing
        self.set_endpoints(namespace, name, pods)
        return thing

    def delete_service(self, thing: Thing) -> None:
        """A service is gone, with its addresses."""
        self.set_endpoints(thing.namespace, thing.name, ())
        holds = [hold for hold in self._service_holds.pop(thing.uid) if hold.until_ns is None]
        self.truth.leave(*holds)
        path = PATHS[SERVICE].format(thing.namespace)
        self._client.call("DELETE", f"{path}/{thing.name}")
        self.truth.gone(*holds)
        del self.services[thing.namespace, thing.name]

    def set_endpoints(self, namespace: str, name: str, pods: Sequence[Pod]) -> None:
        """The pods of a service, as its controller writes them after every change."""
        path = PATHS["EndpointSlice"].format(namespace)
        slices = {body["metadata"]["name"]: body for body in _slices(name, pods)}
        before = self._slices.get((namespace, name), frozenset())
        for own, body in slices.items():
            if own in before:
                self._client.call("PUT", f"{path}/{own}", body)
            else:
                self._client.call("POST", path, body)
        for own in before - slices.keys():
            self._client.call("DELETE", f"{path}/{own}")
        self._slices[namespace, name] = frozenset(slices)

    def _make_node(self, number: int) -> Thing:
        zone = _ZONES[number % len(_ZONES)]
        addresses = (str(_NODES4 + number), str(_NODES6 + number))
        body = manifests.node(f"node-{number}", zone, addresses)
        made = self.make(NODE, body)
        thing = Thing(NODE, f"node-{number}", "", made["metadata"]["uid"],
                      owner=(NODE, f"node-{number}"), node=f"node-{number}", zone=zone,
                      labels=body["metadata"]["labels"])  # fmt: skip
        self.truth.known(*(self.truth.take(address, thing) for address in addresses))
        self._node_addresses[thing.name] = addresses
        return thing

    def _tell(self, pod: Pod, finished: str = "") -> None:
        hosts = self._node_addresses[pod.node.name]
        status = {"status": manifests.pod_status(pod.addresses, hosts, pod.started, finished)}
        self._client.call("PATCH", f"{pod.path}/status", status)

    @staticmethod
    def _body(owner: Owner | str, name: str, node: Thing, *, host_network: bool) -> Object:
        if isinstance(owner, str):
            labels = {"app": name}
            return manifests.pod(name, node.name, labels, host_network=host_network)
        kind = owner.direct["kind"]
        labels = {"app": owner.app} | manifests.controllers_labels(owner.direct)
        return manifests.pod(
            name, node.name, labels, owner.direct, host_network=host_network,
            long_lived=kind != "Job",
        )  # fmt: skip


def _placed(node: Thing) -> dict[str, str]:
    """Labels that the API server gives a pod for its node."""
    return {key: value for key, value in node.labels.items() if key.startswith("topology.")}


def _slices(name: str, pods: Sequence[Pod]) -> Iterator[Object]:
    """Slices of a service's endpoints: each of one family, none with too many."""
    for family, mark in (("IPv4", "."), ("IPv6", ":")):
        endpoints = [
            manifests.endpoint(address, pod.thing)
            for pod in pods
            for address in pod.addresses
            if mark in address
        ]
        for number in range(-(-len(endpoints) // _SLICE)):
            some = endpoints[number * _SLICE :][:_SLICE]
            own = f"{name}-{family.lower()}-{number}"
            yield manifests.endpoint_slice(own, name, some, family)
