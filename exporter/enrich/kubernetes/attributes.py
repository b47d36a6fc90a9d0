"""What is added to a flow's ends: the names of OpenTelemetry, flowlogs-pipeline and OBI."""

from __future__ import annotations

import re

from exporter.batch.attributes import EndAttribute, Value
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.index import Index
from exporter.enrich.kubernetes.objects import Entity

#: Source: flowlogs-pipeline pkg/pipeline/transform/kubernetes/enrich.go for the flat names, its
#: OpenTelemetry rules and OpenTelemetry's semantic conventions (resource/k8s) for the paths.
FIXED = (
    EndAttribute("k8s.kind", "Pod, Service or Node.", "K8S_Type", "k8s.{}.type"),
    EndAttribute("k8s.name", "Its name.", "K8S_Name", "k8s.{}.name"),
    EndAttribute("k8s.namespace.name", "Its namespace.", "K8S_Namespace", "k8s.{}.namespace"),
    EndAttribute(
        "k8s.owner.kind",
        "Kind of its topmost owner, as Deployment; its own if nobody owns it.",
        "K8S_OwnerType",
        "k8s.{}.owner.type",
    ),
    EndAttribute(
        "k8s.owner.name", "Name of its topmost owner.", "K8S_OwnerName", "k8s.{}.owner.name"
    ),
    EndAttribute("k8s.node.name", "Node that it runs on.", "K8S_HostName", "k8s.{}.node.name"),
    EndAttribute("k8s.node.ip", "Address of that node.", "K8S_HostIP", "k8s.{}.node.ip"),
    EndAttribute("k8s.zone", "Zone of that node.", "K8S_Zone", "{}.zone"),
    EndAttribute("k8s.pod.name", "Name of the pod, if it is one."),
    EndAttribute("k8s.pod.uid", "Its uid."),
    EndAttribute("k8s.service.name", "Name of the service, if the address is a service's."),
)
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


def attributes(config: KubernetesConfig) -> tuple[EndAttribute, ...]:
    """The fixed ones, then labels and annotations."""
    return (
        *FIXED,
        *(_extra("label", name) for name in config.labels),
        *(_extra("annotation", name) for name in config.annotations),
    )


def values(index: Index, one: Entity) -> tuple[Value, ...]:
    """Of one object, in the order of :func:`attributes`. The caller has the index's lock."""
    owner_kind, owner_name = index.owner(one)
    node = index.node(one.node) if one.node else None
    is_pod = one.kind == "Pod"
    return (
        one.kind,
        one.name,
        one.namespace,
        owner_kind,
        owner_name,
        one.node,
        one.host,
        node.zone if node else one.zone,
        one.name if is_pod else None,
        one.uid if is_pod else None,
        one.name if one.kind == "Service" else None,
        *one.extra,
    )


def _extra(what: str, name: str) -> EndAttribute:
    # A dot would make an object of it, in which another label may stand already.
    key = _UNFIT.sub("_", name)
    return EndAttribute(
        f"k8s.{what}.{key}", f"The {what} {name}.", f"K8S_{what}s_{key}", f"k8s.{{}}.{what}.{key}"
    )
