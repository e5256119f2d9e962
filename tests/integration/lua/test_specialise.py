"""specialise: tasks have lists of their own while a worker says so; each change is numbered."""

from __future__ import annotations

import pytest

from bananas.broker import Specials
from bare_queue import START_MS, BareQueue


def specialise(queue: BareQueue, *tasks: str, ttl_s: float = 10) -> Specials:
    """Run one call."""
    specials: Specials = queue.run(queue.broker.specialise(ttl_s, tasks))
    return specials


def test_new_task_raises_the_version(queue: BareQueue) -> None:
    """The set, its version and its deadline are stored, and the caller knows them."""
    assert specialise(queue, "b", "a") == Specials("1", frozenset({"a", "b"}))
    deadline = START_MS + 10_000
    assert queue.snapshot() == {
        "specials": ("zset", {"a": deadline, "b": deadline}, -1),
        "specials:version": ("string", b"1", -1),
    }
    assert queue.broker.specials.version == "1"
    assert specialise(queue, "c") == Specials("2", frozenset({"a", "b", "c"}))


def test_repeat_only_extends(queue: BareQueue) -> None:
    """The version stands while the set does; a copy, or a shorter ttl, sets no deadline back."""
    specialise(queue, "a")
    before = queue.snapshot()
    queue.again()
    specialise(queue, "a", ttl_s=1)
    assert queue.snapshot() == before
    queue.now_ms += 5000
    assert specialise(queue, "a").version == "1"
    assert queue.client.zscore(queue.keys.specials, "a") == START_MS + 15_000


def test_lapsed_task_is_dropped_and_raises_the_version(queue: BareQueue) -> None:
    """At its deadline a task is common again; those still wanted stay."""
    specialise(queue, "a")
    queue.now_ms += 5000
    specialise(queue, "b")
    queue.now_ms += 4999
    assert specialise(queue) == Specials("2", frozenset({"a", "b"}))
    queue.now_ms += 1
    assert specialise(queue) == Specials("3", frozenset({"b"}))
    queue.now_ms += 60_000
    assert specialise(queue) == Specials("4", frozenset())


def test_lapsed_task_that_is_wanted_again_stays(queue: BareQueue) -> None:
    """Its worker was late; nobody was told anything else meanwhile, so the version stands."""
    specialise(queue, "a")
    queue.now_ms += 10_000
    assert specialise(queue, "a") == Specials("1", frozenset({"a"}))
    assert queue.client.zscore(queue.keys.specials, "a") == START_MS + 20_000


def test_nothing_wanted_changes_nothing(queue: BareQueue) -> None:
    """On an empty queue the first version is 0 and nothing is stored."""
    assert specialise(queue) == Specials("0", frozenset())
    assert queue.snapshot() == {}


def test_many_tasks_lapse_in_one_call(queue: BareQueue) -> None:
    """A thousand at most, the next call takes the next."""
    queue.client.zadd(queue.keys.specials, {f"t{number}": 1 for number in range(1500)})
    specialise(queue)
    assert queue.client.zcard(queue.keys.specials) == 500
    assert specialise(queue).tasks == frozenset()


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Both keys are looked at before the first write."""
    keys = queue.keys
    queue.refuses_wrong_types(lambda: specialise(queue, "a"), keys.specials, keys.specials_version)


def test_at_maxmemory_a_specialized_worker_can_start(own_queue: BareQueue) -> None:
    """A full server can still be drained by it."""
    with own_queue.full():
        assert specialise(own_queue, "a") == Specials("1", frozenset({"a"}))
        assert own_queue.client.get(own_queue.keys.specials_version) == b"1"


@pytest.mark.parametrize("odd", ["x", "-1", "", "1.5", "nan", "inf", str(2**53), str(2**63 - 1)])
def test_version_that_was_overwritten_by_hand_is_raised_all_the_same(
    queue: BareQueue, odd: str
) -> None:
    """It begins anew at a number that nobody knows, so everybody learns of the change."""
    specialise(queue, "a")
    queue.client.set(queue.keys.specials_version, odd)
    first = specialise(queue, "b")
    assert first.tasks == {"a", "b"}
    assert int(first.version) == START_MS + 1
    assert specialise(queue, "c").version == str(START_MS + 2)
