"""A ``pbflow.Collector`` that keeps nothing: ``python -m benchmarks.collector PORT``."""

from __future__ import annotations

import sys
from concurrent import futures

import grpc


def main() -> None:
    """Serve until killed; says ``ready`` on standard output."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("pbflow.Collector", {"Send": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
