"""Objects of the API are trimmed to what is used, and nothing odd in them does harm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exporter.enrich.kubernetes.objects import Entity, Event, Link, Page, Parser, unix_ns
from exporter.testing.batch import pack_address

SECOND = 1_000_000_000


def pod(**changes: Any) -> dict[str, Any]:
    """A pod as a server has it; a change of a section is merged into it."""
    made: dict[str, Any] = {
        "metadata": {
            "name": "web-5d4f8c7b9-x", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"team": "blue", "secret": "x" * 1000},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:x": {}}}],
            "ownerReferences": [
                {"kind": "Config", "name": "other", "apiVersion": "v1", "uid": "o"},
                {"kind": "ReplicaSet", "name": "web-5d4f8c7b9", "controller": True, "uid": "o"},
            ],
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "x"}]},
        "status": {
            "phase": "Running", "hostIP": "172.20.0.1", "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "2001:db8::1"}],
            "startTime": "2026-01-02T03:04:07Z",
        },
    }  # fmt: skip
    for section, values in changes.items():
        made[section] |= values
    return made


def parsed(kind: str, one: dict[str, Any], parser: Parser | None = None) -> Entity:
    octets = json.dumps({"metadata": {"resourceVersion": "1"}, "items": [one]}).encode()
    (item,) = (parser or Parser(kind)).page(octets).items
    assert isinstance(item, Entity)
    return item


def test_pod() -> None:
    """Both addresses, the Deployment by the label's hash, the chosen labels and annotations."""
    parser = Parser("Pod", ("app", "absent"), ("team",))
    assert parsed("Pod", pod(), parser) == Entity(
        kind="Pod",
        uid="u-1",
        namespace="shop",
        name="web-5d4f8c7b9-x",
        addresses=(pack_address("10.0.0.1"), pack_address("2001:db8::1")),
        node="node-1",
        host="172.20.0.1",
        owner=("Deployment", "web"),
        extra=("web", "", "blue"),
        since_ns=unix_ns("2026-01-02T03:04:07Z"),
    )


def test_annotations_are_cut() -> None:
    """A record has the beginning of a long one."""
    (value,) = parsed("Pod", pod(), Parser("Pod", (), ("secret",))).extra
    assert value == "x" * 255 + "…"


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"hostNetwork": True}},
        {"status": {"hostIP": "10.0.0.1"}},
        {"status": {"phase": "Succeeded"}},
        {"status": {"phase": "Failed"}},
        {"status": {"podIP": "", "podIPs": []}},
        {"status": {"podIP": "no address", "podIPs": [{"ip": "10.0.0.1/24"}]}},
    ],
)
def test_pods_without_addresses_of_their_own(changes: dict[str, Any]) -> None:
    """In the host's network, ended, not started yet, or with nonsense."""
    assert parsed("Pod", pod(**changes)).addresses == ()


def test_one_address_of_an_old_server() -> None:
    """Servers before 1.16 have no podIPs."""
    one = pod()
    del one["status"]["podIPs"]
    assert parsed("Pod", one).addresses == (pack_address("10.0.0.1"),)


@pytest.mark.parametrize(
    ("labels", "reference", "owner"),
    [
        ({"pod-template-hash": "77"}, ("ReplicaSet", "a-b-77"), ("Deployment", "a-b")),
        ({"rollouts-pod-template-hash": "77"}, ("ReplicaSet", "a-77"), ("Rollout", "a")),
        ({"pod-template-hash": "77"}, ("ReplicaSet", "a-78"), ("ReplicaSet", "a-78")),
        ({}, ("ReplicaSet", "a-77"), ("ReplicaSet", "a-77")),
        ({"pod-template-hash": ""}, ("ReplicaSet", "a-"), ("ReplicaSet", "a-")),
        ({"pod-template-hash": "77"}, ("StatefulSet", "a-77"), ("StatefulSet", "a-77")),
    ],
)
def test_owner_by_name(
    labels: dict[str, str], reference: tuple[str, str], owner: tuple[str, str]
) -> None:
    """A ReplicaSet has a Deployment only if the label and the name say so; else it is the owner."""
    references = [{"kind": reference[0], "name": reference[1], "controller": True}]
    one = pod(metadata={"labels": labels, "ownerReferences": references})
    assert parsed("Pod", one).owner == owner
    watched = Parser("Pod", by_name=False)
    assert parsed("Pod", one, watched).owner == reference


def test_service() -> None:
    """Cluster addresses of both families; a headless one has none."""
    one = {"metadata": {"name": "web", "namespace": "shop", "uid": "u"},
           "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]}}  # fmt: skip
    found = parsed("Service", one)
    assert found.addresses == (pack_address("10.96.0.1"), pack_address("fd00::1"))
    one["spec"] = {"clusterIP": "None", "clusterIPs": ["None"]}
    assert parsed("Service", one).addresses == ()


def test_node() -> None:
    """Its addresses but not its host name; its zone, by the old label too."""
    one: dict[str, Any] = {
        "metadata": {"name": "n", "uid": "u", "labels": {"topology.kubernetes.io/zone": "z"}},
        "status": {"addresses": [
            {"type": "Hostname", "address": "10.0.0.9"},
            {"type": "InternalIP", "address": "172.20.0.1"},
            {"type": "ExternalIP", "address": "192.0.2.1"},
        ]},
    }  # fmt: skip
    found = parsed("Node", one)
    assert found.addresses == (pack_address("172.20.0.1"), pack_address("192.0.2.1"))
    assert (found.node, found.host, found.zone) == ("n", "172.20.0.1", "z")
    one["metadata"]["labels"] = {"failure-domain.beta.kubernetes.io/zone": "old"}
    assert parsed("Node", one).zone == "old"


def test_page() -> None:
    """What to go on with, and what a watch begins after; no items is none."""
    octets = b'{"metadata":{"resourceVersion":"12","continue":"abc"},"items":null}'
    assert Parser("Pod").page(octets) == Page([], "12", "abc")
    assert Parser("Pod").page(b'{"metadata":{"resourceVersion":"12"},"items":[]}').more == ""


def test_events() -> None:
    """Changes, bookmarks, and errors with their code."""
    parser = Parser("Job")
    owner = {"kind": "CronJob", "name": "backup", "controller": True}
    meta = {"name": "backup-1", "namespace": "ns", "uid": "u", "resourceVersion": "9",
            "ownerReferences": [owner]}  # fmt: skip
    line = json.dumps({"type": "ADDED", "object": {"metadata": meta}}).encode()
    link = Link("Job", "u", "ns", "backup-1", ("CronJob", "backup"))
    assert parser.event(line) == Event("ADDED", link, "9")
    line = b'{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"11"}}}'
    assert parser.event(line) == Event("BOOKMARK", None, "11")
    line = (
        b'{"type":"ERROR","object":{"kind":"Status","metadata":{},"status":"Failure",'
        b'"message":"too old","reason":"Expired","code":410}}'
    )
    assert parser.event(line) == Event("ERROR", None, "", 410, "Expired: too old")


@pytest.mark.parametrize(
    "octets", [b"", b"{", b"[]", b'{"items":[]}', b'{"metadata":{},"items":[{"metadata":7}]}']
)
def test_nonsense(octets: bytes) -> None:
    """What is no list or no event is one kind of error."""
    with pytest.raises(ValueError):  # noqa: PT011 - the library's words
        Parser("Pod").page(octets)
    with pytest.raises(ValueError):  # noqa: PT011
        Parser("Pod").event(octets)


def test_times() -> None:
    """Of the API, in Unix ns; what is none is the beginning of time."""
    assert unix_ns("1970-01-01T00:00:02Z") == 2 * SECOND
    assert unix_ns("1970-01-01T01:00:02.9+01:00") == 2 * SECOND
    assert [unix_ns(text) for text in (None, "", "yesterday")] == [0, 0, 0]
