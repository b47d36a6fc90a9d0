"""
All sinks: their configurations, and how each is made of its own.

Adding a sink means: its room, a line in each of the places here, its scheme in ``url``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from exporter.batch.attributes import Attribute
from exporter.fanout.contract import Sink
from exporter.sinks.file.config import FileConfig
from exporter.sinks.file.sink import FileSink
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.grpc.sink import GrpcSink
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.sink import IpfixSink
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.sink import KafkaSink
from exporter.sinks.null import NullConfig, NullSink
from exporter.sinks.otlp.config import OtlpConfig
from exporter.sinks.otlp.sink import OtlpSink
from exporter.sinks.prometheus.config import PrometheusConfig
from exporter.sinks.prometheus.sink import PrometheusSink
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.stdout.sink import make as make_stdout

SinkConfig = Annotated[
    FileConfig
    | GrpcConfig
    | IpfixConfig
    | KafkaConfig
    | OtlpConfig
    | PrometheusConfig
    | StdoutConfig
    | NullConfig,
    Field(discriminator="type"),
]

#: Every kind, for error messages and the reference.
CONFIGS: tuple[type[BaseModel], ...] = (
    StdoutConfig,
    GrpcConfig,
    KafkaConfig,
    OtlpConfig,
    IpfixConfig,
    PrometheusConfig,
    FileConfig,
    NullConfig,
)


def make(  # noqa: PLR0911 - a line for each kind
    config: SinkConfig, added: Sequence[Attribute] = ()
) -> Sink:
    """
    The sink of a configuration. Opens nothing.

    Args:
        config: Its section.
        added: What enrichment adds: names, types and elements of what batches will have.
    """
    match config:
        case FileConfig():
            return FileSink(config.name, config, added)
        case GrpcConfig():
            return GrpcSink(config.name, config)
        case IpfixConfig():
            return IpfixSink(config.name, config, added)
        case KafkaConfig():
            return KafkaSink(config.name, config)
        case OtlpConfig():
            return OtlpSink(config.name, config, added=added)
        case PrometheusConfig():
            return PrometheusSink(config.name, config, added)
        case StdoutConfig():
            return make_stdout(config.name, config)
        case NullConfig():
            return NullSink(config.name)
