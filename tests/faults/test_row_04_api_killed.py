"""Row 4: an API process is killed before it enqueues, and between that and its answer.

The client does what any client does: on a reset it sends the same request again, under the
same `Idempotency-Key`, or with an id of its own. One request is one job.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from bananas.http.batch import CHUNK_LINES
from bananas.http.idempotency import derived_id
from fleets import PATIENCE_S, wait_for
from servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Scene

DIES = ["before_enqueue", "after_enqueue_sent", "after_enqueue_reply"]


class Api:
    """A client that repeats what was not answered, and counts how often."""

    def __init__(self, port: int) -> None:
        """Talk to the API at this port."""
        self.port = port
        self.repeats = 0

    def post(self, path: str, body: bytes, kind: str, **headers: str) -> tuple[int, Any]:
        """Send a request until it is answered; returns (status, body)."""
        deadline_s = time.monotonic() + PATIENCE_S
        fields = {"Content-Type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.request("POST", path, body, fields)
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                self.repeats += 1
                assert time.monotonic() < deadline_s, "the API did not come back"
                time.sleep(0.02)
            finally:
                connection.close()

    def submit(self, number: int) -> str:
        """Submit one job as often as needed, now by a key, now by an id; returns its id."""
        members: dict[str, object] = {"name": "quick"}
        if number % 2:
            members["id"] = f"own-{number}"
            status, record = self.post("/jobs", json.dumps(members).encode(), "application/json")
            assert status in (201, 409), record
            return str(members["id"])
        key = f"key-{number}"
        body = json.dumps(members).encode()
        status, record = self.post("/jobs", body, "application/json", Idempotency_Key=key)
        assert status in (200, 201), record
        return str(record["id"])


@pytest.fixture
def api(fleet: Callable[..., Fleet]) -> Callable[..., tuple[Api, Fleet]]:
    """Return a maker of fleets with an API, all at one port, and a client of it."""
    port = free_port()

    def make(**env: str) -> tuple[Api, Fleet]:
        one = fleet(API_PORT=str(port), PROCS="1", **env)
        one.environment["FLEET_APIS"] = "1"
        one.start()
        wait_for(lambda: one.said("child-ready", "api"), what="the API")
        return Api(port), one

    return make


@pytest.mark.parametrize("point", DIES)
def test_a_request_that_is_repeated_is_one_job(
    point: str, api: Callable[..., tuple[Api, Fleet]], scene: Scene
) -> None:
    """Killed at any point around the enqueue, each process at its sixth: every request, once."""
    client, one = api(FAIL=f"{point}:6")
    scene.accepted.update(client.submit(number) for number in range(16))
    assert len(scene.accepted) == 16
    assert one.said("child-ended", "api") >= 2
    assert client.repeats >= 2
    wait_for(scene.drained)
    scene.judge().check()
    assert scene.counters()["accepted"] == 16


@pytest.mark.parametrize("point", DIES[1:])
def test_a_batch_that_is_repeated_is_one_batch(
    point: str, api: Callable[..., tuple[Api, Fleet]], scene: Scene
) -> None:
    """Killed between the chunks of a stream: the repeat takes in the lines that are missing."""
    client, dying = api(FAIL=f"{point}:2")
    lines = 3 * CHUNK_LINES - 100
    body = b'{"name":"quick"}\n' * lines
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            client.post,
            "/jobs/batch?summary=1",
            body,
            "application/x-ndjson",
            Idempotency_Key="batch",
        )
        wait_for(lambda: dying.said("child-ended", "api") >= 2 or answer.done())
        assert not answer.done()
        wait_for(scene.drained)
        dying.end()
        api()
        status, told = answer.result(PATIENCE_S)
    assert status == 200
    assert told["accepted"] + told["duplicates"] == lines, told
    if point == "after_enqueue_reply":
        assert told["duplicates"] >= CHUNK_LINES, "what was answered was there before"
    wait_for(scene.drained)
    scene.accepted.update(derived_id(b"batch", line) for line in range(1, lines + 1))
    scene.judge().check()


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.timeout(300)
def test_kills_at_random(kills: int, api: Callable[..., tuple[Api, Fleet]], scene: Scene) -> None:
    """SIGKILL now and then, wherever it is, as long as it takes."""
    client, one = api()
    number = 0
    for _ in range(kills):
        scene.accepted.add(client.submit(number))
        until_s = time.monotonic() + 1.2  # one that dies sooner is not started again at once
        while time.monotonic() < until_s:
            number += 1
            scene.accepted.add(client.submit(number))
        number += 1
        for pid in one.children("api"):
            os.kill(pid, signal.SIGKILL)
    scene.accepted.add(client.submit(number))
    assert len(scene.accepted) == number + 1
    wait_for(scene.drained)
    scene.judge().check()
