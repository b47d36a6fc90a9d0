"""Advice: what is not well comes with what it costs, or what to do; nothing else does."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from exporter import doctor, doctor_facts
from exporter.doctor import Finding
from exporter.ebpf import features
from exporter.ebpf._libbpf import MissingLibrary
from exporter.ebpf.features import Answer, Probe


def by_subject(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {one.subject: one for one in findings}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host that has nothing, and a process that may do nothing."""

    def no_library() -> None:
        raise MissingLibrary("libbpf.so.1: cannot open shared object file")

    class Unmarked(socket.socket):
        """Of a kernel without cookies of namespaces."""

        def getsockopt(self, *_: Any) -> Any:
            raise OSError(92, "Protocol not available")

    monkeypatch.setattr(doctor, "effective", frozenset)
    monkeypatch.setattr(doctor, "library", no_library)
    monkeypatch.setattr(doctor, "OBJECT_PATH", Path("/nowhere/flow.bpf.o"))
    monkeypatch.setattr(doctor, "in_bpffs", lambda _: False)
    monkeypatch.setattr(doctor, "cgroup_root", lambda: None)
    monkeypatch.setattr(socket, "socket", Unmarked)
    monkeypatch.setattr(features, "probe", lambda _: Probe(Answer.NO, "not in this kernel"))
    return monkeypatch


def test_all_that_is_missing(bare: pytest.MonkeyPatch) -> None:
    """Every answer "no" says what it costs; what is required says that nothing is captured."""
    findings = doctor.examine()
    missing = [one for one in findings if one.answer == "no"]
    assert {one.subject for one in missing} > {
        "privileges", "privileges for capture.netns", "BPF file system", "libbpf", "kernel program",
        "cgroup2 mounted", "cookies of namespaces", *(f.title for f in features.PROBES.values()),
    }  # fmt: skip
    assert [one.subject for one in missing if not one.advice] == []
    required = {feature.title for feature in features.PROBES.values() if feature.cost == "required"}
    assert {one.subject for one in missing if one.required} >= required | {"privileges", "libbpf"}
    assert all("nothing is captured" in by_subject(missing)[title].advice for title in required)
    assert not doctor.can_capture(findings)


def test_what_cannot_be_told(bare: pytest.MonkeyPatch) -> None:
    """Who may not ask is told what it would cost, and not that nothing can be captured."""
    bare.setattr(features, "probe", lambda _: Probe(Answer.UNKNOWN, "not permitted"))
    titles = {feature.title for feature in features.PROBES.values()}
    findings = [one for one in doctor.examine() if one.subject in titles]
    assert {(one.answer, bool(one.advice)) for one in findings} == {("could not tell", True)}
    assert doctor.can_capture(findings)


def test_nothing_is_advised_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there needs no words."""
    monkeypatch.setattr(features, "probe", lambda _: Probe(Answer.YES))
    findings = [*doctor.examine(), *doctor_facts.limits(), *doctor_facts.clocks()]
    assert [one.subject for one in findings if one.advice and one.answer in ("yes", "")] == []


@pytest.mark.parametrize(
    ("version", "limit", "advised"),
    [((5, 10), 8 << 20, True), ((5, 10), resource.RLIM_INFINITY, False), ((5, 11), 8 << 20, False)],
)
def test_locked_memory(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], limit: int, advised: bool
) -> None:
    """It counts before Linux 5.11 only."""
    monkeypatch.setattr(doctor_facts, "_kernel_version", lambda: version)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    found = by_subject(doctor_facts.limits())["locked memory"]
    assert ("LimitMEMLOCK=infinity" in found.advice) is advised
    assert found.answer == ("no" if advised else "yes")


def test_a_slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each packet reads the time with."""
    monkeypatch.setattr(doctor_facts, "_read", lambda _: "hpet")
    found = by_subject(doctor_facts.clocks())["clock source"]
    assert (found.answer, found.detail) == ("no", "hpet")
    assert "--clock coarse" in found.advice


def answers(**change: Any) -> dict[str, bytes]:
    """Of an agent that is well but for what a test says."""
    ledger: dict[str, Any] = {
        "kernel": {"seen": {"packets": 9}, "lost": {"map full": {"packets": 0}}},
        "sinks": {"grpc": {"dropped": {}}}, "closes": True, "problems": [],
    }  # fmt: skip
    ready = change.pop("ready", b"ok\n")
    return {"readyz.txt": ready, "ledger.json": json.dumps(ledger | change).encode()}


def test_an_agent_that_is_well() -> None:
    """It needs no advice."""
    findings = list(doctor_facts._agent("7", answers()))
    assert [(one.answer, one.advice) for one in findings] == [("yes", "")] * 3
    assert by_subject(findings)["nothing lost"].detail == "9 packets seen"


def test_an_agent_that_is_not() -> None:
    """Each trouble with its number and what helps against it."""
    lost = {"seen": {"packets": 9}, "lost": {"map full": {"packets": 4}, "other": {"packets": 0}}}
    found = by_subject(
        doctor_facts._agent(
            "7",
            answers(
                kernel=lost, sinks={"grpc": {"dropped": {"queue full": {"flows": 3}}}},
                closes=False, problems=["seen is not what was counted"],
                ready=b"degraded\ngrpc: x\n",
            ),
        )
    )  # fmt: skip
    assert found["running agent"].detail == "process 7: degraded; grpc: x"
    assert found["nothing lost"].detail == (
        "lost: 4 packets map full; dropped: 3 flows by grpc: queue full"
    )
    assert "--flow-memory" in found["nothing lost"].advice
    assert (found["its ledger"].answer, found["its ledger"].detail) == (
        "no", "seen is not what was counted",
    )  # fmt: skip
    assert "please report it" in found["its ledger"].advice
    assert found["running agent"].advice


def test_an_agent_of_another_kind() -> None:
    """One that does not answer with a ledger is not told of one."""
    said = answers() | {"ledger.json": b"7.sock: the agent did not answer\n"}
    found = by_subject(doctor_facts._agent("7", said))
    assert found["its ledger"].answer == "could not tell"
    assert "nothing lost" not in found
