"""What is asked of an API server, and by whom."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.enrich.kubernetes.access import Access, find
from exporter.enrich.kubernetes.client import Client, Resource
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.objects import Event, Page, Parser
from exporter.enrich.kubernetes.reflector import Reflector, Store

#: Pods that have ended have given their addresses back.
_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"
RESOURCES = (
    Resource("Node", "/api/v1/nodes"),
    Resource("Service", "/api/v1/services"),
    Resource("Job", "/apis/batch/v1/jobs", metadata=True),
    Resource("Pod", "/api/v1/pods", _RUNNING),
)
REPLICA_SETS = Resource("ReplicaSet", "/apis/apps/v1/replicasets", metadata=True)


def resources(config: KubernetesConfig) -> tuple[Resource, ...]:
    """What is listed and watched."""
    return (*RESOURCES, REPLICA_SETS) if config.owners == "watch" else RESOURCES


class Server:
    """
    One resource of an API server.

    Args:
        access: How it is reached.
        resource: Which.
        config: What is kept of it.
    """

    def __init__(self, access: Access, resource: Resource, config: KubernetesConfig) -> None:
        self._resource = resource
        self._page = config.page
        self._parser = Parser(
            resource.kind, config.labels, config.annotations, by_name=config.owners == "names"
        )
        self._client = Client(access, self._note, self._connected)
        self.reflector: Reflector | None = None

    def page(self, more: str) -> Page:
        """A part of a list."""
        return self._parser.page(self._client.page(self._resource, self._page, more))

    def watch(self, version: str) -> Iterator[Event]:
        """What happened after a version."""
        return map(self._parser.event, self._client.watch(self._resource, version))

    def close(self) -> None:
        """Break off what is under way."""
        self._client.close()

    def release(self) -> None:
        """Give the connection back."""
        self._client.disconnect()

    def _connected(self) -> None:
        if self.reflector is not None:
            self.reflector.connected()

    def _note(self, now_ns: int) -> None:
        if self.reflector is not None:
            self.reflector.note(now_ns)


def connect(config: KubernetesConfig, index: Store) -> list[Reflector]:
    """
    A reflector for each resource, not started.

    Raises:
        ConfigError: If there is no server to ask, or a file cannot be read.
    """
    access = find(config)
    access.context()
    found = []
    for resource in resources(config):
        server = Server(access, resource, config)
        server.reflector = Reflector(resource, server, index)
        found.append(server.reflector)
    return found
