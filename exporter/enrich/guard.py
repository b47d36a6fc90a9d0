"""
Keeps a mistake in an enricher from the rows, from the other enrichers and from the agent.

An enricher that raises adds nothing to that batch, which goes on: every row that was drained is
published. It is told once in the log for each kind of error, counted, and the enricher's problem
until it does better.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec, TypeVar

import numpy as np

from exporter.batch.batch import ROW_COLUMNS, FlowBatch
from exporter.enrich.base import Reading, State

log = logging.getLogger(__name__)

#: Characters of an error's text that are shown: it may quote what somebody sent.
_SHOWN = 200
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Guard:
    """Of some enrichers, by name. ``call`` is for one thread, the others for any."""

    def __init__(self) -> None:
        self._errors: Counter[str] = Counter()
        self._problems: dict[str, str] = {}
        self._told: set[tuple[str, type[Exception]]] = set()

    def call(
        self,
        name: str,
        otherwise: _T,
        function: Callable[_P, _T],
        *args: _P.args,
        **more: _P.kwargs,
    ) -> _T:
        """
        What a function gives; ``otherwise`` if it raises.

        Raises:
            MemoryError: As it is: there is nothing to go on with.
        """
        try:
            result = function(*args, **more)
        except MemoryError:
            raise
        except Exception as err:  # noqa: BLE001 - whatever it is: rows do not depend on it
            self._failed(name, err)
            return otherwise
        self._problems.pop(name, None)
        return result

    def reading(self, name: str, state: State, seconds: float) -> Reading:
        """Of one of them: as it says, and with what it does not know of itself."""
        problem = self._problems.get(name, state.problem)
        return Reading(replace(state, problem=problem), seconds, self._errors[name])

    def _failed(self, name: str, err: Exception) -> None:
        text = " ".join(str(err).split())[:_SHOWN]
        problem = f"{type(err).__name__}: {text}" if text else type(err).__name__
        self._errors[name] += 1
        self._problems[name] = problem
        kind = (name, type(err))
        if kind not in self._told:
            self._told.add(kind)
            log.error("enricher %s: a mistake in it, flows go on without it: %s", name, problem)
            log.debug("enricher %s", name, exc_info=err)


def apply(function: Callable[[FlowBatch], FlowBatch], batch: FlowBatch) -> FlowBatch:
    """
    What an enricher makes of a batch: the same rows in the same order, each with what was added.

    Columns that are the very same are not looked at.

    Raises:
        ValueError: If it is not that.
    """
    after = function(batch)
    for name in ROW_COLUMNS:
        before, now = getattr(batch, name), getattr(after, name)
        if now is not before and not np.array_equal(now, before):
            raise ValueError(f"it changed {name}: {len(now)} rows after {len(before)}")
    lengths = [len(some.rows) for some in after.entities]
    lengths += [len(column) for column in after.added.values()]
    if any(length != len(batch) for length in lengths):
        raise ValueError(f"it added to {max(lengths)} rows of {len(batch)}")
    return after
