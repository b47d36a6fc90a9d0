"""
Which rows of a batch are asked for, by conditions as people give them on a command line.

Conditions of one kind are alternatives; those of different kinds must all hold. What is excluded is
left out even so. The names are those of ``hubble observe``; ``where`` asks for anything that a flow
has or that enrichment added, and each name that it asks for is a kind.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import SIDES, Attribute, Column, Side, known
from exporter.batch.batch import IPV4_PREFIX, FlowBatch
from exporter.batch.group import distinct
from exporter.batch.protocols import PROTOCOLS, protocol_name
from exporter.batch.record import ICMP, ICMPV6, TCP, WITH_PORTS, address_text, point_names
from exporter.errors import ConfigError

Mask = NDArray[np.bool_]
#: Tells which rows of a batch a condition holds for at one end; bool, shape (n,).
AtEnd = Callable[[FlowBatch, Side], Mask]
OfFlow = Callable[[FlowBatch], Mask]

#: Names of IANA's registry, and those of others for ICMP.
_PROTOCOLS = {name: number for number, name in PROTOCOLS.items()} | {
    "icmpv4": ICMP,
    "icmpv6": ICMPV6,
}
_DIRECTIONS = ("ingress", "egress")
#: What a Kubernetes label's name may have that a path may not: see ``enrich.kubernetes``.
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
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
        named: The value is ``NAME=VALUE``: alternatives are those of one name only.
    """

    meaning: str
    value: str
    of_end: Callable[[str], AtEnd] | None = None
    of_flow: Callable[[str], OfFlow] | None = None
    named: bool = False


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


def _label(text: str) -> AtEnd:
    """``KEY=VALUE``, or ``KEY`` with any value, of labels that enrichment was told to add."""
    key, equals, value = text.partition("=")
    path = f"k8s.label.{_UNFIT.sub('_', key)}"
    wanted = _pattern(value) if equals else bool
    return lambda batch, side: _has(batch, f"{side}.{path}", wanted)


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
                result |= _wanted(some.values[attribute], wanted)[some.rows]
    return result


def _wanted(values: Iterable[Any], wanted: Callable[[str], bool]) -> Mask:
    """Which of some values are known and wanted."""
    return np.array([value not in (None, "") and wanted(str(value)) for value in values], np.bool_)


#: Texts, each once, and which one each row has.
Texts = tuple[Sequence[str], NDArray[Any]]


def _addresses(name: str) -> Callable[[FlowBatch], Texts]:
    def texts(batch: FlowBatch) -> Texts:
        first = 0 if name == "src_addr" else 2
        words = np.ascontiguousarray(batch.key_words()[:, first : first + 2])
        firsts, numbers = distinct(words)
        octets = getattr(batch, name)[firsts]
        return [address_text(bytes(row)) for row in octets], numbers

    return texts


def _numbers(name: str, text: Callable[[int], str]) -> Callable[[FlowBatch], Texts]:
    def texts(batch: FlowBatch) -> Texts:
        values, numbers = np.unique(getattr(batch, name), return_inverse=True)
        return [text(value) for value in values.tolist()], numbers

    return texts


def _interfaces(batch: FlowBatch) -> Texts:
    """Of the observation points that were counted."""
    lists = [point_names(points, batch) for points in batch.point_lists]
    return [points[0].name if points else "" for points in lists] or [""], batch.points


#: What a flow has without enrichment, by the names that ``consume`` sums by.
FIELDS: Mapping[str, Callable[[FlowBatch], Texts]] = {
    "source": _addresses("src_addr"),
    "destination": _addresses("dst_addr"),
    "source_port": _numbers("src_port", str),
    "destination_port": _numbers("dst_port", str),
    "protocol": _numbers("ip_protocol", protocol_name),
    "interface": _interfaces,
    "agent": lambda batch: ([batch.observer.address], np.zeros(len(batch), np.uint32)),
}


def _where(text: str) -> OfFlow:
    """``NAME=VALUE``; without a value, where nothing is known."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not (name and equals):
        raise ConfigError(f"where {text}: write NAME=VALUE")
    if not value:
        return lambda batch: ~_any_of(_masks(batch, name, "*"), batch)
    return lambda batch: _any_of(_masks(batch, name, value), batch)


def _any_of(masks: Iterable[Mask], batch: FlowBatch) -> Mask:
    result = np.zeros(len(batch), np.bool_)
    for mask in masks:
        result |= mask
    return result


def _masks(batch: FlowBatch, name: str, text: str) -> Iterator[Mask]:
    """Rows in which something of this name is known and as the text says."""
    wanted = _pattern(text)
    if name in FIELDS:
        texts, numbers = FIELDS[name](batch)
        yield _wanted(texts, wanted)[numbers]
        return
    # With a dot before it: a label in flat records.
    name = name.removeprefix(".")
    for some in batch.entities:
        for attribute, values in some.values.items():
            if _is_called(attribute, name):
                yield _wanted(values, wanted)[some.rows]
    for attribute, column in batch.added.items():
        if _is_called(attribute, name):
            yield known(column) & _in_column(column, text)


def _is_called(attribute: Attribute, name: str) -> bool:
    return name in (attribute.otel, attribute.netobserv, attribute.name)


def _in_column(column: Column, text: str) -> Mask:
    """Of a value for every row; text that its format cannot have is in none."""
    texts = column if column.dtype.kind == "S" else column.astype("S20")
    value = text.encode(errors="replace")
    if text.endswith("*"):
        return np.asarray(np.char.startswith(texts, value[:-1]))
    return np.asarray(texts == value)


def _protocol(text: str) -> OfFlow:
    number = _PROTOCOLS.get(text.lower())
    if number is None:
        if not (text.isascii() and text.isdigit() and int(text) < 256):
            raise ConfigError(
                f"there is no protocol {text}: use tcp, udp, icmp, ipv6-icmp, ... or a number"
            )
        number = int(text)
    return lambda batch: np.asarray(batch.ip_protocol == number)


def _version(text: str) -> OfFlow:
    version = text.removeprefix("v")
    if version not in ("4", "6"):
        raise ConfigError(f"there is no IP version {text}: use 4 or 6")
    return lambda batch: batch.is_ipv4() if version == "4" else ~batch.is_ipv4()


def _direction(text: str) -> OfFlow:
    if text not in _DIRECTIONS:
        raise ConfigError(f"there is no direction {text}: use {' or '.join(_DIRECTIONS)}")
    number = _DIRECTIONS.index(text)
    return lambda batch: np.asarray(batch.flow_direction == number)


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
    "label": Kind("with this Kubernetes label", "KEY[=VALUE]", of_end=_label),
    "protocol": Kind("of this protocol", "NAME", of_flow=_protocol),
    "ip-version": Kind("of this IP version", "4|6", of_flow=_version),
    "interface": Kind("seen at this interface", "NAME", of_flow=_interface),
    "traffic-direction": Kind("counted in this direction", "ingress|egress", of_flow=_direction),
    "tcp-flags": Kind("TCP with all of these flags", "LIST", of_flow=_flags),
    "where": Kind(
        "of which this is said; without VALUE: nothing", "NAME=VALUE", of_flow=_where, named=True
    ),
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
        kind = KINDS.get(name)
        group = f"{name} {text.partition('=')[0]}" if kind and kind.named else name
        found.setdefault(group, []).append(_test(name, text))
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
