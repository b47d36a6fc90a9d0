"""``python -m benchmarks [NAME ...]``: run them, print the tables, keep the results."""

from __future__ import annotations

import sys

from benchmarks import (
    bench_agent,
    bench_agents,
    bench_counted,
    bench_dns,
    bench_downstream,
    bench_enrich,
    bench_expressions,
    bench_footprint,
    bench_kernel,
    bench_kube,
    bench_load,
    bench_maps,
    bench_outputs,
    bench_pipeline,
    bench_processes,
    bench_ring,
    bench_sinks,
)
from benchmarks.report import machine, write

BENCHMARKS = {
    "kernel": bench_kernel.run,
    "pipeline": bench_pipeline.run,
    "enrich": bench_enrich.run,
    "expressions": bench_expressions.run,
    "footprint": bench_footprint.run,
    "processes": bench_processes.run,
    "startup": bench_agent.startup,
    "agent": bench_agent.run,
    "maps": bench_maps.run,
    "ring": bench_ring.run,
    "load": bench_load.run,
    "sinks": bench_sinks.run,
    "spool": bench_sinks.spool,
    "outputs": bench_outputs.run,
    "dns": bench_dns.run,
    "kube": bench_kube.run,
    "agents": bench_agents.run,
    "downstream": bench_downstream.run,
    "counted": bench_counted.run,
}


def main() -> int:
    """Run the named benchmarks, or all of them."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        known = ", ".join(BENCHMARKS)
        print(f"no benchmark {', '.join(unknown)}: there are {known}", file=sys.stderr)
        return 2
    tables = []
    for name in names:
        print(name, flush=True)
        tables.append(BENCHMARKS[name]())
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))
    for table in tables:
        print(f"\n{table.what}\n\n{table.markdown()}")
    print(f"\nkept in {write(tables)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
