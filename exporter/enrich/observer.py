"""
Who observes: the agent's address and host name.

The rules are those of NetObserv's agent: an address that was given; else that of a named interface;
else the one that a packet to the outside would leave from, or any that is not loopback.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from dataclasses import replace
from operator import itemgetter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, Observer
from exporter.enrich.base import Local
from exporter.enrich.cloud.config import CloudConfig

log = logging.getLogger(__name__)

#: Public resolvers. Connecting a UDP socket sends nothing: it only asks for a route.
_OUTSIDE = {socket.AF_INET: "8.8.8.8", socket.AF_INET6: "2001:4860:4860::8888"}
#: Seconds until the address is looked for again, once there is one and before.
_SETTLED, _UNSETTLED = 60.0, 1.0
_FAMILIES = {
    "any": (socket.AF_INET, socket.AF_INET6),
    "ipv4": (socket.AF_INET,),
    "ipv6": (socket.AF_INET6,),
}


class AgentConfig(BaseModel):
    """
    The ``agent`` section.

    Args:
        address: What to report; found out if empty.
        interface: ``external``, ``local``, or ``name:IF``.
        family: Which addresses will do.
        name: Host name to report; the system's if empty.
        cloud: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = ""
    interface: str = "external"
    family: Literal["any", "ipv4", "ipv6"] = "any"
    name: str = ""
    cloud: CloudConfig = CloudConfig()

    @field_validator("address")
    @classmethod
    def _is_address(cls, text: str) -> str:
        return str(ipaddress.ip_address(text)) if text else ""

    @field_validator("interface")
    @classmethod
    def _is_rule(cls, text: str) -> str:
        if text not in ("external", "local") and not text.startswith("name:"):
            raise ValueError("must be external, local, or name: and an interface's name")
        return text


class ObserverName(Local):
    """
    Says who observed, on every batch.

    The address is looked for again from time to time: a host gets it late, or another one.

    Args:
        config: The rules.
    """

    name = "observer"
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ("observer",)
    attributes: tuple[Attribute, ...] = ()

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._observer = Observer()
        self._look_again = -1.0
        self._complained = False

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """Add the observer. Its address is empty while the host has none."""
        if time.monotonic() >= self._look_again:
            self._look()
        return replace(batch, observer=self._observer)

    def _look(self) -> None:
        self._observer = find_observer(self._config)
        found = bool(self._observer.address)
        self._look_again = time.monotonic() + (_SETTLED if found else _UNSETTLED)
        if not found and not self._complained:
            self._complained = True
            log.warning("no address to report as the agent's yet: set agent.address if none comes")


def find_observer(config: AgentConfig) -> Observer:
    """The agent's address, empty if it has none now, and its name."""
    return Observer(config.address or _address(config), config.name or socket.gethostname())


def _address(config: AgentConfig) -> str:
    families = _FAMILIES[config.family]
    if config.interface == "external":
        for family in families:
            address = _route_source(family)
            if address:
                return address
    name = config.interface.removeprefix("name:") if ":" in config.interface else ""
    return _interface_address(name, families)


def _route_source(family: socket.AddressFamily) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_OUTSIDE[family], 80))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _interface_address(name: str, families: tuple[socket.AddressFamily, ...]) -> str:
    """
    The first global address, of one interface or of all but loopback; else any scope.

    First is the lowest index, and of an interface's own the order that the kernel has them in, so
    that a second address that comes later changes nothing.
    """
    from pyroute2 import IPRoute

    candidates: list[tuple[tuple[int, int, int], str]] = []
    index = _index(name) if name else 0
    if index is None:
        return ""
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            rank = _rank(message, index, families)
            if rank is not None:
                order = message["scope"], rank, message["index"]
                candidates.append((order, message.get("address")))
    return min(candidates, key=itemgetter(0))[1] if candidates else ""


def _rank(message: Any, index: int, families: tuple[socket.AddressFamily, ...]) -> int | None:
    """Position of the address's family; ``None`` if it will not do."""
    family = message["family"]
    if family not in families or (index and message["index"] != index):
        return None
    if not index and ipaddress.ip_address(message.get("address")).is_loopback:
        return None
    return families.index(family)


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
