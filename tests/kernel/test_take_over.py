"""What one fetcher leaves in the kernel, the next one reads or counts, wherever the first ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.abi.layout import FLOW_KEY, FLOW_STATS
from exporter.batch.batch import Totals
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher, Namespace, NetworkInterface
from exporter.capture.places import NamespaceNumbers
from exporter.capture.store import PinStore, unpin_all
from exporter.ebpf import pinning
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.errors import PinMissing
from exporter.ebpf.maps import BatchCursor, MapSpec
from exporter.errors import CaptureError
from exporter.ledger import Tally
from tests.e2e.net import End, Network
from tests.kernel.bpffs import bpffs
from tests.kernel.hooks import quiet_pair, send, take
from tests.kernel.loader import both_loaders, chosen
from tests.kernel.test_fetcher import frame


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    with bpffs(tmp_path) as root:
        yield root / "agent"


@contextmanager
def life(pins: Path, end: End | None, **settings: Any) -> Iterator[FlowFetcher]:
    """A fetcher from start to death: nothing is settled unless the test does it."""
    config = CaptureConfig(**{"max_flows": 256, "ring_size": 4096, **settings})
    with FlowFetcher(config, store=PinStore(str(pins))) as fetcher:
        if end is not None:
            index = end.netns.index(end.device)
            place = namespace(fetcher, end)
            fetcher.register(NetworkInterface(index, end.device, namespace=place))
        fetcher.take_over()
        yield fetcher


def namespace(fetcher: FlowFetcher, end: End) -> Namespace:
    number = fetcher.numbers().take(end.netns.path, set())
    return Namespace(number, end.netns.name, end.netns.path)


def flows(count: int, each: int = 1) -> list[bytes]:
    return [frame(1000 + number) for number in range(count) for _ in range(each)]


def carried(fetcher: FlowFetcher) -> tuple[Tally, Tally]:
    """Settled by earlier agents, lost with them."""
    assert fetcher.store is not None
    return fetcher.store.carried.settled, fetcher.store.carried.lost


OCTETS = len(frame(1))


def tally(packets: int) -> Tally:
    return Tally(packets, packets * OCTETS)


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_nothing_was_read(network: Network, pins: Path, hook: str) -> None:
    """All that was counted is in the first drain of the next one: both maps, and the ring."""
    one, _ = quiet_pair(network)
    with life(pins, one, hook=hook, max_flows=16) as first:
        send(one, *flows(8))
        first._swap()
        send(one, *flows(30))
        assert first.counts().outcome("ring") == tally(14)
    send(one, *flows(5))
    with life(pins, one, hook=hook) as second:
        batch = take(second)
        assert second.counts().seen == tally(43)
        assert carried(second) == (Tally(), Tally())
    assert batch.totals == Totals(30, 43, 43 * OCTETS)
    unpin_all(str(pins))
    assert "clsact" not in one.netns.run("tc", "qdisc", "show", "dev", one.device)


@both_loaders
@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_from_either_loader_to_the_other(network: Network, pins: Path, hook: str) -> None:
    """What one loader's program counted is the first drain of the other's: nothing is lost."""
    one, _ = quiet_pair(network)
    other = "bcc" if chosen() == "libbpf" else "libbpf"
    with life(pins, one, hook=hook, loader=chosen()):
        send(one, *flows(8))
    send(one, *flows(5))
    with life(pins, one, hook=hook, loader=other) as second:
        send(one, *flows(3))
        batch = take(second)
        assert carried(second) == (Tally(), Tally())
    assert batch.totals == Totals(8, 16, 16 * OCTETS)


def test_killed_within_a_drain(network: Network, pins: Path) -> None:
    """
    The retired map half read: its rest is in the next drain, what was read is counted as lost, and
    both together are what was sent; the one after the next agrees.
    """
    one, _ = quiet_pair(network)
    with life(pins, one) as first:
        send(one, *flows(200, each=2))
        retired, _ = first._swap()
        keys = np.empty(32, FLOW_KEY)
        values = np.empty((32, possible_cpus()), FLOW_STATS)
        retired.take_batch(keys, values, BatchCursor())
        rows = retired.take_batch(keys, values, BatchCursor())
        assert rows > 0
        send(one, *flows(10))
    with life(pins, one) as second:
        batch = take(second)
        lost = carried(second)[1]
        assert batch.totals.packets + lost.packets == 410
        assert lost.packets >= 2 * rows
        assert lost.octets == lost.packets * OCTETS
        assert second.store is not None
        second.store.settle(Tally(batch.totals.packets, batch.totals.octets))
    with life(pins, one) as third:
        assert carried(third) == (Tally(410, 410 * OCTETS) - lost, lost)
        assert len(take(third)) == 0


def test_killed_while_taking_over(network: Network, pins: Path) -> None:
    """
    The second one dies after it has moved one of two hooks: the third reads both sets, and knows
    what the second took along.
    """
    one, _ = quiet_pair(network)
    with life(pins, one) as first:
        # lo of the pair's namespace: the machine's own has packets of others.
        first.register(NetworkInterface(1, "lo", namespace=namespace(first, one)))
        send(one, *flows(7))
    config = CaptureConfig(max_flows=64, ring_size=4096)
    with FlowFetcher(config, store=PinStore(str(pins))) as second:
        assert second.store is not None
        place = namespace(second, one)
        second.register(NetworkInterface(one.netns.index(one.device), one.device, namespace=place))
        send(one, *flows(3))
    assert sorted(path.name for path in (pins / "sets").iterdir()) == ["1", "2"]
    with life(pins, one) as third:
        assert take(third).totals.packets == 10
        assert carried(third) == (Tally(), Tally())
        assert third.counts().seen == tally(10)
    assert [path.name for path in (pins / "sets").iterdir()] == ["3"]


def test_killed_between_booking_and_removing(
    network: Network, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets that are booked as closed are not counted again if their removal was cut short."""
    one, _ = quiet_pair(network)
    with life(pins, one):
        send(one, *flows(9))
    with monkeypatch.context() as patch:
        patch.setattr(pinning, "remove", lambda _: None)
        with life(pins, one) as second:
            assert take(second).totals.packets == 9
    assert sorted(path.name for path in (pins / "sets").iterdir()) == ["1", "2"]
    with life(pins, one) as third:
        assert third.counts().seen == tally(9)
        assert carried(third)[1] == tally(9)
        assert len(take(third)) == 0
    assert [path.name for path in (pins / "sets").iterdir()] == ["3"]


def test_a_set_that_was_never_attached(network: Network, pins: Path) -> None:
    """Killed while its maps were being pinned: nothing is in it, and it goes."""
    one, _ = quiet_pair(network)
    with life(pins, one):
        send(one, *flows(4))
    pinning.open_or_create(
        pins / "sets" / "2" / "counters", MapSpec("c", "array", 4, 8, 1, 0)
    ).close()
    with life(pins, one) as third:
        assert take(third).totals.packets == 4
    assert [path.name for path in (pins / "sets").iterdir()] == ["3"]


def test_a_layout_that_cannot_be_read(network: Network, pins: Path) -> None:
    """
    Pins of a version with other structs: a clear error, everything is as it was and counts on, and
    that version reads all of it.
    """
    one, _ = quiet_pair(network)
    with life(pins, one):
        send(one, *flows(6))
    with pinning.open_map(pins / "sets" / "1" / "layout") as kept:
        written = kept.lookup(bytes(4))
        kept.update(bytes(4), written.replace(b'"packets"', b'"packits"'))
        with pytest.raises(CaptureError, match=r"goes on counting there \(stats has no packets\)"):
            FlowFetcher(CaptureConfig(max_flows=64), store=PinStore(str(pins))).open()
        kept.update(bytes(4), written)
    send(one, *flows(5))
    with life(pins, one) as third:
        assert take(third).totals.packets == 11


def test_a_state_that_cannot_be_read(network: Network, pins: Path) -> None:
    """Another version's state map is an error that says how it differs, and is not touched."""
    pinning.open_or_create(pins / "state", MapSpec("state", "array", 4, 8, 1, 0)).close()
    with pytest.raises(CaptureError, match="value_size: pinned 8, wanted "):
        FlowFetcher(CaptureConfig(max_flows=64), store=PinStore(str(pins))).open()
    with pinning.open_map(pins / "state") as kept:
        assert kept.spec.value_size == 8


def test_fragments_of_another_size(network: Network, pins: Path) -> None:
    """The map of fragments holds nothing that is exported: a new version's replaces it."""
    pinning.open_or_create(
        pins / "fragments", MapSpec("fragments", "lru_hash", 4, 8, 16, 0)
    ).close()
    with life(pins, None) as first:
        assert first.store is not None
        assert first.store.shared()["fragments"].spec.key_size == 40
    assert not (pins / "fragments:pending").exists()


def test_another_network_namespace(network: Network, pins: Path) -> None:
    """Number 0 is the namespace of the agent that made the pins: one in another is refused."""
    one, _ = quiet_pair(network)
    with life(pins, None):
        pass
    with one.netns.entered(), pytest.raises(CaptureError, match="of another network namespace"):
        FlowFetcher(CaptureConfig(max_flows=64), store=PinStore(str(pins))).open()


def test_not_a_directory_of_pins(pins: Path) -> None:
    """``unpin`` leaves alone what ``run --pin`` did not make."""
    pinning.open_or_create(pins / "precious", MapSpec("m", "array", 4, 8, 1, 0)).close()
    with pytest.raises(CaptureError, match="is not what 'run --pin' makes"):
        unpin_all(str(pins))
    pinning.open_map(pins / "precious").close()


def test_numbers_are_stable(network: Network, pins: Path) -> None:
    """
    A namespace keeps its number across agents; a new one gets a number that nobody had, also after
    one is gone; a name that now means another namespace is a new one.
    """
    one, two, three = (network.namespace(name) for name in "abc")
    with life(pins, None) as first:
        taken = {space: first.numbers().take(space.path, set()) for space in (one, two)}
    assert sorted(taken.values()) == [1, 2]
    with life(pins, None) as second:
        numbers: NamespaceNumbers = second.numbers()
        assert numbers.take(three.path, set()) == 3
        assert {space: numbers.take(space.path, set()) for space in (two, one)} == taken
        assert numbers.take(one.path, {taken[one]}) == 4
        numbers.forget(2)
        numbers.forget(2)
    with life(pins, None) as third:
        assert third.numbers().take(two.path, set()) == 5
        assert not third.numbers().is_there(2)
        assert third.numbers().is_there(5)


def test_twelve_lives(network: Network, pins: Path) -> None:
    """No sets, links, filters or pins pile up, and every packet is accounted for."""
    one, _ = quiet_pair(network)
    seen = 0
    for number in range(12):
        with life(pins, one, hook=("tcx", "tc")[number // 3 % 2], max_flows=64) as fetcher:
            seen += take(fetcher).totals.packets
        send(one, *flows(3))
    assert [path.name for path in (pins / "sets").iterdir()] == ["12"]
    assert len(list((pins / "links").iterdir())) == 0
    with life(pins, one, hook="tcx") as last:
        assert take(last).totals.packets == 3
        settled, lost = carried(last)
        assert settled == Tally()
        assert lost == tally(seen)
    assert len(list((pins / "links").iterdir())) == 2
    left = unpin_all(str(pins))
    assert left is not None
    assert left.points == 2
    assert unpin_all(str(pins)) is None
    with pytest.raises(PinMissing):
        pinning.open_map(pins / "state")
