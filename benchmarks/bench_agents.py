"""
What agents cost a cluster of 10,000 pods, and what they take for it: a real kube-apiserver.

One agent's source in a process of its own; twenty that start at once, by themselves and through a
cache. Requests are those of the API server's audit log, its CPU time what it says of itself, and
memory is what is resident afterwards, less what was before.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_kube import cache
from benchmarks.report import Table
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.source import KubernetesSource
from tests.e2e.agent import wait_until
from tests.e2e.apiserver import ApiServer, reading
from tests.e2e.cluster import Cluster
from tests.e2e.population import Population, populate

PODS, AGENTS = 10_000, 20
_RULES = reading("pods", "services", "nodes", "batch/jobs", "apps/replicasets")

#: Lists everything, looks every address up, and says what it took: MB at its peak, MB afterwards,
#: and seconds of CPU time until all was listed.
_ONE = """
import sys, time
from pathlib import Path
import exporter.pipeline
from exporter.batch.batch import Window
from exporter.enrich.config import EnrichConfig
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.observer import AgentConfig
from exporter.enrich.table import Surroundings, make
from exporter.testing import Row, make_batch

def memory(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0]) * 1024 / 1e6

now = time.time_ns()
rows = make_batch(*(Row(dst_addr=line.strip(), flow_start_ns=now, flow_end_ns=now)
                    for line in sys.stdin), window=Window(now, now))
before, cpu = memory("VmHWM"), time.process_time()
config = KubernetesConfig(kubeconfig=sys.argv[1], labels="app", owners=sys.argv[2])
enrichment = make(EnrichConfig(kubernetes=config), AgentConfig(address="192.0.2.1"),
                  Surroundings(dict))
enrichment.open()
while enrichment.readings()["kubernetes"].state.problem:
    time.sleep(0.05)
cpu = time.process_time() - cpu
for _ in range(3):
    (_, destinations) = enrichment.apply(rows).entities
assert (destinations.rows > 0).mean() > 0.95
print(memory("VmHWM") - before, cpu)
enrichment.close()
"""


@dataclass(frozen=True)
class _Said:
    """Of the API server: list requests, seconds of CPU time, MB."""

    requests: int
    cpu: float
    memory: float

    def __sub__(self, other: _Said) -> _Said:
        return _Said(
            self.requests - other.requests, self.cpu - other.cpu, self.memory - other.memory
        )


def run() -> Table:
    """One agent, and many."""
    table = Table(
        "agents",
        f"{PODS:,} pods of a real API server: what agents take, and what {AGENTS} starting cost it",
        ("what", "MB", "CPU s", "list requests"),
    )
    with tempfile.TemporaryDirectory() as directory, ApiServer(Path(directory)) as server:
        pods = populate(Cluster(server), Population(pods=PODS))
        config = server.kubeconfig(server.reader("agent", _RULES), "agent.kubeconfig")
        addresses = "\n".join(address for pod in pods for address in pod.addresses)
        for owners in ("names", "watch"):
            memory, cpu = _one(config, owners, addresses)
            table.add(f"one agent, owners: {owners}", f"{memory:.1f}", f"{cpu:.2f}", "-")
        before = _said(server)
        with cache(config) as (address, pid):
            _start(KubernetesConfig.model_validate({"cache": f"grpc://{address}"}))
            through = _said(server) - before
            status = Path(f"/proc/{pid}/status").read_text()
            own = int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6
            spent = _cpu_seconds(pid)
        before = _said(server)
        _start(KubernetesConfig.model_validate({"kubeconfig": config}))
        alone = _said(server) - before
    for what, said in (("by themselves", alone), ("through a cache", through)):
        table.add(f"the API server, {AGENTS} agents {what}", f"{said.memory:.0f}",
                  f"{said.cpu:.2f}", said.requests)  # fmt: skip
    table.add("the cache", f"{own:.0f}", f"{spent:.2f}", "-")
    return table


def _one(config: Path, owners: str, addresses: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _ONE, str(config), owners],
        input=addresses, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    memory, cpu = map(float, done.stdout.split())
    return memory, cpu


def _start(config: KubernetesConfig) -> None:
    """So many agents' sources, until all have listed everything."""
    with ExitStack() as stack:
        sources = [KubernetesSource(config) for _ in range(AGENTS)]
        for source in sources:
            source.open()
            stack.callback(source.close)
        wait_until(lambda: not any(one.state().problem for one in sources), "all is listed", 300)
        assert all(len(source.index) > 0.9 * PODS for source in sources)


def _said(server: ApiServer) -> _Said:
    found = re.search(
        r"^process_cpu_seconds_total (\S+)$", server.admin.text("GET", "/metrics"), re.MULTILINE
    )
    assert found is not None
    lists = sum(one.verb == "list" for one in server.requests())
    return _Said(lists, float(found[1]), server.memory() / 1e6)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
