"""Answers of the source as a drain gets them: by time, fresh, and none rather than wrong ones."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from msgspec.structs import replace as replaced

from exporter.batch.batch import Window
from exporter.batch.record import records
from exporter.enrich.base import State
from exporter.enrich.ends import EndEnricher
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.index import Moment
from exporter.enrich.kubernetes.objects import Entity
from exporter.enrich.kubernetes.source import KubernetesSource
from exporter.testing import Row, make_batch
from exporter.testing.batch import pack_address

SECOND = 1_000_000_000


@dataclass
class Feed:
    """What keeps the index up to date, as the test says."""

    caught_up_ns: int
    problem: str = ""
    in_doubt: bool = False

    def start(self) -> None: ...

    def close(self) -> None: ...


def pod(name: str, address: str, since: int, node: str = "node-1") -> Entity:
    return Entity("Pod", f"uid-{name}", "shop", name, (pack_address(address),), node=node,
                  since_ns=since)  # fmt: skip


def source(feed: Feed | None = None) -> KubernetesSource:
    made = KubernetesSource(KubernetesConfig(), lambda _config, _index: [feed] if feed else [])
    made.open()
    return made


def said(made: KubernetesSource, *flows: tuple[str, int, int]) -> list[dict[str, object]]:
    """Of the destination of each flow: what stands below ``k8s``."""
    rows = [Row(dst_addr=to, flow_start_ns=start, flow_end_ns=end) for to, start, end in flows]
    window = Window(min(start for _, start, _ in flows), time.time_ns())
    enriched = EndEnricher(made).apply(make_batch(*rows, window=window))
    prefix = "destination.k8s."
    return [
        {
            what.otel.removeprefix(prefix): value
            for what, value in record.metadata.items()
            if what.otel.startswith(prefix)
        }
        for record in records(enriched)
    ]


def test_flows_of_one_drain_on_both_sides_of_a_move() -> None:
    """One address, two pods, one batch: each flow is its pod's, and one across both is nobody's."""
    made, now = source(), time.time_ns()
    now -= now % SECOND
    made.index.put(pod("old", "10.0.0.1", 0), Moment(now - 60 * SECOND, now - 60 * SECOND))
    gone = now - 10 * SECOND
    made.index.remove("Pod", "uid-old", Moment(gone, gone - 2 * SECOND))
    made.index.put(pod("new", "10.0.0.1", now - 8 * SECOND), Moment(now - 5 * SECOND, gone))
    spans = [(-30, -29), (-11, -9), (-11, -6), (-6, -5), (-1, 0), (-9, -9)]
    flows = [("10.0.0.1", now + start * SECOND, now + end * SECOND) for start, end in spans]
    names = [one.get("name") for one in said(made, *flows)]
    assert names == ["old", "old", None, "new", "new", None]
    assert made.state().events == {"doubts": 1}


def test_values_follow_what_they_are_made_of() -> None:
    """A node that is heard of later gives its pods their zone; an owner likewise."""
    made, now = source(), time.time_ns()
    moment = Moment(now - 9 * SECOND, 0)
    made.index.put(pod("a", "10.0.0.1", 0), moment)
    (before,) = said(made, ("10.0.0.1", now, now))
    assert "zone" not in before
    node = Entity("Node", "n", "", "node-1", (pack_address("172.20.0.1"),), "node-1", zone="z")
    made.index.put(node, moment)
    assert [one.get("zone") for one in said(made, ("10.0.0.1", now, now))] == ["z"]


def test_all_that_is_said() -> None:
    """Of a pod, a service and a node; each has what it is, and nothing of what others are."""
    now = time.time_ns()
    made = KubernetesSource(
        KubernetesConfig(labels=("app", "example.com/tier"), annotations=("team.example/name",)),
        lambda _config, _index: [],
    )
    made.open()
    old = Moment(now - 60 * SECOND, 0)
    extra = ("web", "", "shops")
    owner = ("Deployment", "web")
    for one in (
        replaced(pod("web-1", "10.0.0.1", 0), host="172.20.0.1", owner=owner, extra=extra),
        Entity("Service", "s", "shop", "web", (pack_address("10.96.0.1"),), extra=("web", "x", "")),
        Entity("Node", "n", "", "node-1", (pack_address("172.20.0.1"),), node="node-1",
               host="172.20.0.1", zone="zone-a", extra=("", "", "")),
    ):  # fmt: skip
        made.index.put(one, old)
    of_pod, of_service, of_node, of_nobody = said(
        made, *((to, now, now) for to in ("10.0.0.1", "10.96.0.1", "172.20.0.1", "192.0.2.9"))
    )
    assert of_pod == {
        "kind": "Pod", "name": "web-1", "namespace.name": "shop", "owner.kind": "Deployment",
        "owner.name": "web", "node.name": "node-1", "node.ip": "172.20.0.1", "zone": "zone-a",
        "pod.name": "web-1", "pod.uid": "uid-web-1", "label.app": "web",
        "annotation.team_example_name": "shops",
    }  # fmt: skip
    assert of_service == {
        "kind": "Service", "name": "web", "namespace.name": "shop", "owner.kind": "Service",
        "owner.name": "web", "service.name": "web", "label.app": "web",
        "label.example_com_tier": "x",
    }  # fmt: skip
    assert of_node == {
        "kind": "Node", "name": "node-1", "owner.kind": "Node", "owner.name": "node-1",
        "node.name": "node-1", "node.ip": "172.20.0.1", "zone": "zone-a",
    }  # fmt: skip
    assert of_nobody == {}
    assert (made.state().hits, made.state().misses) == (3, 2)


def test_old_answers_are_used_for_a_while_only() -> None:
    """Within max_age of the last news they are; a minute of silence is said to be a problem."""
    now = time.time_ns()
    feed = Feed(now - 500 * SECOND, problem="Pod: connection refused")
    made = source(feed)
    made.index.put(pod("a", "10.0.0.1", 0), Moment(now - 900 * SECOND, 0))
    assert said(made, ("10.0.0.1", now, now))[0]["name"] == "a"
    assert made.state().problem == "Pod: connection refused (answers are 500 s old)"
    assert 500 <= (made.state().age or 0) < 600
    feed.problem = ""
    assert made.state().problem == "nothing heard for 500 s"
    feed.caught_up_ns = now - 700 * SECOND
    assert said(made, ("10.0.0.1", now, now)) == [{}]


def test_nothing_while_in_doubt() -> None:
    """While the server says what has changed, nothing is said, and that is counted."""
    now = time.time_ns()
    feed = Feed(now, in_doubt=True)
    made = source(feed)
    made.index.put(pod("a", "10.0.0.1", 0), Moment(now - 9 * SECOND, 0))
    assert said(made, ("10.0.0.1", now, now)) == [{}]
    state = made.state()
    assert state.age is not None
    assert 0 <= state.age < 500
    assert replace(state, age=None) == State(entries=1, events={"doubts": 2})
    feed.in_doubt = False
    assert said(made, ("10.0.0.1", now, now))[0]["pod.uid"] == "uid-a"
    made.close()
    made.close()
