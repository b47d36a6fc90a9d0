"""FlowFetcher and the runtime under it: maps, ring buffer, loading, and what they give back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from exporter.abi.layout import FLOW_KEY, FLOW_RECORD, FLOW_STATS
from exporter.capture.config import CaptureConfig, entry_octets
from exporter.capture.fetcher import FlowFetcher
from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf import features
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.errors import BpfError, FeatureMissing, KeyExists, KeyNotFound, VerifierError
from exporter.ebpf.features import Answer, Feature, Probe
from exporter.ebpf.maps import BPF_NOEXIST, BatchCursor
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.ringbuf import RingBuffer
from exporter.errors import CaptureError
from tests.compile import compile_bpf
from tests.e2e.net import Network
from tests.kernel.hooks import quiet_pair, send, take, watching
from tests.kernel.loader import both_loaders, config


def frame(port: int, size: int = 0) -> bytes:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    ip = IP(src="192.0.2.1", dst="192.0.2.2")
    return bytes(ether / ip / UDP(sport=port, dport=53) / bytes(size))


@both_loaders
def test_the_ring_wraps_many_times(network: Network) -> None:
    """Records that lie across the end of the ring are read whole, over many rounds."""
    one, _ = quiet_pair(network)
    with watching(one, max_flows=16, ring_size=4096) as fetcher:
        send(one, *[frame(port) for port in range(1000, 1016)])
        take(fetcher)
        total = 0
        for round_number in range(60):
            # The map is full with sixteen other flows, so all of these go through the ring.
            send(one, *[frame(port) for port in range(2000, 2016)])
            send(one, *[frame(3000 + round_number)] * 17)
            ring = fetcher.read_ring_buffer()
            assert ring.totals.packets == 17
            assert set(ring.src_port.tolist()) == {3000 + round_number}
            total += ring.totals.packets + fetcher.lookup_and_delete_map().totals.packets
        assert total == fetcher.counts().recorded.packets - 16 == 60 * 33


@both_loaders
def test_a_full_ring_loses_by_name(network: Network) -> None:
    """What fits in neither is lost under the reason that the map gave, in packets and octets."""
    one, _ = quiet_pair(network)
    with watching(one, max_flows=16, ring_size=4096) as fetcher:
        send(one, *[frame(port) for port in range(1000, 1016)])
        send(one, *[frame(5000, 100)] * 100)
        counts = fetcher.counts()
        ring = counts.outcome("ring").packets
        assert 0 < ring < 100
        assert counts.outcome("lost_map_full").packets == 100 - ring
        assert counts.outcome("lost_map_full").octets == (100 - ring) * len(frame(5000, 100))
        assert counts.accounted == counts.seen
        assert fetcher.fill() > 0.9
        pressure = fetcher.pressure()
        assert pressure["flow_stats"] == 1.0
        assert pressure["flow_ring"] > 0.9
        assert fetcher.fill() == 1.0
        fetcher.lookup_and_delete_map()
        assert set(fetcher.pressure()) == {"flow_ring"}
        fetcher.read_ring_buffer()
        assert fetcher.pressure() == {}


@both_loaders
def test_a_map_that_is_full_of_one_drain_is_empty_for_the_next(network: Network) -> None:
    """Entries are really deleted: drain after drain the map takes as many flows again."""
    one, _ = quiet_pair(network)
    with watching(one, max_flows=500) as fetcher:
        for _ in range(6):
            send(one, *[frame(port) for port in range(1000, 1500)])
            batch = fetcher.lookup_and_delete_map()
            assert len(batch) == 500
            assert batch.totals.packets == 500
        assert fetcher.counts().outcome("ring").packets == 0
        assert fetcher.fill() == 0.0


@both_loaders
def test_more_flows_than_one_batch(network: Network) -> None:
    """A map larger than the buffer is drained in several calls, each flow once."""
    one, _ = quiet_pair(network)
    with watching(one, max_flows=5000) as fetcher:
        assert fetcher._reader is not None
        fetcher._reader._keys = np.empty(1024, FLOW_KEY)
        fetcher._reader._values = np.empty((1024, possible_cpus()), FLOW_STATS)
        send(one, *[frame(port) for port in range(10_000, 14_000)])
        batch = fetcher.lookup_and_delete_map()
    assert sorted(batch.src_port.tolist()) == list(range(10_000, 14_000))


@both_loaders
def test_capacity_comes_from_the_memory_budget() -> None:
    """Half of ``flow_memory`` for each map; the kernel accepts it, and the log says so."""
    small = config(flow_memory="1MiB")
    assert small.capacity() == (1 << 20) // (2 * entry_octets())
    with FlowFetcher(small) as fetcher:
        assert fetcher.capacity == small.capacity()


@both_loaders
def test_single_elements() -> None:
    """Lookup, insert and update of one element say which rule was broken."""
    with FlowFetcher(config(max_flows=64)) as fetcher:
        flows = fetcher._map("flow_stats_a")
        key, value = bytes(48), bytes(flows.value_octets)
        with pytest.raises(KeyNotFound):
            flows.lookup(key)
        flows.update(key, value, BPF_NOEXIST)
        assert flows.lookup(key) == value
        with pytest.raises(KeyExists):
            flows.update(key, value, BPF_NOEXIST)
        with pytest.raises(BpfError, match="48 octets"):
            flows.lookup(b"short")
        with pytest.raises(BpfError, match="a value has"):
            flows.update(key, b"short")
        with pytest.raises(ValueError, match="contiguous rows"):
            flows.take_batch(np.empty(4, "V7"), np.empty((4, 1), FLOW_STATS), BatchCursor())


def test_walk_and_delete() -> None:
    """Every key once; after the last one, none; a key that is gone begins anew; a miss is named."""
    with Object.load(ObjectSpec.open(OBJECT_PATH), programs=()) as loaded:
        fragments = loaded.maps["fragments"]
        size, room = fragments.spec.key_size, bytes(fragments.value_octets)
        keys = [bytes([number]) * size for number in range(5)]
        assert fragments.next_key() is None
        for key in keys:
            fragments.update(key, room)
        seen = [fragments.next_key()]
        while (following := fragments.next_key(seen[-1])) is not None:
            seen.append(following)
        assert sorted(key for key in seen if key) == keys
        fragments.delete(keys[3])
        assert fragments.next_key(keys[3]) == fragments.next_key()
        with pytest.raises(KeyNotFound):
            fragments.delete(keys[3])


@both_loaders
def test_a_ring_with_other_records_is_refused() -> None:
    """Reading records of another size than the ring has is an error, not garbage."""
    with FlowFetcher(config(max_flows=16)) as fetcher:
        runner = fetcher.program("tc_ingress")
        for port in range(17):
            runner.test_run(frame(port))
        wrong = RingBuffer(fetcher._map("flow_ring"), np.dtype("V64"))
        with pytest.raises(ValueError, match="not 64 octets"):
            wrong.read()
        wrong.close()
        wrong.close()
        assert len(fetcher.read_ring_buffer()) == 1
    assert FLOW_RECORD.itemsize == 120


def test_what_the_verifier_says(tmp_path: Path) -> None:
    """A refused program raises with the useful line first and the whole log as data."""
    source, target = tmp_path / "bad.bpf.c", tmp_path / "bad.bpf.o"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'SEC("tc") int bad(struct __sk_buff *skb)'
        " { return *(int *)(long)skb->data; }\n"
        'char LICENSE[] SEC("license") = "GPL";\n'
    )
    compile_bpf(source, target)
    with pytest.raises(
        VerifierError, match=r"outside of the (packet|allowed memory range)"
    ) as refused:
        Object.load(ObjectSpec.open(target))
    assert str(refused.value).startswith(
        "load program bad: Permission denied (EACCES): R1 offset is outside"
    )
    assert "line(s) omitted" in str(refused.value)
    assert len(refused.value.log.splitlines()) > 3


def test_names_that_the_object_does_not_have() -> None:
    """An unknown setting, map or program is named in the error."""
    spec = ObjectSpec.open(OBJECT_PATH)
    with pytest.raises(BpfError, match="no setting named volume"):
        Object.load(spec, settings={"volume": 11})
    with pytest.raises(BpfError, match="no map named volume"):
        Object.load(spec, max_entries={"volume": 11})
    with pytest.raises(BpfError, match="no program named volume"):
        Object.load(spec, programs=["volume"])
    with pytest.raises(BpfError, match=r"open .*nothing\.o: No such file"):
        ObjectSpec.open(Path("/nothing.o"))


def test_only_the_programs_that_were_asked_for() -> None:
    """The others are not loaded; what the kernel says of one is what the file says."""
    spec = ObjectSpec.open(OBJECT_PATH)
    sizes = {"flow_stats_a": 16, "flow_stats_b": 16}
    with Object.load(spec, programs=["tc_egress"], max_entries=sizes) as loaded:
        assert list(loaded.programs) == ["tc_egress"]
        info = loaded.programs["tc_egress"].info()
    assert (info.name, info.type, info.uid) == ("tc_egress", "sched_cls", os.getuid())
    assert info.jited_octets > 0
    assert len(info.tag) == 16


def test_a_missing_object(tmp_path: Path) -> None:
    """It says what to do."""
    with pytest.raises(CaptureError, match="run 'make setup'"):
        FlowFetcher(CaptureConfig(loader="libbpf"), tmp_path / "flow.bpf.o").open()


def test_a_kernel_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A required feature that the kernel lacks is named, with the release that brought it.

    The probe is a stand-in: a kernel without ring buffer does not run this project's Python.
    """
    absent = Feature("ring buffer", "5.8", "required", lambda: Probe(Answer.NO))
    monkeypatch.setitem(features.PROBES, "ring_buffer", absent)
    monkeypatch.delitem(features._answers, "ring_buffer", raising=False)
    with pytest.raises(FeatureMissing, match=r"has no ring buffer: Linux 5\.8 brought it"):
        FlowFetcher(CaptureConfig()).open()
    features._answers.pop("ring_buffer")


@both_loaders
def test_opened_and_closed_again_and_again(network: Network) -> None:
    """Four rounds of open, attach, drain and close leave descriptors and threads as they were."""
    one, _ = quiet_pair(network)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with watching(one, max_flows=64):
        pass
    before = descriptors()
    for _ in range(4):
        with watching(one, max_flows=64) as fetcher:
            send(one, frame(1))
            assert take(fetcher).totals.packets == 1
        fetcher.close()
    assert descriptors() == before
