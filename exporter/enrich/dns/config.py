"""Where names of addresses come from, and how long they hold."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from exporter.capture.dns import NO_COPYING, DnsCopying
from exporter.quantities import Octets, Seconds, words

#: Names that stand for several networks: RFC 1918, RFC 6598, RFC 4193; and everything.
_SETS = {
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    "all": ("0.0.0.0/0", "::/0"),
}
_DNS_PORT = 53

Words = Annotated[tuple[str, ...], BeforeValidator(words)]


def split_resolver(text: str) -> tuple[str, int]:
    """``192.0.2.53``, ``192.0.2.53:5353``, ``2001:db8::53`` or ``[::1]:53``. Raises ValueError."""
    host, port = text, str(_DNS_PORT)
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, ":", port)
        host = host.removeprefix("[").removesuffix("]")
    try:
        ip_network(host)
    except ValueError:
        raise ValueError(f"{text!r} is not the address of a resolver, such as 192.0.2.53") from None
    if "/" in host or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(f"{text!r} is not the address of a resolver, such as 192.0.2.53:53")
    return host, int(port)


class ReverseConfig(BaseModel):
    """
    The ``enrich.names.reverse`` section.

    Args:
        resolvers: Addresses of DNS servers, with a port if it is not 53; empty for those of
            /etc/resolv.conf. One that does not answer is followed by the next.
        networks: Only addresses in these are asked for: CIDRs, ``private`` (10/8, 172.16/12,
            192.168/16, 100.64/10, fc00::/7) or ``all``.
        rate: Queries a second, repeated ones among them.
        timeout: Seconds until a query is given up.
        attempts: Queries for one address before it has no name for now.
        addresses: That are remembered, with names or without.
        minimum, maximum: Seconds that a name holds at least and at most, whatever its TTL.
        negative: Seconds until an address without a name is asked for again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolvers: Words = ()
    networks: Words = ("private",)
    rate: float = Field(20.0, gt=0, le=10_000)
    timeout: Seconds = Field(2.0, ge=0.05, le=60)
    attempts: int = Field(2, ge=1, le=10)
    addresses: int = Field(16_384, ge=16, le=1 << 22)
    minimum: Seconds = Field(60.0, ge=1, le=86_400)
    maximum: Seconds = Field(86_400.0, ge=1, le=30 * 86_400)
    negative: Seconds = Field(300.0, ge=1, le=86_400)

    @field_validator("resolvers")
    @classmethod
    def _are_resolvers(cls, resolvers: tuple[str, ...]) -> tuple[str, ...]:
        for resolver in resolvers:
            split_resolver(resolver)
        return resolvers

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            if network not in _SETS:
                ip_network(network)
        return networks

    def cidrs(self) -> tuple[str, ...]:
        """The networks, without names that stand for several."""
        return tuple(cidr for name in self.networks for cidr in _SETS.get(name, (name,)))


class NamesConfig(BaseModel):
    """
    The ``enrich.names`` section.

    Args:
        passive: Learn names from the answers that hosts get, as they are seen on the wire.
        ports: Of DNS servers; at most two.
        require_query: Believe an answer only if its query was seen. Without, whoever can send a
            packet past the agent can name any address; needed where one direction only is seen.
        grace: Seconds that a name holds beyond its TTL: connections outlive the answers that they
            began with.
        minimum, maximum: Seconds that a TTL counts as at least and at most.
        addresses: That have names at once.
        ring_size: Octets of the ring buffer that DNS packets wait in, a power of two; it is emptied
            four times a second. 1 MiB holds 3,196 packets of up to 256 octets.
        reverse: Ask DNS servers for the names of addresses that have none; absent for not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passive: bool = True
    ports: tuple[Annotated[int, Field(ge=1, lt=1 << 16)], ...] = Field(
        (_DNS_PORT,), min_length=1, max_length=2
    )
    require_query: bool = True
    grace: Seconds = Field(300.0, ge=0, le=86_400)
    minimum: Seconds = Field(60.0, ge=0, le=86_400)
    maximum: Seconds = Field(86_400.0, ge=1, le=30 * 86_400)
    addresses: int = Field(65_536, ge=16, le=1 << 22)
    ring_size: Octets = Field(1 << 20, ge=4096, le=1 << 28)
    reverse: ReverseConfig | None = None

    @field_validator("ports", mode="before")
    @classmethod
    def _are_words(cls, ports: object) -> object:
        return words(ports) if isinstance(ports, str) else ports

    @field_validator("ring_size")
    @classmethod
    def _is_power_of_two(cls, octets: int) -> int:
        if octets & (octets - 1):
            raise ValueError(f"must be a power of two, such as {1 << (octets.bit_length() - 1)}")
        return octets

    def copying(self) -> DnsCopying:
        """What the kernel program has to copy."""
        return DnsCopying(self.ports, self.ring_size) if self.passive else NO_COPYING
