"""Commands that the chart's notes and documents tell people to type on a cluster."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from exporter.cli import parser
from tests.arch.source import ROOT
from tests.chart.chart import CASES, CHART, NAMESPACE, Object, helm, one_of, render

_RELEASE = "flows"
_DOCUMENTS = (
    CHART / "README.md",
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
    *sorted((ROOT / "docs" / "operations").glob("*.md")),
)


def notes(case: str) -> list[str]:
    """Lines of commands that helm prints after it has installed the chart."""
    done = helm(
        "install", _RELEASE, f"--namespace={NAMESPACE}", "--dry-run=client", values=CASES[case]
    )
    assert done.code == 0, done.error
    text = done.output.partition("\nNOTES:\n")[2]
    return [line.strip() for line in text.splitlines() if line.startswith("  ")]


def documented() -> Iterator[str]:
    """Lines with kubectl in blocks that are not run, without the prompt."""
    for path in _DOCUMENTS:
        for text in re.findall(
            r"^```console\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL
        ):
            yield from (one.removeprefix("$ ") for one in text.splitlines() if "$ kubectl" in one)


def check(line: str, objects: list[Object]) -> None:
    """It is about a DaemonSet that there is, and what is run in it is a command of ours."""
    words = shlex.split(line, comments=True)
    for word in words:
        if word.startswith("daemonset/") and "..." not in word:
            one_of(objects, "DaemonSet", word.partition("/")[2])
    if "--" in words:
        program, *arguments = words[words.index("--") + 1 :]
        assert program == "flow-exporter", line
        assert callable(parser().parse_args(arguments).command), line


def rendered() -> list[Object]:
    """What is applied under the name that documents use."""
    (name,) = {one["metadata"]["name"] for one in render({}) if one["kind"] == "DaemonSet"}
    return [{"kind": "DaemonSet", "metadata": {"name": name.replace("t-", f"{_RELEASE}-", 1)}}]


def test_documents() -> None:
    """Each names what is installed, and runs what there is."""
    lines = list(documented())
    assert len(lines) > 5
    for line in lines:
        check(line, rendered())


@pytest.mark.parametrize("case", ["default", "podmonitor"])
def test_notes(case: str) -> None:
    """Likewise; how pins are let go of is told to who has some, and renders."""
    lines = notes(case)
    for line in lines:
        if line.startswith("kubectl "):
            assert f"--namespace {NAMESPACE} " in line
            check(line, rendered())
    upgrades = [line for line in lines if line.startswith("helm ")]
    assert len(upgrades) == (case == "default")
    for line in upgrades:
        words = shlex.split(line)
        assert words[words.index("upgrade") + 1 :][:2] == [_RELEASE, "CHART"]
        given = f"--set={words[words.index('--set') + 1]}"
        assert helm("template", _RELEASE, given, values=CASES[case]).code == 0
