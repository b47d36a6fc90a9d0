"""Kubernetes: every address is a pod's, of deployments with ten pods each."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.index import Moment
from exporter.enrich.kubernetes.objects import Entity
from exporter.enrich.kubernetes.source import KubernetesSource
from exporter.testing.batch import pack_address

_NODES = 100
_V4, _V6 = ipaddress.IPv4Address("10.0.0.0"), ipaddress.IPv6Address("2001:db8::")


def enrichers() -> list[tuple[str, Callable[[int], AddressSource | Enricher]]]:
    """One, that knows as many pods as there are addresses."""
    return [("kubernetes", _source)]


def _source(distinct: int) -> KubernetesSource:
    source = KubernetesSource(KubernetesConfig(labels=("app",)), lambda _config, _index: [])
    ipv4 = distinct - distinct // 4
    moment = Moment(time.time_ns(), 0)
    for number in range(distinct):
        address = str(_V4 + number) if number < ipv4 else str(_V6 + number)
        app = f"app-{number // 10}"
        source.index.put(
            Entity(
                kind="Pod",
                uid=f"uid-{number}",
                namespace=f"ns-{number % 50}",
                name=f"{app}-5d4f8c7b9-{number:05}",
                addresses=(pack_address(address),),
                node=f"node-{number % _NODES}",
                host=f"172.20.0.{number % _NODES}",
                owner=("Deployment", app),
                extra=(app,),
            ),
            moment,
        )
    # As the thread that listed them has done before a drain comes.
    source.prepare()
    return source
