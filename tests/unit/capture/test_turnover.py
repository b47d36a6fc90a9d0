"""When a place may be another interface's."""

from __future__ import annotations

from exporter.capture.turnover import Turnover

PLACE, OTHER = (0, 7), (1, 7)


def test_after_two_drains_that_began_later() -> None:
    """The one that is under way does not count."""
    turnover = Turnover()
    assert turnover.is_free(PLACE)
    turnover.leave(PLACE)
    for _ in range(2):
        turnover.drained()
        assert not turnover.is_free(PLACE)
        assert turnover.is_free(OTHER)
    turnover.drained()
    assert turnover.is_free(PLACE)
    assert len(turnover) == 0


def test_a_drain_that_failed_does_not_count() -> None:
    """What it should have read is in the next but one."""
    turnover = Turnover()
    turnover.leave(PLACE)
    turnover.drained()
    turnover.drained()
    turnover.failed()
    for _ in range(2):
        turnover.drained()
        assert not turnover.is_free(PLACE)
    turnover.drained()
    assert turnover.is_free(PLACE)


def test_left_again() -> None:
    """It counts from the last time."""
    turnover = Turnover()
    turnover.leave(PLACE)
    turnover.drained()
    turnover.leave(PLACE)
    turnover.drained()
    turnover.drained()
    assert not turnover.is_free(PLACE)
