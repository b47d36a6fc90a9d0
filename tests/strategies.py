"""Hypothesis strategies: flow keys, what CPUs count, and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY, FLOW_STATS
from exporter.batch.attributes import SIDES, Attribute, EndAttribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.testing import Row, make_batch
from exporter.testing.batch import pack_address

#: Values at which a varint grows by an octet, and the ends of the types.
EDGES = (0, 1, 127, 128, 2**14 - 1, 2**14, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)

IPV4 = ("0.0.0.0", "10.0.0.1", "127.0.0.1", "192.0.2.255", "255.255.255.255")
IPV6 = ("::", "::1", "2001:db8::1", "fe80::ff:fe00:1", "::ffff:0:1:2", "ff02::1:ff00:1", "100::")
PROTOCOLS = (0, 1, 2, 6, 17, 47, 58, 132, 255)
POINTS = tuple(
    Point(netns, ifindex, direction)
    for netns in (0, 3)
    for ifindex in (1, 2, 300)
    for direction in (0, 1)
)
_NAMES = ("lo", "eth0", "enp175s0f1np1np", "veth0123456789a", "wlan-ü")


def numbers(bits: int) -> st.SearchStrategy[int]:
    """Unsigned integers of so many bits; the edges often."""
    return st.sampled_from([n for n in EDGES if n < 1 << bits]) | st.integers(0, (1 << bits) - 1)


def addresses() -> st.SearchStrategy[tuple[str, str]]:
    """Source and destination of one family."""
    return st.tuples(st.sampled_from(IPV4), st.sampled_from(IPV4)) | st.tuples(
        st.sampled_from(IPV6), st.sampled_from(IPV6)
    )


@st.composite
def flow_keys(draw: st.DrawFn, size: int, *, distinct: bool = False) -> NDArray[Any]:
    """
    FLOW_KEY, shape (size,), of few different values, so that equal keys are likely.

    Args:
        draw: Hypothesis's.
        size: How many.
        distinct: No two are equal.
    """
    keys = np.zeros(size, FLOW_KEY)
    for number in range(size):
        source, destination = draw(addresses())
        keys[number]["src_addr"] = np.frombuffer(pack_address(source), np.uint8)
        keys[number]["dst_addr"] = np.frombuffer(pack_address(destination), np.uint8)
        keys[number]["ifindex"] = number if distinct else draw(st.integers(1, 3))
        keys[number]["src_port"] = draw(st.sampled_from((0, 53, 65535)))
        keys[number]["dst_port"] = draw(st.sampled_from((0, 2048, 65535)))
        keys[number]["vlan_id"] = draw(st.sampled_from((0, 4094)))
        keys[number]["ip_protocol"] = draw(st.sampled_from(PROTOCOLS))
        keys[number]["direction"] = draw(st.integers(0, 1))
    return keys


def _octets(width: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 255), min_size=width, max_size=width)


@st.composite
def cpu_counts(draw: st.DrawFn) -> dict[str, Any]:
    """What one CPU counted of a flow that it saw: a FLOW_STATS record as a mapping."""
    first = draw(st.integers(1, 50) | st.integers(1, 1 << 62))
    return {
        "first_mono_ns": first,
        "last_mono_ns": first + draw(st.integers(0, 50)),
        "packets": draw(st.integers(1, 1 << 40)),
        "octets_l2": draw(st.integers(1, 1 << 50)),
        "octets_l3": draw(st.integers(1, 1 << 50)),
        "sampling_interval": draw(st.sampled_from((1, 100))),
        "tcp_control_bits": draw(st.integers(0, 0xFFF)),
        "tcp_flag_sets": draw(st.integers(0, 7)),
        "dscp": draw(st.integers(0, 63)),
        "src_mac": draw(_octets(6)),
        "dst_mac": draw(_octets(6)),
    }


@st.composite
def per_cpu_values(draw: st.DrawFn, size: int, cpus: int) -> NDArray[Any]:
    """FLOW_STATS, shape (size, cpus): each row has one CPU at least that saw packets."""
    values = np.zeros((size, cpus), FLOW_STATS)
    for number in range(size):
        sure = draw(st.integers(0, cpus - 1))
        for cpu in range(cpus):
            if cpu == sure or draw(st.booleans()):
                for name, value in draw(cpu_counts()).items():
                    values[number, cpu][name] = value
    return values


def _mac() -> st.SearchStrategy[str]:
    return st.just("00:00:00:00:00:00") | _octets(6).map(lambda octets: bytes(octets).hex(":"))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Flow records of all families and protocols; values at the edges of their columns."""
    source, destination = draw(addresses())
    packets, octets = draw(numbers(64)), draw(numbers(64))
    return Row(
        src_addr=source,
        dst_addr=destination,
        src_port=draw(numbers(16)),
        dst_port=draw(numbers(16)),
        ip_protocol=draw(st.sampled_from(PROTOCOLS)),
        direction=draw(st.integers(0, 1)),
        vlan_id=draw(st.sampled_from((0, 1, 4094))),
        inner_vlan_id=draw(st.sampled_from((0, 7))),
        flow_start_ns=draw(numbers(64)),
        flow_end_ns=draw(numbers(64)),
        packet_count=packets,
        octet_count_l2=octets,
        octet_count_l3=octets,
        sampling_interval=draw(numbers(32)),
        tcp_control_bits=draw(numbers(12)),
        tcp_flag_sets=draw(st.integers(0, 7)),
        dscp=draw(st.integers(0, 63)),
        src_mac=draw(_mac()),
        dst_mac=draw(_mac()),
        flow_end_reason=draw(st.integers(0, 5)),
        duplicate=draw(st.booleans()),
        points=tuple(draw(st.lists(st.sampled_from(POINTS), min_size=1, max_size=4, unique=True))),
    )


@st.composite
def batches(draw: st.DrawFn, max_rows: int = 12) -> FlowBatch:
    """Enriched batches: interface lists of many lengths, observers of either family or none."""
    names = draw(st.dictionaries(st.sampled_from(POINTS), st.sampled_from(_NAMES)))
    return make_batch(
        *draw(st.lists(rows(), max_size=max_rows)),
        interfaces={point: Interface(name) for point, name in names.items()},
        observer=Observer(draw(st.sampled_from(("", "192.0.2.7", "2001:db8::7"))), "node-1"),
    )


POD = EndAttribute("k8s.pod.name", "Pod.", "K8S_Name", "k8s.{}.name")
NAMESPACE = EndAttribute("k8s.namespace.name", "Namespace.", "K8S_Namespace", "k8s.{}.namespace")
ASN = EndAttribute("as.number", "Autonomous system.", "AS", number=True, ipfix=(16, 17))
TEAM = Attribute("labels.team", "Of the user.", "team")
FIRST = Attribute("flow.initiator", "Who began.", "Initiator")
NUMBER = Attribute("flow.id", "Of the flow.", "FlowId", ipfix=148, number=True)
COMMUNITY = Attribute("network.community_id", "Community ID.", "CommunityId")
_ENDS = ((POD, NAMESPACE), (ASN,))
_TEXTS = ("", "web-0", 'pod "a"\\b', "größe=1", "x" * 40)


@st.composite
def enriched(draw: st.DrawFn, max_rows: int = 12) -> FlowBatch:
    """Batches with entities at either end and of the flow, and columns of numbers and of text."""
    batch = draw(batches(max_rows))
    count = len(batch)
    groups = [tuple(one.of(side) for one in ends) for side in SIDES for ends in _ENDS]
    entities = [draw(_entities(some, count)) for some in (*groups, (TEAM,), (FIRST,))]
    ids = draw(st.lists(numbers(64), min_size=count, max_size=count))
    texts = draw(st.lists(st.sampled_from(("", "1:abc=", "1:+/")), min_size=count, max_size=count))
    added = {NUMBER: np.array(ids, np.uint64), COMMUNITY: np.array(texts, "S6")}
    return replace(batch, entities=tuple(entities), added=added)


@st.composite
def _entities(draw: st.DrawFn, attributes: tuple[Attribute, ...], count: int) -> Entities:
    size = draw(st.integers(0, 3))
    values = {
        what: (None, *(draw(_value(number=what.number)) for _ in range(size)))
        for what in attributes
    }
    rows = draw(st.lists(st.integers(0, size), min_size=count, max_size=count))
    return Entities(np.array(rows, np.uint32), values)


def _value(*, number: bool) -> st.SearchStrategy[Any]:
    return st.none() | (numbers(32) if number else st.sampled_from(_TEXTS))
