"""
Objects of the API, trimmed to what is used while they are parsed.

The decoder makes nothing of what is not named here: a pod of 6 KB of JSON never becomes a tree of
dictionaries. docs/decisions/0017 has what that saves.

Source: Kubernetes API reference, core/v1 Pod, Service, Node; apps/v1 ReplicaSet; batch/v1 Job;
meta/v1 ObjectMeta, ListMeta, WatchEvent, Status.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec import Struct, field

from exporter.batch.batch import IPV4_PREFIX

#: A ReplicaSet's hash, in its name and in a label of its pods; and what it belongs to then.
_HASHES = {"pod-template-hash": "Deployment", "rollouts-pod-template-hash": "Rollout"}
_ZONES = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
#: Whose address it is, beside the pods'.
_NODE_ADDRESSES = ("InternalIP", "ExternalIP")
#: Characters of an annotation; a label's value has 63 at most.
_LONGEST = 256
_ENDED = ("Succeeded", "Failed")

#: Kind and name.
Owner = tuple[str, str]


class Entity(Struct, frozen=True, gc=False):
    """
    Something that has addresses.

    Args:
        kind: ``Pod``, ``Service`` or ``Node``.
        uid: Of the API, unique for ever.
        addresses: 16 octets each, IPv4 as ::ffff/96. Empty before it has one, and after it ended.
        owner: The controller that made it, if any.
        extra: Labels, then annotations, as the configuration has them.
        since_ns: It had no address before this, Unix ns.
    """

    kind: str
    uid: str
    namespace: str
    name: str
    addresses: tuple[bytes, ...] = ()
    node: str = ""
    host: str = ""
    zone: str = ""
    owner: Owner | None = None
    extra: tuple[str, ...] = ()
    since_ns: int = 0


class Link(Struct, frozen=True, gc=False):
    """An owner that has an owner: of a Job, which CronJob."""

    kind: str
    uid: str
    namespace: str
    name: str
    owner: Owner | None = None


Item = Entity | Link


class _Reference(Struct, gc=False):
    kind: str = ""
    name: str = ""
    controller: bool = False


class _Meta(Struct, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[_Reference] | None = None


class _Address(Struct, gc=False):
    ip: str = ""
    type: str = ""
    address: str = ""


class _Spec(Struct, gc=False):
    nodeName: str = ""  # noqa: N815 - the API's names
    hostNetwork: bool = False  # noqa: N815
    clusterIPs: list[str] | None = None  # noqa: N815
    clusterIP: str = ""  # noqa: N815


class _Status(Struct, gc=False):
    phase: str = ""
    hostIP: str = ""  # noqa: N815
    podIP: str = ""  # noqa: N815
    podIPs: list[_Address] | None = None  # noqa: N815
    startTime: str | None = None  # noqa: N815
    addresses: list[_Address] | None = None


class _Object(Struct, gc=False):
    metadata: _Meta = field(default_factory=_Meta)
    spec: _Spec = field(default_factory=_Spec)
    status: _Status | str = field(default_factory=_Status)
    code: int = 0
    message: str = ""
    reason: str = ""


class _ListMeta(Struct, gc=False):
    resource_version: str = field(default="", name="resourceVersion")
    more: str | None = field(default="", name="continue")


class _List(Struct, gc=False):
    metadata: _ListMeta
    items: list[_Object] | None = None


class _Event(Struct, gc=False):
    type: str
    object: _Object


@dataclass(frozen=True)
class Page:
    """
    A part of a list.

    Args:
        version: Of the whole list: what a watch begins after.
        more: What to ask the next part with; empty after the last.
    """

    items: list[Item]
    version: str
    more: str


@dataclass(frozen=True, slots=True)
class Event:
    """
    What a watch says.

    Args:
        type: ``ADDED``, ``MODIFIED``, ``DELETED``, ``BOOKMARK`` or ``ERROR``.
        version: What the watch can be resumed after.
        code: Of an error, as HTTP's.
    """

    type: str
    item: Item | None
    version: str
    code: int = 0
    message: str = ""


class Parser:
    """
    Octets of one resource into what is kept of it. Stateless but for its tables.

    Args:
        kind: What the resource holds.
        labels: Which are kept.
        annotations: Likewise.
        by_name: A ReplicaSet's owner is taken from the label of its pods.
    """

    def __init__(
        self,
        kind: str,
        labels: tuple[str, ...] = (),
        annotations: tuple[str, ...] = (),
        *,
        by_name: bool = True,
    ) -> None:
        self._kind = kind
        self._by_name = by_name
        self._labels, self._annotations = labels, annotations
        self._list = msgspec.json.Decoder(_List)
        self._event = msgspec.json.Decoder(_Event)
        makers: dict[str, Callable[[_Object], Item]] = {
            "Pod": self._pod,
            "Service": self._service,
            "Node": self._node,
        }
        self._make = makers.get(kind, self._link)

    def page(self, octets: bytes) -> Page:
        """
        A list's part.

        Raises:
            ValueError: If that is not what it is.
        """
        parsed = self._list.decode(octets)
        items = [self._make(one) for one in parsed.items or ()]
        return Page(items, parsed.metadata.resource_version, parsed.metadata.more or "")

    def event(self, line: bytes) -> Event:
        """
        A line of a watch.

        Raises:
            ValueError: If that is not what it is.
        """
        parsed = self._event.decode(line)
        one = parsed.object
        if parsed.type == "ERROR":
            return Event("ERROR", None, "", one.code, f"{one.reason}: {one.message}")
        item = None if parsed.type == "BOOKMARK" else self._make(one)
        return Event(parsed.type, item, one.metadata.resource_version)

    def _extra(self, meta: _Meta) -> tuple[str, ...]:
        if not self._labels and not self._annotations:
            return ()
        labels, annotations = meta.labels or {}, meta.annotations or {}
        return (
            *(sys.intern(labels.get(name, "")) for name in self._labels),
            *(sys.intern(_short(annotations.get(name, ""))) for name in self._annotations),
        )

    def _pod(self, one: _Object) -> Entity:
        meta, status = one.metadata, one.status
        assert not isinstance(status, str)
        texts = [address.ip for address in status.podIPs or ()] or [status.podIP]
        # A pod in the host's network has the node's address: whose of them all a packet is, no one
        # can tell.
        if one.spec.hostNetwork or status.hostIP in texts or status.phase in _ENDED:
            texts = []
        return Entity(
            kind="Pod",
            uid=meta.uid,
            namespace=sys.intern(meta.namespace),
            name=meta.name,
            addresses=_packed(texts),
            node=sys.intern(one.spec.nodeName),
            host=sys.intern(status.hostIP),
            owner=_owner(meta, by_name=self._by_name),
            extra=self._extra(meta),
            since_ns=unix_ns(status.startTime or meta.creation_timestamp),
        )

    def _service(self, one: _Object) -> Entity:
        meta = one.metadata
        texts = one.spec.clusterIPs or [one.spec.clusterIP]
        return Entity(
            kind="Service",
            uid=meta.uid,
            namespace=sys.intern(meta.namespace),
            name=meta.name,
            addresses=_packed([text for text in texts if text != "None"]),
            extra=self._extra(meta),
            since_ns=unix_ns(meta.creation_timestamp),
        )

    def _node(self, one: _Object) -> Entity:
        meta, status = one.metadata, one.status
        assert not isinstance(status, str)
        labels = meta.labels or {}
        known = [a for a in status.addresses or () if a.type in _NODE_ADDRESSES]
        return Entity(
            kind="Node",
            uid=meta.uid,
            namespace="",
            name=sys.intern(meta.name),
            addresses=_packed([address.address for address in known]),
            node=sys.intern(meta.name),
            host=known[0].address if known else "",
            zone=next((sys.intern(labels[name]) for name in _ZONES if labels.get(name)), ""),
            extra=self._extra(meta),
            since_ns=unix_ns(meta.creation_timestamp),
        )

    def _link(self, one: _Object) -> Link:
        meta = one.metadata
        return Link(
            self._kind, meta.uid, sys.intern(meta.namespace), meta.name, _owner(meta, by_name=False)
        )


def _short(text: str) -> str:
    """As much of an annotation as a record has: it may be a quarter of a megabyte."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _owner(meta: _Meta, *, by_name: bool) -> Owner | None:
    """The controller; a ReplicaSet's Deployment, if the pod's label shows that it has one."""
    reference = next((one for one in meta.owner_references or () if one.controller), None)
    if reference is None:
        return None
    if by_name and reference.kind == "ReplicaSet" and meta.labels:
        for label, kind in _HASHES.items():
            end = f"-{meta.labels[label]}" if meta.labels.get(label) else ""
            if end and reference.name.endswith(end):
                return _interned(kind, reference.name.removesuffix(end))
    return _interned(reference.kind, reference.name)


_owners: dict[Owner, Owner] = {}


def _interned(kind: str, name: str) -> Owner:
    """One tuple for all pods of one owner. Bounded: emptied when it has grown large."""
    if len(_owners) > 1 << 15:
        _owners.clear()
    owner = (kind, name)
    return _owners.setdefault(owner, owner)


def _packed(texts: list[str]) -> tuple[bytes, ...]:
    """Addresses as 16 octets, each once; what is none is left out."""
    found: dict[bytes, None] = {}
    for text in texts:
        if not text:
            continue
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        found[IPV4_PREFIX + address.packed if address.version == 4 else address.packed] = None
    return tuple(found)


def unix_ns(text: str | None) -> int:
    """A time of the API (RFC 3339), Unix ns; 0 if there is none."""
    if not text:
        return 0
    try:
        return int(dt.datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    except ValueError:
        return 0
