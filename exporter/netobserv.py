"""
NetObserv's environment variables, so that its DaemonSet can be pointed at this agent.

Read only where they are clearly meant: a target, brokers, or EXPORT is set. What we cannot do is
said in the log, once, and does not keep the agent from starting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from exporter.errors import ConfigError
from exporter.quantities import join_host_port

log = logging.getLogger(__name__)

_EXPORTS = ("grpc", "kafka", "ipfix+udp", "ipfix+tcp", "direct-flp")
#: EXPORT -> what it says of the sink's section.
_KINDS: dict[str, dict[str, Any]] = {
    "grpc": {"type": "grpc"},
    "ipfix+udp": {"type": "ipfix", "transport": "udp"},
    "ipfix+tcp": {"type": "ipfix", "transport": "tcp"},
}
_MARKERS = ("TARGET_HOST", "FLOWS_TARGET_HOST", "KAFKA_BROKERS", "EXPORT")
_TRUE = ("1", "t", "true")
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

#: Features that are off by default and not here (yet): asking for one is worth a line.
_UNSUPPORTED = (
    "ENABLE_RTT",
    "ENABLE_PKT_DROPS",
    "ENABLE_DNS_TRACKING",
    "ENABLE_NETWORK_EVENTS_MONITORING",
    "ENABLE_PKT_TRANSLATION",
    "ENABLE_IPSEC_TRACKING",
    "ENABLE_TLS_TRACKING",
    "ENABLE_OPENSSL_TRACKING",
    "ENABLE_UDN_MAPPING",
    "EBPF_PROGRAM_MANAGER_MODE",
    "KAFKA_TLS_INSECURE_SKIP_VERIFY",
)


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
    if environment.get("METRICS_ENABLE", "").lower() in _TRUE:
        host = environment.get("METRICS_SERVER_ADDRESS", "")
        port = environment.get("METRICS_SERVER_PORT", "9090")
        _set(layer, ("metrics", "address"), join_host_port(host, port))
    _mention_unsupported(environment)
    return layer


def _meant(environment: Mapping[str, str]) -> bool:
    return any(environment.get(name) for name in _MARKERS[:-1]) or (
        environment.get("EXPORT") in _EXPORTS
    )


def _sink(environment: Mapping[str, str]) -> dict[str, Any]:
    export = environment.get("EXPORT", "grpc")
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
    tls = _tls(environment, "TARGET_TLS")
    return sink | ({"tls": tls} if tls else {})


def _kafka(environment: Mapping[str, str]) -> dict[str, Any]:
    if not environment.get("KAFKA_BROKERS"):
        raise ConfigError("EXPORT=kafka needs KAFKA_BROKERS")
    sink: dict[str, Any] = {
        "type": "kafka",
        "brokers": environment["KAFKA_BROKERS"],
        "topic": environment.get("KAFKA_TOPIC") or "network-flows",
        "compression": environment.get("KAFKA_COMPRESSION") or "none",
    }
    if environment.get("KAFKA_BATCH_SIZE"):
        sink["max_octets"] = environment["KAFKA_BATCH_SIZE"]
    if environment.get("KAFKA_ENABLE_TLS", "").lower() in _TRUE:
        sink["tls"] = _tls(environment, "KAFKA_TLS")
    if environment.get("KAFKA_ENABLE_SASL", "").lower() in _TRUE:
        sink["sasl"] = _sasl(environment)
    return sink


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


def _converted(variable: str, value: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(value)
    except ValueError as err:
        raise ConfigError(f"{variable}={value} is not a number") from err


def _set(layer: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *sections, key = path
    for section in sections:
        layer = layer.setdefault(section, {})
    layer[key] = value


def _mention_unsupported(environment: Mapping[str, str]) -> None:
    asked = [name for name in _UNSUPPORTED if environment.get(name, "").lower() in _TRUE]
    if environment.get("FLOW_FILTER_RULES"):
        asked.append("FLOW_FILTER_RULES")
    if asked:
        log.warning("not supported, and ignored: %s", ", ".join(asked))
