"""``flow-exporter kube-cache``: one list and watch of a Kubernetes API server for all agents."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from exporter.errors import ConfigError

DONE = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them; :func:`run` takes what they give."""
    add = parser.add_argument
    add("--listen", default=":50055", metavar="HOST:PORT", help="default: :50055, everywhere")
    add("--kubeconfig", type=Path, metavar="FILE", help="default: the pod's service account")
    add("--context", default="", metavar="NAME", help="of the file; default: its current one")
    add("--labels", default="", metavar="LIST", help="labels to keep, with commas")
    add("--annotations", default="", metavar="LIST", help="annotations to keep, with commas")
    add("--owners", default="names", choices=("names", "watch"), help="default: names")
    add("--log-level", default="info", help="default: info")


def run(parsed: argparse.Namespace) -> int:
    """The command. Returns its exit code."""
    # Imported here: other commands, and each press of the tabulator key, need none of them.
    import asyncio

    from pydantic import ValidationError

    from exporter.enrich.kubernetes.cache.server import CacheServer
    from exporter.enrich.kubernetes.config import KubernetesConfig
    from exporter.quantities import join_host_port, split_host_port
    from exporter.telemetry import setup_log

    setup_log(parsed.log_level)
    names = ("kubeconfig", "context", "labels", "annotations", "owners")
    try:
        config = KubernetesConfig(**{name: getattr(parsed, name) for name in names})
        host, port = split_host_port(parsed.listen)
    except (ValidationError, ValueError) as err:
        raise ConfigError(f"kube-cache: {err}") from err

    async def serve() -> None:
        server = CacheServer(config, join_host_port(host or "::", port))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        await server.run()

    asyncio.run(serve())
    return DONE
