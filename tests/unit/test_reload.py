"""What another configuration changes in an agent that runs, and what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.config import Config, load
from exporter.errors import ConfigError
from exporter.reload import Plan, named, plan


def config(*sinks: Any, **rest: Any) -> Config:
    return load(None, {}, {"sinks": list(sinks), **rest})


def running(*sinks: Any, **rest: Any) -> Config:
    made = config(*sinks, **rest)
    return made.model_copy(update={"sinks": named(made.sinks)})


def names(found: Plan) -> tuple[list[str], list[str], list[str]]:
    return [s.name for s in found.add], [s.name for s in found.retarget], list(found.remove)


def test_nothing_changed() -> None:
    """Nothing is touched."""
    sinks = ("stdout", "grpc://h:1", "grpc://h:2")
    found = plan(running(*sinks), config(*sinks))
    assert names(found) == ([], [], [])
    assert found.ignored == ()
    assert str(found) == "no sink changed"


def test_sinks_come_and_go() -> None:
    """One that stays as it was keeps the name it got, wherever it stands now."""
    found = plan(
        running("stdout", "grpc://h:1", "grpc://h:2"), config("null", "grpc://h:2", "grpc://h:3")
    )
    assert names(found) == (["null"], ["grpc"], ["stdout"])
    assert {sink.name: getattr(sink, "target", "") for sink in found.config.sinks} == {
        "null": "", "grpc2": "h:2", "grpc": "h:3",
    }  # fmt: skip
    assert str(found) == "sink null added, sink grpc changed, sink stdout removed"


def test_a_sink_of_the_same_name_is_changed() -> None:
    """Its type may be another, too."""
    found = plan(
        running({"type": "grpc", "name": "out", "target": "h:1"}),
        config({"type": "null", "name": "out"}),
    )
    assert names(found) == ([], ["out"], [])


def test_what_needs_a_restart_is_named_and_kept() -> None:
    """Each key by its path; the rest is applied."""
    old = running("null", capture={"sampling": 1})
    new = config("null", "stdout", capture={"sampling": 7, "max_flows": 5000},
                 metrics={"address": ":9"}, shutdown_timeout=3, log_level="debug")  # fmt: skip
    found = plan(old, new)
    assert found.ignored == ("capture.max_flows", "capture.sampling", "metrics.address")
    assert found.config.capture == old.capture
    assert found.config.metrics == old.metrics
    assert (found.config.shutdown_timeout, found.config.log_level) == (3, "debug")
    assert names(found) == (["stdout"], [], [])


def test_a_spool_stays_where_it_is(tmp_path: Path) -> None:
    """What waits for a sink is not moved: another directory needs a restart, and is named."""
    old = running("null", "stdout", spool={"directory": tmp_path})
    moved = {"type": "null", "spool": {"directory": tmp_path / "b"}, "queue": {"rows": 7}}
    found = plan(old, config(moved, "stdout", spool={"directory": tmp_path}))
    assert found.ignored == ("sinks.null.spool",)
    assert names(found) == ([], ["null"], [])
    (changed,) = found.retarget
    assert changed.queue.rows == 7
    assert found.config.spool_of(changed) == old.spool


def test_without_a_spool_any_more(tmp_path: Path) -> None:
    """The common section is not applied either; a sink that no longer wants one keeps it."""
    old = running("null", spool={"directory": tmp_path})
    found = plan(old, config({"type": "null", "queue": {"when_full": "drop_newest"}}))
    assert found.ignored == ("spool.directory", "sinks.null.spool")
    assert names(found) == ([], [], [])


def test_two_of_the_same_name() -> None:
    """Refused as at the start."""
    with pytest.raises(ConfigError, match="two sinks have the same name"):
        plan(running("null"), config(*({"type": "null", "name": "a"},) * 2))


@pytest.mark.parametrize(
    ("spool", "sink", "expected"),
    [
        ({}, {}, None),
        ({"directory": "/a"}, {}, "/a"),
        ({"directory": "/a"}, {"spool": {"directory": "/b"}}, "/b"),
        ({"directory": "/a"}, {"spool": {"directory": ""}}, None),
        ({"directory": "/a"}, {"queue": {"when_full": "drop_oldest"}}, None),
        ({"directory": "/a"}, {"queue": {"when_full": "spool"}}, "/a"),
    ],
)
def test_which_spool(spool: dict[str, Any], sink: dict[str, Any], expected: str | None) -> None:
    """The sink's own, else the common one, unless it wants none."""
    made = config({"type": "null", **sink}, spool=spool)
    found = made.spool_of(made.sinks[0])
    assert (str(found.directory) if found else None) == expected


def test_a_spool_without_a_directory() -> None:
    """Said when the configuration is read."""
    with pytest.raises(ConfigError, match=r"spool needs spool\.directory"):
        config({"type": "null", "queue": {"when_full": "spool"}})


@pytest.mark.parametrize("fsync", ["never", "batch", "5s"])
def test_fsync(fsync: str) -> None:
    """A word or a time."""
    made = config("null", spool={"directory": "/a", "fsync": fsync})
    assert made.spool.fsync == (5.0 if fsync == "5s" else fsync)
    with pytest.raises(ConfigError, match=r"spool\.fsync"):
        config("null", spool={"fsync": "sometimes"})


def test_labels_and_exclusions_need_no_restart() -> None:
    """They are others at once; the rest of the section is not."""
    noise = {"name": "noise", "when": "destination.port == 9"}
    found = plan(
        running("null", enrich={"labels": {"team": "a"}}),
        config(
            "null",
            enrich={"labels": {"team": "b"}, "identity": {"flow_id": True}},
            exclude=[noise],
        ),
    )
    assert found.expressions == ("enrich.labels", "exclude")
    assert found.ignored == ("enrich.identity",)
    assert found.config.enrich.labels == {"team": "b"}
    assert not found.config.enrich.identity.flow_id
    assert [one.name for one in found.config.exclude] == ["noise"]
    assert str(found) == "enrich.labels changed, exclude changed"
