"""
Instance metadata services: a few requests over plain HTTP to a link-local address.

Sources: "Use the Instance Metadata Service" (Amazon EC2), "About VM metadata" (Google Compute
Engine), "Azure Instance Metadata Service for virtual machines".
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from exporter.enrich.cloud.config import Place
from exporter.quantities import split_host_port

#: Octets of an answer that are read: documents have 1 kB.
_LARGEST = 64 << 10
_OK = 200


class MetadataError(Exception):
    """No answer, or none of a metadata service. Its text is one line."""


class Service(NamedTuple):
    """Where metadata is asked for; ``timeout`` in seconds for each answer."""

    address: str
    timeout: float

    def ask(
        self, path: str, headers: Mapping[str, str], method: str = "GET"
    ) -> tuple[str, Mapping[str, str]]:
        """
        The body of an answer and its headers, by lower-case name. Redirections are not followed.

        Raises:
            MetadataError: Unless it is 200 OK.
        """
        host, port = split_host_port(self.address)
        connection = http.client.HTTPConnection(host, port, timeout=self.timeout)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            body = response.read(_LARGEST)
            if response.status != _OK:
                raise MetadataError(f"{self.address}{path} answers {response.status}")
            found = {name.lower(): value for name, value in response.getheaders()}
            return body.decode(), found
        except (OSError, http.client.HTTPException, ValueError) as err:
            reason = " ".join(str(err).split()) or type(err).__name__
            raise MetadataError(f"{self.address}{path} does not answer: {reason}") from err
        finally:
            connection.close()

    def document(self, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """
        A JSON object.

        Raises:
            MetadataError: If the answer is none.
        """
        body, _ = self.ask(path, headers)
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            raise MetadataError(f"{self.address}{path} answers no JSON object")
        return content


def aws(service: Service) -> Place:
    """IMDSv2: a token, then the identity document. Raises MetadataError."""
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token, _ = service.ask("/latest/api/token", headers, "PUT")
    document = service.document(
        "/latest/dynamic/instance-identity/document",
        # What is not printable would end the header and begin another.
        {"X-aws-ec2-metadata-token": "".join(filter(str.isprintable, token))},
    )
    return _place(
        provider="aws",
        account=document.get("accountId"),
        region=document.get("region"),
        zone=document.get("availabilityZone"),
        instance=document.get("instanceId"),
        machine=document.get("instanceType"),
    )


def gcp(service: Service) -> Place:
    """Single values: the whole tree has what is none of our business. Raises MetadataError."""

    def ask(path: str) -> str:
        text, answered = service.ask(f"/computeMetadata/v1/{path}", {"Metadata-Flavor": "Google"})
        if answered.get("metadata-flavor") != "Google":
            raise MetadataError(f"{service.address} is not Google's metadata server")
        # projects/123/zones/europe-west3-a, projects/123/machineTypes/n2-standard-4
        return text.strip().rpartition("/")[2]

    zone = ask("instance/zone")
    return _place(
        provider="gcp",
        account=ask("project/project-id"),
        region=zone.rpartition("-")[0],
        zone=zone,
        instance=ask("instance/id"),
        machine=ask("instance/machine-type"),
    )


def azure(service: Service) -> Place:
    """The compute part of the instance. Raises MetadataError."""
    path = "/metadata/instance/compute?api-version=2021-02-01&format=json"
    document = service.document(path, {"Metadata": "true"})
    if "vmId" not in document:
        raise MetadataError(f"{service.address} is not Azure's metadata service")
    region, zone = document.get("location"), document.get("zone")
    return _place(
        provider="azure",
        account=document.get("subscriptionId"),
        region=region,
        # Azure numbers the zones of each region.
        zone=f"{region}-{zone}" if zone else "",
        instance=document.get("vmId"),
        machine=document.get("vmSize"),
    )


def _place(**values: Any) -> Place:
    """Values that a record can have. Raises MetadataError."""
    try:
        return Place(**{key: str(value or "") for key, value in values.items()})
    except ValueError as err:
        raise MetadataError("it answers what cannot be") from err


PROVIDERS: dict[str, Callable[[Service], Place]] = {"aws": aws, "gcp": gcp, "azure": azure}


def find(service: Service, which: str) -> Place:
    """
    Where this host is.

    Args:
        service: Whom to ask.
        which: Of ``PROVIDERS``, or ``auto`` for the first that answers as it should.

    Raises:
        MetadataError: If none does.
    """
    problems = []
    for name in PROVIDERS if which == "auto" else (which,):
        try:
            return PROVIDERS[name](service)
        except MetadataError as err:
            problems.append(str(err))
    raise MetadataError(problems[-1])
