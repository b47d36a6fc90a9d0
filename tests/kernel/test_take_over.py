"""What one fetcher leaves in the kernel, the next one reads or counts, wherever the first ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.abi.layout import FLOW_KEY, FLOW_STATS
from exporter.batch.batch import FlowBatch, Totals
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher, Namespace, NetworkInterface
from exporter.capture.places import NamespaceNumbers
from exporter.capture.store import PinStore, unpin_all
from exporter.ebpf import pinning
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.errors import BpfError, KeyNotFound, PinMissing
from exporter.ebpf.maps import BatchCursor, Map, MapSpec
from exporter.errors import CaptureError
from exporter.ledger import Tally
from tests.e2e.net import End, Network
from tests.kernel.bpffs import bpffs
from tests.kernel.hooks import quiet_pair, send, take, watching
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


def settle(fetcher: FlowFetcher, packets: int) -> None:
    """All that was taken is published, and so many packets of it wait for nobody."""
    assert fetcher.store is not None
    fetcher.store.settle(tally(packets), fetcher.kept())


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
    # The retired map is by itself.
    assert batch.totals == Totals(8 + 30, 43, 43 * OCTETS)
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
    assert batch.totals == Totals(8 + 3, 16, 16 * OCTETS)


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
        settle(second, batch.totals.packets)
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
        settle(third, 10)
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
            settle(second, 0)
    assert sorted(path.name for path in (pins / "sets").iterdir()) == ["1", "2"]
    with life(pins, one) as third:
        assert third.counts().seen == tally(9)
        assert carried(third)[1] == tally(9)
        assert len(take(third)) == 0
    assert [path.name for path in (pins / "sets").iterdir()] == ["3"]


#: How far the last drain of an agent got that was killed.
STEPS = ("swapped", "read", "settled", "ring released", "half emptied", "released", "next")


@pytest.mark.parametrize("step", STEPS)
def test_killed_within_a_drain_that_is_kept(network: Network, pins: Path, step: str) -> None:
    """
    Where the kernel keeps what is read, nothing is lost wherever the kill comes, and nothing that
    was settled comes again: in the maps and in the ring buffer.
    """
    one, _ = quiet_pair(network)
    with life(pins, one, max_flows=16) as first:
        first.keeps = True
        send(one, *flows(6))
        assert take(first).totals.packets == 6
        settle(first, 6)
        first.release()
        send(one, *flows(30, each=2))
        assert first.counts().outcome("ring").packets > 0
        if step == "swapped":
            first._swap()
        settled = 6
        if step != "swapped":
            assert take(first).totals.packets == 60
        if STEPS.index(step) >= STEPS.index("settled"):
            settled += 60
            settle(first, settled)
        if step in ("ring released", "half emptied"):
            assert first._ring is not None
            first._ring.release(first.kept().ring)
        if step == "half emptied":
            assert first._retired is not None
            first._map(f"flow_stats_{'ab'[first._retired.index]}").delete_batch(
                first._retired.keys[0][:7]
            )
        if step in ("released", "next"):
            first.release()
        send(one, *flows(9))
        if step == "next":
            assert take(first).totals.packets == 9
        send(one, *flows(4))
    for _ in range(2):
        # Twice: one that is killed before it has published anything takes nothing along.
        with life(pins, one) as later:
            assert later.counts().seen == tally(6 + 60 + 9 + 4)
            assert carried(later) == (tally(settled), Tally())
            batches = [batch.totals.packets for batch in later.take_inherited()]
            assert sum(batches) == 6 + 60 + 9 + 4 - settled
    if step in ("read", "next"):
        # What may have been delivered is by itself, and as it was, but for what was in the ring.
        assert batches[0] == {"read": 32, "next": 9}[step]
    with life(pins, one) as last:
        rest = take(last).totals.packets
        settle(last, rest)
        assert carried(last) == (tally(settled), Tally())
    with life(pins, one) as after:
        assert carried(after) == (tally(6 + 60 + 9 + 4), Tally())
        assert len(take(after)) == 0


@pytest.mark.parametrize("known", [True, False])
def test_times_are_the_same_whoever_reads_them(network: Network, pins: Path, known: bool) -> None:
    """
    The clock was set between: what was retired has the times that its own agent gave it, what was
    counted after that those of the first who read it. Sets of a version that does not say have
    those of each reader.
    """
    one, _ = quiet_pair(network)
    with life(pins, one) as first:
        first.keeps = True
        send(one, *flows(3))
        assert len(first.lookup_and_delete_map(10**18)) == 3
        send(one, *flows(5))
        times = [start_times(first.lookup_and_delete_map(10**18))]
    if not known:
        pinning.unpin(pins / "sets" / "1" / "clock")
    for offset in (2 * 10**18, 3 * 10**18):
        with FlowFetcher(CaptureConfig(max_flows=64), store=PinStore(str(pins))) as later:
            later.take_over(offset)
            times += [start_times(batch) for batch in later.take_inherited()]
    assert [len(some) for some in times] == [3, 3, 5, 3, 5]
    assert (times[0] == times[1] == times[3]) == known
    assert (times[2] == times[4]) == known


def start_times(batch: FlowBatch) -> set[int]:
    return set(batch.flow_start_ns.tolist())


def test_kept_and_read_again(network: Network) -> None:
    """What was read and not released is read again, without another swap; then it is gone."""
    one, _ = quiet_pair(network)
    with watching(one, max_flows=16, ring_size=4096) as fetcher:
        fetcher.keeps = True
        send(one, *flows(20, each=3))
        once = take(fetcher)
        send(one, *flows(5))
        again = take(fetcher)
        assert once.totals == again.totals == Totals(20, 60, 60 * OCTETS)
        assert sorted(map(bytes, once.key)) == sorted(map(bytes, again.key))
        fetcher.release()
        fetcher.keeps = False
        assert take(fetcher).totals == Totals(5, 5, 5 * OCTETS)
        assert len(take(fetcher)) == 0


def test_a_release_that_fails(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map that is not empty is not written to again before it is, and not read twice."""
    one, _ = quiet_pair(network)
    with watching(one, max_flows=64, ring_size=4096) as fetcher:
        fetcher.keeps = True
        send(one, *flows(20))
        assert take(fetcher).totals.packets == 20
        with monkeypatch.context() as patch:
            patch.setattr(Map, "delete_batch", delete_some)
            with pytest.raises(BpfError, match="refused"):
                fetcher.release()
            patch.setattr(Map, "take_batch", delete_some)
            with pytest.raises(BpfError, match="refused"):
                take(fetcher)
        send(one, *flows(7))
        assert take(fetcher).totals.packets == 7
        fetcher.release()
        assert len(take(fetcher)) == 0


def delete_some(table: Map, keys: Any, *_: object) -> None:
    """An operation that fails in the middle."""
    for key in keys[:5]:
        with contextlib.suppress(KeyNotFound):
            table.delete(key.tobytes())
    raise BpfError("refused", 5)


def test_agents_that_publish_nothing(network: Network, pins: Path) -> None:
    """
    One after the other is killed before it has published anything: sets do not pile up, and what
    the last one read of those that had to go is counted as lost.
    """
    one, _ = quiet_pair(network)
    for number in range(9):
        with life(pins, one, max_flows=64) as fetcher:
            inherited = sum(batch.totals.packets for batch in fetcher.take_inherited())
            assert inherited + carried(fetcher)[1].packets == 3 * number
        assert len(list((pins / "sets").iterdir())) <= 5
        send(one, *flows(3))
    with life(pins, one) as last:
        batch = take(last)
        settle(last, batch.totals.packets)
        assert batch.totals.packets + carried(last)[1].packets == 27
        # Four sets of three packets, twice.
        assert carried(last)[1] == tally(24)


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
        settle(third, 4)
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
            settle(fetcher, 0)
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
