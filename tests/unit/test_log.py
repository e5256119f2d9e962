"""Logs: one line a record whatever it holds, and no sink that can hold up the work."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas import log
from bananas.log import (
    ContextFilter,
    Handler,
    JsonFormatter,
    TextFormatter,
    configure,
)
from bananas.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("bananas.test")


class Job(NamedTuple):
    """A running job, as far as logs care."""

    id: str
    name: str
    attempt: int


running_job: ContextVar[Job] = ContextVar("running_job")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave the loggers as they were."""
    ours = logging.getLogger("bananas")
    yield
    for name in ("bananas", "elsewhere"):
        log._take_off(logging.getLogger(name))
    ours.setLevel(logging.NOTSET)
    ours.propagate = True


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return the two ends of a pipe: read, write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # closed by the test


def read_all(fd: int) -> bytes:
    """Return all that lies in a pipe, without waiting for more."""
    os.set_blocking(fd, False)
    parts = []
    while True:
        try:
            part = os.read(fd, 65_536)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    """Return a record as `logger.warning(message, *args, extra=extra)` makes it."""
    made = logging.makeLogRecord({"name": "bananas.x", "msg": message, "args": args})
    made.levelname, made.levelno, made.created = "WARNING", logging.WARNING, 1_763_952_795.123456
    vars(made).update(extra)
    return made


def failing(message: str) -> logging.LogRecord:
    """Return a record with the traceback of an exception of this message."""
    made = record("failed")
    try:
        _fail(message)
    except RuntimeError:
        made.exc_info = sys.exc_info()
    return made


def _fail(message: str) -> None:
    raise RuntimeError(message)


# --- formats ------------------------------------------------------------------------------------


def test_json_record() -> None:
    """A JSON record has time, level, logger, message and pid, then the extras."""
    entry = json.loads(JsonFormatter().format(record("hello %s", "you", depth=3)))
    assert entry == {
        "time": "2025-11-24T02:53:15.123456Z",
        "level": "warning",
        "logger": "bananas.x",
        "message": "hello you",
        "pid": os.getpid(),
        "depth": 3,
    }


def test_text_record() -> None:
    """A text record is one line with the same content."""
    assert TextFormatter().format(record("hello %s", "you", depth=3)) == (
        f"2025-11-24T02:53:15.123456Z WARNING [{os.getpid()}] bananas.x hello you depth=3"
    )


def test_job_context() -> None:
    """Inside a job both formats name it, and users' formats can."""
    token = running_job.set(Job("id-1", "send", 2))
    try:
        entry = json.loads(JsonFormatter(running_job).format(record("m")))
        line = TextFormatter(running_job).format(record("m"))
        theirs = record("m")
        assert ContextFilter(running_job).filter(theirs)
    finally:
        running_job.reset(token)
    assert (entry["job_id"], entry["task"], entry["attempt"]) == ("id-1", "send", 2)
    assert "job_id=id-1 task=send attempt=2" in line
    assert (theirs.job_id, theirs.task, theirs.attempt) == ("id-1", "send", 2)  # type: ignore[attr-defined]


def test_no_job_context() -> None:
    """Outside of a job the records do not speak of one; a filtered record holds None."""
    assert "job_id" not in json.loads(JsonFormatter(running_job).format(record("m")))
    theirs = record("m")
    ContextFilter(running_job).filter(theirs)
    assert theirs.job_id is None  # type: ignore[attr-defined]
    assert "job_id" not in TextFormatter(running_job).format(theirs)


@given(st.text(st.characters(), max_size=60), st.text(st.characters(), max_size=20))
def test_nothing_forges_a_line(message: str, value: str) -> None:
    """Whatever characters a message, extra or job name holds, a record stays one plain line."""
    token = running_job.set(Job(value, value, 1))
    try:
        made = record("%s", message, extra=value)
        text = TextFormatter(running_job).format(made)
        encoded = JsonFormatter(running_job).format(made)
    finally:
        running_job.reset(token)
    assert text.isprintable()
    assert encoded.isprintable()
    assert json.loads(encoded)["level"] == "warning"


def test_control_characters_are_escaped() -> None:
    """CR, LF and ESC leave a visible trace instead of an effect."""
    assert (
        TextFormatter().format(record("a\r\nb\x1b[2Jc\u202ed")).endswith(r"a\r\nb\x1b[2Jc\u202ed")
    )


def test_traceback() -> None:
    """A traceback follows its record; each of its lines is marked, a forged one too."""
    made = failing("boom\n2025-11-24 forged\u2028line")
    first, *rest = TextFormatter().format(made).split("\n")
    assert first.endswith("failed")
    assert all(line.startswith(" | ") and line.isprintable() for line in rest)
    assert " | 2025-11-24 forged\\u2028line" in rest
    assert "RuntimeError: boom" in json.loads(JsonFormatter().format(made))["traceback"]


def test_stack_and_ready_traceback() -> None:
    """A stack, and a traceback another handler made, are shown."""
    made = record("m", exc_text="Traceback: done", stack_info="Stack (most recent call last):")
    shown = json.loads(JsonFormatter().format(made))["traceback"]
    assert shown == "Traceback: done\nStack (most recent call last):"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_secret(formatter: logging.Formatter) -> None:
    """URL passwords and secrets are hidden in messages, extras and tracebacks."""
    url = "redis://u:c4n@ry@host/0"
    made = failing(f"cannot reach {url}")
    made.msg, made.args = "%s of %s", (url, Secret("c4n@ry"))
    vars(made).update(url=url, token=Secret("c4n@ry"), nested={"deep": Secret("c4n@ry")})
    shown = formatter.format(made)
    assert "c4n" not in shown
    assert "ry@" not in shown
    assert "redis://u:***@host/0" in shown


def test_values_json_has_no_form_for() -> None:
    """An extra of any type is written: as text where JSON has no form for it."""
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (object(), {1, 2}, cycle, 10**30, b"\xff", "\ud800", float("nan"), {3: "x"}):
        entry = json.loads(JsonFormatter().format(record("m", value=value)))
        assert entry["message"] == "m"
        assert "value" in entry


def test_without_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without orjson the library's encoder writes the same records."""
    made = record("m ü", depth=3, odd={1, 2})
    with_it = json.loads(JsonFormatter().format(made))
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert json.loads(JsonFormatter().format(made)) == with_it


def test_arguments_that_do_not_fit() -> None:
    """A record whose arguments do not fit its message, or cannot be shown, is still written."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    for made in (record("%d", "x"), record("%s", Broken())):
        assert "do not fit" in TextFormatter().format(made)
        assert "do not fit" in JsonFormatter().format(made)


def test_long_messages_are_cut() -> None:
    """A message of a megabyte does not become a line of a megabyte."""
    assert len(TextFormatter().format(record("x" * 2**20))) < 20_000


# --- set-up -------------------------------------------------------------------------------------


def test_only_our_logger(pipe: tuple[int, int]) -> None:
    """Only `bananas` is touched: the root has no more handlers than before."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    configure("info", "json", stream=pipe[1])
    logger.info("ours")
    logger.debug("too fine")
    logging.getLogger("elsewhere").error("theirs")
    lines = read_all(pipe[0]).splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["ours"]
    assert (list(root.handlers), root.level) == before


def test_configure_twice(pipe: tuple[int, int]) -> None:
    """A second call replaces the first: a record is written once, in the new format."""
    configure("info", "json", stream=pipe[1])
    configure("debug", "text", stream=pipe[1])
    logger.debug("once")
    assert read_all(pipe[0]).count(b"once") == 1


def test_configured_records_name_their_job(pipe: tuple[int, int]) -> None:
    """Given the variable that workers set, both formats name the job."""
    token = running_job.set(Job("id-1", "send", 1))
    try:
        for format_ in ("json", "text"):
            configure("info", format_, stream=pipe[1], running_job=running_job)
            logger.info("m")
    finally:
        running_job.reset(token)
    assert read_all(pipe[0]).count(b"id-1") == 2


def test_more_loggers(pipe: tuple[int, int]) -> None:
    """Loggers named are sent there too; the root is refused."""
    configure("info", "text", stream=pipe[1], loggers=("elsewhere",))
    logging.getLogger("elsewhere").info("theirs")
    assert b"theirs" in read_all(pipe[0])
    for name in ("", "root"):
        with pytest.raises(ValueError, match="root"):
            configure(loggers=(name,))


def test_wrong_names() -> None:
    """An unknown level or format is a ValueError."""
    with pytest.raises(ValueError, match="loud"):
        configure("loud")
    with pytest.raises(ValueError, match="xml"):
        configure("info", "xml")


def test_stream_may_be_a_file(tmp_path: Path) -> None:
    """A file keeps its place and its mode: lines are appended by everyone in turn."""
    path = tmp_path / "log"
    with path.open("a") as stream:
        configure("info", "text", stream=stream)
        logger.info("first")
        stream.write("other\n")
        stream.flush()
        logger.info("second")
    words = [line.split()[-1] for line in path.read_text().splitlines()]
    assert words == ["first", "other", "second"]


def test_stderr_is_the_default() -> None:
    """Without a stream, records go to standard error, so that output can be piped."""
    code = (
        "import logging; from bananas.log import configure; configure('info', 'text');"
        "logging.getLogger('bananas').info('here'); print('data')"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert said.stdout == "data\n"
    assert said.stderr.endswith("here\n")


# --- a sink in trouble ----------------------------------------------------------------------------


@pytest.fixture(params=["reopened", "polled"])
def handler(
    request: pytest.FixtureRequest, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Handler]:
    """Return a handler on the pipe, by each of the two ways not to wait."""
    if request.param == "polled":

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", refuse)
    made = Handler(pipe[1], backlog_bytes=65_536)
    monkeypatch.undo()
    made.setFormatter(TextFormatter())
    yield made
    made.close()


def test_stuck_sink_costs_records_not_time(handler: Handler, pipe: tuple[int, int]) -> None:
    """A pipe nobody reads: no call waits, records are dropped and counted, then owned up to."""
    began = time.monotonic()
    for number in range(5_000):
        handler.handle(record("number %d %s", number, "x" * 100))
    assert time.monotonic() - began < 5
    assert handler.dropped > 0
    lost = handler.dropped

    seen = b""
    while part := read_all(pipe[0]):
        seen += part
        handler.flush()
    handler.handle(record("after"))
    seen += read_all(pipe[0])
    lines = seen.decode().splitlines()
    assert f"bananas.log {lost} log records dropped" in lines[-2]
    assert lines[-1].endswith("after")
    assert len(lines) == 5_000 - lost + 2
    numbers = [int(line.split(" number ")[1].split()[0]) for line in lines[:-2]]
    assert numbers == list(range(5_000 - lost))


def test_the_shared_descriptor_stays_as_it_was(handler: Handler, pipe: tuple[int, int]) -> None:
    """The descriptor that others share is left blocking."""
    handler.handle(record("m"))
    assert os.get_blocking(pipe[1])


def test_reader_gone(handler: Handler, pipe: tuple[int, int]) -> None:
    """A pipe without a reader loses the record, and raises nothing."""
    os.close(pipe[0])
    for _ in range(3):
        handler.handle(record("m"))
    assert handler.dropped == 3


def test_closed_descriptor() -> None:
    """A closed descriptor loses the record, and raises nothing."""
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    handler = Handler(write)
    handler.setFormatter(JsonFormatter())
    handler.handle(record("m"))
    assert handler.dropped == 1
    handler.close()


def test_full_disk() -> None:
    """A full disk loses the record, and raises nothing."""
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        handler = Handler(full.fileno())
        handler.handle(record("m"))
        assert handler.dropped == 1
        handler.close()


def test_socket_sink() -> None:
    """A socket, which cannot be opened anew, is polled and never waited for."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = Handler(ours.fileno(), backlog_bytes=1_000)
        for _ in range(20_000):
            handler.handle(record("x" * 200))
        assert handler.dropped > 0
        assert theirs.recv(100).startswith(b"x" * 100)
        handler.close()


def test_backlog_is_written_at_close(handler: Handler, pipe: tuple[int, int]) -> None:
    """What a full pipe has not taken is written at the end, if it takes it by then."""
    while not handler._backlog:
        handler.handle(record("x" * 1_000))
    before = read_all(pipe[0])
    handler.close()
    handler.close()
    assert (before + read_all(pipe[0])).endswith(b"x\n")


def test_close_does_not_wait_for_a_stuck_sink(handler: Handler) -> None:
    """The end of a process is not held up by a pipe that nobody reads."""
    while not handler.dropped:
        handler.handle(record("x" * 1_000))
    began = time.monotonic()
    handler.close()
    assert time.monotonic() - began < 2


def test_child_does_not_repeat_its_parents_backlog(handler: Handler) -> None:
    """A forked process forgets what its parent had not yet written."""
    while not handler.dropped:
        handler.handle(record("x" * 1_000))
    handler._pid = -1  # as if forked
    handler.handle(record("mine"))
    assert b"xx" not in bytes(handler._backlog)
    assert handler.dropped == 0


def test_broken_formatter(handler: Handler, pipe: tuple[int, int]) -> None:
    """A formatter that raises costs its record's text, and nothing else."""

    class Broken(logging.Formatter):
        def format(self, _: logging.LogRecord) -> str:
            raise RuntimeError

    handler.setFormatter(Broken())
    handler.handle(record("m"))
    assert read_all(pipe[0]) == b"WARNING bananas.x: record cannot be formatted\n"


def test_stream_without_a_descriptor() -> None:
    """A stream that has no descriptor is refused at once."""
    with pytest.raises(io.UnsupportedOperation):
        configure(stream=io.StringIO())
