"""What all tests share: who may run them, and that they leave nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.ebpf import features
from exporter.ebpf.errors import FeatureMissing
from tests.e2e.net import Network

# A shell that starts the tests in the background has them ignore SIGINT, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Tests below these directories load programs into the kernel.
_PRIVILEGED = ("kernel", "e2e")
#: A test's parameter and its value: the feature that it needs.
_NEEDS = {("hook", "tcx"): "tcx", ("clock", "coarse"): "coarse_clock"}


def missing(what: str) -> None:
    """
    A component that a test needs is not here: a failure in CI, a skip with its reason elsewhere.
    """
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"missing: {what}")


@pytest.fixture(autouse=True)
def _privileged(request: pytest.FixtureRequest) -> None:
    """Kernel and end-to-end tests need root."""
    where = Path(str(request.node.path)).relative_to(Path(__file__).parent).parts[0]
    if where in _PRIVILEGED and os.geteuid() != 0:
        missing("root, to load programs and to make namespaces")


@pytest.fixture(autouse=True)
def _feature_is_there(request: pytest.FixtureRequest) -> None:
    """A test of what this kernel conclusively lacks is skipped, with the words of the error."""
    callspec = getattr(request.node, "callspec", None)
    for parameter, value in callspec.params.items() if callspec else ():
        feature = _NEEDS.get((parameter, value)) if isinstance(value, str) else None
        try:
            features.require(*([feature] if feature else []))
        except FeatureMissing as lacking:
            pytest.skip(str(lacking))


@pytest.fixture
def tcx() -> None:
    """Skips on kernels without TCX links, for tests that have no parameter."""
    try:
        features.require("tcx")
    except FeatureMissing as lacking:
        pytest.skip(str(lacking))


#: What no test leaves open, by what its descriptor refers to.
_OURS = ("anon_inode:bpf", "anon_inode:[perf_event]", "net:")
#: Nor do those of the runtime and the capture, whose process has nobody else's: rings are waited
#: for with epoll and eventfd, interfaces are heard of by netlink.
_OF_THE_KERNEL = (*_OURS, "anon_inode:", "socket:")
_RUNTIME = ("kernel", "unit/ebpf", "unit/capture")


def _descriptors(kinds: tuple[str, ...]) -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith(kinds):
            found.add(f"{entry.name} -> {target}")
    return found


@contextmanager
def no_leaked_descriptors(path: Path) -> Iterator[None]:
    """What a test of such a file opens in this block, and does not close, is an AssertionError."""
    where = str(path.relative_to(Path(__file__).parent))
    kinds = _OF_THE_KERNEL if where.startswith(_RUNTIME) else _OURS
    before = _descriptors(kinds)
    yield
    leaked = _descriptors(kinds) - before
    assert not leaked, f"leaked descriptors: {sorted(leaked)}"


@pytest.fixture(autouse=True)
def _no_leaked_descriptors(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a descriptor open fails."""
    with no_leaked_descriptors(Path(str(request.node.path))):
        yield


@pytest.fixture
def network() -> Iterator[Network]:
    """Namespaces that are gone after the test."""
    made = Network()
    try:
        yield made
    finally:
        made.close()
