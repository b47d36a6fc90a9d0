"""
Listing and watching with a script instead of a server: for what a real one cannot be made to do.

What a real server does is in tests/e2e/test_kubernetes.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from exporter.enrich.kubernetes import reflector as reflector_module
from exporter.enrich.kubernetes.client import Away, Refused, Resource
from exporter.enrich.kubernetes.index import Index
from exporter.enrich.kubernetes.objects import Entity, Event, Page
from exporter.enrich.kubernetes.reflector import Reflector
from exporter.testing.batch import pack_address


def pod(number: int) -> Entity:
    return Entity("Pod", f"u{number}", "ns", f"p{number}", (pack_address(f"10.0.0.{number}"),))


class Script:
    """Answers in order; when there are no more, it is silent until it is closed."""

    def __init__(self, *answers: Page | list[Event] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.done, self._closed = threading.Event(), threading.Event()
        self.released = False

    def page(self, more: str) -> Page:
        answer = self._next(f"list {more}".strip())
        assert isinstance(answer, Page)
        return answer

    def watch(self, version: str) -> Iterator[Event]:
        answer = self._next(f"watch {version}")
        assert isinstance(answer, list)
        yield from answer

    def close(self) -> None:
        self._closed.set()

    def release(self) -> None:
        self.released = True

    def _next(self, asked: str) -> Page | list[Event]:
        if not self.answers:
            self.done.set()
            self._closed.wait(30)
            raise Away("closed")
        self.asked.append(asked)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], Reflector]]:
    """Follows a script to its end, without long waits."""
    monkeypatch.setattr(reflector_module, "FIRST", 0.001)
    monkeypatch.setattr(reflector_module, "AWAY", 0.002)
    monkeypatch.setattr(reflector_module, "REFUSED", 0.002)
    made: list[Reflector] = []

    def run(script: Script) -> Reflector:
        one = Reflector(Resource("Pod", "/api/v1/pods"), script, Index())
        made.append(one)
        one.start()
        assert script.done.wait(30)
        return one

    yield run
    for one in made:
        one.close()


def uids(one: Reflector) -> set[str]:
    return one._index.uids("Pod")


def test_pages_then_events(follow: Callable[[Script], Reflector]) -> None:
    """A watch begins after the list, and is resumed after the last thing that was said."""
    script = Script(
        Page([pod(1)], "5", "next"),
        Page([pod(2)], "5", ""),
        [Event("ADDED", pod(3), "6"), Event("DELETED", pod(1), "7"), Event("BOOKMARK", None, "9")],
        [Event("MODIFIED", pod(2), "10")],
    )
    one = follow(script)
    assert script.asked == ["list", "list next", "watch 5", "watch 9"]
    assert uids(one) == {"u2", "u3"}
    assert (one.problem, one.counts["list"], one.counts["event"]) == ("", 1, 3)
    one.close()
    assert script.released


@pytest.mark.parametrize("gone", [Refused(410, "Expired"), Refused(400, "bad token")])
def test_a_list_that_cannot_be_finished(
    follow: Callable[[Script], Reflector], gone: Refused
) -> None:
    """Its parts have become too old while it was read: it is begun again."""
    script = Script(Page([pod(1)], "5", "next"), gone, Page([pod(2)], "8", ""), [])
    one = follow(script)
    assert script.asked == ["list", "list next", "list", "watch 8"]
    assert uids(one) == {"u2"}


@pytest.mark.parametrize(
    "gone", [Refused(410, "Expired"), [Event("ERROR", None, "", 410, "Expired: too old")]]
)
def test_what_the_server_has_forgotten(
    follow: Callable[[Script], Reflector], gone: Refused | list[Event]
) -> None:
    """As an answer or as an event: everything is listed anew, and what is not there is gone."""
    script = Script(Page([pod(1), pod(2)], "5", ""), gone, Page([pod(2), pod(3)], "9", ""), [])
    one = follow(script)
    assert script.asked == ["list", "watch 5", "list", "watch 9"]
    assert uids(one) == {"u2", "u3"}


@pytest.mark.parametrize(
    "fault",
    [Away("reset"), Refused(503, "starting"), Refused(429, "slowly", 1), ValueError("nonsense")],
)
def test_faults(follow: Callable[[Script], Reflector], fault: Exception) -> None:
    """The watch is taken up where it was; nothing is listed anew, nothing is forgotten."""
    script = Script(Page([pod(1)], "5", ""), fault, fault, [Event("BOOKMARK", None, "6")])
    one = follow(script)
    assert script.asked == ["list", "watch 5", "watch 5", "watch 5"]
    assert (uids(one), one.problem) == ({"u1"}, "")


def test_what_is_wrong_is_said(follow: Callable[[Script], Reflector]) -> None:
    """While it is so."""
    one = follow(Script(Page([pod(1)], "5", ""), Refused(403, "pods is forbidden")))
    assert one.problem == "Pod: HTTP 403: pods is forbidden"
    assert not one.in_doubt


def test_in_doubt_until_the_list_is_complete(follow: Callable[[Script], Reflector]) -> None:
    """Since the server said that it has forgotten, until everything is listed anew."""
    part = Page([pod(1)], "7", "more")
    assert follow(Script(Page([pod(1)], "5", ""), Refused(410, "Expired"), part)).in_doubt
    again = Script(Page([pod(1)], "5", ""), Refused(410, "Expired"), part, Away("gone"))
    assert not follow(again).in_doubt
    complete = Script(Page([pod(1)], "5", ""), Refused(410, "Expired"), Page([pod(1)], "7", ""))
    assert not follow(complete).in_doubt


def test_changes_of_an_outage_are_old(follow: Callable[[Script], Reflector]) -> None:
    """What is heard after an outage happened at any time since it was last in touch."""
    script = Script(Page([pod(1)], "5", ""), Away("gone"))
    one = follow(script)
    before = one.caught_up_ns
    time.sleep(0.01)
    assert one._moment().caught_up_ns == before - int(reflector_module.LAG * 1e9)


def test_a_watch_that_ends_at_once(follow: Callable[[Script], Reflector]) -> None:
    """Is taken up again, and said to be a problem: a server that does only that is of no use."""
    script = Script(Page([pod(1)], "5", ""), [], [])
    one = follow(script)
    assert script.asked == ["list", "watch 5", "watch 5"]
    assert one.problem == "Pod: the server ends watches at once"
