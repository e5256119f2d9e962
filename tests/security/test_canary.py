"""Secrets that are known by their words: none of them is in anything that we say of ourselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from bananas.settings import Settings
from bananas.sync_client import SyncClient
from command_line import plain_environ, program
from fleets import PREFIX, session_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from command_line import Program
    from fleets import Fleet
    from servers import Server

PASSWORD = "canary-of-redis-7f3a"  # noqa: S105 - of these tests
WRONG = "canary-of-a-guess-91bc"
TOKEN = "canary-of-the-api-52de"  # noqa: S105
PAYLOAD = "canary-of-a-payload-c0de"
CANARIES = (PASSWORD, WRONG, TOKEN, PAYLOAD)


class Said:
    """All that was said, by where."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, text: str) -> None:
        """Keep it."""
        self.texts.append((where, text))

    def check(self) -> None:
        """Fail on the first that tells a secret; silence would prove nothing."""
        assert sum(len(text) for _, text in self.texts) > 10_000
        for where, text in self.texts:
            for canary in CANARIES:
                at = text.find(canary)
                assert at < 0, (where, text[max(0, at - 200) : at + 100])


def command(said: Said, url: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a program and keep what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "bananas", *args],
        env=plain_environ(BANANAS_REDIS_URL=url, BANANAS_KEY_PREFIX=PREFIX, **env),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    said.add(f"{args} ({done.returncode})", done.stdout + done.stderr)
    return done


def titles(said: Said, session: int) -> None:
    """Keep what anybody on the machine sees of the processes of a session."""
    for pid in session_of(session):
        for name in ("cmdline", "comm", "status"):
            try:
                text = Path(f"/proc/{pid}/{name}").read_bytes().decode("utf-8", "replace")
            except OSError:  # it has ended
                continue
            said.add(f"{pid} {name}", text)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_secret_is_told(
    make_server: Callable[..., Server], fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """A fleet, an API and commands, with failing jobs, wrong passwords and a server that goes."""
    said = Said()
    server = make_server(tcp=True, arguments=("--requirepass", PASSWORD))
    url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
    wrong_url = url.replace(PASSWORD, WRONG)
    with ExitStack() as stack:
        running = fleet(url, LOG_LEVEL="debug", MAX_RETRIES="1").start()
        api = stack.enter_context(
            program(
                *("api", "--port", "0", "--redis-url", url, "--log-level", "debug"),
                folder=tmp_path,
                BANANAS_API_TOKEN=TOKEN,
                BANANAS_KEY_PREFIX=PREFIX,
            )
        )
        api.until("child-ready")
        titles(said, running.pid)
        for pid in [api.process.pid, *_children(api.process.pid)]:
            said.add(f"api {pid}", Path(f"/proc/{pid}/cmdline").read_bytes().decode())
        fail_some_jobs(url)
        ask(said, _port(api))
        for args in (
            ("doctor", "--audit", "--all"),
            ("queue", "ls"),
            ("dead", "ls"),
            ("dead", "groups"),
            ("enqueue", "quick", f'{{"x": "{PAYLOAD}"}}'),
            ("job", "cancel", "nobody"),
        ):
            command(said, url, *args, BANANAS_API_TOKEN=TOKEN)
        for bad, *args in (
            (wrong_url, "doctor"),
            (wrong_url, "enqueue", "quick"),
            (wrong_url.replace("redis:", "rediss:"), "queue", "ls"),
            (f"redis://x:{WRONG}@[", "queue", "ls"),
        ):
            assert command(said, bad, *args).returncode != 0
        server.kill()
        command(said, url, "doctor")
        answer = httpx.get(
            f"http://127.0.0.1:{_port(api)}/health",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 503
        said.add("/health without a server", answer.text)
        wait_for(lambda: running.said("WARNING"), what="a word about the outage")
        server.start()
        assert running.stop(within_s=40) == 0
    said.add("the fleet's log", running.text())
    said.add("the API's log", api.said())
    settings = Settings(redis_url=url, api_token=TOKEN)
    said.add("settings", f"{settings!r} {settings.describe()} {settings.api_token!r}")
    said.check()


def _children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _port(api: Program) -> int:
    """Return the port of an API by what its process listens on."""
    import psutil  # noqa: PLC0415 - beside its one use

    for pid in _children(api.process.pid):
        for at in psutil.Process(pid).net_connections("tcp4"):
            if at.status == psutil.CONN_LISTEN:
                return int(at.laddr.port)
    raise AssertionError("it listens on none")


def fail_some_jobs(url: str) -> None:
    """Have jobs fail in the ways that are ours to describe, each with the secret in its payload."""
    secret: Any = {"x": PAYLOAD}
    with SyncClient(settings=Settings(redis_url=url, key_prefix=PREFIX)) as client:
        jobs = [
            client.submit("quick", secret, result=True),  # not its arguments
            client.submit("quick", [PAYLOAD], result=True),
            client.submit("slow", {"seconds": PAYLOAD}, result=True, max_retries=1),
            client.submit("block", {"seconds": 60, "how": PAYLOAD}, timeout_s=0.2, result=True),
        ]
        client.submit("nobody", secret, max_retries=1)
        deadline_s = time.monotonic() + 60
        for job in jobs:
            while client.get_job(job.id).status not in ("failed", "completed"):
                assert time.monotonic() < deadline_s
                time.sleep(0.05)  # other processes


def ask(said: Said, port: int) -> None:
    """Ask the API in right and in wrong ways."""
    good = {"authorization": f"Bearer {TOKEN}"}
    json_type = {"content-type": "application/json"}
    body = json.dumps({"name": "quick", "payload": PAYLOAD}).encode()
    secret = PAYLOAD.encode()
    deep = b'{"name":"q","payload":' + b"[" * 99 + body + b"]" * 99 + b"}"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
        for method, path, headers, data in (
            ("GET", "/stats", good, b""),
            ("GET", "/metrics", good, b""),
            ("GET", "/queues", good, b""),
            ("GET", "/health", good, b""),
            ("GET", "/openapi.json", good, b""),
            ("GET", "/docs", good, b""),
            ("GET", "/stats", {"authorization": f"Bearer {WRONG}"}, b""),
            ("GET", "/stats", {"authorization": f"Basic {TOKEN}"}, b""),
            ("POST", "/jobs", good | json_type, body[:-3]),
            ("POST", "/jobs", good | json_type, deep),
            ("POST", "/jobs", good | json_type, body.replace(b"quick", b"qu ick")),
            (
                "POST",
                "/jobs",
                good | json_type,
                b'{"name":"q","priority":"%b"}' % secret,
            ),
            (
                "POST",
                "/jobs",
                good | json_type,
                b'{"name":"q","id":"a b%b"}' % secret,
            ),
            ("POST", "/jobs", good, body),
            ("POST", "/jobs/batch", good | {"content-type": "application/x-ndjson"}, body[:-3]),
        ):
            answer = http.request(method, path, headers=headers, content=data)
            said.add(f"{method} {path} {answer.status_code}", answer.text + str(answer.headers))
        assert re.search("bananas_", http.get("/metrics", headers=good).text)
