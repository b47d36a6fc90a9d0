"""The examples of docs/reference/ebpf.md, as they stand there."""

from __future__ import annotations

import re

import pytest

from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf import features
from tests.arch.source import ROOT
from tests.e2e.net import Network
from tests.kernel.hooks import quiet_pair

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```",
    (ROOT / "docs/reference/ebpf.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


def test_the_examples_run(network: Network) -> None:
    """Both do what they say."""
    if not features.probe("tcx"):
        pytest.skip("this kernel has no TCX links")
    one, _ = quiet_pair(network)
    names = {"path": OBJECT_PATH, "ifindex": one.netns.index(one.device)}
    assert len(EXAMPLES) == 2
    with one.netns.entered():
        for example in EXAMPLES:
            exec(example, names)
