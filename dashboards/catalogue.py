"""The boards that there are."""

from __future__ import annotations

from dashboards import agent, external, overview, sinks
from dashboards.panel import Board

BOARDS: tuple[Board, ...] = (overview.BOARD, external.BOARD, agent.BOARD, sinks.BOARD)
