"""Which loader brings the program of a test into the kernel."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from exporter.capture.config import CaptureConfig
from exporter.capture.loader import SOURCE_PATH, Loader
from exporter.ebpf.bcc.compiler import Compiled, compile_source
from exporter.ebpf.bcc.source import Source
from exporter.ebpf.errors import FeatureMissing

LOADERS: tuple[Loader, ...] = ("libbpf", "bcc")

#: A test that is run once by each loader, and must not tell them apart.
both_loaders = pytest.mark.usefixtures("loader")

#: Room for some thousand flows. The kernel takes and clears all of it, each time; the default has
#: sixteen times as much.
_MEMORY = 4 << 20

_chosen: Loader = "auto"


def choose(loader: Loader) -> Loader:
    """From now on this one. Returns what was chosen before."""
    global _chosen  # tests run one after the other
    before, _chosen = _chosen, loader
    return before


def chosen() -> Loader:
    """The loader of the running test."""
    return _chosen


def config(**settings: Any) -> CaptureConfig:
    """What to capture, by the loader of the running test."""
    return CaptureConfig(**{"loader": _chosen, "flow_memory": _MEMORY} | settings)


@functools.cache
def compiled() -> Compiled:
    """The capture program as BCC compiles it here. Raises FeatureMissing."""
    return compile_source(Source.read(SOURCE_PATH))


def bcc_is_missing() -> str:
    """What BCC lacks on this host; empty if it is there."""
    try:
        compiled()
    except FeatureMissing as err:
        return str(err)
    return ""
