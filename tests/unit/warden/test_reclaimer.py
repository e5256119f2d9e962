"""When a warden judges others, and when it has no right to: by a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import GiveBack, Lapsed
from bananas.errors import BrokerError, BrokerUnavailableError
from bananas.table import SlotState, Table
from bananas.warden.beat import FENCED_NS, Beat
from bananas.warden.culprits import BLOCKED
from bananas.warden.reclaimer import Reclaimer

if TYPE_CHECKING:
    from collections.abc import Sequence

SECOND_NS = 1_000_000_000


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.now_ns = 1000 * SECOND_NS

    def boot_ns(self) -> int:
        """Return the time."""
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(seconds * SECOND_NS)

    def real_us(self) -> int:
        """Return it in microseconds."""
        return self.now_ns // 1000

    def mono_s(self) -> float:
        """Return it in seconds."""
        return self.now_ns / SECOND_NS


class Broker:
    """The questions that the services ask, answered as the test says."""

    def __init__(self, clock: Clock) -> None:
        """Know nobody."""
        self.clock = clock
        self.lapsed_epochs: list[str] = []
        self.slow_s = 0.0
        self.ahead_s = 0.0
        """How far the server's clock was set."""
        self.reclaimed: list[tuple[str, bool, list[bytes]]] = []
        self.alive: dict[str, bool] = {}
        self.errors: dict[str, Exception] = {}
        self.beaten: list[str] = []

    async def lapsed(self) -> Lapsed:
        """Answer, after a while."""
        self.clock.pass_s(self.slow_s)
        now_ms = self.clock.now_ns // 1_000_000 + int(self.ahead_s * 1000)
        return Lapsed(now_ms, self.lapsed_epochs)

    async def reclaim(
        self,
        epoch: str,
        *,
        proven: bool,
        charged: Sequence[bytes] = (),
        placed: Any = None,  # noqa: ANN401, ARG002
    ) -> GiveBack:
        """Give back two jobs, or fail as the test says."""
        if epoch in self.errors:
            raise self.errors[epoch]
        self.reclaimed.append((epoch, proven, list(charged)))
        return GiveBack("done", 2, [])

    async def beat(self, _ttl_s: float, epochs: Sequence[str]) -> list[bool]:
        """Extend those alive."""
        self.beaten = list(epochs)
        return [self.alive.get(epoch, True) for epoch in epochs]


class Culprits:
    """Notes whom it was given."""

    def __init__(self) -> None:
        """Start empty."""
        self.settled: list[bytes] = []
        self.reasons: list[str] = []
        self.error: Exception | None = None

    async def settle(self, _epoch: str, culprits: Sequence[bytes], reason: str) -> int:
        """Note them, or fail as the test says."""
        if self.error is not None:
            raise self.error
        self.settled += culprits
        self.reasons.append(reason)
        return len(culprits)


def make(ttl_s: float = 3.0) -> tuple[Reclaimer, Broker, Clock, Table, Culprits]:
    """Return a reclaimer and what it works with."""
    clock, table, culprits = Clock(), Table.create(3, 8), Culprits()
    broker = Broker(clock)
    reclaimer = Reclaimer(broker, table, clock, culprits, ttl_s=ttl_s)  # type: ignore[arg-type]
    return reclaimer, broker, clock, table, culprits


async def sweep(reclaimer: Reclaimer, clock: Clock, seconds: float) -> int:
    """Sweep for a while, four times a second; returns how many jobs were given back."""
    moved = 0
    for _ in range(int(seconds * 4)):
        clock.pass_s(0.25)
        moved += await reclaimer.reclaim_lapsed()
    return moved


async def test_a_new_warden_waits_one_lease_before_it_judges() -> None:
    """Whoever starts after an outage finds everybody lapsed: they get their time to beat."""
    reclaimer, broker, clock, _, _ = make()
    broker.lapsed_epochs = ["gone"]
    assert await sweep(reclaimer, clock, 2.75) == 0
    assert await sweep(reclaimer, clock, 1.0) > 0
    assert broker.reclaimed[0] == ("gone", False, [])


async def test_a_gap_of_its_own_makes_it_wait_again() -> None:
    """A stopped host, or an outage between two sweeps: one lease of grace for all."""
    reclaimer, broker, clock, _, _ = make()
    await sweep(reclaimer, clock, 5)
    clock.pass_s(10)
    broker.lapsed_epochs = ["late"]
    assert await reclaimer.reclaim_lapsed() == 0
    assert await sweep(reclaimer, clock, 2.5) == 0
    assert await sweep(reclaimer, clock, 1) > 0


async def test_an_outage_within_the_question_is_a_gap_too() -> None:
    """A server that stood still while it was asked: the answer is older than the lease."""
    reclaimer, broker, clock, _, _ = make()
    await sweep(reclaimer, clock, 5)
    broker.lapsed_epochs, broker.slow_s = ["late"], 10.0
    assert await reclaimer.reclaim_lapsed() == 0
    broker.slow_s = 0.0
    assert await sweep(reclaimer, clock, 2.5) == 0
    assert broker.reclaimed == []


@pytest.mark.parametrize("set_by_s", [3600.0, -3600.0])
async def test_a_step_of_the_servers_clock_is_a_gap(set_by_s: float) -> None:
    """Deadlines that a set clock has passed are nobody's death (row 25)."""
    reclaimer, broker, clock, _, _ = make()
    await sweep(reclaimer, clock, 5)
    broker.lapsed_epochs, broker.ahead_s = ["alive"], set_by_s
    assert await sweep(reclaimer, clock, 2.5) == 0
    broker.lapsed_epochs = []
    await sweep(reclaimer, clock, 1)
    assert broker.reclaimed == []


def die(
    table: Table, *, begun: Sequence[bytes], culprits: Sequence[bytes] = (), ticked_s: float = 0.0
) -> None:
    """Let the child of slot 0 have ended, its last tick so long before."""
    slot = table.slot(0)
    slot.claim("worker", now_ns=1)
    slot.epoch = "dead"
    slot.tick_ns = 100 * SECOND_NS
    slot.exited_ns = slot.tick_ns + int(ticked_s * SECOND_NS)
    for index, job_id in enumerate(begun):
        slot.begin(index, job_id, 0)
    slot.culprits = list(culprits)
    slot.state = SlotState.EXITED


async def test_all_that_a_crashed_process_had_begun_are_charged() -> None:
    """Nobody was named: each of them may have done it; the slot is free afterwards."""
    reclaimer, broker, _, table, culprits = make()
    die(table, begun=[b"a", b"b"])
    assert await reclaimer.reclaim_dead() == 2
    assert broker.reclaimed == [("dead", True, [b"a", b"b"])]
    assert culprits.settled == []
    assert table.slot(0).state is SlotState.FREE
    assert await reclaimer.reclaim_dead() == 0


async def test_a_named_culprit_pays_alone() -> None:
    """Its neighbours are given back without a charge."""
    reclaimer, broker, _, table, culprits = make()
    die(table, begun=[b"a", b"b"], culprits=[b"a"])
    await reclaimer.reclaim_dead()
    assert culprits.settled == [b"a"]
    assert broker.reclaimed == [("dead", True, [])]


async def test_in_a_loop_that_stood_still_the_late_ones_are_not_the_culprits() -> None:
    """Who blocked it made all of them late: they are treated as after a crash, unless alone."""
    reclaimer, broker, _, table, culprits = make()
    die(table, begun=[b"a", b"b"], culprits=[b"a", b"b"], ticked_s=5)
    await reclaimer.reclaim_dead()
    assert culprits.settled == []
    assert broker.reclaimed[-1] == ("dead", True, [b"a", b"b"])
    die(table, begun=[b"a"], culprits=[b"a"], ticked_s=5)
    await reclaimer.reclaim_dead()
    assert culprits.settled == [b"a"]


async def test_whom_a_loop_names_that_stood_still_pays_alone() -> None:
    """It said itself who had it: the late ones are not to blame, nor suspected."""
    reclaimer, broker, _, table, culprits = make()
    die(table, begun=[b"a", b"b"], culprits=[b"b"], ticked_s=5)
    table.slot(0).named = True
    await reclaimer.reclaim_dead()
    assert culprits.settled == [b"b"]
    assert culprits.reasons == [BLOCKED]
    assert broker.reclaimed[-1] == ("dead", True, [])


@pytest.mark.parametrize("error", [RuntimeError("a defect"), BrokerError("reclaim", "WRONGTYPE")])
async def test_one_bad_slot_does_not_hold_up_the_others(error: Exception) -> None:
    """What cannot be given back for one child is for the others; only an outage is for all."""
    reclaimer, broker, _, table, _ = make()
    for index in range(3):
        slot = table.slot(index)
        slot.claim("worker", now_ns=1)
        slot.epoch = f"dead{index}"
        slot.state = SlotState.EXITED
    broker.errors["dead0"] = error
    assert await reclaimer.reclaim_dead() == 4
    assert [slot.state for slot in table.slots] == [SlotState.EXITED, *2 * [SlotState.FREE]]
    del broker.errors["dead0"]
    assert await reclaimer.reclaim_dead() == 2, "it is tried again"
    slot.state = SlotState.EXITED
    slot.epoch = "dead2"
    broker.errors["dead2"] = BrokerUnavailableError("redis://x", "away")
    with pytest.raises(BrokerUnavailableError):
        await reclaimer.reclaim_dead()


@pytest.mark.parametrize("error", [RuntimeError("a defect"), BrokerError("reclaim", "WRONGTYPE")])
async def test_one_bad_epoch_does_not_hold_up_the_others(error: Exception) -> None:
    """The same for lapsed epochs."""
    reclaimer, broker, clock, _, _ = make()
    await sweep(reclaimer, clock, 5)
    broker.lapsed_epochs = ["bad", "good"]
    broker.errors["bad"] = error
    assert await sweep(reclaimer, clock, 0.25) == 2
    broker.errors["bad"] = BrokerUnavailableError("redis://x", "away")
    with pytest.raises(BrokerUnavailableError):
        await sweep(reclaimer, clock, 0.25)


async def test_culprits_that_cannot_be_settled_are_given_back_with_the_rest() -> None:
    """A defect of ours charges nobody, and strands nothing."""
    reclaimer, broker, _, table, culprits = make()
    culprits.error = RuntimeError("a defect")
    die(table, begun=[b"a", b"b"], culprits=[b"a"])
    assert await reclaimer.reclaim_dead() == 2
    assert broker.reclaimed == [("dead", True, [])]
    assert table.slot(0).state is SlotState.FREE


async def test_a_beat_is_for_the_living_and_tells_each_how_long() -> None:
    """Ended and unregistered children get none; a fenced one sees that in the table."""
    _, broker, clock, table, _ = make()
    beat = Beat(broker, table, clock, ttl_s=3.0)  # type: ignore[arg-type]
    assert await beat.beat() == 0
    for index, epoch in enumerate(("alive", "fenced", "dead")):
        slot = table.slot(index)
        slot.claim("worker", now_ns=1)
        slot.epoch = epoch
        slot.lease_until_ns = 5
        slot.state = SlotState.READY
    table.slot(2).state = SlotState.EXITED
    broker.alive = {"fenced": False}
    asked_ns = clock.boot_ns()
    assert await beat.beat() == 1
    assert broker.beaten == ["alive", "fenced"]
    assert table.slot(0).lease_until_ns == asked_ns + 3 * SECOND_NS
    assert table.slot(1).lease_until_ns == FENCED_NS
    assert beat.fenced == 1
    await beat.beat()
    assert beat.fenced == 1, "told once"
    table.slot(0).lease_until_ns = 0  # it is taking a new epoch, not registered yet
    await beat.beat()
    assert broker.beaten == ["fenced"]
