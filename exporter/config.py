"""
The configuration: one file, every key also an environment variable, the common ones also a flag.

Later wins: defaults, the environment of NetObserv and OBI, the file,
``FLOW_EXPORTER_SECTION__KEY``, flags.
Everything is validated once, here; an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from exporter import netobserv, obi
from exporter.capture.config import CaptureConfig
from exporter.credentials import ServerTlsConfig
from exporter.dedupe.config import DedupeConfig
from exporter.enrich.config import EnrichConfig
from exporter.enrich.known import by_name
from exporter.enrich.observer import AgentConfig
from exporter.enrich.table import attributes_of
from exporter.errors import ConfigError
from exporter.exclude.config import ExclusionConfig
from exporter.fanout.config import SpoolConfig
from exporter.quantities import Seconds, is_loopback, split_host_port
from exporter.sinks.encodings.series import ATTRIBUTES, check_attributes
from exporter.sinks.otlp.config import HIDDEN, OtlpConfig
from exporter.sinks.prometheus.config import PrometheusConfig
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.table import CONFIGS, SinkConfig
from exporter.sinks.url import parse_sink, set_path, split_sinks, without_passwords

ENV_PREFIX = "FLOW_EXPORTER_"

#: What Kubernetes puts into the environment of every pod beside a Service whose name begins with
#: flow-exporter. Source: kubernetes/pkg/kubelet/envvars/envvars.go FromServices().
_SERVICE_LINK = re.compile(
    r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$"
)


def _otlp(value: Any) -> Any:
    try:
        return parse_sink(value) if isinstance(value, str) else value
    except ConfigError as err:
        raise ValueError(str(err)) from err


def _is_address(text: str) -> str:
    if text:
        split_host_port(text)
    return text


#: ``host:port``, or empty.
HostPort = Annotated[str, AfterValidator(_is_address)]


class MetricsConfig(BaseModel):
    """
    The ``metrics`` section.

    Args:
        address: ``host:port`` for /metrics, /healthz and /readyz; empty for none.
        tls: All of that over TLS; absent is plain text.
        page: A page for people at /, too: live talkers and the ledger. Whoever reaches the address
            reads there who talks to whom.
        otlp: An OpenTelemetry collector that is sent the same, as a sink of type ``otlp`` is
            written; ``signal``, ``schema``, ``metrics``, ``queue`` and limits mean nothing here.
        otlp_interval: Seconds between two messages to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: HostPort = ""
    tls: ServerTlsConfig | None = None
    page: bool = False
    otlp: Annotated[OtlpConfig, BeforeValidator(_otlp)] | None = None
    otlp_interval: Seconds = Field(60.0, ge=0.1, le=86_400)

    @model_validator(mode="after")
    def _page_has_an_address(self) -> MetricsConfig:
        if self.page and not self.address:
            raise ValueError("the page is served at metrics.address: give it one")
        return self

    @model_validator(mode="after")
    def _tls_has_an_address(self) -> MetricsConfig:
        if self.tls is not None and not self.address:
            raise ValueError("tls is that of metrics.address: give it one")
        return self

    def host_port(self) -> tuple[str, int]:
        """The address, taken apart."""
        return split_host_port(self.address)


class ObserveConfig(BaseModel):
    """
    The ``observe`` section: flows for ``observe`` and ``top`` from elsewhere, over gRPC.

    Args:
        address: ``host:port``; empty for none.
        tls: Needed beyond loopback.
        plaintext: Serve without TLS beyond loopback all the same.
        clients: Who may look at once; the next is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: HostPort = ""
    tls: ServerTlsConfig | None = None
    plaintext: bool = False
    clients: int = Field(8, ge=1, le=1000)

    @model_validator(mode="after")
    def _is_private(self) -> ObserveConfig:
        if not self.address:
            return self
        host, _ = split_host_port(self.address)
        if self.tls is None and not (self.plaintext or is_loopback(host)):
            raise ValueError(
                f"{self.address} is not loopback: give tls.certificate and tls.key, or say "
                "plaintext: true if whoever reaches it may see all flows"
            )
        return self


class Config(BaseModel):
    """
    Everything.

    Args:
        capture, dedupe, enrich, exclude, agent, metrics, observe: See there.
        sinks: Destinations; standard output if there is none.
        spool: Where batches wait on disk for all of them.
        log_level: Of the log on standard error.
        shutdown_timeout: Seconds for the sinks to deliver what waits when the agent stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    capture: CaptureConfig = CaptureConfig()
    dedupe: DedupeConfig = DedupeConfig()
    enrich: EnrichConfig = EnrichConfig()
    exclude: tuple[ExclusionConfig, ...] = Field((), max_length=64)
    agent: AgentConfig = AgentConfig()
    metrics: MetricsConfig = MetricsConfig()
    observe: ObserveConfig = ObserveConfig()
    sinks: tuple[SinkConfig, ...] = (StdoutConfig(),)
    spool: SpoolConfig = SpoolConfig()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    shutdown_timeout: Seconds = Field(10.0, ge=0, le=3600)

    @model_validator(mode="after")
    def _metrics_have_an_address(self) -> Config:
        at_agents = [s for s in self.sinks if isinstance(s, PrometheusConfig) and not s.address]
        if at_agents and not self.metrics.address:
            raise ValueError(
                "a prometheus sink is scraped at metrics.address, or needs an address of its own"
            )
        if len({sink.schema_name for sink in at_agents}) < len(at_agents):
            raise ValueError(
                "two prometheus sinks at metrics.address have the same names: give one an address "
                "of its own, or another schema"
            )
        return self

    @model_validator(mode="after")
    def _series_have_attributes(self) -> Config:
        chosen = [
            (f"sinks[{sink.name or number}].{key}", names)
            for number, sink in enumerate(self.sinks)
            for key, names in _chosen(sink)
        ]
        if all(name in ATTRIBUTES for _, names in chosen for name in names):
            return self
        added = {what.name for what in attributes_of(self.enrich, self.agent)}
        for where, names in chosen:
            try:
                check_attributes(names, added)
            except ValueError as err:
                off = sorted(set(names) & set(by_name()) - added)
                advice = f"{off[0]} comes of an enricher that is not turned on" if off else err
                raise ValueError(f"{where}: {advice}") from None
        return self

    @model_validator(mode="after")
    def _spools_have_directories(self) -> Config:
        for number, sink in enumerate(self.sinks):
            if sink.queue.when_full == "spool" and self.spool_of(sink) is None:
                where = sink.name or str(number)
                raise ValueError(f"sinks[{where}].queue.when_full: spool needs spool.directory")
        return self

    def spool_of(self, sink: SinkConfig) -> SpoolConfig | None:
        """Where a sink's batches wait on disk; ``None`` if they do not."""
        spool = sink.spool or self.spool
        wanted = sink.queue.when_full in (None, "spool")
        return spool if wanted and spool.directory is not None else None


def _chosen(sink: SinkConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a sink's series are told by, and the key that says so."""
    if isinstance(sink, PrometheusConfig):
        yield "labels", sink.labels
    if isinstance(sink, OtlpConfig):
        yield "metrics.attributes", sink.metrics.attributes


def load(
    path: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
    schema: str | None = None,
) -> Config:
    """
    Read and validate the configuration.

    Args:
        path: The YAML file, if there is one.
        environment: The process's environment.
        flags: Nested as the file is; wins over everything.
        schema: Keys of the records on standard output, whichever way that sink was asked for.

    Raises:
        ConfigError: On the first thing that is wrong, saying what would be right.
    """
    merged: dict[str, Any] = {}
    for layer in (
        netobserv.translate(environment),
        obi.translate(environment),
        _read(path) if path else {},
        _from_environment(environment),
        flags,
    ):
        _merge(merged, layer)
    if isinstance(merged.get("sinks"), (str, list, tuple)):
        merged["sinks"] = _sinks(merged["sinks"])
    if schema is not None:
        sinks = merged.setdefault("sinks", [{"type": "stdout"}])
        for sink in sinks if isinstance(sinks, list) else []:
            if isinstance(sink, dict) and sink.get("type") == "stdout":
                sink["schema"] = schema
    try:
        return Config.model_validate(merged)
    except ValidationError as err:
        raise ConfigError(_first_error(err)) from err


def dump(config: Config) -> str:
    """The effective configuration as YAML, with what is secret hidden."""
    return yaml.safe_dump(hidden(config), sort_keys=False)


def hidden(config: Config) -> dict[str, Any]:
    """The configuration as JSON has it, without what people may have written secrets into."""
    shown: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    for sink in (*shown["sinks"], shown["metrics"]["otlp"] or {}):
        # Of other sinks they are names of files.
        if sink.get("type") == "otlp":
            sink["headers"] = dict.fromkeys(sink["headers"], HIDDEN)
    return shown


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path} is not YAML: {_not_yaml(err)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must be a mapping with keys such as: {', '.join(Config.model_fields)}"
        )
    # A section whose keys are all commented out is null.
    empty = [key for key in Config.model_fields if content.get(key, "") is None]
    return {key: value for key, value in content.items() if key not in empty}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENV_PREFIX) or _is_service_link(variable):
            continue
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if not set_path(layer, path, value):
            raise ConfigError(f"{variable} is in conflict with another variable above or below it")
    return layer


def _not_yaml(err: Exception) -> str:
    """Where and why, without the lines themselves, which may hold a secret."""
    mark = getattr(err, "problem_mark", None)
    if mark is None:
        return f"{getattr(err, 'reason', err)}"
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(err, 'problem', '')}"


def _is_service_link(variable: str) -> bool:
    return "__" not in variable and _SERVICE_LINK.search(variable) is not None


def _merge(target: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value


def _sinks(values: str | Iterable[Any]) -> list[Any]:
    """Sinks written as names or URLs become mappings."""
    if isinstance(values, str):
        values = split_sinks(values)
    return [parse_sink(value) if isinstance(value, str) else value for value in values]


def _first_error(err: ValidationError) -> str:
    error = err.errors()[0]
    where = _where(error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown_key(error["loc"], where)
    message = error["msg"].removeprefix("Value error, ")
    # A header's value may be a secret; of a section, or what was to be one, any of its values.
    section = isinstance(error["input"], dict) or error["loc"] == ("metrics", "otlp")
    secret = section or "headers" in error["loc"]
    shown = "" if secret else f" (got {error['input']!r})"
    said = " ".join(f"{where}: {message[:1].lower()}{message[1:]}{shown}".split())
    return without_passwords(said)


def _where(location: tuple[int | str, ...]) -> str:
    """A path as people write it: ``sinks[0].target``; the union's tag is left out."""
    text, parts = "", list(location)
    for position, part in enumerate(parts):
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (position and isinstance(parts[position - 1], int) and position < len(parts) - 1):
            text += f".{part}" if text else str(part)
    return text or "configuration"


def _unknown_key(location: tuple[int | str, ...], where: str) -> str:
    known = _keys(Config, location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, 1, cutoff=0)
    advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    return f"unknown key {where}: {advice}"


def _keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at a location."""
    for part in location:
        if isinstance(part, str) and _is_model(model) and part in model.model_fields:
            model = model.model_fields[part].annotation
        elif isinstance(part, str):
            model = _of_type(model, part)
    model = _without_none(model)
    if not _is_model(model):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _of_type(annotation: Any, tag: str) -> Any:
    """The sink's model whose ``type`` is ``tag``, out of ``tuple[SinkConfig, ...]``."""
    for candidate in CONFIGS:
        if candidate.model_fields["type"].default == tag:
            return candidate
    return annotation


def _without_none(annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not types.NoneType)
    return annotation
