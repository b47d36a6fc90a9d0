"""The alerts, evaluated by Prometheus' own tool: each fires when it should, and no earlier."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.telemetry import Metrics
from tests.e2e.prometheus import tool
from tests.unit.alerts import CASES, LONG, WELL, Case
from tests.unit.test_telemetry import READING

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "flow-exporter" / "files" / "alerts.yaml"
PAGE = ROOT / "docs" / "operations" / "alerts.md"
_GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in _GROUPS for rule in group["rules"]
}
#: Prometheus' own, those of flows, and those of who looks at Kafka.
_OTHERS = {"up", "network_flow_bytes_total", "kafka_consumergroup_lag"}


def firing(labels: str, name: str) -> str:
    """The series that Prometheus has of an alert that fires."""
    own = (
        f'alertname="{name}", alertstate="firing", severity="{ALERTS[name]["labels"]["severity"]}"'
    )
    return f"ALERTS{{{', '.join(word for word in (own, labels) if word)}}}"


def expected(minute: int, *series: str) -> dict[str, Any]:
    """What fires then, and nothing else."""
    return {
        "expr": 'ALERTS{alertstate="firing"}',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": one, "value": 1} for one in series],
    }


def group(name: str, series: dict[str, str], *checks: dict[str, Any]) -> dict[str, Any]:
    inputs = [{"series": one, "values": values} for one, values in series.items() if values]
    return {"name": name, "interval": "1m", "input_series": inputs, "promql_expr_test": checks}


def of_case(case: Case) -> dict[str, Any]:
    """Nothing fires a minute before, and this alone then."""
    checks = [expected(case.first, firing(case.labels, case.alert))]
    if case.last >= 0:
        checks.insert(0, expected(case.last))
    return group(case.alert, WELL | case.series, *checks)


def promtool(*arguments: str | Path) -> str:
    """What it says; fails if it finds something."""
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_fires(tmp_path: Path) -> None:
    """When what it is for has been so for as long as it says, and not a minute earlier."""
    assert sorted(case.alert for case in CASES) == sorted(ALERTS)
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({
        "rule_files": [str(RULES)], "evaluation_interval": "1m",
        "tests": [of_case(case) for case in CASES],
    }))  # fmt: skip
    assert "SUCCESS" in promtool("test", "rules", path)


def test_none_fires_while_all_is_well(tmp_path: Path) -> None:
    """An agent at the limits of what is well, for an hour from its first scrape."""
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({
        "rule_files": [str(RULES)], "evaluation_interval": "1m",
        "tests": [group("well", WELL, *(expected(minute) for minute in range(0, LONG + 1, 5)))],
    }))  # fmt: skip
    assert "SUCCESS" in promtool("test", "rules", path)


def test_the_check_finds_an_alert_too_many(tmp_path: Path) -> None:
    """A test that expects nothing where something fires is refused."""
    path = tmp_path / "tests.yaml"
    case = next(case for case in CASES if case.alert == "FlowExporterLedgerOpen")
    path.write_text(yaml.safe_dump({
        "rule_files": [str(RULES)], "evaluation_interval": "1m",
        "tests": [group("open", WELL | case.series, expected(case.first))],
    }))  # fmt: skip
    with pytest.raises(AssertionError, match="FlowExporterLedgerOpen"):
        promtool("test", "rules", path)


def test_prometheus_takes_the_file() -> None:
    """Expressions and templates."""
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def test_names_of_metrics() -> None:
    """Each is one that the agent has, or one that is known to be another's."""
    scraped = Metrics(lambda: READING).exposition().decode()
    own = set(re.findall(r"^# TYPE (\S+) ", scraped, re.MULTILINE))
    words = r"\b(?:flow_exporter|network_flow|kafka)_\w+|\bup\b"
    used = {name for rule in ALERTS.values() for name in re.findall(words, rule["expr"])}
    assert len(used) > 15
    assert used - own == _OTHERS


@pytest.mark.parametrize("name", ALERTS)
def test_each_is_explained(name: str) -> None:
    """It has a section, which its annotation points to, with a meaning and something to do."""
    rule = ALERTS[name]
    assert rule["annotations"]["runbook_url"] == f"{PAGE.relative_to(ROOT)}#{name.lower()}"
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    _, _, after = PAGE.read_text().partition(f"\n### {name}\n")
    section = after.partition("\n### ")[0]
    assert len(section.split()) > 25
    assert "\n- " in section


def test_no_section_without_an_alert() -> None:
    """What is explained is there."""
    assert set(re.findall(r"^### (.*)$", PAGE.read_text(), re.MULTILINE)) == ALERTS.keys()
