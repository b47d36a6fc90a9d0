"""
A NetObserv DaemonSet's environment, unchanged, and its own flowlogs-pipeline.

The variables are those that network-observability-operator 1.11 sets for its three deployment
models, with what the kubelet would have put in for the host's address.
"""

from __future__ import annotations

import http.client
import signal
import ssl
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import patience
from tests.certificates import Authority, shown_by
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.broker import Broker
from tests.e2e.flp import Flp
from tests.e2e.forward import forwarded
from tests.e2e.net import Counters, End, Netns, Network, connect, disconnect
from tests.e2e.resolver import Dnsmasq
from tests.e2e.test_exact import ADDRESSES, V4, V6, all_kinds, pair

PORT = 2055
#: What all models have: defaults of FlowCollector v1beta2, but all packets instead of 1 in 50.
COMMON = {
    "CACHE_ACTIVE_TIMEOUT": "15s",
    "CACHE_MAX_FLOWS": "120000",
    "LOG_LEVEL": "info",
    "EXCLUDE_INTERFACES": "lo",
    "SAMPLING": "1",
    "GOMEMLIMIT": "754974720",
    "METRICS_ENABLE": "true",
    "METRICS_SERVER_PORT": "9400",
    "METRICS_PREFIX": "netobserv_agent_",
    "AGENT_IP": "198.51.100.7",
    "DNS_TRACKING_PORT": "53",
    "NETWORK_EVENTS_MONITORING_GROUP_ID": "10",
    "PREFERRED_INTERFACE_FOR_MAC_PREFIX": "0a:58=eth0",
    "TC_ATTACH_MODE": "tcx",
}
DIRECT = {"EXPORT": "grpc", "TARGET_HOST": "127.0.0.1", "TARGET_PORT": str(PORT)}
#: The operator gives the name a dot at its end; the certificate has none.
NAME = "flowlogs-pipeline.netobserv.svc.cluster.local"
SERVICE = DIRECT | {
    "TARGET_HOST": f"{NAME}.",
    "GRPC_RECONNECT_TIMER": "5m",
    "GRPC_RECONNECT_TIMER_RANDOMIZATION": "30s",
}
KAFKA = {
    "EXPORT": "kafka",
    "KAFKA_BATCH_SIZE": "1048576",
    "KAFKA_BATCH_MESSAGES": "10485",
}


#: As a container's: a resolv.conf of its own. ``ip netns exec`` gives it a mount namespace, too.
_RESOLV_CONF = ("sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')


def started(
    netns: Netns | None, directory: Path, environment: Mapping[str, str], *before: str
) -> Agent:
    """``flow-exporter run`` with these variables and no others, and no arguments."""
    words = [f"{name}={value}" for name, value in environment.items()]
    return Agent(netns, directory, program=(*before, "env", "-i", *words, PROGRAM))


def test_direct(network: Network, tmp_path: Path, tcx: None) -> None:
    """Its Direct model: flowlogs-pipeline on the host, in plain text."""
    one, other = pair(network)
    with Flp(tmp_path, {"type": "grpc", "grpc": {"port": PORT}}, one.netns, PORT) as flp:
        with started(one.netns, tmp_path, COMMON | DIRECT) as agent:
            seen, when = talk(one, other)
            assert agent.stop(signal.SIGTERM) == 0, agent.log
        check(received(flp, seen), one, other, when)
    assert said(agent.log) == {"GOMEMLIMIT", "METRICS_PREFIX", "PREFERRED_INTERFACE_FOR_MAC_PREFIX"}


def test_service(network: Network, tmp_path: Path, tcx: None) -> None:
    """
    Its Service model: by the name of a Kubernetes service, with TLS; metrics with TLS, too, whose
    certificate is replaced while the agent runs.
    """
    one, other = pair(network)
    authority = Authority(tmp_path)
    certificate, key = authority.issue("flp", f"DNS:{NAME}")
    grpc = {"port": PORT, "certPath": str(certificate), "keyPath": str(key)}
    served, fresh = (authority.issue(name, "IP:127.0.0.1") for name in ("served", "fresh"))
    environment = COMMON | SERVICE | {
        "TARGET_TLS_CA_CERT_PATH": str(authority.pem),
        "METRICS_TLS_CERT_PATH": str(served.certificate),
        "METRICS_TLS_KEY_PATH": str(served.key),
    }  # fmt: skip
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("search netobserv.svc.cluster.local\nnameserver 127.0.0.1\n")
    with (
        Dnsmasq(one, tmp_path / "dns", [f"address=/{NAME}/127.0.0.1"]),
        Flp(tmp_path, {"type": "grpc", "grpc": grpc}, one.netns, PORT) as flp,
    ):
        with started(one.netns, tmp_path, environment, *_RESOLV_CONF, str(resolv_conf)) as agent:
            seen, when = talk(one, other)
            assert scraped(one.netns, authority) == "served"
            with pytest.raises(ssl.SSLCertVerificationError):
                scraped(one.netns, Authority(tmp_path / "other"))
            for new, old in zip(fresh, served, strict=True):
                new.rename(old)
            assert scraped(one.netns, authority) == "fresh"
            assert agent.stop(signal.SIGTERM) == 0, agent.log
        check(received(flp, seen), one, other, when)
    assert said(agent.log) == {"GOMEMLIMIT", "METRICS_PREFIX", "PREFERRED_INTERFACE_FOR_MAC_PREFIX"}
    assert "Traceback" not in agent.log


def scraped(netns: Netns, authority: Authority) -> str:
    """Who has served metrics over TLS and is well: the common name of its certificate."""
    context = ssl.create_default_context(cafile=authority.pem)
    with netns.entered():
        for path, expected in (("/metrics", b"flow_exporter_build_info"), ("/healthz", b"ok\n")):
            connection = http.client.HTTPSConnection(
                "127.0.0.1", 9400, timeout=patience.LONGEST, context=context
            )
            with closing(connection):
                connection.request("GET", path)
                name = shown_by(connection.sock)
                response = connection.getresponse()
                assert response.status == 200
                assert expected in response.read()
    return name


def test_kafka(network: Network, broker: Broker, tmp_path: Path, tcx: None) -> None:
    """Its Kafka model: flowlogs-pipeline reads the topic as the transformer that it deploys."""
    one, other = pair(network)
    topic = broker.topic(partitions=3)
    brokers = {"KAFKA_BROKERS": broker.address(), "KAFKA_TOPIC": topic}
    kafka = {
        "brokers": [broker.address()], "topic": topic, "groupid": "flp", "batchReadTimeout": 200,
        "startOffset": "FirstOffset", "decoder": {"type": "protobuf"},
    }  # fmt: skip
    with (
        forwarded(one.netns, broker.ports["plain"]),
        started(one.netns, tmp_path, COMMON | KAFKA | brokers) as agent,
    ):
        seen, when = talk(one, other)
        assert agent.stop(signal.SIGTERM) == 0, agent.log
    with Flp(tmp_path, {"type": "kafka", "kafka": kafka}) as flp:
        check(received(flp, seen), one, other, when)
    assert "KAFKA_BATCH_MESSAGES" in said(agent.log)


def talk(one: End, other: End) -> tuple[Counters, tuple[int, int]]:
    """Traffic of every kind: what the interface counted, and Unix nanoseconds around it."""
    before = time.time_ns()
    connect(one, other, ADDRESSES)
    all_kinds(one, other)
    return disconnect(one), (before, time.time_ns())


def said(log: str) -> set[str]:
    """Variables that the log says are ignored."""
    lines = [line for line in log.splitlines() if " is ignored: it would " in line]
    return {line.split("=")[0].rpartition(" ")[2] for line in lines}


def received(flp: Flp, seen: Counters) -> list[dict[str, Any]]:
    """All flows, once all packets that the interface counted are there."""
    packets = seen.rx_packets + seen.tx_packets
    wait_until(lambda: sum(f["Packets"] for f in flp.flows()) >= packets, f"{packets} packets")
    flows = flp.flows()
    assert sum(f["Packets"] for f in flows) == packets
    assert sum(f["Bytes"] for f in flows) == seen.rx_octets + seen.tx_octets
    return flows


def check(flows: list[dict[str, Any]], one: End, other: End, when: tuple[int, int]) -> None:
    """Every field of the datagrams that :func:`all_kinds` sent, and what all flows have."""
    datagrams: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    # A clock that is being corrected runs faster or slower than the one that packets have.
    first, last = when[0] // 1_000_000 - 10, when[1] // 1_000_000 + 10
    for flow in flows:
        assert first <= flow["TimeFlowStartMs"] <= flow["TimeFlowEndMs"] <= last
        assert (flow["AgentIP"], flow["Interfaces"]) == ("198.51.100.7", [one.device])
        assert flow["Sampling"] == 1
        if flow["Proto"] != 17:
            continue
        six = ":" in flow["SrcAddr"]
        assert flow["SrcAddr"] == (V6 if six else V4)[0]
        assert flow["Etype"] == (0x86DD if six else 0x0800)
        assert (flow["IfDirections"], flow["Dscp"]) == ([1], 0)
        macs = [end.netns.mac(end.device) for end in (one, other)]
        assert [flow["SrcMac"], flow["DstMac"]] == macs
        assert flow["SrcPort"] > 1023
        counts = datagrams[flow["DstAddr"], flow["DstPort"]]
        counts[0] += flow["Packets"]
        counts[1] += flow["Bytes"]
    # Frames without their checksum: Ethernet, IP, UDP, and 100 octets.
    assert datagrams == {
        (host, 40_000 + number): [10, 10 * (14 + header + 8 + 100)]
        for host, header in ((V4[1], 20), (V6[1], 40))
        for number in range(50)
    }
    # Both ways, and the flags that flowlogs-pipeline tells who began by.
    tcp = [flow for flow in flows if flow["Proto"] == 6]
    forth = [flow["DstPort"] in (5001, 5002) for flow in tcp]
    assert [flow["IfDirections"] for flow in tcp] == [[int(is_forth)] for is_forth in forth]
    assert all(
        flow["Flags"] & (0x02 if is_forth else 0x100)
        for flow, is_forth in zip(tcp, forth, strict=True)
    )
    echoes = {(flow["Proto"], flow["IcmpType"]) for flow in flows if flow["Proto"] in (1, 58)}
    assert echoes >= {(1, 8), (1, 0), (58, 128), (58, 129)}
