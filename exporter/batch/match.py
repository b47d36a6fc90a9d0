"""
Which rows of a batch are asked for, by conditions as people give them on a command line.

Conditions of one kind are alternatives; those of different kinds must all hold. What is excluded is
left out even so. The names are those of ``hubble observe``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import SIDES, Entities, Side
from exporter.batch.batch import IPV4_PREFIX, FlowBatch
from exporter.batch.record import ICMP, ICMPV6, SCTP, TCP, UDP, WITH_PORTS, point_names
from exporter.errors import ConfigError

Mask = NDArray[np.bool_]
#: Tells which rows of a batch a condition holds for at one end; bool, shape (n,).
AtEnd = Callable[[FlowBatch, Side], Mask]
OfFlow = Callable[[FlowBatch], Mask]

_PROTOCOLS = {"icmp": ICMP, "tcp": TCP, "udp": UDP, "icmpv6": ICMPV6, "sctp": SCTP}
_COLUMNS: Mapping[Side, str] = {"source": "src", "destination": "dst"}


@dataclass(frozen=True)
class Kind:
    """
    Something that can be asked for.

    Args:
        meaning: For help, after "flows whose end is" or "flows that are".
        value: What the value is called in help.
        of_end: Makes the test of one end, out of a value.
        of_flow: Makes the test of a flow; one of the two is given.
    """

    meaning: str
    value: str
    of_end: Callable[[str], AtEnd] | None = None
    of_flow: Callable[[str], OfFlow] | None = None


def _within(text: str) -> AtEnd:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as err:
        raise ConfigError(f"{text} is no address or network: {err}") from None
    packed, bits = network.network_address.packed, network.prefixlen
    if network.version == 4:
        packed, bits = IPV4_PREFIX + packed, bits + 96
    wanted = np.frombuffer(packed, np.uint8)
    mask = np.frombuffer(((1 << 128) - (1 << 128 - bits)).to_bytes(16, "big"), np.uint8)
    wanted_words, mask_words = wanted.view(np.uint64), mask.view(np.uint64)
    is_ipv4 = network.version == 4

    def test(batch: FlowBatch, side: Side) -> Mask:
        first = 0 if side == "source" else 2
        words = batch.key_words()[:, first : first + 2]
        inside = ((words & mask_words) == wanted_words).all(axis=1)
        # ::/0 holds no IPv4 address.
        return np.asarray(inside if is_ipv4 else inside & ~batch.is_ipv4())

    return test


def _port(text: str) -> AtEnd:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise ConfigError(f"{text} is no port: use 0 to 65535")
    number = int(text)

    def test(batch: FlowBatch, side: Side) -> Mask:
        ports = getattr(batch, f"{_COLUMNS[side]}_port")
        return np.asarray((ports == number) & np.isin(batch.ip_protocol, list(WITH_PORTS)))

    return test


def _attribute(path: str) -> Callable[[str], AtEnd]:
    """Text that enrichment added to an end; a value may end in ``*``."""

    def make(text: str) -> AtEnd:
        return lambda batch, side: _has(batch, f"{side}.{path}", _pattern(text))

    return make


def _namespaced(path: str) -> Callable[[str], AtEnd]:
    """``namespace/name``, or a name in any namespace; ``namespace/`` is all that is in it."""

    def make(text: str) -> AtEnd:
        namespace, slash, name = text.rpartition("/")

        def test(batch: FlowBatch, side: Side) -> Mask:
            found = _has(batch, f"{side}.{path}", _pattern(name) if name else bool)
            if slash:
                found &= _has(batch, f"{side}.k8s.namespace.name", _pattern(namespace))
            return found

        return test

    return make


def _pattern(text: str) -> Callable[[str], bool]:
    if text.endswith("*"):
        return lambda value: value.startswith(text[:-1])
    return lambda value: value == text


def _has(batch: FlowBatch, path: str, wanted: Callable[[str], bool]) -> Mask:
    """Rows whose attribute is known and wanted; each value is looked at once."""
    result = np.zeros(len(batch), np.bool_)
    for some in batch.entities:
        for attribute in some.values:
            if attribute.otel == path:
                result |= _wanted(some, some.values[attribute], wanted)
    return result


def _wanted(some: Entities, values: Iterable[Any], wanted: Callable[[str], bool]) -> Mask:
    chosen = [value not in (None, "") and wanted(str(value)) for value in values]
    return np.array(chosen, np.bool_)[some.rows]


def _protocol(text: str) -> OfFlow:
    number = _PROTOCOLS.get(text.lower())
    if number is None:
        if not (text.isascii() and text.isdigit() and int(text) < 256):
            known = ", ".join(_PROTOCOLS)
            raise ConfigError(f"there is no protocol {text}: use {known} or a number")
        number = int(text)
    return lambda batch: np.asarray(batch.ip_protocol == number)


def _version(text: str) -> OfFlow:
    if text not in ("4", "6"):
        raise ConfigError(f"there is no IP version {text}: use 4 or 6")
    return lambda batch: batch.is_ipv4() if text == "4" else ~batch.is_ipv4()


def _interface(text: str) -> OfFlow:
    wanted = _pattern(text)

    def test(batch: FlowBatch) -> Mask:
        lists = [
            any(wanted(point.name) for point in point_names(points, batch))
            for points in batch.point_lists
        ]
        if not lists:
            return np.zeros(len(batch), np.bool_)
        return np.asarray(np.array(lists, np.bool_)[batch.points])

    return test


def _flags(text: str) -> OfFlow:
    bits = {name: 1 << bit for bit, name in enumerate(("fin", "syn", "rst", "psh", "ack", "urg"))}
    wanted = 0
    for name in text.lower().split(","):
        if name not in bits:
            raise ConfigError(f"there is no TCP flag {name}: use {', '.join(bits)}")
        wanted |= bits[name]
    return lambda batch: np.asarray(
        (batch.ip_protocol == TCP) & (batch.tcp_control_bits & wanted == wanted)
    )


#: By name without ``from-`` and ``to-``.
KINDS: dict[str, Kind] = {
    "ip": Kind("in this network or has this address", "CIDR", of_end=_within),
    "port": Kind("this port", "N", of_end=_port),
    "namespace": Kind(
        "in this Kubernetes namespace", "NAME", of_end=_attribute("k8s.namespace.name")
    ),
    "pod": Kind("this pod", "[NAMESPACE/]NAME", of_end=_namespaced("k8s.pod.name")),
    "service": Kind("this service", "[NAMESPACE/]NAME", of_end=_namespaced("k8s.service.name")),
    "workload": Kind("of this workload", "[NAMESPACE/]NAME", of_end=_namespaced("k8s.owner.name")),
    "node-name": Kind("on this node", "NAME", of_end=_attribute("k8s.node.name")),
    "fqdn": Kind("known by this DNS name", "NAME", of_end=_attribute("domain")),
    "protocol": Kind("of this protocol", "NAME", of_flow=_protocol),
    "ip-version": Kind("of this IP version", "4|6", of_flow=_version),
    "interface": Kind("seen at this interface", "NAME", of_flow=_interface),
    "tcp-flags": Kind("TCP with all of these flags", "LIST", of_flow=_flags),
}


def names() -> list[str]:
    """All names of conditions, those of one end too: ``ip``, ``from-ip``, ``to-ip``, ..."""
    found: list[str] = []
    for name, kind in KINDS.items():
        found += [name, f"from-{name}", f"to-{name}"] if kind.of_end else [name]
    return found


class Match:
    """
    What is asked for.

    Args:
        wanted: Names and values of conditions.
        excluded: Those that rows are left out by.

    Raises:
        ConfigError: If there is no such condition, or a value is none.
    """

    def __init__(
        self, wanted: Iterable[tuple[str, str]] = (), excluded: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._wanted = _grouped(wanted)
        self._excluded = _grouped(excluded)

    def mask(self, batch: FlowBatch) -> Mask:
        """Which rows are asked for, bool, shape (n,)."""
        result = np.ones(len(batch), np.bool_)
        for tests in self._wanted.values():
            result &= _any(tests, batch)
        for tests in self._excluded.values():
            result &= ~_any(tests, batch)
        return result

    def take(self, batch: FlowBatch) -> FlowBatch:
        """The rows that are asked for; the batch itself if it is all of them."""
        mask = self.mask(batch)
        return batch if mask.all() else batch.take(mask)


def _grouped(conditions: Iterable[tuple[str, str]]) -> dict[str, list[OfFlow]]:
    found: dict[str, list[OfFlow]] = {}
    for name, text in conditions:
        found.setdefault(name, []).append(_test(name, text))
    return found


def _test(name: str, text: str) -> OfFlow:
    sides: tuple[Side, ...] = SIDES
    kind = KINDS.get(name)
    if kind is None:
        head, _, rest = name.partition("-")
        kind = KINDS.get(rest)
        if head not in ("from", "to") or kind is None or kind.of_end is None:
            raise ConfigError(f"there is no condition {name}: use one of {', '.join(names())}")
        sides = SIDES[:1] if head == "from" else SIDES[1:]
    if kind.of_flow is not None:
        return kind.of_flow(text)
    assert kind.of_end is not None, "a kind has one of the two"
    at_end = kind.of_end(text)
    return lambda batch: np.asarray(np.logical_or.reduce([at_end(batch, side) for side in sides]))


def _any(tests: list[OfFlow], batch: FlowBatch) -> Mask:
    return np.asarray(np.logical_or.reduce([test(batch) for test in tests]))
