"""NetObserv's environment variables: what each becomes here, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.config import Config, load
from exporter.credentials import ServerTlsConfig, TlsConfig
from exporter.errors import ConfigError
from exporter.netobserv import ignored, translate
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.kafka.config import KafkaConfig, SaslConfig

TARGET = {"TARGET_HOST": "collector", "TARGET_PORT": "9999"}
KAFKA = {"EXPORT": "kafka", "KAFKA_BROKERS": "one:9092,two:9093"}


def loaded(**environment: str) -> Config:
    """The configuration of a DaemonSet with these variables and a target."""
    return load(None, TARGET | environment, {})


def value(config: Config, path: str) -> Any:
    """A key by its path."""
    found: Any = config
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found


TABLE = [
    ("AGENT_IP", "192.0.2.1", "agent.address", "192.0.2.1"),
    ("AGENT_IP_IFACE", "name:eth1", "agent.interface", "name:eth1"),
    ("AGENT_IP_IFACE", "local", "agent.interface", "local"),
    ("AGENT_IP_TYPE", "ipv6", "agent.family", "ipv6"),
    ("INTERFACES", "eth0,/^veth/", "capture.interfaces", ("eth0", "/^veth/")),
    ("EXCLUDE_INTERFACES", "lo,br-ex", "capture.exclude_interfaces", ("lo", "br-ex")),
    ("CACHE_MAX_FLOWS", "120000", "capture.max_flows", 120_000),
    ("CACHE_ACTIVE_TIMEOUT", "15s", "capture.drain_interval", 15),
    ("CACHE_ACTIVE_TIMEOUT", "1m30s", "capture.drain_interval", 90),
    ("CACHE_ACTIVE_TIMEOUT", "300ms", "capture.drain_interval", 0.3),
    ("SAMPLING", "50", "capture.sampling", 50),
    ("SAMPLING", "0", "capture.sampling", 1),
    ("SAMPLING", "1", "capture.sampling", 1),
    ("LISTEN_INTERFACES", "watch", "capture.watch", "netlink"),
    ("LISTEN_INTERFACES", "poll", "capture.watch", "poll"),
    ("LISTEN_POLL_PERIOD", "10s", "capture.poll_interval", 10),
    ("TC_ATTACH_MODE", "tcx", "capture.hook", "tcx"),
    ("TC_ATTACH_MODE", "tc", "capture.hook", "tc"),
    ("TC_ATTACH_MODE", "any", "capture.hook", "auto"),
    ("LOG_LEVEL", "trace", "log_level", "debug"),
    ("LOG_LEVEL", "warn", "log_level", "warning"),
    ("LOG_LEVEL", "warning", "log_level", "warning"),
    ("LOG_LEVEL", "error", "log_level", "error"),
    ("DIRECTION", "ingress", "capture.egress", False),
    ("DIRECTION", "egress", "capture.ingress", False),
    ("DIRECTION", "both", "capture.ingress", True),
    ("GRPC_MESSAGE_MAX_FLOWS", "500", "sinks.0.max_flows", 500),
    ("TARGET_TLS_CA_CERT_PATH", "/ca.pem", "sinks.0.tls.ca", Path("/ca.pem")),
    ("EXPORT", "grpc", "sinks.0.target", "collector:9999"),
    ("TARGET_HOST", "2001:db8::1", "sinks.0.target", "[2001:db8::1]:9999"),
    ("GRPC_RECONNECT_TIMER", "5m", "sinks.0.reconnect", 300),
    ("GRPC_RECONNECT_TIMER", "0s", "sinks.0.reconnect", 0),
    ("METRICS_ENABLE", "true", "metrics.address", ":9090"),
    ("METRICS_ENABLE", "false", "metrics.address", ""),
]


@pytest.mark.parametrize(
    ("variable", "text", "path", "expected"), TABLE, ids=[f"{v}={t}" for v, t, _, _ in TABLE]
)
def test_variable(variable: str, text: str, path: str, expected: Any) -> None:
    """One variable, the key that it sets, and the key's value."""
    assert value(loaded(**{variable: text}), path) == expected


def test_the_target_is_the_only_sink() -> None:
    """An agent with a target exports there, and prints nothing."""
    assert loaded().sinks == (GrpcConfig(target="collector:9999"),)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_ipfix(transport: str) -> None:
    """IPFIX goes to the same target, in plain text as NetObserv's does."""
    config = loaded(EXPORT=f"ipfix+{transport}", TARGET_TLS_CA_CERT_PATH="/ca.pem")
    section = {"target": "collector:9999", "transport": transport}
    assert config.sinks == (IpfixConfig.model_validate(section),)


def test_mutual_tls() -> None:
    """Certificate and key beside the authority."""
    config = loaded(
        TARGET_TLS_CA_CERT_PATH="/ca.pem",
        TARGET_TLS_USER_CERT_PATH="/c.pem",
        TARGET_TLS_USER_KEY_PATH="/k.pem",
    )
    assert (value(config, "sinks.0.tls.certificate"), value(config, "sinks.0.tls.key")) == (
        Path("/c.pem"),
        Path("/k.pem"),
    )


def test_metrics_address_and_port() -> None:
    """Both parts of the address; without METRICS_ENABLE neither means anything."""
    parts = {"METRICS_SERVER_ADDRESS": "127.0.0.1", "METRICS_SERVER_PORT": "9191"}
    assert loaded(METRICS_ENABLE="true", **parts).metrics.address == "127.0.0.1:9191"
    assert loaded(**parts).metrics.address == ""


def test_metrics_over_tls() -> None:
    """Certificate and key; without METRICS_ENABLE neither means anything."""
    files = {"METRICS_TLS_CERT_PATH": "/c.pem", "METRICS_TLS_KEY_PATH": "/k.pem"}
    tls = ServerTlsConfig(certificate=Path("/c.pem"), key=Path("/k.pem"))
    assert loaded(METRICS_ENABLE="true", **files).metrics.tls == tls
    assert loaded(**files).metrics.tls is None


@pytest.mark.parametrize(
    ("timer", "randomization", "expected"),
    [("5m", "30s", (300, 30)), ("5m", "", (300, 0)), ("30s", "30s", (30, 0)), ("", "30s", (0, 0))],
)
def test_reconnecting(timer: str, randomization: str, expected: tuple[int, int]) -> None:
    """A randomization that is not less than the timer is none, as in NetObserv's agent."""
    (sink,) = loaded(
        GRPC_RECONNECT_TIMER=timer, GRPC_RECONNECT_TIMER_RANDOMIZATION=randomization
    ).sinks
    assert isinstance(sink, GrpcConfig)
    assert (sink.reconnect, sink.reconnect_jitter) == expected


def test_metrics_address_over_ipv6() -> None:
    """An IPv6 address may stand there, too."""
    config = loaded(METRICS_ENABLE="true", METRICS_SERVER_ADDRESS="::")
    assert config.metrics.host_port() == ("::", 9090)


@pytest.mark.parametrize("level", ["INFO", "fatal", "panic"])
def test_log_levels_of_logrus(level: str) -> None:
    """Every level that NetObserv's agent starts with starts this one."""
    assert loaded(LOG_LEVEL=level).log_level in ("info", "error")


def test_deprecated_names_of_the_target() -> None:
    """FLOWS_TARGET_HOST and FLOWS_TARGET_PORT still work; the new names win."""
    old = {"FLOWS_TARGET_HOST": "old", "FLOWS_TARGET_PORT": "1"}
    assert load(None, old, {}).sinks == (GrpcConfig(target="old:1"),)
    assert load(None, old | TARGET, {}).sinks == (GrpcConfig(target="collector:9999"),)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SAMPLING": "50", "INTERFACES": "eth0", "LOG_LEVEL": "debug"},
        {"EXPORT": "otlp"},
        {"EXPORT": ""},
        {"TARGET_HOST": ""},
    ],
)
def test_common_variables_alone_mean_nothing(environment: dict[str, str]) -> None:
    """LOG_LEVEL and the like belong to many programs: without a target they are not ours."""
    assert translate(environment) == {}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"EXPORT": "grpc"}, "EXPORT=grpc needs TARGET_HOST and TARGET_PORT"),
        ({"TARGET_HOST": "h"}, "EXPORT=grpc needs TARGET_HOST and TARGET_PORT"),
        (TARGET | {"EXPORT": "direct-flp"}, "EXPORT=direct-flp: this version exports by kafka, "),
        ({"EXPORT": "ipfix+udp"}, "EXPORT=ipfix+udp needs TARGET_HOST and TARGET_PORT"),
        (TARGET | {"EXPORT": "kafka"}, "EXPORT=kafka needs KAFKA_BROKERS"),
        (TARGET | {"ENABLE_PCA": "true"}, "ENABLE_PCA: it would export packets"),
        (KAFKA | {"KAFKA_ENABLE_SASL": "true"}, "needs KAFKA_SASL_CLIENT_ID_PATH"),
        (
            KAFKA | {"KAFKA_ENABLE_SASL": "true", "KAFKA_SASL_TYPE": "kerberos"},
            "KAFKA_SASL_TYPE=kerberos: it is plain or scramSHA512",
        ),
        (TARGET | {"TARGET_PORT": "many"}, "'collector:many' has no port"),
        (TARGET | {"SAMPLING": "few"}, "SAMPLING=few is not a number"),
        (
            TARGET | {"GRPC_RECONNECT_TIMER": "often"},
            "GRPC_RECONNECT_TIMER=often is not a duration such as 5m",
        ),
        (
            TARGET | {"METRICS_ENABLE": "true", "METRICS_TLS_KEY_PATH": "/k"},
            "METRICS_TLS_CERT_PATH and METRICS_TLS_KEY_PATH go together",
        ),
        (TARGET | {"CACHE_MAX_FLOWS": "few"}, "capture.max_flows: input should be a valid integer"),
        (TARGET | {"TC_ATTACH_MODE": "xdp"}, "capture.hook: input should be"),
        (TARGET | {"TARGET_TLS_USER_KEY_PATH": "/k"}, "certificate and key go together"),
    ],
)
def test_what_cannot_be(environment: dict[str, str], expected: str) -> None:
    """One line for what is missing, unknown, or not in this version."""
    with pytest.raises(ConfigError) as caught:
        load(None, environment, {})
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


#: Every variable that NetObserv's agent reads (pkg/config/config.go, 1.12) or its operator sets
#: (agent_controller.go), and a value that asks for something else than its default.
ALL = {
    "AGENT_IP": "192.0.2.1",
    "AGENT_IP_IFACE": "local",
    "AGENT_IP_TYPE": "ipv6",
    "TARGET_HOST": "other",
    "TARGET_PORT": "1",
    "TARGET_TLS_CA_CERT_PATH": "/ca.pem",
    "GRPC_MESSAGE_MAX_FLOWS": "500",
    "GRPC_RECONNECT_TIMER": "5m",
    "GRPC_RECONNECT_TIMER_RANDOMIZATION": "30s",
    "INTERFACES": "eth0",
    "EXCLUDE_INTERFACES": "eth1",
    "BUFFERS_LENGTH": "100",
    "INTERFACE_IPS": "192.0.2.0/24",
    "EXPORTER_BUFFER_LENGTH": "100",
    "CACHE_MAX_FLOWS": "120000",
    "CACHE_ACTIVE_TIMEOUT": "15s",
    "DIRECTION": "egress",
    "LOG_LEVEL": "debug",
    "SAMPLING": "50",
    "TC_ATTACH_MODE": "tc",
    "TC_ATTACH_RETRIES": "9",
    "TCX_ATTACH_ANCHOR_INGRESS": "head",
    "TCX_ATTACH_ANCHOR_EGRESS": "head",
    "LISTEN_INTERFACES": "poll",
    "LISTEN_POLL_PERIOD": "20s",
    "KAFKA_TOPIC": "flows",
    "KAFKA_BATCH_MESSAGES": "10485",
    "KAFKA_BATCH_SIZE": "1048576",
    "KAFKA_ASYNC": "true",
    "KAFKA_COMPRESSION": "lz4",
    "KAFKA_TLS_INSECURE_SKIP_VERIFY": "true",
    "PPROF_ADDR": "127.0.0.1:6060",
    "ENABLE_RTT": "true",
    "FORCE_GARBAGE_COLLECTION": "true",
    "ENABLE_PKT_DROPS": "true",
    "ENABLE_DNS_TRACKING": "true",
    "METRICS_ENABLE": "true",
    "METRICS_LEVEL": "debug",
    "METRICS_SERVER_ADDRESS": "127.0.0.1",
    "METRICS_SERVER_PORT": "9400",
    "METRICS_TLS_CERT_PATH": "/cert.pem",
    "METRICS_TLS_KEY_PATH": "/key.pem",
    "METRICS_PREFIX": "netobserv_agent_",
    "FLOW_FILTER_RULES": '[{"ip_cidr":"0.0.0.0/0","action":"Accept","protocol":"TCP"}]',
    "ENABLE_NETWORK_EVENTS_MONITORING": "true",
    "ENABLE_PKT_TRANSLATION": "true",
    "EBPF_PROGRAM_MANAGER_MODE": "true",
    "ENABLE_UDN_MAPPING": "true",
    "ENABLE_IPSEC_TRACKING": "true",
    "PREFERRED_INTERFACE_FOR_MAC_PREFIX": "0a:58=eth0",
    "ENABLE_OPENSSL_TRACKING": "true",
    "ENABLE_FLOWS_RINGBUF_FALLBACK": "false",
    "ENABLE_TLS_TRACKING": "true",
    "QUIC_TRACKING_MODE": "1",
    "GOMEMLIMIT": "754974720",
    "GOGC": "400",
}


#: A variable -> what else is set when it is.
WITH = {
    "GRPC_RECONNECT_TIMER_RANDOMIZATION": {"GRPC_RECONNECT_TIMER": "5m"},
    "METRICS_TLS_CERT_PATH": {"METRICS_TLS_KEY_PATH": "/key.pem"},
    "METRICS_TLS_KEY_PATH": {"METRICS_TLS_CERT_PATH": "/cert.pem"},
}


def lines(environment: dict[str, str]) -> list[str]:
    """What is said of them."""
    return [line for _, line in ignored(environment)]


@pytest.mark.parametrize(("variable", "text"), ALL.items())
def test_every_variable(variable: str, text: str) -> None:
    """It changes the configuration, or there is one line that names it; never both or neither."""
    base = TARGET | {"METRICS_ENABLE": "1"} if variable.startswith("METRICS_") else TARGET
    base = KAFKA if variable.startswith("KAFKA_") else base
    base = {name: value for name, value in base.items() if name != variable or variable in TARGET}
    asked = base | WITH.get(variable, {}) | {variable: text}
    changes = load(None, asked, {}) != load(None, base, {})
    said = lines(asked)
    assert [variable] * (not changes) == [line.split("=")[0] for line in said]
    assert all(" is ignored: it would " in line and "\n" not in line for line in said)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ENABLE_RTT": "false", "ENABLE_PKT_DROPS": "", "QUIC_TRACKING_MODE": "0"},
        {"FLOW_FILTER_RULES": "[]", "GRPC_RECONNECT_TIMER": "0s", "METRICS_LEVEL": "info"},
        {"METRICS_PREFIX": "netobserv_agent_", "METRICS_TLS_CERT_PATH": "/cert.pem"},
        {"DNS_TRACKING_PORT": "53", "NETWORK_EVENTS_MONITORING_GROUP_ID": "10"},
        {"TCX_ATTACH_ANCHOR_INGRESS": "none", "TCX_ATTACH_ANCHOR_EGRESS": "tail"},
        {"KAFKA_TLS_INSECURE_SKIP_VERIFY": "false", "KAFKA_ASYNC": "false"},
    ],
)
def test_what_asks_for_nothing(environment: dict[str, str]) -> None:
    """Defaults, and what belongs to a feature that is off, are not worth a line."""
    assert lines(TARGET | environment) == []


def test_a_line_says_what_it_would_have_done() -> None:
    """And what to do; what changes the records is a warning, the rest is not."""
    asked = {"FLOW_FILTER_RULES": "[" + "x" * 500 + "]", "GOGC": "400", "ENABLE_RTT": "T"}
    said = {line: serious for serious, line in ignored(TARGET | asked)}
    assert list(said.values()) == [True, True, False]
    rtt, rules, gogc = said
    assert rtt == "ENABLE_RTT=T is ignored: it would add the round-trip time of TCP (TimeFlowRttNs)"
    assert rules == (
        f"FLOW_FILTER_RULES=[{'x' * 59}... is ignored: it would export, or sample, some flows only;"
        " all are exported; 'exclude' in the configuration leaves flows out"
    )
    assert gogc == (
        "GOGC=400 is ignored: it would set how often garbage is collected; this agent is not "
        "written in Go"
    )


def test_of_others_nothing_is_said() -> None:
    """Many programs have a GOGC: without a target it is not ours to speak of."""
    assert lines({"GOGC": "400", "ENABLE_RTT": "true"}) == []


@pytest.mark.parametrize(
    ("brokers", "expected"),
    [
        ("kafka-bootstrap.netobserv", ("kafka-bootstrap.netobserv:9092",)),
        ("one, two:9093", ("one:9092", "two:9093")),
        ("[2001:db8::1],[2001:db8::2]:1", ("[2001:db8::1]:9092", "[2001:db8::2]:1")),
    ],
)
def test_brokers_without_a_port(brokers: str, expected: tuple[str, ...]) -> None:
    """Kafka's usual one, as NetObserv's client takes it."""
    (sink,) = load(None, {"EXPORT": "kafka", "KAFKA_BROKERS": brokers}, {}).sinks
    assert isinstance(sink, KafkaConfig)
    assert sink.brokers == expected


def test_kafka() -> None:
    """One record a message on NetObserv's topic, as its own agents write them."""
    (sink,) = load(None, KAFKA, {}).sinks
    assert sink == KafkaConfig(brokers=("one:9092", "two:9093"), topic="network-flows")
    assert sink.layout == "netobserv"


@pytest.mark.parametrize(
    ("kind", "mechanism"), [("plain", "PLAIN"), ("scramSHA512", "SCRAM-SHA-512")]
)
def test_kafka_secured(kind: str, mechanism: str) -> None:
    """Compression, certificates, and a password."""
    (sink,) = load(
        None,
        KAFKA
        | {
            "KAFKA_TOPIC": "flows",
            "KAFKA_COMPRESSION": "lz4",
            "KAFKA_BATCH_SIZE": "500000",
            "KAFKA_BATCH_MESSAGES": "1000",
            "KAFKA_ENABLE_TLS": "true",
            "KAFKA_TLS_CA_CERT_PATH": "/ca.pem",
            "KAFKA_TLS_USER_CERT_PATH": "/c.pem",
            "KAFKA_TLS_USER_KEY_PATH": "/k.pem",
            "KAFKA_ENABLE_SASL": "true",
            "KAFKA_SASL_TYPE": kind,
            "KAFKA_SASL_CLIENT_ID_PATH": "/id",
            "KAFKA_SASL_CLIENT_SECRET_PATH": "/secret",
        },
        {},
    ).sinks
    assert sink == KafkaConfig(
        brokers=("one:9092", "two:9093"),
        topic="flows",
        compression="lz4",
        max_octets=500_000,
        tls=TlsConfig(ca=Path("/ca.pem"), certificate=Path("/c.pem"), key=Path("/k.pem")),
        sasl=SaslConfig(
            mechanism=mechanism, username_file=Path("/id"), password_file=Path("/secret")
        ),
    )
