"""The cache's messages and what they stand for. Source: proto/kube_cache.proto."""

from __future__ import annotations

import sys

from exporter._pb import kube_cache_pb2 as pb
from exporter.enrich.kubernetes.objects import Entity, Item, Link, Owner

METHOD = "/kubecache.KubeCache/Follow"
#: Kinds that are only links between others.
LINKS = frozenset({"Job", "ReplicaSet"})


def encode(item: Item, *, gone: bool = False) -> pb.Change:
    """One change. Of what is gone only the kind and the uid matter."""
    thing = pb.Thing(kind=item.kind, uid=item.uid)
    if not gone:
        thing.namespace, thing.name = item.namespace, item.name
        if item.owner is not None:
            thing.owner_kind, thing.owner_name = item.owner
        if isinstance(item, Entity):
            thing.addresses.extend(item.addresses)
            thing.node, thing.host, thing.zone = item.node, item.host, item.zone
            thing.extra.extend(item.extra)
            thing.since_ns = item.since_ns
    return pb.Change(gone=gone, thing=thing)


def decode(thing: pb.Thing, extra: tuple[int | None, ...]) -> Item:
    """
    What a message stands for.

    Args:
        thing: Of a change.
        extra: Where each wanted label or annotation is among those sent; ``None`` if it is not.
    """
    owner: Owner | None = None
    if thing.owner_kind:
        owner = sys.intern(thing.owner_kind), sys.intern(thing.owner_name)
    if thing.kind in LINKS:
        return Link(thing.kind, thing.uid, thing.namespace, thing.name, owner)
    sent = thing.extra
    return Entity(
        kind=sys.intern(thing.kind),
        uid=thing.uid,
        namespace=sys.intern(thing.namespace),
        name=thing.name,
        addresses=tuple(one for one in thing.addresses if len(one) == 16),
        node=sys.intern(thing.node),
        host=sys.intern(thing.host),
        zone=sys.intern(thing.zone),
        owner=owner,
        extra=tuple(
            sys.intern(sent[at]) if at is not None and at < len(sent) else "" for at in extra
        ),
        since_ns=thing.since_ns,
    )
