"""Where the agent's host is: by configuration, by file, and by a metadata service of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from exporter.batch.record import records
from exporter.config import Config, load
from exporter.enrich.cloud import enricher
from exporter.enrich.cloud.config import CloudConfig, Place
from exporter.enrich.cloud.enricher import CloudPlace
from exporter.enrich.cloud.metadata import MetadataError, Service, find
from exporter.errors import ConfigError
from exporter.sinks.encodings.jsonl import encode, otel
from exporter.testing import Row, make_batch
from tests.e2e.agent import wait_until

Answer = tuple[int, str, dict[str, str]]
TOKEN = "AQAEAMZ-token=="
AWS = {
    "accountId": "123456789012", "architecture": "x86_64", "availabilityZone": "eu-west-1b",
    "instanceId": "i-0abc", "instanceType": "m5.large", "region": "eu-west-1", "ramdiskId": None,
}  # fmt: skip
AZURE = {
    "azEnvironment": "AzurePublicCloud", "location": "westeurope", "name": "vm1", "zone": "2",
    "subscriptionId": "8d10da13", "vmId": "02aab8a4", "vmSize": "Standard_D2s_v3",
}  # fmt: skip
GCP = {
    "instance/zone": "projects/42/zones/europe-west3-a",
    "instance/id": "7766554433",
    "instance/machine-type": "projects/42/machineTypes/n2-standard-4",
    "project/project-id": "my-project",
}


@dataclass
class Imitation:
    """Answers as the real ones are documented to, requests without what they demand too."""

    address: str = ""
    asked: list[str] = field(default_factory=list)
    aws: bool = False
    gcp: bool = False
    azure: bool = False
    always: Answer | None = None

    def answer(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        self.asked.append(f"{method} {path}")
        if self.always is not None:
            return self.always
        for mine, answers in ((self.aws, _aws), (self.gcp, _gcp), (self.azure, _azure)):
            found = answers(method, path, headers) if mine else None
            if found is not None:
                return found
        return 404, "not found", {}


def _aws(method: str, path: str, headers: dict[str, str]) -> Answer | None:
    if path == "/latest/api/token":
        allowed = method == "PUT" and int(headers["x-aws-ec2-metadata-token-ttl-seconds"]) > 0
        return (200, TOKEN, {}) if allowed else (400, "", {})
    if path == "/latest/dynamic/instance-identity/document":
        return (
            (200, json.dumps(AWS), {})
            if headers.get("x-aws-ec2-metadata-token") == TOKEN
            else (401, "", {})
        )
    return None


def _gcp(_method: str, path: str, headers: dict[str, str]) -> Answer | None:
    key = path.removeprefix("/computeMetadata/v1/")
    if key not in GCP:
        return None
    if headers.get("metadata-flavor") != "Google":
        return 403, "", {}
    return 200, GCP[key], {"Metadata-Flavor": "Google"}


def _azure(_method: str, path: str, headers: dict[str, str]) -> Answer | None:
    if not path.startswith("/metadata/instance/compute?api-version="):
        return None
    allowed = headers.get("metadata") == "true" and "x-forwarded-for" not in headers
    return (200, json.dumps(AZURE), {}) if allowed else (400, "", {})


@contextmanager
def served(**settings: Any) -> Iterator[Imitation]:
    imitation = Imitation(**settings)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body, more = imitation.answer(self.command, self.path, headers)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_PUT = _do  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        imitation.address = f"127.0.0.1:{server.server_port}"
        try:
            yield imitation
        finally:
            server.shutdown()
            thread.join()


def said(place: CloudPlace) -> dict[str, Any]:
    """What a record has."""
    (record,) = records(place.apply(make_batch(Row())))
    return {what.otel: value for what, value in record.metadata.items()}


def test_as_configured() -> None:
    """On every row, in JSON an object of its own; nothing of what is not given."""
    place = CloudPlace(CloudConfig(provider="own", region="cellar", zone="rack-3"))
    place.open()
    batch = place.apply(make_batch(Row(), Row()))
    lines = [json.loads(line)["cloud"] for line in encode(batch, otel).splitlines()]
    assert lines == [{"provider": "own", "region": "cellar", "availability_zone": "rack-3"}] * 2
    assert place.apply(make_batch()).entities == ()
    assert place.state().entries == 1
    place.close()


def test_a_file(tmp_path: Path) -> None:
    """What the configuration leaves open; read again when it changes; a bad one changes nothing."""
    path = tmp_path / "place.yaml"
    path.write_text("region: there\nzone: b\n")
    place = CloudPlace(CloudConfig(region="here", file=path))
    place.open()
    try:
        assert said(place) == {"cloud.region": "here", "cloud.availability_zone": "b"}
        path.write_text('{"zone": "c", "instance": "i-1"}')
        wait_until(lambda: said(place)["cloud.availability_zone"] == "c", "it is read again")
        path.write_text("zone: c\naccount: 012345670123")
        wait_until(lambda: said(place).get("cloud.account.id"), "it is read again")
        assert said(place)["cloud.account.id"] == "012345670123"
        for bad in ("zone: [1]", "- a", "town: x", "{", "zone: 'a\\\n", 'zone: "\\ud800"'):
            path.write_text(bad)
            wait_until(lambda: place.state().problem.startswith(str(path)), f"the problem of {bad}")
            assert "\n" not in place.state().problem
            path.write_text("zone: c")
            wait_until(lambda: not place.state().problem, "it is good again")
        assert said(place)["cloud.availability_zone"] == "c"
    finally:
        place.close()


EXPECTED = {
    "aws": Place(provider="aws", account="123456789012", region="eu-west-1", zone="eu-west-1b",
                 instance="i-0abc", machine="m5.large"),
    "gcp": Place(provider="gcp", account="my-project", region="europe-west3",
                 zone="europe-west3-a", instance="7766554433", machine="n2-standard-4"),
    "azure": Place(provider="azure", account="8d10da13", region="westeurope", zone="westeurope-2",
                   instance="02aab8a4", machine="Standard_D2s_v3"),
}  # fmt: skip


@pytest.mark.parametrize("which", EXPECTED)
@pytest.mark.parametrize("asked_for", ["itself", "auto"])
def test_metadata(which: str, asked_for: str) -> None:
    """With the headers that each demands; auto finds the one that is there."""
    with served(**{which: True}) as service:
        found = find(Service(service.address, 5), which if asked_for == "itself" else "auto")
    assert found == EXPECTED[which]


def test_it_is_asked_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows go on without a place meanwhile, the problem is told; then it is asked no more."""
    monkeypatch.setattr(enricher, "_AGAIN", (0.05,))
    with served() as service:
        config = CloudConfig(
            metadata="aws", metadata_address=service.address, instance="configured"
        )
        place = CloudPlace(config)
        place.open()
        try:
            wait_until(lambda: len(service.asked) > 2, "it is asked again")
            assert said(place) == {"cloud.instance.id": "configured"}
            assert place.state().problem == f"{service.address}/latest/api/token answers 404"
            service.aws = True
            wait_until(lambda: not place.state().problem, "it has answered")
            assert said(place)["cloud.availability_zone"] == "eu-west-1b"
            assert said(place)["cloud.instance.id"] == "configured"
            assert place._thread is not None
            place._thread.join(10)
            assert not place._thread.is_alive()
        finally:
            place.close()
            place.close()


@pytest.mark.parametrize(
    "answer",
    [
        (200, "", {}),
        (200, "[1]", {}),
        (200, "{", {}),
        (200, "x" * 100_000, {}),
        (200, '{"region": "a\\nb", "vmId": "1", "location": "a\\nb"}', {}),
        (200, json.dumps({"region": "a" * 300, "vmId": "1", "location": "a" * 300}), {}),
        (302, "", {"Location": "http://192.0.2.1/"}),
        (500, "", {}),
    ],
)
@pytest.mark.parametrize("which", ["aws", "gcp", "azure"])
def test_hostile_answers(which: str, answer: Answer) -> None:
    """One line, whatever answers there; redirections are not followed."""
    with served(always=answer) as service, pytest.raises(MetadataError) as raised:
        find(Service(service.address, 5), which)
    assert "\n" not in str(raised.value)
    assert len(service.asked) <= 2


def test_nobody_answers() -> None:
    """A port at which nobody listens is a line, too."""
    with served() as service:
        address = service.address
    with pytest.raises(MetadataError, match="does not answer"):
        find(Service(address, 5), "auto")


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"metadata_address": "192.0.2.1:80"}, "192.0.2.1 is neither link-local nor loopback"),
        ({"metadata_address": "metadata.google.internal:80"}, "is not an address"),
        ({"metadata_address": "169.254.169.254"}, "is not HOST:PORT"),
        ({"metadata": "ibm"}, "agent.cloud.metadata"),
        ({"zone": "a\nb"}, "has a character that does not print"),
        ({"place": "x"}, "unknown key agent.cloud.place: did you mean"),
    ],
)
def test_bad_configuration(section: Any, reason: str) -> None:
    """One line that names the key."""
    with pytest.raises(ConfigError) as raised:
        load(None, {}, {"agent": {"cloud": section}})
    assert reason in str(raised.value)


def test_off_unless_asked_for() -> None:
    """Nothing is asked or added by default; one key is enough."""
    assert not Config().agent.cloud.wanted()
    environment = {"FLOW_EXPORTER_AGENT__CLOUD__ZONE": "a"}
    assert load(None, environment, {}).agent.cloud.wanted()
