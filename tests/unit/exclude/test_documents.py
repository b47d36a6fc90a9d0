"""The examples of the pages about enrichment are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from exporter.config import load
from exporter.enrich.table import Surroundings, make
from exporter.exclude.excluder import Excluder

PAGES = Path(__file__).parents[3] / "docs" / "enrich"


@pytest.mark.parametrize("name", ["attributes", "identity"])
def test_examples(name: str, tmp_path: Path) -> None:
    """Each loads, and its expressions are right."""
    blocks = re.findall(r"```yaml\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert set(yaml.safe_load(block)) <= {"enrich", "exclude"}
        path = tmp_path / "config.yaml"
        path.write_text(block)
        config = load(path, {}, {})
        enrichment = make(config.enrich, config.agent, Surroundings(dict))
        assert enrichment.attributes()
        Excluder(config.exclude, enrichment.attributes())
