"""
What is read of OBI's environment, and Beyla's: the networks that flows are named by.

Nothing else of it: most of its variables are about what this agent does not do, or does otherwise.
Beyla takes its BEYLA_X for OBI's OTEL_EBPF_X where that is not set.
Source: opentelemetry.io/docs/zero-code/obi/network/config; Beyla, config_obi.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from exporter.errors import ConfigError
from exporter.quantities import words

_CIDRS = ("OTEL_EBPF_NETWORK_CIDRS", "BEYLA_NETWORK_CIDRS")


def translate(environment: Mapping[str, str]) -> dict[str, Any]:
    """
    The configuration that its variables ask for, nested as our file is; empty without them.

    Raises:
        ConfigError: If there is something in the list that is no network.
    """
    for variable in _CIDRS:
        networks = words(environment.get(variable, ""))
        if networks:
            for network in networks:
                _check(variable, network)
            return {"enrich": {"networks": {"cidrs": list(networks)}}}
    return {}


def _check(variable: str, network: str) -> None:
    try:
        ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise ConfigError(
            f"{variable}: {network!r} is not a network such as 10.0.0.0/8; names of networks are "
            "in enrich.networks.cidrs"
        ) from None
