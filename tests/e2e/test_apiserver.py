"""
What the API server of Kubernetes does for those who list and watch, and what it does not.

An enricher is built on these; so they are known from the server itself, not from its documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.agent import wait_until
from tests.e2e.apiserver import ApiServer, reading
from tests.e2e.churn import Churn
from tests.e2e.cluster import Cluster, Pod
from tests.e2e.kubeclient import Client, Refused
from tests.e2e.population import Population, populate
from tests.e2e.truth import NODE, POD, SERVICE

_PODS = "/api/v1/pods"
_UNCACHED = "/api/v1/namespaces/default/configmaps"
_SMALL = Population(pods=400, nodes=5, namespaces=3, each=20, dual=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """As in a cluster, but for one kind of objects, of which it has no cache."""
    flags = ["--watch-cache-sizes=configmaps#0"]
    with ApiServer(tmp_path_factory.mktemp("kubernetes"), flags=flags) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(server: ApiServer) -> Cluster:
    """With some of everything in it."""
    made = Cluster(server)
    populate(made, _SMALL)
    return made


def _events(
    client: Client, version: str | int, seconds: int, path: str = _PODS, **more: str
) -> list[dict[str, Any]]:
    """All that a watch says until the server ends it."""
    asked = {"watch": "1", "timeoutSeconds": str(seconds), "resourceVersion": str(version)} | more
    words = "&".join(f"{name}={value}" for name, value in asked.items() if value)
    with client.watch(f"{path}?{words}") as events:
        return list(events)


def _said(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["type"], one["object"]["metadata"].get("name", "")) for one in events]


def _version(client: Client) -> int:
    """Of a list of pods."""
    return int(client.call("GET", f"{_PODS}?limit=1")["metadata"]["resourceVersion"])


def _gone(pod: Pod) -> list[tuple[str, str]]:
    """What is said of a pod that is deleted: first that it will be."""
    return [("MODIFIED", pod.thing.name), ("DELETED", pod.thing.name)]


def test_a_list_in_pages_is_of_one_moment(server: ApiServer, cluster: Cluster) -> None:
    """All pages have the first one's version, and each pod once, whatever changes meanwhile."""
    first = server.admin.call("GET", f"{_PODS}?limit=150")
    cluster.make_pod("ns-0", "late", ["10.200.0.1"], cluster.nodes[0])
    names = [one["metadata"]["name"] for one in first["items"]]
    page = first
    while token := page["metadata"].get("continue"):
        page = server.admin.call("GET", f"{_PODS}?limit=150&continue={token}")
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [one["metadata"]["name"] for one in page["items"]]
    assert sorted(names) == sorted(pod.thing.name for pod in cluster.pods)


def test_a_watch_begins_where_a_list_ended(server: ApiServer, cluster: Cluster) -> None:
    """
    Every change since, in order; then bookmarks, the last one shortly before the watch ends.

    Only if something has changed that is not watched: the last one's version is past it.
    """
    version = _version(server.admin)
    made = cluster.make_pod("ns-0", "short", ["10.200.0.2"], cluster.nodes[0])
    cluster.delete(made)
    path = f"{_PODS}?watch=1&timeoutSeconds=4&allowWatchBookmarks=true&resourceVersion={version}"
    with server.admin.watch(path) as watched:
        events = [next(watched) for _ in range(4)]
        assert _said(events) == [("ADDED", "short"), ("MODIFIED", "short"), *_gone(made)]
        cluster.namespaces("another")
        revision = server.revision()
        events += watched
    assert set(_said(events[4:])) == {("BOOKMARK", "")}
    versions = [int(one["object"]["metadata"]["resourceVersion"]) for one in events]
    assert sorted(versions) == versions
    assert version < versions[0]
    assert versions[3] < revision <= versions[-1]


def test_a_watch_can_bring_the_list(server: ApiServer, cluster: Cluster) -> None:
    """sendInitialEvents: all that is there, then a bookmark that says so."""
    there = len(server.admin.call("GET", _PODS)["items"])
    events = _events(server.admin, "", 1, sendInitialEvents="true", allowWatchBookmarks="true",
                     resourceVersionMatch="NotOlderThan")  # fmt: skip
    assert [kind for kind, _ in _said(events)] == ["ADDED"] * there + ["BOOKMARK"]
    end = events[-1]["object"]["metadata"]["annotations"]
    assert end == {"k8s.io/initial-events-end": "true"}
    assert len(cluster.pods) <= there


def test_a_reader_reads_what_it_may(server: ApiServer, cluster: Cluster) -> None:
    """A service account may do what its rules say; anything else is refused, and written down."""
    with server.client(server.reader("reader", reading("pods", "apps/replicasets"))) as client:
        assert len(client.call("GET", _PODS)["items"]) >= len(cluster.pods)
        client.call("GET", "/apis/apps/v1/replicasets?limit=1")
        assert _events(client, _version(client), 1) == []
        refused = [
            ("GET", "/api/v1/secrets"),
            ("GET", "/api/v1/nodes"),
            ("GET", cluster.pods[0].path),
            ("DELETE", cluster.pods[0].path),
        ]
        for method, path in refused:
            with pytest.raises(Refused) as err:
                client.call(method, path)
            assert err.value.code == 403
    with server.client("nobody's") as client, pytest.raises(Refused) as err:
        client.call("GET", _PODS)
    assert err.value.code == 401
    asked = [(one.verb, one.resource, one.code) for one in server.requests()]
    assert asked == [
        ("list", "pods", 200), ("list", "replicasets", 200), ("list", "pods", 200),
        ("watch", "pods", 200), ("list", "secrets", 403), ("list", "nodes", 403),
        ("get", "pods", 403), ("delete", "pods", 403),
    ]  # fmt: skip


def test_the_truth_is_what_the_server_says(server: ApiServer, cluster: Cluster) -> None:
    """Addresses, nodes and owners of all pods, read from the server, are those written down."""
    listed = {
        kind: {one["metadata"]["uid"]: one for one in server.admin.call("GET", path)["items"]}
        for kind, path in {
            POD: _PODS, NODE: "/api/v1/nodes", SERVICE: "/api/v1/services",
            "ReplicaSet": "/apis/apps/v1/replicasets", "Job": "/apis/batch/v1/jobs",
        }.items()
    }  # fmt: skip
    for pod in cluster.pods:
        said = listed[POD][pod.thing.uid]
        assert [one["ip"] for one in said["status"]["podIPs"]] == list(pod.addresses)
        assert said["spec"].get("hostNetwork", False) == (not pod.holds)
        assert said["metadata"]["labels"] == pod.thing.labels
        assert said["spec"]["nodeName"] == pod.thing.node
        owner = said
        while references := owner["metadata"].get("ownerReferences"):
            (reference,) = references
            last = reference["kind"], reference["name"]
            owner = listed.get(reference["kind"], {}).get(reference["uid"], {"metadata": {}})
        assert pod.thing.owner == (last if "ownerReferences" in said["metadata"] else
                                   (POD, pod.thing.name))  # fmt: skip
        for hold in pod.holds:
            assert hold.what == pod.thing
            assert hold.known_ns is not None
    for thing in [*cluster.services.values(), *cluster.nodes]:
        said = listed[thing.kind][thing.uid]
        status = said["status"].get("addresses", ())
        addresses = said["spec"].get("clusterIPs") or [
            one["address"] for one in status if one["type"] == "InternalIP"
        ]
        assert [[hold.what for hold in cluster.truth.of(one)] for one in addresses] == [
            [thing], [thing],
        ]  # fmt: skip
    kinds = {pod.thing.owner[0] for pod in cluster.pods}
    assert kinds == {"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "CronJob", "Job", POD}


def test_endpoints_are_the_services_pods(server: ApiServer, cluster: Cluster) -> None:
    """Slices of one service, both families, after the number of its pods has changed."""
    pods = cluster.make_pods(
        ("ns-1", f"many-{number}", cluster.free_addresses(("IPv4", "IPv6")), cluster.nodes[0])
        for number in range(120)
    )
    cluster.make_service("ns-1", "many", pods, ("IPv4", "IPv6"))
    path = "/apis/discovery.k8s.io/v1/namespaces/ns-1/endpointslices"
    for some in (pods, pods[:30]):
        cluster.set_endpoints("ns-1", "many", some)
        slices = server.admin.call(
            "GET", f"{path}?labelSelector=kubernetes.io/service-name%3Dmany"
        )["items"]
        found = sorted(
            (address, endpoint["targetRef"]["uid"])
            for one in slices
            for endpoint in one["endpoints"]
            for address in endpoint["addresses"]
        )
        assert found == sorted(
            (address, pod.thing.uid) for pod in some for address in pod.addresses
        )
        assert all(len(one["endpoints"]) <= 100 for one in slices)


def test_addresses_that_change_hands(server: ApiServer, cluster: Cluster) -> None:
    """After many changes the server says of each address what the truth says; none had two."""
    pods = [pod for pod in cluster.pods[100:] if pod.holds][:40]
    owners = [cluster.owner("Deployment", "ns-0", "new"), cluster.owner("CronJob", "ns-1", "new")]
    with Churn(cluster, pods, [*owners, "ns-2"]) as churn:
        wait_until(lambda: churn.done.total() >= 100 or churn.error, "a hundred changes")
    assert set(churn.done) == {"move", "hand_over", "finish", "delete", "reuse"}
    assert churn.lost == 0
    listed = {one["metadata"]["uid"]: one for one in server.admin.call("GET", _PODS)["items"]}
    for pod in churn.live:
        said = listed[pod.thing.uid]
        assert said["status"]["phase"] == "Running"
        assert [one["ip"] for one in said["status"]["podIPs"]] == list(pod.addresses)
    held = {address: pod.thing for pod in churn.live for address in pod.addresses}
    for address in {address for pod in pods for address in pod.addresses}:
        holds = cluster.truth.of(address)
        there = [one.what for one in holds if one.until_ns is None]
        assert there == ([held[address]] if address in held else [])
        for one, following in itertools.pairwise(holds):
            assert one.until_ns is not None
            assert one.since_ns < one.until_ns <= following.since_ns


def test_after_a_restart_it_knows_what_came_since(server: ApiServer, cluster: Cluster) -> None:
    """
    A killed server resumes a watch from its last version, not from an earlier one.

    Its cache begins with a list; what was before is 410, at once, as an event. A watch in a server
    that runs is resumed from earlier versions too, compacted or not. What it has no cache of is
    resumed from any version, until etcd is compacted.
    """
    early = _version(server.admin)
    pods = cluster.pods[:3]
    cluster.delete(pods[0])
    server.compact()
    assert _said(_events(server.admin, early, 1)) == _gone(pods[0])
    compacted = server.revision()
    server.admin.call("POST", _UNCACHED, {"metadata": {"name": "before"}})
    cluster.delete(pods[1])
    version = _version(server.admin)
    server.kill()
    with pytest.raises(ConnectionError):
        server.admin.call("GET", "/readyz")
    server.start()
    assert _is_gone(_events(server.admin, early, 5))
    cluster.delete(pods[2])
    assert _said(_events(server.admin, max(version, _listed(server)), 1)) == _gone(pods[2])
    server.admin.call("POST", _UNCACHED, {"metadata": {"name": "after"}})
    events = _events(server.admin, compacted, 1, _UNCACHED)
    assert _said(events) == [("ADDED", "before"), ("ADDED", "after")]
    server.compact()
    assert _is_gone(_events(server.admin, compacted, 5, _UNCACHED))


def _is_gone(events: list[dict[str, Any]]) -> bool:
    """Whether it is all that is said that a version is too old."""
    return [(one["type"], one["object"]["code"]) for one in events] == [("ERROR", 410)]


def _listed(server: ApiServer) -> int:
    """Where a restarted server's cache begins, as it says in its refusal."""
    (event,) = _events(server.admin, 1, 1)
    message = str(event["object"]["message"])
    return int(message.rpartition("(")[2].rstrip(")"))
