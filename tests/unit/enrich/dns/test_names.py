"""Names of both kinds as one source of the agent, and what is configured."""

from __future__ import annotations

import threading
from pathlib import Path

import dns.message
import pytest

from exporter.batch.batch import Window
from exporter.capture.dns import NO_COPYING, DnsCopying, DnsPacket, DnsPackets
from exporter.config import load
from exporter.ebpf.errors import BpfError
from exporter.enrich.config import EnrichConfig
from exporter.enrich.dns.config import NamesConfig, ReverseConfig, split_resolver
from exporter.enrich.dns.names import DOMAIN, Names
from exporter.enrich.dns.passive import PassiveNames
from exporter.enrich.ends import EndEnricher
from exporter.enrich.observer import AgentConfig
from exporter.enrich.table import Surroundings, make
from exporter.errors import ConfigError
from exporter.testing.batch import pack_address
from tests.packets.hostile_dns import good
from tests.unit.enrich.dns.test_exchanges import back, there
from tests.unit.enrich.dns.test_reverse import addresses

SECOND = 10**9
NOTHING = DnsPackets([])


def exchange(name: str, address: str, at: float) -> list[DnsPacket]:
    """A query and its answer."""
    query = dns.message.make_query(name, "A", use_edns=False, id=7).to_wire()
    return [there(query, at), back(good(query, pack_address(address)[12:]), at)]


class Wire:
    """Packets that wait to be read."""

    def __init__(self, *packets: DnsPacket) -> None:
        self.packets = list(packets)
        self.lost = 0

    def read(self) -> DnsPackets:
        taken, self.packets = self.packets, []
        return DnsPackets(taken, self.lost)


def test_what_is_found() -> None:
    """
    The names of a batch's addresses and no others, each once; the passive one where both know one.
    """
    wire = Wire(
        *exchange("one.test", "192.0.2.1", 10),
        *exchange("two.test", "192.0.2.2", 10),
        *exchange("other.test", "192.0.2.9", 10),
    )
    source = Names(NamesConfig(reverse=ReverseConfig(networks=("all",))), wire.read)
    assert source.reverse is not None
    for octet in (1, 3):
        source.reverse.table.learn(pack_address(f"192.0.2.{octet}"), f"r{octet}.test", 600, 0)
    source.reverse.table.learn(pack_address("192.0.2.4"), "", 600, 0)
    asked = ["192.0.2.3", "192.0.2.1", "192.0.2.2", "192.0.2.4", "2001:db8::1"]
    found = source.look_up(addresses(*asked, window=Window(5 * SECOND, 15 * SECOND)))
    names = found.values[DOMAIN]
    assert [names[number] for number in found.numbers] == [
        "r3.test", "one.test", "two.test", None, None,
    ]  # fmt: skip
    assert names[0] is None
    assert {name for name in names if name} == {"one.test", "r3.test", "two.test"}
    assert len(names) == 4
    state = source.state()
    assert (state.hits, state.misses, state.entries, state.problem) == (3, 2, 6, "")
    assert (state.events["answers"], state.events["reverse_sent"]) == (3, 0)


def test_nothing_is_known() -> None:
    """Addresses without names, and none at all."""
    source = Names(NamesConfig(), lambda: NOTHING)
    assert not source.look_up(addresses("192.0.2.1")).numbers.any()
    assert len(source.look_up(addresses()).numbers) == 0


def test_names_by_schema() -> None:
    """ECS's domain, NetObserv's way of naming, OBI's name."""
    one, other = DOMAIN.of("source"), DOMAIN.of("destination")
    assert (one.otel, one.netobserv, one.obi) == ("source.domain", "SrcDnsName", "src.name")
    assert (other.otel, other.netobserv, other.obi) == (
        "destination.domain", "DstDnsName", "dst.name",
    )  # fmt: skip


def test_only_if_it_is_asked_for() -> None:
    """No section, no source."""
    around = Surroundings(names=dict)
    assert "names" not in make(EnrichConfig(), AgentConfig(), around).readings()
    enrichment = make(EnrichConfig(names=NamesConfig()), AgentConfig(), around)
    assert "names" in enrichment.readings()
    assert any(isinstance(one, EndEnricher) for one in enrichment._enrichers)


def test_the_thread_reads_and_ends() -> None:
    """What comes between two drains is read at once; closing twice is fine, and without opening."""
    read = threading.Event()

    def note() -> DnsPackets:
        read.set()
        return NOTHING

    source = Names(NamesConfig(), note)
    source.close()
    source.open()
    assert read.wait(30)
    source.close()
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "dns"]


def test_losses_are_a_problem_for_a_minute() -> None:
    """Said with the number and the setting; over after a minute without a further one."""
    now, wire = [0.0], Wire()
    names = PassiveNames(NamesConfig(ring_size="64KiB"), wire.read, lambda: now[0])
    names.catch_up()
    assert names.state().problem == ""
    wire.lost = 5
    names.catch_up()
    assert "5 DNS packets were lost" in names.state().problem
    assert "ring_size is 65536" in names.state().problem
    now[0] = 61
    names.catch_up()
    assert names.state().problem == ""
    assert names.state().events["lost"] == 5


def test_what_cannot_be_read_is_a_problem() -> None:
    """Until it can; nothing is raised, and what is known stays."""
    wire = Wire(*exchange("one.test", "192.0.2.1", 10))
    broken = [False]

    def read() -> DnsPackets:
        if broken[0]:
            raise BpfError("read dns_lost", 9)
        return wire.read()

    source = Names(NamesConfig(), read)
    source.look_up(addresses())
    broken[0] = True
    window = Window(9 * SECOND, 11 * SECOND)
    assert source.look_up(addresses("192.0.2.1", window=window)).numbers.any()
    assert "cannot be read" in source.state().problem
    broken[0] = False
    source.look_up(addresses())
    assert source.state().problem == ""


def test_copying() -> None:
    """What the kernel program is told."""
    assert NamesConfig(ports="53,5353", ring_size=4096).copying() == DnsCopying((53, 5353), 4096)
    assert DnsCopying((53, 5353)).setting == 53 | 5353 << 16
    assert NamesConfig(passive=False).copying() == NO_COPYING
    assert NO_COPYING.setting == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]", ("2001:db8::53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
    ],
)
def test_resolvers(text: str, expected: tuple[str, int]) -> None:
    """Addresses of both families, with and without a port."""
    assert split_resolver(text) == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"ports": []}, "enrich.names.ports"),
        ({"ports": [53, 5353, 853]}, "enrich.names.ports"),
        ({"ports": [0]}, "enrich.names.ports"),
        ({"ring_size": 5000}, "power of two, such as 4096"),
        ({"graze": 5}, "did you mean grace?"),
        ({"reverse": {"resolvers": "dns.example.com"}}, "is not the address of a resolver"),
        ({"reverse": {"resolvers": "192.0.2.1:0"}}, "is not the address of a resolver"),
        ({"reverse": {"resolvers": "192.0.2.0/24"}}, "is not the address of a resolver"),
        ({"reverse": {"networks": "10.0.0.1/8"}}, "10.0.0.1/8 has host bits set"),
        ({"reverse": {"rate": 0}}, "enrich.names.reverse.rate"),
    ],
)
def test_what_cannot_be(tmp_path: Path, names: dict[str, object], said: str) -> None:
    """One line that names the key, before anything is opened."""
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {"enrich": {"names": names}})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
