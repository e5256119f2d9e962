"""The text of /metrics: what prometheus-client's own parser reads back, to the number."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bananas.http.metrics import MAX_QUEUES, Exposition, tell_fleet, tell_host
from bananas.inspector import QueueInfo
from bananas.settings import Settings
from bananas.table import SlotState, Table

NOW_NS = 10**12
STATS = {"accepted": 9, "completed": 4, "waiting": 3, "scheduled": 1, "leased": 1, "dead": 0}


def parsed(out: Exposition) -> dict[str, dict[tuple[Any, ...], float]]:
    """Return each sample's values by name, then by its labels."""
    found: dict[str, dict[tuple[Any, ...], float]] = {}
    for family in text_string_to_metric_families(out.text()):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {})
            found[sample.name][labels] = sample.value
    return found


def test_the_fleet_by_state_transition_and_queue() -> None:
    """What Redis knows, labels escaped; an empty queue is 0 s old."""
    out = Exposition()
    odd = 'a"b\\c\nd'
    queues = [
        QueueInfo("default", "high", None, 3, 1.5),
        QueueInfo("default", "low", odd, 0, None),
    ]
    tell_fleet(out, STATS | {"drift": -2}, queues)
    found = parsed(out)
    assert found["bananas_jobs_total"][(("transition", "accepted"),)] == 9
    assert found["bananas_jobs"][(("state", "waiting"),)] == 3
    assert found["bananas_drift"][()] == -2
    first = (("priority", "high"), ("routing_key", "default"), ("task", ""))
    second = (("priority", "low"), ("routing_key", "default"), ("task", odd))
    assert found["bananas_queue_waiting"] == {first: 3, second: 0}
    assert found["bananas_queue_oldest_age_seconds"] == {first: 1.5, second: 0}


def test_the_longest_queues_are_told_and_no_more_than_the_limit() -> None:
    """However many lists hostile names have made."""
    out = Exposition()
    queues = [QueueInfo("default", "normal", f"t{n}", n, None) for n in range(MAX_QUEUES + 5)]
    tell_fleet(out, STATS | {"drift": 0}, queues)
    waiting = parsed(out)["bananas_queue_waiting"]
    assert len(waiting) == MAX_QUEUES
    assert min(waiting.values()) == 5


def test_the_host_adds_up_the_slots_of_a_role() -> None:
    """Counters of dead children stay, gauges are of the living; histograms are cumulative."""
    table = Table.create(4, 1)
    table.kills = 2
    for index, (role, state) in enumerate(
        [
            ("worker", SlotState.READY),
            ("worker", SlotState.FREE),
            ("warden", SlotState.READY),
        ]
    ):
        slot = table.slot(index)
        slot.claim(role, now_ns=1)
        slot.state = state
        slot.stale, slot.reclaimed_epochs, slot.rss_bytes = index + 1, 10 * index, 1000
        slot.ready_ns = slot.tick_ns = NOW_NS - 60 * 10**9
    table.slot(0).run_time.observe(0.002)
    table.slot(1).run_time.observe(1000)
    out = Exposition()
    tell_host(out, table, Settings(), NOW_NS)
    found = parsed(out)
    worker, warden = (("role", "worker"),), (("role", "warden"),)
    assert found["bananas_child_kills_total"] == {(): 2}
    assert found["bananas_processes"] == {worker: 1, warden: 1}
    assert found["bananas_process_stale_total"] == {worker: 3, warden: 3}
    assert found["bananas_process_reclaimed_epochs_total"] == {worker: 10, warden: 20}
    assert found["bananas_stalled_workers"] == {(): 1}
    assert found["bananas_worker_memory_bytes"] == {(("slot", "0"),): 1000}
    assert found["bananas_worker_loop_age_seconds"] == {(("slot", "0"),): 60}
    buckets = found["bananas_run_seconds_bucket"]
    assert buckets[(("le", "0.001"),)] == 0
    assert buckets[(("le", "0.0025"),)] == 1
    assert buckets[(("le", "+Inf"),)] == found["bananas_run_seconds_count"][()] == 2
    assert found["bananas_run_seconds_sum"][()] == 1000.002
