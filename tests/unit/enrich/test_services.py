"""Which port names a flow's service, and where the names come from."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch
from exporter.batch.record import records
from exporter.config import load
from exporter.enrich.services.config import ServicesConfig
from exporter.enrich.services.enricher import APPLICATION, ServiceNames
from exporter.enrich.services.names import PROTOCOLS, read_services, well_known
from exporter.errors import ConfigError
from exporter.testing import Row, make_batch
from tests.conftest import missing
from tests.e2e.agent import wait_until

TCP, UDP, ICMP = 6, 17, 1


def flow(source: int, destination: int, protocol: int = TCP) -> Row:
    return Row(src_port=source, dst_port=destination, ip_protocol=protocol)


def said(batch: FlowBatch) -> list[Any]:
    return [record.metadata.get(APPLICATION) for record in records(batch)]


def names(*rows: Row, **settings: Any) -> list[Any]:
    return said(ServiceNames(ServicesConfig(**settings)).apply(make_batch(*rows)))


def test_the_port_that_has_a_name() -> None:
    """At either end, by protocol; nothing for protocols without ports."""
    assert names(
        flow(40000, 443), flow(443, 40000), flow(40000, 40001), flow(40000, 53, UDP),
        flow(40000, 514, UDP), flow(40000, 514, TCP), flow(0, 53, ICMP), flow(0, 443, 47),
    ) == ["https", "https", None, "domain", "syslog", "shell", None, None]  # fmt: skip


def test_the_lower_of_two() -> None:
    """Whichever end it is."""
    assert names(flow(3306, 22), flow(22, 3306), flow(53, 53, UDP)) == ["ssh", "ssh", "domain"]


def test_the_end_that_did_not_begin() -> None:
    """Where it is known who began, the other's port, even if it is higher or has no name."""
    initiator = Attribute("flow.initiator", "")
    batch = make_batch(flow(22, 3306), flow(22, 3306), flow(22, 3306), flow(22, 40000))
    began = Entities(
        np.array([1, 2, 0, 1], np.uint32), {initiator: (None, "source", "destination")}
    )
    enriched = ServiceNames(ServicesConfig()).apply(replace(batch, entities=(began,)))
    assert said(enriched) == ["mysql", "ssh", "ssh", None]


def test_names_of_ones_own() -> None:
    """For one protocol, for all of them, and instead of another."""
    given_names = {"tcp/9092": "kafka", "7777": "game", "tcp/443": "tls"}
    assert names(
        flow(40000, 9092), flow(40000, 9092, UDP), flow(1024, 7777, UDP), flow(40000, 443),
        flow(40000, 443, UDP), names=given_names,
    ) == ["kafka", None, "game", "tls", "https"]  # fmt: skip


def test_only_names_that_are_used() -> None:
    """Encoders are given no table of all services."""
    enriched = ServiceNames(ServicesConfig()).apply(make_batch(flow(1, 443), flow(9, 22)))
    (some,) = enriched.entities
    assert len(some) == 1 + len({name for name in said(enriched) if name})


def test_nothing_to_name() -> None:
    """An empty batch, and one without a name, are as they were."""
    enricher = ServiceNames(ServicesConfig())
    assert enricher.apply(make_batch()).entities == ()
    assert enricher.apply(make_batch(flow(40000, 40001))).entities == ()
    assert (enricher.state().hits, enricher.state().misses) == (0, 1)
    assert names() == []


def test_counts() -> None:
    """Rows with a name, rows with ports and none; those without ports are neither."""
    enricher = ServiceNames(ServicesConfig())
    some = [flow(40000, 443), flow(22, 40000), flow(40000, 40001), flow(443, 443, protocol=1)]
    enricher.apply(make_batch(*some))
    assert (enricher.state().hits, enricher.state().misses) == (2, 1)


def test_as_the_system_says() -> None:
    """Each of the agent's own names is what getservbyport(3) says, where the system has one."""
    if not Path("/etc/services").exists():
        missing("/etc/services, of Debian's netbase")
    wrong, same = [], 0
    protocols = {number: name for name, number in PROTOCOLS.items()}
    for service in well_known():
        try:
            system = socket.getservbyport(service.port, protocols[service.protocol])
        except OSError:
            continue
        same += system == service.name
        if system != service.name:
            wrong.append((service, system))
    assert same > 200
    assert wrong == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from((22, 53, 80, 443, 3306, 40000)),
            st.sampled_from((22, 53, 80, 443, 3306, 40001)),
            st.sampled_from((TCP, UDP, 132, ICMP)),
        ),
        max_size=20,
    )
)
def test_row_by_row(rows: list[tuple[int, int, int]]) -> None:
    """A batch has what each of its rows has alone."""
    places = {(one.protocol, one.port): one.name for one in well_known()}

    def expected(source: int, destination: int, protocol: int) -> str | None:
        known = sorted(port for port in (source, destination) if (protocol, port) in places)
        return places[protocol, known[0]] if known else None

    assert names(*(flow(*row) for row in rows)) == [expected(*row) for row in rows]


def test_a_file(tmp_path: Path) -> None:
    """In place of the agent's own names; the configuration's win; it is read again."""
    path = tmp_path / "services"
    path.write_text("# ours\nweb\t443/tcp  www # the web\nodd 7/ddp\nqueue 9092/tcp\n\n")
    enricher = ServiceNames(ServicesConfig(file=path, names={"tcp/9092": "kafka"}))
    enricher.open()
    try:
        batch = make_batch(flow(40000, 443), flow(40000, 9092), flow(40000, 22))
        assert said(enricher.apply(batch)) == ["web", "kafka", None]
        path.write_text("web 443/tcp\nsecure 22/tcp\n")
        wait_until(lambda: said(enricher.apply(batch))[2] == "secure", "it is read again")
        path.write_text("nonsense\n")
        wait_until(lambda: enricher.state().problem, "the problem is told")
        assert enricher.state().problem == f"{path}:1: 'nonsense' is not NAME PORT/PROTOCOL"
        assert said(enricher.apply(batch))[2] == "secure"
    finally:
        enricher.close()


@pytest.mark.parametrize("line", ["web 99999/tcp", "web 443", "web", "a 443/", b"\xff 1/tcp"])
def test_hostile_files(line: str | bytes, tmp_path: Path) -> None:
    """One line with the file."""
    path = tmp_path / "services"
    path.write_bytes(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(ConfigError, match=str(path)):
        read_services(path)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"names": {"tcp/x": "a"}}, "'tcp/x' is not a port such as tcp/9092 or 9092"),
        ({"names": {"icmp/8": "a"}}, "'icmp/8' is not a port"),
        ({"names": {"70000": "a"}}, "'70000' is not a port"),
        ({"names": {"tcp/1": ""}}, "the name of tcp/1 has 1 to 64 printable characters"),
        ({"names": {"tcp/1": "\ud800"}}, "the name of tcp/1 has 1 to 64 printable characters"),
        ({"names": ["a"]}, "enrich.services.names"),
    ],
)
def test_bad_configuration(section: Any, reason: str) -> None:
    """One line that names the key."""
    with pytest.raises(ConfigError, match=r"enrich\.services\.names") as raised:
        load(None, {}, {"enrich": {"services": section}})
    assert reason in str(raised.value)
