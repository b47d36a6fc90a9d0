"""
NetObserv's environment variables, so that its DaemonSet can be pointed at this agent.

Read only where they are clearly meant: a target, brokers, or EXPORT is set. What this agent does
not do does not keep it from starting: :func:`ignored` says what such a variable would have done.
Source: netobserv-ebpf-agent, pkg/config/config.go, 1.12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import ConfigError
from exporter.quantities import duration, join_host_port

_EXPORTS = ("grpc", "kafka", "ipfix+udp", "ipfix+tcp", "direct-flp")
#: EXPORT -> what it says of the sink's section.
_KINDS: dict[str, dict[str, Any]] = {
    "grpc": {"type": "grpc"},
    "ipfix+udp": {"type": "ipfix", "transport": "udp"},
    "ipfix+tcp": {"type": "ipfix", "transport": "tcp"},
}
_MARKERS = ("TARGET_HOST", "FLOWS_TARGET_HOST", "KAFKA_BROKERS", "EXPORT")
_TRUE = ("1", "t", "true")
#: Characters of a value in a line of the log.
_SHOWN = 60
#: Of a broker without one. Source: segmentio/kafka-go, dialer.go.
_KAFKA_PORT = 9092
#: KAFKA_SASL_TYPE in lower case -> what Kafka calls it.
_SASL = {"plain": "PLAIN", "scramsha512": "SCRAM-SHA-512"}
#: Levels of logrus that are called otherwise here.
_LOG_LEVELS = {"trace": "debug", "warn": "warning", "fatal": "error", "panic": "error"}

#: Environment variable -> (path of the key, how its value is written here).
_KEYS: dict[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "AGENT_IP": (("agent", "address"), str),
    "AGENT_IP_IFACE": (("agent", "interface"), str),
    "AGENT_IP_TYPE": (("agent", "family"), str),
    "INTERFACES": (("capture", "interfaces"), str),
    "EXCLUDE_INTERFACES": (("capture", "exclude_interfaces"), str),
    "CACHE_MAX_FLOWS": (("capture", "max_flows"), str),
    "CACHE_ACTIVE_TIMEOUT": (("capture", "drain_interval"), str),
    "SAMPLING": (("capture", "sampling"), lambda text: max(int(text), 1)),
    "LISTEN_INTERFACES": (
        ("capture", "watch"),
        lambda text: "poll" if text == "poll" else "netlink",
    ),
    "LISTEN_POLL_PERIOD": (("capture", "poll_interval"), str),
    "TC_ATTACH_MODE": (("capture", "hook"), lambda text: "auto" if text == "any" else text),
    "LOG_LEVEL": (("log_level",), lambda text: _LOG_LEVELS.get(text.lower(), text.lower())),
}


@dataclass(frozen=True)
class Ignored:
    """
    A variable that means something to NetObserv's agent and nothing to this one.

    Args:
        would: What it does there, after "it would".
        here: What this agent does instead, or what to do; empty if there is nothing to say.
        when: Whether a value asks for it.
        needs: A variable that must be true too; empty for none.
        serious: Records, or who may read them, are otherwise than asked for.
    """

    would: str
    here: str = ""
    when: Callable[[str], bool] = bool
    needs: str = ""
    serious: bool = False

    def asked(self, variable: str, environment: Mapping[str, str]) -> bool:
        """Whether this environment asks for it."""
        value = environment.get(variable, "").strip()
        return self.when(value) and (not self.needs or _is_true(environment.get(self.needs, "")))


def _is_true(text: str) -> bool:
    return text.strip().lower() in _TRUE


def _feature(would: str, here: str = "") -> Ignored:
    return Ignored(would, here, when=_is_true, serious=True)


_GO = "this agent is not written in Go"
#: Others say more about a feature that is in this table, and mean nothing while it is off:
#: BPFMAN_BPF_FS_PATH, DNS_TRACKING_PORT, FLP_CONFIG, NETWORK_EVENTS_MONITORING_GROUP_ID,
#: OPENSSL_PATH, PCA_SERVER_PORT, STALE_ENTRIES_EVICT_TIMEOUT.
IGNORED: dict[str, Ignored] = {
    "ENABLE_RTT": _feature("add the round-trip time of TCP (TimeFlowRttNs)"),
    "ENABLE_PKT_DROPS": _feature("add what the kernel dropped (PktDropPackets and the like)"),
    "ENABLE_DNS_TRACKING": _feature(
        "add id, flags and latency of DNS answers (DnsId and the like)",
        "enrich.names adds the names that answers gave to addresses",
    ),
    "ENABLE_NETWORK_EVENTS_MONITORING": _feature("add events of network policies (NetworkEvents)"),
    "ENABLE_PKT_TRANSLATION": _feature(
        "add addresses after translation (XlatSrcAddr and the like)"
    ),
    "ENABLE_IPSEC_TRACKING": _feature("add what IPsec did (IPSecStatus)"),
    "ENABLE_TLS_TRACKING": _feature("add version and cipher of TLS (TLSVersion and the like)"),
    "ENABLE_OPENSSL_TRACKING": _feature("log what OpenSSL encrypts"),
    "ENABLE_UDN_MAPPING": _feature("add user-defined networks of OVN (Udns)"),
    "QUIC_TRACKING_MODE": Ignored(
        "add version and headers of QUIC (QuicVersion and the like)",
        when=lambda text: text not in ("", "0"),
        serious=True,
    ),
    "FLOW_FILTER_RULES": Ignored(
        "export, or sample, some flows only",
        "all are exported; 'exclude' in the configuration leaves flows out",
        when=lambda text: text not in ("", "[]"),
        serious=True,
    ),
    "INTERFACE_IPS": Ignored(
        "observe only interfaces with an address in these networks",
        "name them in INTERFACES",
        serious=True,
    ),
    "EBPF_PROGRAM_MANAGER_MODE": _feature(
        "use the programs that bpfman has loaded", "this agent loads and attaches its own"
    ),
    "KAFKA_TLS_INSECURE_SKIP_VERIFY": _feature(
        "believe any certificate", "brokers are verified: give KAFKA_TLS_CA_CERT_PATH"
    ),
    "METRICS_PREFIX": Ignored(
        "be the beginning of metrics' names",
        "they begin with flow_exporter_",
        needs="METRICS_ENABLE",
    ),
    "METRICS_LEVEL": Ignored(
        "add labels to metrics", when=lambda text: text not in ("", "info"), needs="METRICS_ENABLE"
    ),
    "TCX_ATTACH_ANCHOR_INGRESS": Ignored(
        "attach before all others", "this agent attaches after them", when=lambda t: t == "head"
    ),
    "TCX_ATTACH_ANCHOR_EGRESS": Ignored(
        "attach before all others", "this agent attaches after them", when=lambda t: t == "head"
    ),
    "TC_ATTACH_RETRIES": Ignored("limit how often attaching is tried"),
    "KAFKA_ASYNC": Ignored(
        "not wait for the brokers' answers", "they are always waited for", when=_is_true
    ),
    "KAFKA_BATCH_MESSAGES": Ignored("limit messages in a request", "KAFKA_BATCH_SIZE limits it"),
    "BUFFERS_LENGTH": Ignored("limit batches that wait", "queue.rows of the sink limits rows"),
    "EXPORTER_BUFFER_LENGTH": Ignored(
        "limit batches that wait", "queue.rows of the sink limits rows"
    ),
    "ENABLE_FLOWS_RINGBUF_FALLBACK": Ignored(
        "lose packets that the flow map cannot take",
        "a ring buffer takes them",
        when=lambda text: text != "" and not _is_true(text),
    ),
    "PREFERRED_INTERFACE_FOR_MAC_PREFIX": Ignored(
        "choose among interfaces with one index",
        "they are told apart by their network namespace",
    ),
    "FORCE_GARBAGE_COLLECTION": Ignored("collect garbage after each drain", _GO),
    "GOGC": Ignored("set how often garbage is collected", _GO),
    "GOMEMLIMIT": Ignored(
        "limit memory softly", "capture.flow_memory and the sinks' queue.rows limit it"
    ),
    "PPROF_ADDR": Ignored("serve profiles of Go's runtime", _GO),
}


def ignored(environment: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    """
    Whether it is serious, and one line, for each variable that asks for what this agent does not
    do. Nothing without NetObserv's variables.
    """
    if not _meant(environment):
        return
    for variable, one in IGNORED.items():
        if one.asked(variable, environment):
            value = environment[variable].strip()
            shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
            here = f"; {one.here}" if one.here else ""
            yield one.serious, f"{variable}={shown} is ignored: it would {one.would}{here}"


def translate(environment: Mapping[str, str]) -> dict[str, Any]:
    """
    The configuration that NetObserv's variables ask for, nested as our file is; empty without them.

    Raises:
        ConfigError: If they ask for an export, or a mode, that this agent does not have.
    """
    if not _meant(environment):
        return {}
    layer: dict[str, Any] = {"sinks": [_sink(environment)]}
    for variable, (path, convert) in _KEYS.items():
        value = environment.get(variable, "")
        if value:
            _set(layer, path, _converted(variable, value, convert))
    direction = environment.get("DIRECTION", "both")
    if direction in ("ingress", "egress"):
        _set(layer, ("capture", "egress" if direction == "ingress" else "ingress"), False)
    if _is_true(environment.get("METRICS_ENABLE", "")):
        host = environment.get("METRICS_SERVER_ADDRESS", "")
        port = environment.get("METRICS_SERVER_PORT", "9090")
        _set(layer, ("metrics", "address"), join_host_port(host, port))
        if tls := _metrics_tls(environment):
            _set(layer, ("metrics", "tls"), tls)
    return layer


def _meant(environment: Mapping[str, str]) -> bool:
    return any(environment.get(name) for name in _MARKERS[:-1]) or (
        environment.get("EXPORT") in _EXPORTS
    )


def _sink(environment: Mapping[str, str]) -> dict[str, Any]:
    export = environment.get("EXPORT") or "grpc"
    if _is_true(environment.get("ENABLE_PCA", "")):
        raise ConfigError("ENABLE_PCA: it would export packets, and this agent exports flows")
    if export == "kafka":
        return _kafka(environment)
    kind = _KINDS.get(export)
    if kind is None:
        known = ", ".join(("kafka", *_KINDS))
        raise ConfigError(f"EXPORT={export}: this version exports by {known} only")
    host = environment.get("TARGET_HOST") or environment.get("FLOWS_TARGET_HOST")
    port = environment.get("TARGET_PORT") or environment.get("FLOWS_TARGET_PORT")
    if not host or not port:
        raise ConfigError(f"EXPORT={export} needs TARGET_HOST and TARGET_PORT")
    sink: dict[str, Any] = {**kind, "target": join_host_port(host, port)}
    if export != "grpc":
        # NetObserv's agent exports IPFIX in plain text, whatever TARGET_TLS_... are set to.
        return sink
    if environment.get("GRPC_MESSAGE_MAX_FLOWS"):
        sink["max_flows"] = environment["GRPC_MESSAGE_MAX_FLOWS"]
    sink |= _reconnect(environment)
    tls = _tls(environment, "TARGET_TLS")
    return sink | ({"tls": tls} if tls else {})


def _reconnect(environment: Mapping[str, str]) -> dict[str, float]:
    """As NetObserv's agent understands it: a spread that is too large is none."""
    names = ("GRPC_RECONNECT_TIMER", "GRPC_RECONNECT_TIMER_RANDOMIZATION")
    interval, spread = (
        _converted(name, environment.get(name) or "0", duration, "a duration such as 5m")
        for name in names
    )
    jitter = {"reconnect_jitter": spread} if spread < interval else {}
    return {"reconnect": interval, **jitter}


def _metrics_tls(environment: Mapping[str, str]) -> dict[str, str]:
    """
    NetObserv's agent serves in plain text if one of them is missing; whoever gives one does not
    want that.
    """
    names = {"certificate": "METRICS_TLS_CERT_PATH", "key": "METRICS_TLS_KEY_PATH"}
    found = {key: environment[name] for key, name in names.items() if environment.get(name)}
    if len(found) == 1:
        raise ConfigError(f"{' and '.join(names.values())} go together")
    return found


def _kafka(environment: Mapping[str, str]) -> dict[str, Any]:
    if not environment.get("KAFKA_BROKERS"):
        raise ConfigError("EXPORT=kafka needs KAFKA_BROKERS")
    sink: dict[str, Any] = {
        "type": "kafka",
        "brokers": [_with_port(text) for text in environment["KAFKA_BROKERS"].split(",")],
        "topic": environment.get("KAFKA_TOPIC") or "network-flows",
        "compression": environment.get("KAFKA_COMPRESSION") or "none",
    }
    if environment.get("KAFKA_BATCH_SIZE"):
        sink["max_octets"] = environment["KAFKA_BATCH_SIZE"]
    if _is_true(environment.get("KAFKA_ENABLE_TLS", "")):
        sink["tls"] = _tls(environment, "KAFKA_TLS")
    if _is_true(environment.get("KAFKA_ENABLE_SASL", "")):
        sink["sasl"] = _sasl(environment)
    return sink


def _with_port(broker: str) -> str:
    broker = broker.strip()
    # An IPv6 address without a port has brackets, or it could not be told from one with a port.
    return broker if ":" in broker.rpartition("]")[2] else f"{broker}:{_KAFKA_PORT}"


def _tls(environment: Mapping[str, str], prefix: str) -> dict[str, str]:
    files = {"ca": "CA_CERT_PATH", "certificate": "USER_CERT_PATH", "key": "USER_KEY_PATH"}
    found = {key: environment.get(f"{prefix}_{name}", "") for key, name in files.items()}
    return {key: path for key, path in found.items() if path}


def _sasl(environment: Mapping[str, str]) -> dict[str, str]:
    kind = environment.get("KAFKA_SASL_TYPE") or "plain"
    if kind.lower() not in _SASL:
        raise ConfigError(f"KAFKA_SASL_TYPE={kind}: it is plain or scramSHA512")
    files = {
        "username_file": "KAFKA_SASL_CLIENT_ID_PATH",
        "password_file": "KAFKA_SASL_CLIENT_SECRET_PATH",
    }
    for name in files.values():
        if not environment.get(name):
            raise ConfigError(f"KAFKA_ENABLE_SASL needs {name}")
    return {"mechanism": _SASL[kind.lower()]} | {k: environment[name] for k, name in files.items()}


def _converted(
    variable: str, value: str, convert: Callable[[str], Any], what: str = "a number"
) -> Any:
    try:
        return convert(value)
    except ValueError as err:
        raise ConfigError(f"{variable}={value} is not {what}") from err


def _set(layer: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *sections, key = path
    for section in sections:
        layer = layer.setdefault(section, {})
    layer[key] = value
