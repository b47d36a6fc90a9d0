"""Every command of README, guide, deliveries and sinks runs as it is written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.documents import ROOT, RUN, Block, blocks, name_of
from tests.e2e.documented import Run
from tests.e2e.net import Network
from tests.e2e.village import Page, Servers, Village, agent

#: What a checkout has that commands of the README name.
_CHECKOUT = ROOT / "README.md"
#: Documents that are run side by side.
_AT_ONCE = 4
#: Others' programs that documents run.
_PROGRAMS = ("curl", "jq", "nfcapd", "nfdump", "nsenter", "unshare")
_CAPTURE = ROOT / "tests" / "packets" / "captures" / "ethernet_tcp.pcap"


@pytest.fixture(scope="module")
def village() -> Iterator[Village]:
    """A host, its containers, its neighbour and their traffic."""
    network = Network()
    try:
        made = Village(network)
        with made.busy():
            yield made
    finally:
        network.close()


@pytest.fixture(scope="module")
def servers(village: Village, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """What documents send to."""
    made = Servers(village.host, tmp_path_factory.mktemp("servers"))
    try:
        yield made
    finally:
        made.close()


def with_output(document: Path) -> Iterator[tuple[Block, Block | None]]:
    """Blocks that are run or are files, and what the document shows below each as its output."""
    found = list(blocks(document))
    for block, after in [*pairwise(found), *((one, None) for one in found[-1:])]:
        is_output = (
            after is not None
            and after.language in ("text", "json")
            and "not compared" not in after.said
        )
        if block.language == "sh" or "file" in block.said:
            yield block, after if is_output and block.language == "sh" else None


class Documents:
    """
    Runs documents, some at a time: most of the time they wait.

    Args:
        village: Where.
        servers: What they send to.
        directory: For what they write.
    """

    def __init__(self, village: Village, servers: Servers, directory: Path) -> None:
        self._village, self._servers, self._directory = village, servers, directory

    def run(self, documents: list[Path]) -> dict[Path, Future[None]]:
        """Run them all; when this returns, nothing runs any more."""
        if _CHECKOUT in documents:
            # As ``make test`` has done: no package index can be asked from where commands run.
            subprocess.run(["make", "setup"], cwd=ROOT, check=True)
        # Before anything else runs: a broker that has to share two cores takes its time.
        for server in sorted({name for one in documents for b in blocks(one) for name in b.needs}):
            if server != "agent":
                self._servers.need(server)
        # The longest first, so that none is left to wait for at the end.
        ordered = sorted(documents, key=lambda one: -len(list(with_output(one))))
        with (
            agent(self._village, self._directory / "agent") as running,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):
            return {document: pool.submit(self._run, document, running) for document in ordered}

    def _run(self, document: Path, running: Path) -> None:
        place = self._directory / name_of(document).replace("/", "-")
        page = Page(self._village, place)
        shutil.copy(_CAPTURE, place / "capture.pcap")
        where = ROOT if document == _CHECKOUT else place
        try:
            for block, shown in with_output(document):
                if name := block.said.get("file"):
                    (place / name).write_text(block.text)
                    continue
                with page.beside(running) if "agent" in block.needs else nullcontext():
                    Run(block, shown, page, where).run()
        finally:
            page.close()


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    village: Village,
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Path, Future[None]]:
    """Every document that a test was chosen for, run."""
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            missing(f"{program}, which documents run: tools/setup-tests.sh installs it")
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = [
        Path(str(item.callspec.params["document"]))
        for item in items
        if item.originalname == test_commands_run_as_written.__name__
    ]
    return Documents(village, servers, tmp_path_factory.mktemp("documents")).run(chosen)


@pytest.mark.parametrize(
    "document",
    [one for one in RUN if any(b.language == "sh" for b in blocks(one))],
    ids=name_of,
)
def test_commands_run_as_written(document: Path, outcomes: dict[Path, Future[None]]) -> None:
    """
    Each block, by ``bash -eu``, in the order of the document: it succeeds, what it sends arrives,
    and it prints what is shown below it, numbers aside.
    """
    outcomes[document].result()
