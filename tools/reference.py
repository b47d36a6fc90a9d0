"""
Write the reference pages that are made from the code: ``python tools/reference.py [--check]``.

docs/reference/record.md from the one column table and the enrichers, configuration.md from the
models and their docstrings, metrics.md from what the collector declares, capabilities.md from the
one table of them; cli.md and the manual page from the command line's parser.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from manual import cli_page, man_page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from exporter.batch.attributes import SIDES, EndAttribute
from exporter.batch.batch import Details, Interface, Observer, Peer, Point
from exporter.batch.schema import COLUMNS
from exporter.capabilities import COMMANDS, KEYS
from exporter.capture.config import CaptureConfig
from exporter.config import ENV_PREFIX, Config, MetricsConfig, ObserveConfig
from exporter.credentials import ServerTlsConfig, TlsConfig
from exporter.dedupe.config import DedupeConfig
from exporter.enrich.cloud.config import CloudConfig
from exporter.enrich.config import EnrichConfig
from exporter.enrich.dns.config import NamesConfig, ReverseConfig
from exporter.enrich.geoip.config import GeoIpConfig
from exporter.enrich.identity.config import IdentityConfig
from exporter.enrich.known import known
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.labels import DerivedConfig
from exporter.enrich.networks.config import NetworksConfig
from exporter.enrich.observer import AgentConfig
from exporter.enrich.process import ProcessConfig
from exporter.enrich.services.config import ServicesConfig
from exporter.exclude.config import ExclusionConfig
from exporter.fanout.config import DeliveryConfig, QueueConfig, RetryConfig, SpoolConfig
from exporter.ledger import Balance, KernelCounts, SinkCounts, Tally, Totals
from exporter.sinks.encodings.jsonl import SHAPES, encode
from exporter.sinks.file.config import KeepConfig, RotateConfig
from exporter.sinks.kafka.config import SaslConfig
from exporter.sinks.otlp.config import FlowMetricsConfig
from exporter.sinks.table import CONFIGS
from exporter.telemetry import PREFIX, Enricher, Metrics, Reading
from exporter.testing import Row, make_batch

TARGET = Path(__file__).parents[1] / "docs" / "reference"
_MADE = "<!-- Made by `make docs`; never edited. -->\n"

SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("(top level)", "", Config),
    ("capture", "capture.", CaptureConfig),
    ("dedupe", "dedupe.", DedupeConfig),
    ("enrich", "enrich.", EnrichConfig),
    ("enrich.geoip", "enrich.geoip.", GeoIpConfig),
    ("enrich.networks", "enrich.networks.", NetworksConfig),
    ("enrich.services", "enrich.services.", ServicesConfig),
    ("enrich.identity", "enrich.identity.", IdentityConfig),
    ("enrich.derive[]", "", DerivedConfig),
    ("exclude[]", "", ExclusionConfig),
    ("enrich.names", "enrich.names.", NamesConfig),
    ("enrich.names.reverse", "enrich.names.reverse.", ReverseConfig),
    ("enrich.processes", "enrich.processes.", ProcessConfig),
    ("enrich.kubernetes", "enrich.kubernetes.", KubernetesConfig),
    ("agent", "agent.", AgentConfig),
    ("agent.cloud", "agent.cloud.", CloudConfig),
    ("metrics", "metrics.", MetricsConfig),
    ("observe", "observe.", ObserveConfig),
    ("metrics.tls, observe.tls, sinks[].tls (prometheus)", "tls.", ServerTlsConfig),
    ("sinks[]: all types", "", DeliveryConfig),
    *((f"sinks[]: type {c.model_fields['type'].default}", "", c) for c in CONFIGS),
    ("sinks[].metrics (otlp)", "metrics.", FlowMetricsConfig),
    ("sinks[].tls (all others)", "tls.", TlsConfig),
    ("sinks[].rotate (file)", "rotate.", RotateConfig),
    ("sinks[].keep (file)", "keep.", KeepConfig),
    ("sinks[].sasl (kafka)", "sasl.", SaslConfig),
    ("sinks[].queue", "queue.", QueueConfig),
    ("sinks[].retry", "retry.", RetryConfig),
    ("spool, sinks[].spool", "spool.", SpoolConfig),
)

#: Path in a JSON record -> meaning, of what is no column.
BESIDES: dict[str, str] = {
    "network.type": "`ipv4` or `ipv6`.",
    "network.transport": "The protocol by its name, as `tcp`.",
    "flow.interfaces[].name": "Of each observation point that saw the flow: its interface.",
    "flow.interfaces[].direction": "`ingress` or `egress` there.",
    "flow.interfaces[].netns": "Its namespace in /var/run/netns; absent for the agent's own.",
    "flow.interfaces[].kind": "As `ip -d link` calls it, or `physical`.",
    "flow.interfaces[].mac": "Its address.",
    "flow.interfaces[].peer.name": "The other end of a veth pair: its name,",
    "flow.interfaces[].peer.index": "its index within its namespace,",
    "flow.interfaces[].peer.netns_inode": "and that namespace's inode.",
    "flow.interfaces[].container.id": "Whose it is, with `capture.containers`.",
    "flow.interfaces[].k8s.pod.uid": "Likewise.",
    "observer.address": "Of the agent.",
    "observer.name": "Its host's name.",
}


def record_page() -> str:
    """The columns of a record and what each format calls them."""
    lines = [
        _MADE,
        "# Fields of a flow record\n",
        "IPFIX numbers are information elements of the IANA registry (for IPv6 addresses 27 and",
        "28). Counts are of the packets taken: with sampling they are not scaled.\n",
        "| column | type | unit | meaning | JSON, otel | JSON, netobserv | pbflow.Record | IPFIX |",
        "| --- | --- | --- | --- | --- | --- | --- | ---: |",
    ]
    lines += [
        f"| `{c.name}` | {c.dtype} | {c.unit} | {c.meaning} | {_code(c.otel)} | "
        f"{_code(c.netobserv)} | {c.pbflow} | {c.ipfix or ''} |"
        for c in COLUMNS
    ]
    return "\n".join([*lines, *_besides(), *_added()]) + "\n"


def _besides() -> Iterator[str]:
    """What a JSON record has that is no column: held to what a record really has."""
    details = Details("veth", "02:00:00:00:00:01", 1, Peer("eth0", 7, 2), "5b0c", "d1")
    point = Point(0, 2, 0)
    batch = make_batch(
        Row(points=(point,)),
        interfaces={point: Interface("veth1", "web", details)},
        observer=Observer("192.0.2.1", "host"),
    )
    record = orjson.loads(encode(batch, SHAPES["otel"]))
    found = set(_paths(record)) - {column.otel for column in COLUMNS}
    assert found == set(BESIDES), found ^ set(BESIDES)
    yield "\n## What else a JSON record has\n"
    yield "With `otel`. Of an interface, what is not known is absent"
    yield "([interfaces](../enrich/interfaces.md)).\n"
    yield "| path | meaning |"
    yield "| --- | --- |"
    yield from (f"| `{path}` | {meaning} |" for path, meaning in BESIDES.items())


def _paths(value: Any, above: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _paths(below, f"{above}.{key}".lstrip("."))
    elif isinstance(value, list):
        for below in value:
            yield from _paths(below, f"{above}[]")
    else:
        yield above


def _added() -> Iterator[str]:
    """What enrichers add."""
    yield "\n## What enrichment adds\n"
    yield "Only with the enricher that is named, and where it knows something; see `enrich` in the"
    yield "[configuration](configuration.md). What is said here of the source is there of the"
    yield "destination too: `dst_`, `destination.`, `Dst`, `dst`. Labels that a configuration names"
    yield "itself come besides. [Which output has what](../enrich/outputs.md): the name is that of"
    yield "Parquet's column, and what metrics are told by; OTLP has the names of its schema, and"
    yield "JSON's of `otel` where it has none; pbflow has nothing of it."
    if known():
        yield "\n| name | enricher | type | meaning | JSON, otel | netobserv | obi | IPFIX |"
        yield "| --- | --- | --- | --- | --- | --- | --- | ---: |"
    for room, attributes in known().items():
        for one in attributes:
            ends = [one.of(side) for side in SIDES] if isinstance(one, EndAttribute) else [one]
            first = ends[0]
            elements = ", ".join(str(end.ipfix) for end in ends if end.ipfix)
            yield (
                f"| `{first.name}` | {room} | {'integer' if one.number else 'text'} | "
                f"{one.meaning} | {_code(first.otel)} | {_code(first.netobserv)} | "
                f"{_code(first.obi)} | {elements} |"
            )


def configuration_page() -> str:
    """Every key of the file, its default and its meaning."""
    parts = [
        _MADE,
        "# Configuration\n",
        "One YAML file (`--config FILE`). Every key is also an environment variable:",
        f"`capture.sampling` is `{ENV_PREFIX}CAPTURE__SAMPLING`. Flags win over the environment,",
        "the environment over the file. Durations are written `500ms`, `5s`, `1m`; sizes `64MiB`;",
        "lists may be written `eth0,/^veth/`. A sink may be written as on the command line:",
        "`stdout`, `grpc://host:port?max_flows=5000`.\n",
    ]
    for title, prefix, model in SECTIONS:
        parts.append(f"## {title}\n\n| key | default | meaning |\n| --- | --- | --- |")
        meanings = _meanings(model)
        parts += [
            f"| `{prefix}{field.alias or name}` | {_default(field)} | {meanings.get(name, '')} |"
            for name, field in model.model_fields.items()
            if name in meanings
        ]
        parts.append("")
    return "\n".join(parts)


def metrics_page() -> str:
    """Every metric with its labels."""
    totals = Totals(1, 1, 1)
    sink = SinkCounts(totals, totals, Totals(), {"queue_full": totals})
    kernel = KernelCounts(Tally(1, 1), {"aggregated": Tally(1, 1)})
    reading = Reading(
        balance=Balance(
            kernel,
            totals,
            Totals(),
            totals,
            {"stdout": sink},
            final=False,
            excluded={"dns": Totals()},
        ),
        drains={"active timeout": 1},
        drain_seconds=0.0,
        interfaces=1,
        attach_failures=0,
        map_capacity=1,
        map_fill=0.0,
        map_pressure={"flow_stats": 0.5},
        dedupe_flows=0,
        dedupe_evictions=0,
        enrichers={"kubernetes": Enricher(0.0, "", 0, 0, 0, 0, {"doubts": 0})},
        sink_retries={"stdout": 0},
        sink_healthy={"stdout": True},
        flow_series={"prometheus": 1},
        flow_series_forgotten={"prometheus": 0},
        sink_circuit={"stdout": "closed"},
        spool_errors={"stdout": 0},
    )
    lines = [
        _MADE,
        "# Metrics\n",
        "| name | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for family in Metrics(lambda: reading).collect():
        labels = ", ".join(sorted({label for s in family.samples for label in s.labels}))
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name.startswith(PREFIX)
        lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


_CAPABILITIES = """
Root has them all, unless a container or a service takes some away. Another user can have them as
ambient capabilities. Nothing needs a way to more: `no_new_privs` may be set, and every other
capability dropped. The agent looks at its start, before anything is attached: one line says what is
missing and what needs it, and it ends with exit code 1. `flow-exporter doctor` shows the same for a
host.
"""
_BESIDE = """
CAP_SYS_ADMIN makes up for CAP_BPF and CAP_PERFMON: the kernel takes it for both.

## What needs no more

Filters instead of TCX, `--loader bcc`, names from DNS answers, Kubernetes, every sink, and `--pin`
where a BPF file system is mounted. If none is, the agent mounts one at `/sys/fs/bpf`, for which it
needs CAP_SYS_ADMIN, or says so. `doctor`, `check` and `dump-config` need nothing, and `doctor`
cannot tell everything without.

## Files

Capabilities do not open files. Who is not root needs, beside them:

| what | for |
| --- | --- |
| `/run/flow-exporter`, to write to | `ledger`, `observe` and `top`; without, a warning |
| the directory of the pins, to write to | `--pin`; a BPF file system is root's |
| all processes in `/proc` (`hostPID`) | `capture.containers`, `enrich.processes` |
| CAP_NET_BIND_SERVICE, or a port above 1023 | `metrics.address`, sinks of type `prometheus` |

## How to give them

With systemd:

```ini
[Service]
User=flow-exporter
AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN
CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_NET_ADMIN
NoNewPrivileges=yes
RuntimeDirectory=flow-exporter
```

In a container of Kubernetes, which gives capabilities to root only:

```yaml
securityContext:
  runAsUser: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add: [BPF, PERFMON, NET_ADMIN]
```
"""


def capabilities_page() -> str:
    """Which capability is for what."""
    lines = [
        _MADE,
        "# Capabilities\n",
        _CAPABILITIES.lstrip(),
        "| what | needs | to |",
        "| --- | --- | --- |",
    ]
    for kind, features in (("command", COMMANDS.values()), ("key", KEYS)):
        for feature in features:
            name = f"`{feature.name}`" if kind == "command" else f"`{feature.name}`, beside `run`'s"
            for capability, purpose in feature.needs.items():
                lines.append(f"| {name} | {capability} | {purpose} |")
    return "\n".join(lines) + "\n" + _BESIDE


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    if field.default is PydanticUndefined:
        return "(needed)"
    value: Any = field.default
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = ", ".join(getattr(item, "type", str(item)) for item in value)
    return _code(str(value)) if value not in ("", None) else ""


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """The Args section of a model's docstring: key -> text."""
    text = inspect.cleandoc(model.__doc__ or "").partition("Args:\n")[2]
    meanings: dict[str, str] = {}
    for names, meaning in _entries(text):
        for name in names.split(", "):
            meanings[name] = " ".join(meaning.replace("``", "`").split())
    return meanings


def _entries(text: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^    (\w[\w, ]*): ((?:.*\n?)(?:^ {8}.*\n?)*)", text, re.MULTILINE):
        yield match[1], match[2]


PAGES = {
    "cli.md": lambda: f"{_MADE}\n{cli_page()}",
    "flow-exporter.1": man_page,
    "record.md": record_page,
    "configuration.md": configuration_page,
    "metrics.md": metrics_page,
    "capabilities.md": capabilities_page,
}


def main() -> int:
    """Write the pages, or with ``--check`` say whether they are current."""
    stale = []
    for name, page in PAGES.items():
        path, text = TARGET / name, page()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"not current: {', '.join(stale)}: run 'make docs'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
