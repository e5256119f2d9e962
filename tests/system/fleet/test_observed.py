"""What an operator sees of a fleet over HTTP: who stands still, who died, what was given back."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleets import titles_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene


class Observer:
    """Asks the API of a fleet."""

    def __init__(self, port: int) -> None:
        """Ask at this port."""
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text of an answer; (0, reason) where there is none."""
        try:
            with urllib.request.urlopen(self._base + path, timeout=20) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def ready(self) -> bool:
        """Ask for readiness."""
        return self.get("/readyz")[0] == 200

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of one sample."""
        status, text = self.get("/metrics")
        assert status == 200, text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        pytest.fail(f"no sample {name} {labels} in:\n{text}")


@pytest.fixture
def observed(
    fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> tuple[Fleet, Observer]:
    """Return a fleet of two workers with an API, ready."""
    pytest.importorskip("uvicorn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("FLEET_APIS", "1")
    one = fleet(API_PORT=str(port), POLL_INTERVAL="100ms").start()
    observer = Observer(port)
    wait_for(observer.ready, what="a ready API")
    return one, observer


def test_readiness_is_red_while_a_worker_stands_still(
    observed: tuple[Fleet, Observer], submit: Callable[..., str], scene: Scene
) -> None:
    """A stopped worker is named over HTTP, in the log and in a title; it goes on, all is well."""
    one, observer = observed
    victim = one.children("worker")[0]
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: not observer.ready(), what="red readiness")
    status, text = observer.get("/readyz")
    problem = json.loads(text)
    assert (status, problem["type"]) == (503, "urn:bananas:problem:not-ready")
    assert f"worker process {victim} has not asked for jobs for" in problem["detail"]
    assert "its event loop has stood still" in problem["detail"]
    assert observer.get("/livez")[0] == 200
    assert observer.metric("bananas_stalled_workers") == 1
    wait_for(lambda: one.said(f"worker process {victim} has not asked for jobs"))
    wait_for(lambda: any("1 workers stalled" in title for title in titles_of(one.pid)))
    os.kill(victim, signal.SIGCONT)
    wait_for(observer.ready, what="green readiness")
    assert observer.metric("bananas_stalled_workers") == 0
    wait_for(lambda: not any("stalled" in title for title in titles_of(one.pid)))
    job = submit("quick")
    wait_for(lambda: scene.status(job) == "completed")
    assert one.stop() == 0


def test_idle_and_busy_workers_are_ready(
    observed: tuple[Fleet, Observer], submit: Callable[..., str], scene: Scene
) -> None:
    """Without work, and with all runners at work for longer than the patience, nothing is red."""
    one, observer = observed
    jobs = [submit("slow", {"seconds": 12}) for _ in range(8)]
    for _ in range(4):
        submit("quick")
    wait_for(lambda: all(scene.status(job) == "completed" for job in jobs))
    assert observer.ready()
    assert one.said("has not asked") == 0
    wait_for(scene.drained)
    scene.judge().check()


def test_what_went_wrong_is_counted(
    observed: tuple[Fleet, Observer], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """A death, poison, a hard limit, lost scripts, lost connections: each moves its counter."""
    one, observer = observed
    victim = one.children("worker")[0]
    submit("slow", {"seconds": 0.2})
    wait_for(lambda: ledger.lines("start"))
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: observer.metric("bananas_child_crashes_total") >= 1)
    wait_for(lambda: observer.metric("bananas_process_reclaimed_epochs_total", role="warden") >= 1)
    bad = submit("deadly", {"how": "kill"})
    wait_for(lambda: scene.status(bad) == "failed")
    wait_for(lambda: observer.metric("bananas_process_poisoned_total", role="worker") == 1)
    assert one.said("took down its process 3 times")
    stuck = submit("block", {"seconds": 60}, timeout_s=0.2)
    wait_for(lambda: scene.status(stuck) == "failed")
    wait_for(lambda: observer.metric("bananas_child_kills_total") >= 1)
    loads = observer.metric("bananas_process_script_loads_total", role="worker")
    scene.redis.script_flush()
    submit("quick")
    wait_for(scene.drained)
    wait_for(lambda: observer.metric("bananas_process_script_loads_total", role="worker") > loads)
    drops = observer.metric("bananas_process_drops_total", role="worker")
    scene.redis.client_kill_filter(_type="normal", skipme=True)
    wait_for(lambda: observer.metric("bananas_process_drops_total", role="worker") > drops)
    job = submit("quick")
    wait_for(lambda: scene.status(job) == "completed")
    assert observer.metric("bananas_drift") == 0
    assert observer.metric("bananas_redis_up") == 1
