"""Which brokers and topic, how records lie in messages, and who we say that we are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from exporter.credentials import TlsConfig, secret
from exporter.fanout.config import DeliveryConfig
from exporter.quantities import Octets, split_host_port, words

#: Source: org.apache.kafka.common.internals.Topic.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class SaslConfig(BaseModel):
    """
    Who we are, for brokers that ask for a password.

    Args:
        mechanism: The password itself is sent with PLAIN only, so use TLS then.
        username: The name; or
        username_file: the file that holds it.
        password_file: The file that holds the password. Read again when it changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    username_file: Path | None = None
    password_file: Path

    @model_validator(mode="after")
    def _one_name(self) -> SaslConfig:
        if bool(self.username) == bool(self.username_file):
            raise ValueError("give either username or username_file")
        return self

    def files(self) -> tuple[Path, ...]:
        """The files that it names."""
        return tuple(p for p in (self.username_file, self.password_file) if p is not None)

    def name(self) -> str:
        """The name, from its file if it is in one. Raises ConfigError."""
        return secret(self.username_file) if self.username_file else self.username


class KafkaConfig(DeliveryConfig):
    """
    A sink of type ``kafka``.

    Args:
        brokers: ``host:port`` of some brokers, with commas between them; they know the others.
        topic: Where to.
        layout: ``netobserv`` is one protobuf record a message, with the two addresses as its key,
            as NetObserv's agents write them; ``packed`` is many records a message; ``json`` is one
            JSON object a message.
        schema_name: Keys of the JSON objects; written ``schema``.
        compression: Of what goes over the wire and lies on the broker's disk.
        client: ``auto`` is ``confluent`` if confluent-kafka is installed.
        idempotent: Number what is sent, so that the broker drops what it has already. Brokers older
            than 0.11 cannot; those older than 2.8 want the right IdempotentWrite for it.
        tls: Absent for plain text.
        sasl: Absent for brokers that do not ask.
        max_flows: Records that are sent before any is waited for; what a crash may repeat.
        max_octets: Octets of one batch of messages, before compression. Brokers refuse more than
            1,048,588 unless told otherwise (``message.max.bytes``).
    """

    type: Literal["kafka"] = "kafka"
    brokers: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(min_length=1)
    topic: str
    layout: Literal["netobserv", "packed", "json"] = "netobserv"
    schema_name: Literal["otel", "netobserv"] = Field("otel", alias="schema")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    client: Literal["auto", "kafka-python", "confluent"] = "auto"
    idempotent: bool = True
    tls: TlsConfig | None = None
    sasl: SaslConfig | None = None
    max_flows: int = Field(10_000, ge=1, le=1_000_000)
    max_octets: Octets = Field(1_000_000, ge=4096, le=1 << 30)

    @field_validator("brokers")
    @classmethod
    def _are_addresses(cls, brokers: tuple[str, ...]) -> tuple[str, ...]:
        for broker in brokers:
            split_host_port(broker)
        return brokers

    @field_validator("topic")
    @classmethod
    def _is_topic(cls, text: str) -> str:
        if not _TOPIC.fullmatch(text) or text in (".", ".."):
            raise ValueError(
                f"{text!r} is no topic: letters, digits, '.', '_' and '-', 249 at most"
            )
        return text

    @field_validator("tls")
    @classmethod
    def _names_are_the_brokers(cls, tls: TlsConfig | None) -> TlsConfig | None:
        if tls is not None and tls.server_name:
            raise ValueError("server_name is not for Kafka: each broker's certificate has its own")
        return tls

    @property
    def security_protocol(self) -> str:
        """As both clients call it."""
        return ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")

    @property
    def where(self) -> str:
        """The brokers, for people."""
        return ",".join(self.brokers)

    def files(self) -> tuple[Path, ...]:
        """Every file whose change means to connect again."""
        return tuple(p for part in (self.tls, self.sasl) if part is not None for p in part.files())
