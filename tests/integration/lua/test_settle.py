"""settle: each job ends by its own outcome, only under the token that holds it, and once."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from bananas.broker import Retention, Settlement
from bananas.keys import place
from bare_queue import START_MS, BareQueue, ids_of, plain_scripts, record

HIGH, NORMAL = "queue:high", "queue:normal"
GPU = place("high", "gpu")
RETENTION = Retention(completed_s=100, failed_s=1000)


def done(job_id: str, **fields: object) -> tuple[bytes, bytes]:
    """Return an id with a new record that differs from the old."""
    return job_id.encode(), record(job_id, done=True, **fields)


def outcomes(*ids: str) -> dict[str, Any]:
    """Return one settlement that has every outcome: nine ids."""
    dropped, kept, retried, snoozed, failed, released, routed, lapsed, forgotten = ids
    return {
        "dropped": [dropped.encode()],
        "kept": {100: [done(kept)]},
        "later": [(*done(retried), 2000, "retried"), (*done(snoozed), 500, "snoozed")],
        "failed": [done(failed)],
        "released": [(released.encode(), NORMAL)],
        "routed": [(routed.encode(), GPU)],
        "lapsed": [done(lapsed)],
        "forgotten": [forgotten.encode()],
    }


ALL = ("drop", "keep", "retry", "snooze", "fail", "free", "route", "lapse", "gone")


def lease_all(queue: BareQueue, *, cancel: str = "gone") -> str:
    """Lease nine jobs, one of which was cancelled while it waited; all have crashed before."""
    queue.register(places=(NORMAL, GPU))
    queue.enqueue(*ALL)
    answer = queue.run(
        queue.broker.cancel(
            cancel, record(cancel), record(cancel, status="cancelled"), ttl_s=9, foreign=False
        )
    )
    assert answer == "cancelled"
    queue.client.delete(queue.keys.wake(NORMAL))
    queue.client.hset(queue.keys.crashes, mapping=dict.fromkeys(ALL, 1))
    return str(queue.dequeue().request)


def test_every_outcome_in_one_call(queue: BareQueue) -> None:
    """Nine jobs of one lease end in nine ways, and the books are even."""
    token = lease_all(queue)
    assert queue.settle(token, retention=RETENTION, **outcomes(*ALL)) == []
    found = queue.snapshot()
    for name in [name for name in found if name.startswith("request:")]:
        del found[name]
    ends = {name: queue.ttl_s(f"{queue.keys.prefix}:{name}") for name in found}
    assert {name: content for name, (_, content, _) in found.items()} == {
        "job:keep": done("keep")[1],
        "job:retry": done("retry")[1],
        "job:snooze": done("snooze")[1],
        "job:fail": done("fail")[1],
        "job:free": record("free"),
        "job:route": record("route"),
        "job:lapse": done("lapse")[1],
        "job:gone": record("gone", status="cancelled"),
        "queue:scheduled": {"retry": START_MS / 1000 + 2, "snooze": START_MS / 1000 + 0.5},
        "queue:dead": {"fail": START_MS / 1000},
        "queue:normal": ["free"],
        "queue:normal:wake": ["1"],
        GPU: ["route"],
        f"{GPU}:wake": ["1"],
        "places": {NORMAL, GPU},
        "crashes": dict.fromkeys(("retry", "snooze", "free", "route"), b"1"),
        "counters": {
            "accepted": b"9",
            "cancelled": b"1",
            "leased": b"9",
            "completed": b"2",
            "retried": b"1",
            "snoozed": b"1",
            "failed": b"1",
            "released": b"1",
            "routed": b"1",
            "expired": b"1",
        },
        "queue:processing:epochs": {"e1": START_MS + 15_000},
        "workers": {"e1": b'{"pid": 1}'},
    }
    limited = {name: ttl for name, ttl in ends.items() if ttl != -1}
    assert limited.keys() == {"job:keep", "job:fail", "job:lapse", "job:gone"}
    for name, ttl_s in [("keep", 100), ("fail", 1000), ("lapse", 100), ("gone", 100)]:
        assert ttl_s - 5 < limited[f"job:{name}"] <= ttl_s
    assert queue.drift() == 0


@pytest.mark.parametrize("outcome", range(9), ids=ALL)
def test_second_copy_is_stale_and_has_no_effect(queue: BareQueue, outcome: int) -> None:
    """The same settle twice counts once, whatever its outcome."""
    token = lease_all(queue)
    whole = outcomes(*ALL)
    names = [
        "dropped",
        "kept",
        "later",
        "later",
        "failed",
        "released",
        "routed",
        "lapsed",
        "forgotten",
    ]
    name = names[outcome]
    one = whole[name] if name == "kept" else [whole[name][outcome - 2 if name == "later" else 0]]
    assert queue.settle(token, **{name: one}) == []
    assert queue.drift() == 0
    before = queue.snapshot()
    assert queue.settle(token, **{name: one}) == [ALL[outcome]]
    assert queue.snapshot() == before


def test_delayed_copy_spares_the_next_lease(queue: BareQueue) -> None:
    """A copy that arrives when the job was leased again, even by the same process, is stale."""
    token = queue.leased("a")
    queue.settle(token, released=[(b"a", NORMAL)])
    copy = queue.last
    again = queue.dequeue()
    assert ids_of(again) == ["a"]
    before = queue.snapshot()
    assert queue.again(copy) == [1]
    assert queue.settle(token, dropped=[b"a"]) == ["a"]
    assert queue.snapshot() == before
    assert queue.lease(again.request) == {"a"}


def test_reclaimed_job_is_out_of_reach(queue: BareQueue) -> None:
    """A process that was taken for dead can end nothing: neither waiting, nor leased to another."""
    token = queue.leased("a", "b")
    queue.run(queue.broker.reclaim("e1", proven=True))
    before = queue.snapshot()
    assert queue.settle(token, dropped=[b"a"], failed=[done("b")]) == ["a", "b"]
    assert queue.snapshot() == before
    queue.register("e2")
    other = queue.dequeue(epoch="e2")
    before = queue.snapshot()
    assert queue.settle(token, dropped=[b"a"], failed=[done("b")]) == ["a", "b"]
    assert queue.snapshot() == before
    assert queue.settle(other.request, epoch="e2", dropped=[b"a", b"b"]) == []
    assert queue.drift() == 0


def test_stale_and_valid_are_told_apart_job_by_job(queue: BareQueue) -> None:
    """In one call every valid job counts and every stale one is named, in each kind of section."""
    token = lease_all(queue)
    stale = [f"x{number}" for number in range(9)]
    queue.register("e2")
    queue.enqueue(*stale, place=HIGH)
    other = queue.dequeue(HIGH, epoch="e2").request
    good, bad = outcomes(*ALL), outcomes(*stale)
    mixed: dict[str, Any] = {
        name: bad[name] + good[name] if name != "kept" else {100: bad[name][100] + good[name][100]}
        for name in good
    }
    mixed["foreign"] = [b"x0", b"drop"]
    mixed["results"] = [(b"x1", 9, b"m", ["status", "s"]), (b"keep", 9, b"m", ["status", "s"])]
    untouched = {
        name: value for name, value in queue.snapshot().items() if name.startswith("job:x")
    }
    assert sorted(queue.settle(token, retention=RETENTION, **mixed)) == stale
    after = queue.snapshot()
    assert {name: value for name, value in after.items() if name.startswith("job:x")} == untouched
    assert queue.lease(other) == set(stale)
    assert queue.lease(token) == set()
    assert set(queue.scheduled()) == {"retry", "snooze"}
    assert set(queue.dead()) == {"fail"}
    assert queue.waiting() == ["free"]
    assert queue.waiting(GPU) == ["route"]
    assert "result:keep" in after
    assert "result:x1" not in after
    assert queue.counters() == {
        "accepted": 19,
        "cancelled": 1,
        "leased": 18,
        "completed": 2,
        "retried": 1,
        "snoozed": 1,
        "failed": 1,
        "released": 1,
        "routed": 1,
        "expired": 1,
    }
    assert queue.drift() == -1  # `drop` was counted as foreign although it was not


def test_section_of_stale_jobs_alone_wakes_nobody(queue: BareQueue) -> None:
    """No marker and no place for a list that received nothing."""
    token = queue.leased("a")
    before = queue.snapshot()
    assert queue.settle(token, dropped=[b"a"], routed=[(b"x", GPU)]) == ["x"]
    after = queue.snapshot()
    assert not [name for name in after if name.startswith("route:")]
    assert after["places"] == before["places"]


@pytest.mark.parametrize("token", ["unknown", "r00001"])
def test_token_that_holds_nothing_has_no_effect(queue: BareQueue, token: str) -> None:
    """An unknown token, or the request of an enqueue, settles nothing."""
    queue.leased("a")
    before = queue.snapshot()
    assert queue.settle(token, dropped=[b"a"]) == ["a"]
    assert queue.snapshot() == before


def test_lease_stays_until_its_last_job(queue: BareQueue) -> None:
    """A slow job keeps its lease alone; with it the lease and the epoch's entry go."""
    token = queue.leased("a", "b")
    queue.settle(token, dropped=[b"a"])
    assert queue.lease(token) == {"b"}
    assert queue.tokens() == {token}
    queue.settle(token, dropped=[b"b"])
    assert queue.tokens() == set()
    assert not [name for name in queue.snapshot() if "lease" in name or "epoch:" in name]


def test_given_back_jobs_are_next_and_in_their_order(queue: BareQueue) -> None:
    """Released jobs stand before what waits, oldest first; routed ones stand behind it."""
    token = queue.leased("a", "b", "c", "d")
    queue.enqueue("e")
    queue.enqueue("g", place=GPU)
    released = [(b"a", NORMAL), (b"b", NORMAL)]
    queue.settle(token, released=released, routed=[(b"c", GPU), (b"d", GPU)])
    assert queue.waiting() == ["a", "b", "e"]
    assert queue.waiting(GPU) == ["g", "c", "d"]
    assert (queue.markers(), queue.markers(GPU)) == (1, 1)
    assert queue.drift() == 0


def test_routed_job_is_seen_at_a_place_never_used(queue: BareQueue) -> None:
    """A place that first appears in a settle is in the audit."""
    token = queue.leased("a")
    queue.settle(token, routed=[(b"a", GPU)])
    audit = queue.run(queue.broker.audit())
    assert {waiting.place: waiting.count for waiting in audit.places} == {NORMAL: 0, GPU: 1}
    assert audit.drift == 0


def test_retention_of_nothing_deletes_at_once(queue: BareQueue) -> None:
    """A retention of 0 s is no error in the middle of a settle: the records are gone."""
    token = queue.leased("a", "b", "c", "d")
    nothing = Retention(completed_s=0, failed_s=0)
    stale = queue.settle(
        token,
        retention=nothing,
        kept={0: [done("a")]},
        failed=[done("b")],
        lapsed=[done("c")],
        dropped=[b"d"],
    )
    assert stale == []
    assert [queue.record(job_id) for job_id in "abcd"] == [None] * 4
    assert set(queue.dead()) == {"b"}
    assert queue.drift() == 0


def test_an_earlier_first_job_rings_once(queue: BareQueue) -> None:
    """A retry that is due before all others is told to whoever sleeps until the first is due."""
    token = queue.leased("a", "b", "c", "d")
    with queue.bell() as rang:
        later = [(*done("a"), 1000, "retried"), (*done("b"), 900, "retried")]
        queue.settle(token, later=later)
        assert rang() == 1
        queue.again()
        queue.settle(token, later=[(*done("c"), 900, "retried")], dropped=[b"d"])
        assert rang() == 0
    assert queue.drift() == 0


def test_results_are_stored_with_their_ttl_and_told(queue: BareQueue) -> None:
    """A result replaces an older one whole, lives for its ttl, and is published once."""
    token = queue.leased("a", "b")
    queue.client.hset(queue.keys.result("a"), "old", "1")
    listener = queue.client.pubsub(ignore_subscribe_messages=True)
    listener.psubscribe(f"{queue.keys.notify_prefix}*")
    listener.get_message(timeout=5)
    queue.settle(
        token,
        dropped=[b"a"],
        failed=[done("b")],
        results=[
            (b"b", 70, b"failed", ["status", "failed", "error", b"\xff"]),
            (b"a", 60, b"completed", ["status", "completed", "duration_ms", 12]),
        ],
    )
    queue.again()
    assert queue.client.hgetall(queue.keys.result("a")) == {
        b"status": b"completed",
        b"duration_ms": b"12",
    }
    assert queue.client.hgetall(queue.keys.result("b")) == {b"status": b"failed", b"error": b"\xff"}
    assert 55 < queue.ttl_s(queue.keys.result("a")) <= 60
    assert 65 < queue.ttl_s(queue.keys.result("b")) <= 70
    queue.client.publish(f"{queue.keys.notify_prefix}end", "end")
    told = [listener.get_message(timeout=5) for _ in range(3)]
    listener.close()
    prefix = queue.keys.notify_prefix.encode()
    assert [(message["channel"], message["data"]) for message in told if message] == [
        (prefix + b"b", b"failed"),
        (prefix + b"a", b"completed"),
        (prefix + b"end", b"end"),
    ]


def test_foreign_job_is_counted_when_it_ends(queue: BareQueue) -> None:
    """A job that no enqueue counted is accepted by its settle; until then it is the only drift."""
    queue.register()
    queue.push_foreign("a")
    queue.push_foreign("b")
    assert queue.drift() == 2
    token = queue.dequeue().request
    assert queue.drift() == 2
    queue.settle(token, dropped=[b"a"], later=[(*done("b"), 1000, "retried")], foreign=[b"b", b"a"])
    assert queue.counters()["accepted"] == 2
    assert queue.drift() == 0


def test_older_failure_of_the_same_id_gives_way(queue: BareQueue) -> None:
    """An id whose failed record expired may be used again; when it fails again it is dead once."""
    queue.die("a")
    queue.client.delete(queue.keys.job("a"))  # as its TTL does
    queue.now_ms += 5000
    queue.die("a")
    assert queue.dead() == {"a": START_MS / 1000 + 5}
    assert queue.counters() == {"accepted": 2, "leased": 2, "failed": 2, "purged": 1}
    assert queue.drift() == 0


def test_largest_call_is_one_step(queue: BareQueue) -> None:
    """500 jobs of every outcome settle in one call."""
    ids = [f"j{number:03}" for number in range(500)]
    queue.register()
    queue.enqueue(*ids)
    token = queue.dequeue(limit=500).request
    raw = [job_id.encode() for job_id in ids]
    later = [(*done(job_id), 1000, "retried") for job_id in ids[100:200]]
    stale = queue.settle(
        token,
        dropped=raw[:100],
        later=later,
        failed=[done(job_id) for job_id in ids[200:300]],
        released=[(job_id, NORMAL) for job_id in raw[300:400]],
        kept={10: [done(job_id) for job_id in ids[400:]]},
        results=[(job_id, 10, b"", ["status", "s"]) for job_id in raw[:100]],
    )
    assert stale == []
    assert queue.waiting() == ids[300:400]
    assert queue.drift() == 0


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    token = lease_all(queue)
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: queue.settle(token, **outcomes(*ALL)),
        keys.lease(token),
        keys.epoch_leases("e1"),
        keys.counters,
        keys.scheduled,
        keys.dead,
        keys.crashes,
        keys.cancelled,
        keys.places(),
        keys.waiting(NORMAL),
        keys.wake(NORMAL),
        keys.waiting(GPU),
        keys.wake(GPU),
    )


def test_record_and_result_of_another_type_are_replaced(queue: BareQueue) -> None:
    """What somebody else put under a job's own keys cannot hold its lease for ever."""
    # without the guard: what is of another type cannot be replaced without being removed
    queue.broker.scripts = plain_scripts()
    token = queue.leased("a", "b")
    for job_id in "ab":
        queue.client.delete(queue.keys.job(job_id))
        queue.client.rpush(queue.keys.job(job_id), "wrong")
    queue.client.set(queue.keys.result("a"), "wrong")
    stale = queue.settle(
        token, failed=[done("a")], dropped=[b"b"], results=[(b"a", 9, b"m", ["status", "failed"])]
    )
    assert stale == []
    assert queue.record("a") == done("a")[1]
    assert queue.client.hgetall(queue.keys.result("a")) == {b"status": b"failed"}
    assert queue.drift() == 0


def test_result_of_an_earlier_job_is_replaced_in_place(queue: BareQueue) -> None:
    """Nothing of it stays, and its key is there all the time; one beyond all reason makes way."""
    queue.client.hset(queue.keys.result("a"), mapping={"status": "failed", "error": "boom"})
    queue.client.hset(queue.keys.result("b"), mapping=dict.fromkeys(map(str, range(9000)), "x"))
    token = queue.leased("a", "b")
    results = [(i.encode(), 9, b"m", ["status", "completed", "result", "1"]) for i in "ab"]
    queue.broker.scripts = plain_scripts()  # the second one makes way
    assert queue.settle(token, dropped=[b"a", b"b"], results=results) == []
    for job_id in "ab":
        found = queue.client.hgetall(queue.keys.result(job_id))
        assert found == {b"status": b"completed", b"result": b"1"}


@pytest.mark.parametrize("outcome", ALL)
def test_at_maxmemory_every_outcome_works(own_queue: BareQueue, outcome: str) -> None:
    """A full server takes every settle, results included, also by a script unknown to it."""
    queue = own_queue
    token = lease_all(queue)
    settlement = Settlement(token)
    whole = outcomes(*ALL)
    chosen = outcome.encode()
    for name, items in whole.items():
        if name == "kept":
            if outcome == "keep":
                settlement.kept = items
        else:
            ours = [item for item in items if chosen in (item, item[0])]
            setattr(settlement, name, ours)
    settlement.results = [(chosen, 9, b"m", ["status", "s"])]
    assert len(settlement) == 1
    queue.client.script_flush()
    with queue.full():
        assert queue.run(queue.broker.settle("e1", settlement, Retention())) == []
        assert queue.lease(token) == set(ALL) - {outcome}
        assert queue.client.hget(queue.keys.result(outcome), "status") == b"s"
    assert queue.drift() == 0


@pytest.mark.parametrize(
    "outcome",
    [
        {"kept": {0.5: [done("a")]}},
        {"kept": {10**17: [done("a")]}},
        {"kept": {-1: [done("a")]}},
        {"later": [(*done("a"), 1.5, "retried")]},
        {"later": [(*done("a"), float("nan"), "retried")]},
        {"dropped": [b"a"], "results": [(b"a", 2.5, b"completed", ["status", "completed"])]},
    ],
)
def test_time_that_no_command_takes_has_no_effect(
    queue: BareQueue, outcome: dict[str, Any]
) -> None:
    """A ttl or delay that is no whole number is refused before the job leaves its lease."""
    token = queue.leased("a")
    before = queue.snapshot()
    with pytest.raises(ResponseError, match="whole number"):
        queue.settle(token, **outcome)
    assert queue.snapshot() == before


def test_spared_job_only_leaves_the_lease(queue: BareQueue) -> None:
    """An ended job whose id was pushed again: nothing of it changes, nothing is counted."""
    token = queue.leased("a")
    assert queue.settle(token, kept={100: [done("a")]}) == []
    kept, counters = queue.record("a"), queue.counters()
    queue.client.lpush(queue.keys.waiting(NORMAL), "a")
    token = queue.dequeue().request
    assert queue.settle(token, spared=[b"a"]) == []
    assert queue.record("a") == kept
    assert {**queue.counters(), "leased": 1} == counters
    assert queue.lease(token) == set()
    assert queue.drift() == 0
