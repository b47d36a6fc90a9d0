"""The agent's own address, by the rules of NetObserv's agent, among real interfaces and routes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exporter.enrich.observer import AgentConfig, find_observer
from tests.e2e.net import Netns, Network


@pytest.fixture(scope="module")
def host() -> Iterator[Netns]:
    """
    ``in0`` was there first, with two addresses; packets to the outside leave by ``out0``, in both
    families. ``low0`` has no address but that of its link.
    """
    network = Network()
    try:
        netns = network.namespace("host")
        for name, addresses in (
            ("in0", ("10.9.0.7/24", "10.9.0.1/24", "fd00:9::1/64")),
            ("out0", ("192.0.2.1/24", "2001:db8::1/64")),
            ("low0", ("169.254.7.7/16",)),
        ):
            netns.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
            for address in addresses:
                scope = ("scope", "link") if name == "low0" else ()
                netns.ip("address", "add", address, "dev", name, *scope)
            netns.ip("link", "set", name, "up")
            netns.ip("link", "set", f"{name}-peer", "up")
        netns.ip("route", "add", "default", "via", "192.0.2.254")
        netns.ip("-6", "route", "add", "default", "via", "2001:db8::fe")
        yield netns
    finally:
        network.close()


def found(host: Netns, **config: str) -> str:
    """The address that an agent on the host reports."""
    with host.entered():
        return find_observer(AgentConfig.model_validate(config)).address


@pytest.mark.parametrize(
    ("interface", "family", "expected"),
    [
        ("external", "any", "192.0.2.1"),
        ("external", "ipv4", "192.0.2.1"),
        ("external", "ipv6", "2001:db8::1"),
        ("name:in0", "any", "10.9.0.7"),
        ("name:in0", "ipv6", "fd00:9::1"),
        ("name:out0", "ipv4", "192.0.2.1"),
        ("name:low0", "ipv4", "169.254.7.7"),
        ("name:none0", "any", ""),
    ],
)
def test_rules(host: Netns, interface: str, family: str, expected: str) -> None:
    """What leaves for the outside, or what a named interface has; of the wanted family."""
    assert found(host, interface=interface, family=family) == expected


@pytest.mark.parametrize(("family", "expected"), [("any", "10.9.0.7"), ("ipv6", "fd00:9::1")])
def test_local(host: Netns, family: str, expected: str) -> None:
    """The first global address that is no loopback address, whatever the routes are."""
    assert found(host, interface="local", family=family) == expected


def test_an_address_of_the_host_itself(host: Netns) -> None:
    """As routers have it: on loopback, but no loopback address, and so before all others."""
    host.ip("address", "add", "203.0.113.1/32", "dev", "lo")
    try:
        assert found(host, interface="local") == "203.0.113.1"
    finally:
        host.ip("address", "del", "203.0.113.1/32", "dev", "lo")


def test_a_host_without_routes(host: Netns) -> None:
    """There is no outside: what it has."""
    host.ip("route", "del", "default")
    try:
        assert found(host, family="ipv4") == "10.9.0.7"
    finally:
        host.ip("route", "add", "default", "via", "192.0.2.254")
