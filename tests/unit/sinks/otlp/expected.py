"""What a log record must say of a flow, from the row's values and nothing of the encoder's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exporter.batch.record import TCP, WITH_PORTS, FlowRecord
from exporter.sinks.encodings import jsonl

_LARGEST = (1 << 63) - 1


def attributes(record: FlowRecord, schema: str) -> dict[str, Any]:
    """Keys and values of the record's attributes."""
    bare = replace(record, metadata={})
    added = {
        (getattr(what, schema) or what.otel): min(value, _LARGEST)
        if isinstance(value, int)
        else value
        for what, value in record.metadata.items()
    }
    if schema == "netobserv":
        return _netobserv(bare) | added
    flat = _otel(bare) | (added if schema == "otel" else {})
    if schema == "obi":
        renamed = {
            "source.address": "src.address",
            "source.port": "src.port",
            "destination.address": "dst.address",
            "destination.port": "dst.port",
            "network.interface.name": "iface",
            "flow.direction": "iface.direction",
            "network.transport": "transport",
        }
        flat = {renamed.get(key, key): value for key, value in flat.items()}
        flat["transport"] = flat["transport"].upper()
        if record.agent_ip:
            flat["obi.ip"] = record.agent_ip
        flat |= added
    return flat


def _otel(record: FlowRecord) -> dict[str, Any]:
    """The nested JSON record, flattened: times as numbers, interfaces as arrays."""
    flat = dict(_flatten("", jsonl.otel(record)))
    for key in ("observer.address", "observer.name"):
        del flat[key]  # the resource's
    interfaces = flat.pop("flow.interfaces")
    flat["time.start"] = min(record.time_flow_start_ns, _LARGEST)
    flat["time.end"] = min(record.time_flow_end_ns, _LARGEST)
    for key in ("flow.bytes", "flow.ip_bytes", "flow.packets"):
        flat[key] = min(flat[key], _LARGEST)
    if interfaces:
        flat["network.interface.name"] = record.interface
        for name in ("name", "index", "direction"):
            flat[f"flow.interfaces.{name}"] = [one[name] for one in interfaces]
        namespaces = [one.get("netns", "") for one in interfaces]
        if any(namespaces):
            flat["flow.interfaces.netns"] = namespaces
    return flat


def _flatten(prefix: str, nested: Mapping[str, Any]) -> Any:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flatten(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _netobserv(record: FlowRecord) -> dict[str, Any]:
    flat = {key: value for key, value in jsonl.netobserv(record).items() if value not in (None, "")}
    del flat["TimeReceived"]
    for key in ("Bytes", "Packets", "TimeFlowStartMs", "TimeFlowEndMs"):
        flat[key] = min(flat[key], _LARGEST)
    assert ("SrcPort" in flat) == (record.ip_protocol in WITH_PORTS)
    assert ("Flags" in flat) == (record.ip_protocol == TCP)
    return flat
