"""Row 2 with a private server: it outlives the killed supervisor as long as it is needed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bananas import embedded
from command_line import invoke, program, until

APP = """\
import asyncio

from bananas import Bananas

app = Bananas()


@app.task
async def nap(seconds: float) -> None:
    open(f"{seconds}.started", "a").write("x")
    await asyncio.sleep(seconds)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an application, and be there."""
    try:
        embedded.find_server()
    except embedded.EmbeddedServerError:
        pytest.skip("no server on this machine")
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(job_id: str, env: dict[str, str]) -> dict[str, Any]:
    """Return what is known of a job."""
    found: dict[str, Any] = json.loads(invoke("job", "show", job_id, "--json", env=env).stdout)
    return found


@pytest.mark.parametrize("mode", ["default", "thin"])
def test_jobs_are_settled_before_the_private_server_ends(folder: Path, mode: str) -> None:
    """What ends within the grace is completed, the rest waits again; then nobody is left."""
    env = {"BANANAS_DATA_DIR": str(folder / "data"), "BANANAS_SHUTDOWN_GRACE": "3s"}
    args = ("worker", "shop:app", "--procs", "1", "--mode", mode)
    with program(*args, folder=folder, **env) as running:
        running.until('child-ready.*"child_role":"worker"')
        short = invoke("enqueue", "nap", "seconds=1.5", env=env).stdout.strip()
        long = invoke("enqueue", "nap", "seconds=60", env=env).stdout.strip()
        until(lambda: len([*folder.glob("*.started")]) == 2)
        server = embedded.running(folder / "data")
        assert server is not None
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        until(lambda: embedded.running(folder / "data") is None, seconds=20)
        until(lambda: _is_free(folder), seconds=20)
    with embedded.start(folder / "data"):
        shown = {job_id: status(job_id, env) for job_id in (short, long)}
    assert (shown[short]["status"], shown[short]["attempts"]) == ("completed", 1)
    assert (shown[long]["status"], shown[long]["attempts"]) == ("pending", 0)


def test_a_killed_keeper_takes_its_server_along_and_both_come_back(folder: Path) -> None:
    """The data is on disk: the next server has it, the workers go on."""
    env = {"BANANAS_DATA_DIR": str(folder / "data")}
    with program("worker", "shop:app", "--procs", "1", folder=folder, **env) as running:
        running.until('child-ready.*"child_role":"worker"')
        before = embedded.running(folder / "data")
        assert before is not None
        later = invoke("enqueue", "nap", "seconds=0", "--delay", "1s", env=env).stdout.strip()
        keeper = int(Path(f"/proc/{before.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)

        def back() -> bool:
            now = embedded.running(folder / "data")
            return now is not None and now.pid != before.pid

        until(back, seconds=20)
        until(lambda: [*folder.glob("*.started")], seconds=20)
        until(lambda: status(later, env)["status"] == "completed")
        assert running.stop() == 0


def _is_free(folder: Path) -> bool:
    """Tell whether nobody holds the data any more."""
    prepared = embedded.prepare(folder / "data")
    if prepared is None:
        return False
    prepared.release()
    return True
