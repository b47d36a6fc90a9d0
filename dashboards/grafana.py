"""Boards as Grafana's JSON, by the builders that Grafana's makers generate from its schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, stat, table, timeseries
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.panel import Board, Choice, Kind, Panel, Query, Verdict

#: By type and not by name: each import chooses its own.
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "flow-exporter"
_ALL = models.VariableOption(text="All", value="$__all", selected=True)
_OF_JOB = '{job=~"$job"}'
#: All boards have these.
_CHOICES = (
    Choice("job", "Job", "label_values(flow_exporter_build_info, job)"),
    Choice("instance", "Agent", f"label_values(flow_exporter_build_info{_OF_JOB}, instance)"),
    Choice("node", "Node", f"label_values(flow_exporter_build_info{_OF_JOB}, node)"),
)
_LAST = common.ReduceDataOptions().calcs(["lastNotNull"])


def to_json(board: Board) -> str:
    """The file: what Grafana imports and provisions."""
    made = (
        dashboard.Dashboard(f"Flow exporter / {board.title}")
        .uid(board.uid)
        .description(board.about)
        .tags([TAG])
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(_others())
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
    )
    for choice in (*_CHOICES, *board.choices):
        made = made.with_variable(_variable(choice))
    number = 0
    for row in board.rows:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            number += 1
            made = made.with_panel(_panel(panel).id(number))
    return JSONEncoder(indent=2, sort_keys=True).encode(made.build()) + "\n"


def _others() -> dashboard.DashboardLink:
    """A menu of all boards, which keeps the time and what was chosen."""
    link = dashboard.DashboardLink("Flow exporter").type(models.DashboardLinkType.DASHBOARDS)
    return link.tags([TAG]).as_dropdown(True).include_vars(True).keep_time(True)


def _variable(choice: Choice) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(choice.name)
        .label(choice.title)
        .datasource(SOURCE)
        .query(choice.values)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(_ALL)
    )


def _panel(panel: Panel) -> Any:
    made = _KINDS[panel.kind](panel)
    made = (
        made.title(panel.title)
        .description(panel.meaning)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
    )
    if panel.verdict is not None:
        made = _judged(made, panel.verdict)
    for number, query in enumerate(panel.queries):
        made = made.with_target(_target(query, chr(ord("A") + number), panel.kind))
    return made


def _judged(made: Any, verdict: Verdict) -> Any:
    """Names of colours, which Grafana shows otherwise on a dark ground than on a light one."""
    low, high = ("red", "green") if verdict.bad_below else ("green", "red")
    steps = [
        models.Threshold(value=None, color=low),
        models.Threshold(value=verdict.limit, color=high),
    ]
    absolute = models.ThresholdsMode.ABSOLUTE
    made = made.thresholds(dashboard.ThresholdsConfig().mode(absolute).steps(steps))
    if verdict.words:
        options = {
            str(value): models.ValueMappingResult(text=text)
            for value, text in verdict.words.items()
        }
        made = made.mappings([models.ValueMap(options=options)])
    return made


def _target(query: Query, name: str, kind: Kind) -> Dataquery:
    made = Dataquery().datasource(SOURCE).ref_id(name).expr(query.expression)
    if kind is Kind.TABLE:
        return made.instant().format(PromQueryFormat.TABLE)
    made = made.legend_format(query.legend or "__auto")
    return made.instant() if kind is Kind.BARS else made.range()


def _lines(panel: Panel) -> Any:
    legend = (
        common.VizLegendOptions()
        .show_legend(len(panel.queries) > 1 or panel.queries[0].legend != "")
        .display_mode(shapes.LegendDisplayMode.TABLE)
        .placement(shapes.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    )
    tooltip = common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI)
    return (
        timeseries.Panel()
        .legend(legend)
        .tooltip(tooltip.sort(shapes.SortOrder.DESCENDING))
        .line_width(1)
        .fill_opacity(10)
        .show_points(shapes.VisibilityMode.AUTO)
        .min(0)
    )


def _stack(panel: Panel) -> Any:
    stacked = common.StackingConfig().mode(shapes.StackingMode.NORMAL)
    return _lines(panel).fill_opacity(40).stacking(stacked)


def _number(panel: Panel) -> Any:
    judged = panel.verdict is not None
    colour = shapes.BigValueColorMode.VALUE if judged else shapes.BigValueColorMode.NONE
    graph = shapes.BigValueGraphMode.NONE if judged else shapes.BigValueGraphMode.AREA
    return stat.Panel().reduce_options(_LAST).color_mode(colour).graph_mode(graph)


def _bars(_panel: Panel) -> Any:
    return (
        bargauge.Panel()
        .reduce_options(_LAST)
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .show_unfilled(False)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .min(0)
    )


def _table(panel: Panel) -> Any:
    one = len(panel.queries) == 1
    values = {
        ("Value" if one else f"Value #{chr(ord('A') + number)}"): query.legend
        for number, query in enumerate(panel.queries)
    }
    headings = {**panel.columns, **values}
    order = {name: number for number, name in enumerate(headings)}
    arranged = {
        "excludeByName": {"Time": True},
        "indexByName": order,
        "renameByName": headings,
    }
    made = table.Panel().cell_height(shapes.TableCellHeight.SM)
    if not one:
        made = made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    largest = common.TableSortByFieldState().display_name(panel.queries[0].legend)
    return made.with_transformation(
        models.DataTransformerConfig(id_val="organize", options=arranged)
    ).sort_by([largest.desc(True)])


_KINDS: dict[Kind, Callable[[Panel], Any]] = {
    Kind.LINES: _lines,
    Kind.STACK: _stack,
    Kind.NUMBER: _number,
    Kind.BARS: _bars,
    Kind.TABLE: _table,
}
