"""Lag, by number and as it is printed on a terminal."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.cli import main
from exporter.cli_lag import show
from exporter.lag import Lags, Place, metrics

PLACES = [
    Place("clickhouse", "network-flows", 0, 60, 0, 100),
    Place("clickhouse", "network-flows", 1, 40, 0, 40),
    Place("clickhouse", "network-flows", 2, None, 3, 10),
]
SHOWN = """\
GROUP       TOPIC          PARTITION  READ  END  LAG
clickhouse  network-flows          0    60  100   40
clickhouse  network-flows          1    40   40    0
clickhouse  network-flows          2     -   10    7
"""


@pytest.mark.parametrize(
    ("place", "lag"),
    [*zip(PLACES, (40, 0, 7), strict=True), (Place("g", "made-anew", 0, 60, 0, 5), 0)],
)
def test_lag(place: Place, lag: int) -> None:
    """What is there and was not committed, never less than nothing."""
    assert place.lag == lag


def test_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns as wide as what is in them."""
    show(PLACES, as_text=True)
    assert capsys.readouterr().out == SHOWN


def test_metrics() -> None:
    """A partition without a commit has a lag and no offset."""
    lags = Lags("network-flows", {0: 100, 1: 40, 2: 10}, PLACES)
    found = {
        (sample.name, sample.labels["partition"]): sample.value
        for family in text_string_to_metric_families(metrics(lags).decode())
        for sample in family.samples
    }
    assert found == {
        **{("kafka_topic_partition_current_offset", str(n)): v
           for n, v in enumerate((100, 40, 10))},
        **{("kafka_consumergroup_lag", str(n)): v for n, v in enumerate((40, 0, 7))},
        **{("kafka_consumergroup_current_offset", str(n)): v for n, v in enumerate((60, 40))},
    }  # fmt: skip


def test_a_wrong_address(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and exit code 2."""
    where = ["--brokers", "127.0.0.1:9", "--topic", "t", "--metrics-address", "nowhere"]
    assert main(["lag", *where]) == 2
    assert capsys.readouterr().err.startswith("flow-exporter: --metrics-address: ")
