"""Names of networks, GeoIP, names of services: for ``benchmarks.bench_enrich``."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.cloud.config import CloudConfig
from exporter.enrich.cloud.enricher import CloudPlace
from exporter.enrich.geoip.config import GeoIpConfig
from exporter.enrich.geoip.source import sources
from exporter.enrich.networks.config import NetworksConfig
from exporter.enrich.networks.source import NetworkNames
from exporter.enrich.services.config import ServicesConfig
from exporter.enrich.services.enricher import ServiceNames
from tests import databases

_PREFIXES = 40_000
#: Kept until the process ends.
_DIRECTORY = tempfile.TemporaryDirectory()


def enrichers() -> list[tuple[str, Callable[[int], Enricher | AddressSource]]]:
    """What each costs alone; the second half of GeoIP finds what the first has looked up."""
    return [
        (f"networks, {_PREFIXES:,} prefixes", lambda _: NetworkNames(networks())),
        ("geoip, cities: a record for 16 or 65,536 addresses", lambda _: sources(geoip())[0]),
        ("services", lambda _: ServiceNames(ServicesConfig())),
        ("cloud", lambda _: CloudPlace(CloudConfig(provider="aws", zone="a"))),
    ]


@cache
def networks() -> NetworksConfig:
    """Random prefixes of 10.0.0.0/8 and 2001:db8::/32, nested, each with a name and a zone."""
    rng = np.random.default_rng(1)
    cidrs = {"10.0.0.0/8", "2001:db8::/32"}
    while len(cidrs) < _PREFIXES:
        four = (10 << 24) + int(rng.integers(0, 1 << 20))
        cidrs.add(str(ipaddress.ip_network((four, int(rng.integers(20, 33))), strict=False)))
        six = (0x20010DB8 << 96) + int(rng.integers(0, 1 << 20))
        cidrs.add(str(ipaddress.ip_network((six, int(rng.integers(108, 129))), strict=False)))
    path = Path(_DIRECTORY.name) / "networks.csv"
    lines = (f"{cidr},n{number},zone=z{number % 9}" for number, cidr in enumerate(sorted(cidrs)))
    path.write_text("\n".join(lines))
    return NetworksConfig(files=(path,))


@cache
def geoip() -> GeoIpConfig:
    """Cities in all of the benchmark's addresses: 6,000 records in 10.0.0.0/8."""

    def rows() -> Iterator[tuple[str, Any]]:
        for number in range(6000):
            four = ipaddress.IPv4Address((10 << 24) + number * 16)
            yield f"{four}/28", databases.city("DE", f"City {number}", "BE")
        for number in range(16):
            yield f"2001:db8::{number:x}:0/112", databases.city("NZ", f"Town {number}")

    path = databases.write(Path(_DIRECTORY.name) / "city.mmdb", rows())
    return GeoIpConfig(databases=(path,))
