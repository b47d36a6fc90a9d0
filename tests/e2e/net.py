"""
Network namespaces, veth pairs and interface counters for tests: everything real, all of it removed.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.ebpf.netns import entered
from tests.patience import wait_until

_numbers = itertools.count()


def ip(*arguments: str, said: str = "") -> str:
    """Run iproute2's ``ip``, with what it reads; its error is the test's."""
    done = subprocess.run(
        ["ip", *arguments], input=said, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {said}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Counters:
    """An interface's own counters: frames and L2 octets in both directions."""

    rx_packets: int
    rx_octets: int
    tx_packets: int
    tx_octets: int

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*(a - b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, ...]:
        return (self.rx_packets, self.rx_octets, self.tx_packets, self.tx_octets)


@dataclass(frozen=True)
class Netns:
    """A network namespace with a name in /var/run/netns."""

    name: str

    @property
    def path(self) -> str:
        return f"/var/run/netns/{self.name}"

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.name, *arguments)

    def ips(self, *commands: Sequence[str]) -> None:
        """Some commands of ``ip`` by one process; none if there are none. No word has a '."""
        if commands:
            quoted = (" ".join(f"'{word}'" for word in command) for command in commands)
            lines = "".join(f"{command}\n" for command in quoted)
            ip("-n", self.name, "-batch", "-", said=lines)

    def command(self, *arguments: str) -> list[str]:
        """An argument vector that runs within the namespace."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def link(self, device: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.ip("-s", "-d", "-j", "link", "show", device))
        return found[0]

    def mac(self, device: str) -> str:
        return str(self.link(device)["address"])

    def index(self, device: str) -> int:
        return int(self.link(device)["ifindex"])

    def counters(self, device: str) -> Counters:
        stats = self.link(device)["stats64"]
        rx, tx = stats["rx"], stats["tx"]
        return Counters(rx["packets"], rx["bytes"], tx["packets"], tx["bytes"])

    def quiet(self) -> None:
        """No IPv6: devices made from now on say nothing of their own."""
        self.ipv6(disable_ipv6=1)

    def ipv6(self, **settings: int) -> None:
        """Set sysctls of all devices, those to come too."""
        # They are those of the thread's namespace: no processes, which hundreds of tests wait for.
        with self.entered():
            for where in ("all", "default"):
                for name, value in settings.items():
                    Path(f"/proc/sys/net/ipv6/conf/{where}/{name}").write_text(f"{value}\n")

    def snmp(self, protocol: str, counter: str) -> int:
        """A counter of the namespace's own TCP/IP stack: /proc/net/snmp."""
        rows = [line.split() for line in self.run("cat", "/proc/net/snmp").splitlines()]
        names, values = (row for row in rows if row[0] == f"{protocol}:")
        return int(values[names.index(counter)])

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace: sockets made here stay there."""
        with entered(self.path):
            yield


class Network:
    """Makes namespaces and takes them away again."""

    def __init__(self) -> None:
        self._made: list[Netns] = []

    def namespace(self, hint: str, name: str = "") -> Netns:
        """One with a name of its own, or with one that may have been another's before."""
        made = Netns(f"fe{os.getpid()}-{name or f'{next(_numbers)}-{hint}'}")
        ip("netns", "add", made.name)
        self._made.append(made)
        made.ip("link", "set", "lo", "up")
        # No router solicitations, no duplicate address detection: every packet is the test's own.
        made.ipv6(accept_dad=0, router_solicitations=0, addr_gen_mode=1)
        return made

    def remove(self, namespace: Netns) -> None:
        self._made.remove(namespace)
        ip("netns", "del", namespace.name)

    def close(self) -> None:
        while self._made:
            self.remove(self._made[-1])


@dataclass(frozen=True)
class End:
    """One end of a veth pair."""

    netns: Netns
    device: str

    def counters(self) -> Counters:
        return self.netns.counters(self.device)

    def sends(self) -> bool:
        """It has a carrier, and the queue that the kernel gives it for that."""
        link = self.netns.link(self.device)
        return "LOWER_UP" in link["flags"] and link["qdisc"] != "noop"


Addresses = tuple[Sequence[str], Sequence[str]]


def veth(one: End, other: End, addresses: Addresses = ((), ()), *, mtu: int = 1500) -> None:
    """Join two namespaces and use the link at once."""
    plug(one, other, mtu=mtu)
    connect(one, other, addresses)


def plug(one: End, other: End, *, mtu: int = 1500) -> None:
    """A veth pair whose ends are still down."""
    ip(
        "link", "add", one.device, "netns", one.netns.name, "mtu", str(mtu), "type", "veth",
        "peer", "name", other.device, "netns", other.netns.name, "mtu", str(mtu),
    )  # fmt: skip


def connect(one: End, other: End, addresses: Addresses = ((), ())) -> None:
    """
    Bring a pair up.

    ``addresses`` are CIDRs of either end. Neighbours are permanent, so that there is no ARP and no
    neighbour discovery.
    """
    for end, own in zip((one, other), addresses, strict=True):
        end.netns.ips(
            *(
                ("addr", "add", address, "dev", end.device, *(("nodad",) if ":" in address else ()))
                for address in own
            )
        )
    switch_on(one, other)
    for end, peer, theirs in ((one, other, addresses[1]), (other, one, addresses[0])):
        mac = peer.netns.mac(peer.device) if theirs else ""
        end.netns.ips(*(_neighbour(end, address.split("/")[0], mac) for address in theirs))


def switch_on(*ends: End) -> None:
    """
    Bring devices up that have a carrier when all of them are, and wait until they send.

    The kernel gives a device its queue when a worker of its own has seen the carrier. Until then
    what is sent has passed the egress hook and is thrown away behind it, and no counter of the
    device has it.
    """
    for end in ends:
        end.netns.ip("link", "set", end.device, "up")
    for end in ends:
        wait_until(end.sends, f"{end.device} sends")


def disconnect(end: End) -> Counters:
    """Take an end down: nothing passes any more. Its counters, final."""
    end.netns.ip("link", "set", end.device, "down")
    return end.counters()


def neighbour(end: End, address: str, mac: str) -> None:
    """Know a neighbour for good."""
    end.netns.ip(*_neighbour(end, address, mac))


def _neighbour(end: End, address: str, mac: str) -> tuple[str, ...]:
    return (
        "neigh", "replace", address, "lladdr", mac, "dev", end.device, "nud", "permanent",
    )  # fmt: skip


def no_offload(end: End) -> None:
    """Frames on the device are packets on the wire: no segmentation, no merging."""
    end.netns.run(
        "ethtool", "-K", end.device, "tso", "off", "gso", "off", "gro", "off", "tx", "off"
    )
