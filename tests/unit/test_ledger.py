"""The ledger closes when every account balances, and says which one does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from exporter.batch.batch import Totals
from exporter.ledger import Balance, Carried, Kept, KernelCounts, Ledger, Removed, SinkCounts, Tally

KERNEL = KernelCounts(
    seen=Tally(100, 10_000),
    outcomes={
        "aggregated": Tally(60, 6000),
        "ring": Tally(10, 1000),
        "filtered": Tally(1, 100),
        "sampled_out": Tally(2, 200),
        "not_ip": Tally(3, 300),
        "malformed": Tally(4, 400),
        "lost_map_full": Tally(15, 1500),
        "lost_map_busy": Tally(5, 500),
    },
    flows_created=7,
    fragments_unmatched=1,
)
SINK = SinkCounts(
    queued=Totals(5, 50, 5000),
    delivered=Totals(2, 20, 2000),
    pending=Totals(1, 10, 1000),
    dropped={"queue_full": Totals(1, 10, 1000), "shutdown": Totals(1, 10, 1000)},
    recovered=Totals(4, 40, 4000),
    spooled=Totals(4, 40, 4000),
)
#: Everything balances: 70 packets recorded, 70 drained, 20 deduplicated, 50 published.
BALANCE = Balance(
    kernel=KERNEL,
    drained=Totals(8, 70, 7000),
    deduplicated=Totals(3, 20, 2000),
    published=Totals(5, 50, 5000),
    sinks={"grpc": SINK, "stdout": replace(SINK, pending=Totals(), delivered=Totals(3, 30, 3000))},
    final=True,
)
ONE, OCTET = Tally(1, 0), Tally(0, 1)


def test_a_balance_without_problems() -> None:
    """Accounts that balance give no line."""
    assert BALANCE.problems() == []


def with_outcome(name: str, tally: Tally) -> Balance:
    outcomes = dict(KERNEL.outcomes) | {name: KERNEL.outcomes[name] + tally}
    return replace(BALANCE, kernel=replace(KERNEL, outcomes=outcomes))


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (
            replace(BALANCE, kernel=replace(KERNEL, seen=KERNEL.seen + ONE)),
            ["seen is 101 packets, 10000 octets; outcomes is 100 packets, 10000 octets"],
        ),
        (
            with_outcome("not_ip", OCTET),
            ["seen is 100 packets, 10000 octets; outcomes is 100 packets, 10001 octets"],
        ),
        (
            with_outcome("lost_map_busy", ONE),
            ["seen is 100 packets, 10000 octets; outcomes is 101 packets, 10000 octets"],
        ),
        (
            replace(BALANCE, drained=Totals(8, 71, 7000), deduplicated=Totals(3, 21, 2000)),
            ["aggregated + ring is 70 packets, 7000 octets; drained is 71 packets, 7000 octets"],
        ),
        (
            replace(BALANCE, drained=Totals(8, 69, 7000), deduplicated=Totals(3, 19, 2000)),
            ["aggregated + ring is 70 packets, 7000 octets; drained is 69 packets, 7000 octets"],
        ),
        (
            replace(BALANCE, deduplicated=Totals(3, 21, 2000)),
            [
                (
                    "drained is 70 packets, 7000 octets; "
                    "deduplicated + excluded + published is 71 packets, 7000 octets (8 and 8 flows)"
                )
            ],
        ),
        (
            replace(BALANCE, excluded={"noise": Totals(1, 0, 0)}),
            [
                (
                    "drained is 70 packets, 7000 octets; deduplicated + excluded + published is "
                    "70 packets, 7000 octets (8 and 9 flows)"
                )
            ],
        ),
        (
            replace(BALANCE, sinks={"grpc": replace(SINK, pending=Totals(1, 10, 1001))}),
            [
                (
                    f"sink grpc: queued + recovered {SINK.queued + SINK.recovered} is not "
                    f"delivered + dropped + pending + spooled {Totals(9, 90, 9001)}"
                )
            ],
        ),
        (
            replace(BALANCE, sinks={"grpc": replace(SINK, dropped={})}),
            [
                (
                    f"sink grpc: queued + recovered {SINK.queued + SINK.recovered} is not "
                    f"delivered + dropped + pending + spooled {Totals(7, 70, 7000)}"
                )
            ],
        ),
        (
            replace(BALANCE, sinks={"null": SinkCounts()}),
            ["published is 50 packets, 5000 octets; null is 0 packets, 0 octets"],
        ),
    ],
    ids=[
        "seen more than outcomes",
        "outcomes with more octets",
        "lost more than seen",
        "drained more than recorded",
        "drained less than recorded at the end",
        "deduplicated too much",
        "excluded too many flows",
        "sink has too much",
        "sink has too little",
        "sink was passed over",
    ],
)
def test_each_account_that_does_not_balance(balance: Balance, expected: list[str]) -> None:
    """One line for each, with both sides; nothing for the others."""
    assert balance.problems() == expected
    assert balance.as_dict()["closes"] is False
    assert balance.as_dict()["problems"] == expected


def test_more_drained_than_recorded_is_a_problem_at_any_time() -> None:
    """Packets cannot come out of the maps that did not go in."""
    for drained in (Totals(8, 71, 7000), Totals(8, 70, 7001)):
        balance = replace(
            BALANCE,
            drained=drained,
            deduplicated=drained - BALANCE.published,
            final=False,
        )
        assert len(balance.problems()) == 1


def test_what_is_still_in_the_kernel_is_no_problem_until_the_end() -> None:
    """Between two drains the maps hold packets; at the end they must not."""
    held = replace(
        BALANCE,
        drained=Totals(8, 60, 6000),
        published=Totals(5, 40, 4000),
        sinks={},
    )
    assert replace(held, final=False).problems() == []
    assert replace(held, final=False).as_dict()["held_in_kernel"] == {
        "packets": 10,
        "octets": 1000,
    }
    assert len(held.problems()) == 1


def test_as_dict() -> None:
    """The shape of the ledger's JSON; it can be written as JSON."""
    counts = {"queued", "recovered", "delivered", "pending", "spooled", "dropped"}
    ledger = json.loads(json.dumps(BALANCE.as_dict()))
    assert ledger["closes"] is True
    assert (ledger["problems"], ledger["final"]) == ([], True)
    assert ledger["kernel"] == {
        "seen": {"packets": 100, "octets": 10_000},
        "aggregated": {"packets": 60, "octets": 6000},
        "ring": {"packets": 10, "octets": 1000},
        "filtered": {"packets": 1, "octets": 100},
        "sampled_out": {"packets": 2, "octets": 200},
        "not_ip": {"packets": 3, "octets": 300},
        "malformed": {"packets": 4, "octets": 400},
        "lost": {
            "map_full": {"packets": 15, "octets": 1500},
            "map_busy": {"packets": 5, "octets": 500},
        },
    }
    assert (ledger["flows_created"], ledger["fragments_unmatched"]) == (7, 1)
    assert ledger["held_in_kernel"] == {"packets": 0, "octets": 0}
    assert ledger["drained"] == {"flows": 8, "packets": 70, "octets": 7000}
    assert ledger["deduplicated"] == {"flows": 3, "packets": 20, "octets": 2000}
    assert ledger["excluded"] == {}
    assert ledger["published"] == {"flows": 5, "packets": 50, "octets": 5000}
    assert set(ledger["sinks"]) == {"grpc", "stdout"}
    assert set(ledger["sinks"]["grpc"]) == counts
    assert ledger["sinks"]["grpc"]["dropped"] == {
        "queue_full": {"flows": 1, "packets": 10, "octets": 1000},
        "shutdown": {"flows": 1, "packets": 10, "octets": 1000},
    }


def test_exclusions_are_accounts_of_their_own() -> None:
    """By name; drained is what was deduplicated, excluded and published, each as it was booked."""
    excluded = {"noise": Totals(2, 8, 800), "health": Totals()}
    ledger = Ledger(lambda: KERNEL)
    with ledger.booking():
        removed = Removed(Totals(1, 2, 200), excluded)
        ledger.book(Totals(8, 70, 7000), Totals(5, 60, 6000), removed)
        ledger.book(Totals(1, 1, 100), Totals(), Removed(excluded={"noise": Totals(1, 1, 100)}))
    balance = ledger.balance()
    assert balance.excluded == {"noise": Totals(3, 9, 900), "health": Totals()}
    assert balance.excluded_total == Totals(3, 9, 900)
    assert balance.as_dict()["excluded"]["noise"] == {"flows": 3, "packets": 9, "octets": 900}
    assert balance.deduplicated == Totals(1, 2, 200)
    with ledger.booking():
        ledger.book(Totals(1, 5, 500), Totals(1, 4, 400), Removed())
    (problem,) = [line for line in ledger.balance().problems() if "excluded" in line]
    assert problem.startswith("drained is 76 packets")


def test_lost_is_what_no_record_has() -> None:
    """Both reasons together; recorded is what some record has or will have."""
    assert KERNEL.lost == Tally(20, 2000)
    assert KERNEL.recorded == Tally(70, 7000)
    assert KERNEL.accounted == KERNEL.seen
    assert KernelCounts().outcome("aggregated") == Tally()


def test_books() -> None:
    """Every drain adds up; the difference was deduplicated away."""
    ledger = Ledger(KernelCounts)
    ledger.book(Totals(5, 50, 500), Totals(3, 30, 300))
    ledger.book(Totals(1, 1, 1), Totals())
    balance = ledger.balance()
    assert balance.drained == Totals(6, 51, 501)
    assert balance.published == Totals(3, 30, 300)
    assert balance.deduplicated == Totals(3, 21, 201)


def test_a_packet_between_two_counters_is_waited_for() -> None:
    """Another CPU may have counted a packet as seen and not yet its outcome: read again."""
    counts: Iterator[KernelCounts] = iter(
        [
            replace(KERNEL, seen=KERNEL.seen + ONE),
            replace(KERNEL, seen=KERNEL.seen + ONE),
            KERNEL,
        ]
    )
    balance = Ledger(lambda: next(counts)).balance()
    assert balance.kernel == KERNEL
    assert next(counts, None) is None


def test_a_kernel_that_never_balances_is_reported() -> None:
    """It is not read for ever: what is wrong is then a problem."""
    wrong = replace(KERNEL, seen=KERNEL.seen + ONE)
    balance = Ledger(lambda: wrong).balance()
    assert balance.problems()[0].startswith("seen is 101 packets")


def test_the_kernel_stands_still_once_closed() -> None:
    """After the last drain the kernel is asked no more: it may be unloaded."""
    counts = iter([KERNEL])
    ledger = Ledger(lambda: next(counts))
    ledger.close_kernel()
    assert ledger.balance().kernel == ledger.balance().kernel == KERNEL
    assert ledger.balance().final


def test_no_balance_within_a_booking() -> None:
    """While a drain is published, whoever asks for the balance waits."""
    ledger = Ledger(KernelCounts)
    found: list[Balance] = []
    asking = threading.Thread(target=lambda: found.append(ledger.balance()))
    with ledger.booking():
        ledger.book(Totals(1, 1, 1), Totals(1, 1, 1))
        asking.start()
        asking.join(0.05)
        assert found == []
        ledger.book(Totals(1, 1, 1), Totals())
    asking.join(10)
    assert found[0].drained == Totals(2, 2, 2)


def test_what_earlier_agents_did_is_not_drained_again() -> None:
    """What the kernel recorded is theirs, lost with them, drained by this agent, or still there."""
    carried = Carried(settled=Tally(40, 4000), lost=Tally(10, 1000))
    drained = Totals(2, 15, 1500)
    balance = replace(
        BALANCE,
        carried=carried,
        drained=drained,
        deduplicated=Totals(),
        published=drained,
        sinks={},
        final=False,
    )
    assert balance.held == Tally(5, 500)
    assert balance.problems() == []
    assert balance.as_dict()["earlier_agents"] == {
        "settled": {"packets": 40, "octets": 4000},
        "lost": {"packets": 10, "octets": 1000},
    }
    assert replace(balance, final=True).problems() == [
        "aggregated + ring is 20 packets, 2000 octets; drained is 15 packets, 1500 octets"
    ]


def test_kernel_counts_of_several_lives_add_up() -> None:
    """Outcomes by name, also those that only one of them has."""
    both = KERNEL + KernelCounts(Tally(1, 100), {"ring": Tally(1, 100), "new": Tally(2, 2)}, 3, 4)
    assert both.seen == Tally(101, 10_100)
    assert both.outcome("ring") == Tally(11, 1100)
    assert both.outcome("aggregated") == Tally(60, 6000)
    assert both.outcome("new") == Tally(2, 2)
    assert (both.flows_created, both.fragments_unmatched) == (10, 5)


def test_settled_is_what_no_sink_waits_for() -> None:
    """The slowest sink decides."""
    ledger = Ledger(lambda: KERNEL)
    fast, slow = Totals(1, 10, 1000), Totals(3, 30, 3000)
    ledger.add_sink("fast", lambda: SinkCounts(pending=fast))
    ledger.add_sink("slow", lambda: SinkCounts(pending=slow))
    with ledger.booking():
        ledger.book(Totals(8, 70, 7000), Totals(5, 50, 5000))
        assert ledger.settled() == Tally(40, 4000)


def test_what_waits_in_a_spool_is_settled() -> None:
    """It outlives the agent: only what is in memory alone ends with it."""
    ledger = Ledger(lambda: KERNEL)
    waits = SinkCounts(
        pending=Totals(3, 30, 3000), safe=Totals(2, 20, 2000), spooled=Totals(9, 9, 9)
    )
    ledger.add_sink("one", lambda: waits)
    with ledger.booking():
        ledger.book(Totals(8, 70, 7000), Totals(5, 50, 5000))
        assert ledger.settled() == Tally(60, 6000)


def test_what_the_kernel_has_of_what_is_booked() -> None:
    """Of the last drain that said so: one that is booked without it does not change it."""
    ledger = Ledger(lambda: KERNEL)
    one = Totals(1, 1, 100)
    found = []
    for kept in (None, Kept(2, 80), None, Kept(1, 96)):
        with ledger.booking():
            ledger.book(one, one, kept=kept)
            found.append(ledger.kept)
    assert found == [None, Kept(2, 80), Kept(2, 80), Kept(1, 96)]


def test_a_sink_that_comes_and_goes() -> None:
    """It must have been given what was published meanwhile, no more and no less."""
    ledger = Ledger(KernelCounts)
    one = Totals(1, 1, 100)
    queued = Totals()

    def counts() -> SinkCounts:
        return SinkCounts(queued=queued, delivered=queued)

    def problems() -> list[str]:
        return [text for text in ledger.balance().problems() if "late" in text]

    ledger.book(one, one)
    ledger.add_sink("late", counts)
    assert problems() == []
    ledger.book(one, one)
    assert problems() == ["published is 1 packets, 100 octets; late is 0 packets, 0 octets"]
    queued = one
    assert problems() == []
    ledger.remove_sink("late")
    ledger.book(one, one)
    assert problems() == []
    assert ledger.balance().sinks["late"].delivered == one


def test_a_program_that_counts_on() -> None:
    """The last counts that were read stand, consistent, and what is held is no problem."""
    torn = replace(KERNEL, seen=KERNEL.seen + ONE)
    readings = iter([torn, torn, KERNEL])
    ledger = Ledger(lambda: next(readings))
    ledger.close_kernel(counts_on=True)
    balance = ledger.balance()
    assert balance.kernel == KERNEL
    assert balance.held == Tally(70, 7000)
    assert not balance.final
    assert balance.problems() == []
