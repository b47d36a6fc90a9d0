"""A cluster of any size, with a bit of everything that clusters have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.e2e.cluster import Cluster, Owner, Plan, Pod
from tests.e2e.manifests import HASH
from tests.e2e.truth import Thing

#: What owns pods, one application after the other; "" is nobody.
_KINDS = (
    *["Deployment"] * 4, "ReplicaSet", "StatefulSet", "DaemonSet", "CronJob", "Job", "",
)  # fmt: skip
#: These are behind a service.
_SERVED = ("Deployment", "StatefulSet")
#: Every so-many-th DaemonSet is in the hosts' network, as kube-proxy is.
_HOST_NETWORK = 2


@dataclass(frozen=True)
class Population:
    """
    How much there is.

    Args:
        pods: In all.
        nodes: Likewise.
        namespaces: Likewise.
        each: Pods of one application.
        dual: Pods have an IPv6 address too.
    """

    pods: int = 10_000
    nodes: int = 100
    namespaces: int = 20
    each: int = 40
    dual: bool = False


def populate(cluster: Cluster, what: Population) -> list[Pod]:
    """Make all of it; the pods in the order of the applications."""
    names = [f"ns-{number}" for number in range(what.namespaces)]
    cluster.namespaces(*names)
    nodes = cluster.make_nodes(what.nodes)
    apps = -(-what.pods // what.each)
    kinds = [_KINDS[number % len(_KINDS)] for number in range(apps)]
    owners = cluster.each(
        lambda number: _owner(cluster, kinds[number], names[number % len(names)], number),
        range(apps),
    )
    plans = list(_plans(cluster, what, owners, kinds, nodes))[: what.pods]
    pods = cluster.store_pods(plans)
    served = [number for number, kind in enumerate(kinds) if kind in _SERVED]
    cluster.each(lambda number: _serve(cluster, what, owners[number], number, pods), served)
    return pods


def _owner(cluster: Cluster, kind: str, namespace: str, number: int) -> Owner | str:
    return cluster.owner(kind, namespace, f"app-{number}") if kind else namespace


def _plans(
    cluster: Cluster,
    what: Population,
    owners: list[Owner | str],
    kinds: list[str],
    nodes: list[Thing],
) -> Iterator[Plan]:
    """All pods."""
    families = ("IPv4", "IPv6") if what.dual else ("IPv4",)
    daemons = 0
    for number, (owner, kind) in enumerate(zip(owners, kinds, strict=True)):
        daemons += kind == "DaemonSet"
        on_host = kind == "DaemonSet" and daemons % _HOST_NETWORK == 0
        for index in range(what.each):
            addresses = () if on_host else cluster.free_addresses(families)
            node = nodes[(number * what.each + index) % len(nodes)]
            yield owner, _name(kind, number, index), addresses, node


def _name(kind: str, number: int, index: int) -> str:
    """As controllers name pods."""
    if kind == "Deployment":
        return f"app-{number}-{HASH}-{index:05}"
    return f"app-{number}-{index}"


def _serve(
    cluster: Cluster, what: Population, owner: Owner | str, number: int, pods: list[Pod]
) -> None:
    assert isinstance(owner, Owner)
    some = pods[number * what.each : (number + 1) * what.each]
    families = ("IPv4", "IPv6") if what.dual else ("IPv4",)
    cluster.make_service(owner.namespace, owner.app, some, families)
