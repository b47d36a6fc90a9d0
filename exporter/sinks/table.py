"""
All sinks: their configurations, and how each is made of its own.

Adding a sink means: its room, a line in each of the two places here, its scheme in ``url``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from exporter.fanout.contract import Sink
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.grpc.sink import GrpcSink
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.sink import KafkaSink
from exporter.sinks.null import NullConfig, NullSink
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.stdout.sink import make as make_stdout

SinkConfig = Annotated[
    GrpcConfig | KafkaConfig | StdoutConfig | NullConfig, Field(discriminator="type")
]

#: Every kind, for error messages and the reference.
CONFIGS: tuple[type[BaseModel], ...] = (StdoutConfig, GrpcConfig, KafkaConfig, NullConfig)


def make(config: SinkConfig) -> Sink:
    """The sink of a configuration. Opens nothing."""
    match config:
        case GrpcConfig():
            return GrpcSink(config.name, config)
        case KafkaConfig():
            return KafkaSink(config.name, config)
        case StdoutConfig():
            return make_stdout(config.name, config)
        case NullConfig():
            return NullSink(config.name)
