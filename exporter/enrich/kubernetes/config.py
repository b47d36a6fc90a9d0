"""The ``enrich.kubernetes`` section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from exporter.quantities import Seconds, words

_CACHE = re.compile(r"grpc://[^/\s]+:[0-9]+")
Words = Annotated[tuple[str, ...], BeforeValidator(words)]


class KubernetesConfig(BaseModel):
    """
    The ``enrich.kubernetes`` section.

    Args:
        kubeconfig: File that says where the API server is; the pod's service account if absent.
        context: Of the file; its current one if empty.
        labels: Labels of pods, services and nodes to add, as ``app,app.kubernetes.io/name``.
        annotations: Likewise.
        owners: ``names`` takes a ReplicaSet's Deployment from the label that its controller sets;
            ``watch`` asks the API server for ReplicaSets, which are many.
        page: How many objects are asked for at a time.
        max_age: While the server is away its last answers are used for so long.
        cache: ``grpc://HOST:PORT`` of a ``flow-exporter kube-cache``, which is asked instead of the
            API server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubeconfig: Path | None = None
    context: str = ""
    labels: Words = ()
    annotations: Words = ()
    owners: Literal["names", "watch"] = "names"
    page: int = Field(250, ge=1, le=10_000)
    max_age: Seconds = Field(600.0, gt=0)
    cache: str = ""

    @field_validator("cache")
    @classmethod
    def _is_cache(cls, text: str) -> str:
        if text and not _CACHE.fullmatch(text):
            raise ValueError("must be grpc://HOST:PORT of a flow-exporter kube-cache")
        return text
