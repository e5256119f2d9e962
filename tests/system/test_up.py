"""`bananas up` end to end: HTTP in, result out, the other commands beside it, a clean end."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from bananas import embedded
from bananas.cli import exits
from command_line import APP, Program, plain_environ, program, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def call(url: str, body: object = None, method: str | None = None) -> Any:  # noqa: ANN401 - JSON
    """Send JSON, return JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - our own server
        url, data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.loads(answer.read())


def bananas(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in the folder and with the data of the fleet."""
    return subprocess.run(
        [sys.executable, "-m", "bananas", *args],
        cwd=folder,
        env=plain_environ(BANANAS_DATA_DIR=str(folder / "data"), **env),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an application."""
    try:
        embedded.find_server()
    except embedded.EmbeddedServerError:
        pytest.skip("no server on this machine")
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture
def up(folder: Path) -> Iterator[Program]:
    """Run the whole in the folder, ready."""
    pytest.importorskip("uvicorn")
    with program(
        "up",
        "shop:app",
        "--procs",
        "1",
        "--port",
        "0",
        folder=folder,
        BANANAS_DATA_DIR=str(folder / "data"),
    ) as running:
        running.until(r"(?m)^ready$")
        yield running


def url_of(up: Program) -> str:
    """Return the API's address, as it was announced."""
    found = re.search(r"api +(http://\S+)", up.said())
    assert found, up.said()
    return found[1]


def test_a_job_goes_in_by_http_and_comes_out_as_a_result(up: Program, folder: Path) -> None:
    """Enqueued over HTTP, run by a worker, seen by the commands; SIGTERM ends all with 0."""
    base = url_of(up)
    made = call(f"{base}/jobs", {"name": "add", "payload": {"x": 2, "y": 3}, "result": True})
    end = call(f"{base}/jobs/{made['id']}/result?wait_s=10")
    assert (end["status"], end["result"]) == ("completed", 5)

    shown = bananas(folder, "job", "show", made["id"], "--json")
    assert json.loads(shown.stdout)["status"] == "completed"
    waited = bananas(folder, "enqueue", "add", "x=20", "y=22", "--wait")
    assert (waited.returncode, waited.stdout) == (exits.OK, "42\n")
    listed = json.loads(bananas(folder, "queue", "ls", "--json").stdout)
    assert (listed["workers"], listed["waiting"]) == (1, 0)
    doctor = bananas(folder, "doctor", "--audit")
    assert doctor.returncode == exits.OK, doctor.stdout
    assert "every job is accounted for" in doctor.stdout

    assert up.stop() == exits.OK
    said = up.said()
    assert "stopping" in said
    assert "Traceback" not in said
    assert embedded.running(folder / "data") is None


def test_what_runs_where_is_said(up: Program) -> None:
    """Server, workers with their tasks, scheduler, the API's address, and what to try."""
    said = up.said()
    for words in ("private; data in", "1 process", "shop:app", "add, check, keep", "/docs"):
        assert words in said


def test_a_slow_server_is_no_outage(folder: Path) -> None:
    """Workers that are up before their server wait for it, and report nothing."""
    pytest.importorskip("uvicorn")
    path = embedded.find_server().path
    slow = folder / "slow" / path.name
    slow.parent.mkdir()
    slow.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] || sleep 1  # as long as a worker takes to start, and longer\n'
        f'exec "{path}" "$@"\n'
    )
    slow.chmod(0o755)
    with program(
        *("up", "shop:app", "--procs", "1", "--port", "0"),
        folder=folder,
        BANANAS_DATA_DIR=str(folder / "data"),
        PATH=f"{slow.parent}{os.pathsep}{os.environ['PATH']}",
    ) as running:
        running.until(r"(?m)^ready$")
        assert str(slow) in running.said()
        assert "cannot reach" not in running.said()
        assert running.stop() == exits.OK


def test_jobs_outlive_a_restart(up: Program, folder: Path) -> None:
    """What was scheduled is there when the same command runs again."""
    job_id = bananas(folder, "enqueue", "add", "x=1", "--delay", "1h").stdout.strip()
    up.stop()
    gone = bananas(folder, "job", "show", job_id)
    assert gone.returncode == exits.NO_SERVER
    assert "no embedded server runs" in gone.stderr
    with program(
        "worker",
        "shop:app",
        "--procs",
        "1",
        folder=folder,
        BANANAS_DATA_DIR=str(folder / "data"),
    ) as again:
        again.until('child-ready.*"child_role":"worker"')
        shown = json.loads(bananas(folder, "job", "show", job_id, "--json").stdout)
    assert shown["status"] == "scheduled"


def test_two_do_not_share_a_port(up: Program, folder: Path) -> None:
    """A second one on the same port is told at once, before it starts anything."""
    port = url_of(up).rpartition(":")[2]
    other = bananas(folder, "up", "shop:app", "--port", port)
    assert other.returncode == exits.USAGE
    assert "is taken" in other.stderr


def test_commands_of_their_own_meet_on_the_data_folder(folder: Path) -> None:
    """Workers, scheduler and API started one by one find the server that the first one runs."""
    data = {"BANANAS_DATA_DIR": str(folder / "data")}
    with (
        program("scheduler", folder=folder, **data) as scheduler,
        program("worker", "shop:app", "--procs", "1", folder=folder, **data) as worker,
    ):
        scheduler.until('child-ready.*"child_role":"warden"')
        worker.until('child-ready.*"child_role":"worker"')
        waited = bananas(folder, "enqueue", "add", "x=1", "y=1", "--delay", "100ms", "--wait")
        assert (waited.returncode, waited.stdout) == (exits.OK, "2\n"), waited.stderr
        assert worker.stop() == exits.OK
        assert scheduler.stop(signal.SIGINT) == exits.OK


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:app", 'no module "nowhere"'),
        ("shop:nothing", 'has no "nothing"'),
        ("shop:add.name", "is a str"),
        ("broken:app", "ZeroDivisionError"),
        ("leaves:app", "ended the process (exit 3)"),
    ],
)
@pytest.mark.parametrize("command", ["up", "worker"])
def test_a_wrong_application_is_told_at_once(
    folder: Path, command: str, target: str, words: str
) -> None:
    """One line, status 2, and no process is started for it."""
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "leaves.py").write_text("import os\nos._exit(3)\n")
    said = bananas(folder, command, target)
    assert said.returncode == exits.USAGE, said.stderr
    assert words in said.stderr
    assert not (folder / "data").exists()


def test_an_application_is_needed(folder: Path) -> None:
    """And how to name it is said; BANANAS_APP is one way."""
    said = bananas(folder, "worker")
    assert said.returncode == exits.USAGE
    assert "module:attribute" in said.stderr
    said = bananas(folder, "worker", BANANAS_APP="nowhere:app")
    assert 'no module "nowhere"' in said.stderr


def test_what_an_application_asks_for_in_code_is_heard(folder: Path) -> None:
    """Its address and settings hold for its workers, unless a flag says otherwise."""
    (folder / "asks.py").write_text(
        "from bananas import Bananas\n"
        f"app = Bananas('unix://{folder}/none.sock', worker_concurrency=3)\n"
        "@app.task\nasync def nothing() -> None: ...\n"
    )
    with program(
        "worker", "asks:app", "--procs", "1", folder=folder, BANANAS_DATA_DIR=str(folder / "data")
    ) as running:
        said = running.until("supervisor-started")
        assert re.search(r'"child_children":\{"warden":1,"worker":1\}', said), said
    assert not (folder / "data").exists()


def test_the_supervisor_has_a_name_of_its_own(folder: Path) -> None:
    """`bananas-supervisor --procs auto APP` is `bananas worker`, and says so."""
    done = subprocess.run(
        [sys.executable, "-c", "from bananas.cli import supervisor_main; supervisor_main()", "-h"],
        cwd=folder,
        env=plain_environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exits.OK
    assert done.stdout.startswith("Usage: bananas-supervisor [OPTIONS] [APP]")
    assert "TTIN" in done.stdout


def test_a_script_that_stops_reading_is_no_error(up: Program, folder: Path) -> None:  # noqa: ARG001
    """`bananas … | head -0` ends without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "bananas", "queue", "ls"],
        cwd=folder,
        env=plain_environ(BANANAS_DATA_DIR=str(folder / "data")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_the_bench_measures_real_workers(folder: Path) -> None:
    """Every figure is there, with its conditions; no process and no data are left."""
    begun_s = time.monotonic()
    done = bananas(folder, "bench", "--jobs", "2000", "--samples", "10", "--procs", "1", "--json")
    assert done.returncode == exits.OK, done.stderr
    told = json.loads(done.stdout)
    assert all(value > 0 for value in told["figures"].values())
    assert (told["conditions"]["jobs"], told["conditions"]["workers"]) == (2000, 1)
    assert not (folder / "data").exists()
    assert time.monotonic() - begun_s < 45
    shown = bananas(folder, "bench", "--jobs", "1000", "--samples", "10", "--procs", "1")
    assert "enqueue_many" in shown.stdout
    assert "conditions" in shown.stdout


def test_it_ends_with_its_terminal(folder: Path) -> None:
    """Closing the window is no rolling restart: nothing is left that nobody sees."""
    pytest.importorskip("uvicorn")
    master, slave = os.openpty()
    log = folder / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bananas", "up", "shop:app", "--procs", "1", "--port", "0"],
            cwd=folder,
            env=plain_environ(BANANAS_DATA_DIR=str(folder / "data")),
            stdin=slave,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
    os.close(slave)
    try:
        until(lambda: b"\nready\n" in log.read_bytes(), seconds=30)
        os.close(master)
        assert process.wait(20) == exits.OK
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert embedded.running(folder / "data") is None
