"""Logs: one handler on the logger `bananas`, as JSON lines or as text, never on the root.

A log sink may be stuck, closed or full; jobs go on all the same. The handler never waits:
what the sink does not take at once is held in a bounded backlog, and past that, records
are dropped and counted. Nothing that a job controls can forge a line: control characters
are escaped, and passwords inside URLs are hidden.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import stat
import sys
import time
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ROOT: Final = "bananas"
_BACKLOG_BYTES: Final = 256 * 1024
_CLOSE_WAIT_S: Final = 0.2
_MESSAGE_CHARS: Final = 16_384

# A pipe that polls as writable takes this much without waiting.
_PIPE_BUF: Final = select.PIPE_BUF

_URL_PASSWORD: Final = re.compile(r"(://[^\s:/@]*:)\S+@")
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",  # from 3.12 on
    "job_id",
    "task",
    "attempt",
}


# --- context ----------------------------------------------------------------------------------


class RunningJob(Protocol):
    """What a log says of the job that the calling task or thread runs."""

    @property
    def id(self) -> str:
        """The job's id."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The task's name."""
        raise NotImplementedError

    @property
    def attempt(self) -> int:
        """Which run this is, from 1."""
        raise NotImplementedError


RunningJobVar = ContextVar[Any]
"""Holds a `RunningJob` inside a handler, and nothing, or None, outside of one."""


def _job(variable: RunningJobVar | None) -> RunningJob | None:
    return None if variable is None else variable.get(None)


class ContextFilter(logging.Filter):
    """Gives any record `job_id`, `task` and `attempt`, for users' own handlers and formats."""

    def __init__(self, running_job: RunningJobVar) -> None:
        """Read the job from this variable, which the workers set."""
        super().__init__()
        self._running_job = running_job

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the three attributes, None outside of a job, and let the record pass."""
        job = _job(self._running_job)
        record.job_id = job and job.id
        record.task = job and job.name
        record.attempt = job and job.attempt
        return True


# --- formats ----------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    """Return the text on one line, without control, bidirectional or surrogate characters."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _redacted(text: str) -> str:
    """Return the text with the passwords of URLs hidden: exceptions of clients quote them."""
    return _URL_PASSWORD.sub(r"\1***@", text) if "://" in text else text


def _message(record: logging.LogRecord) -> str:
    """Return the record's message, even when its arguments do not fit it."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - __str__ of an argument may raise anything
        text = f"{record.msg!s} (arguments do not fit the message)"
    text = _redacted(text)
    return text if len(text) <= _MESSAGE_CHARS else text[:_MESSAGE_CHARS] + "…"


def _traceback(record: logging.LogRecord) -> str:
    """Return the record's traceback and stack, empty where it has none."""
    parts: list[str] = []
    if record.exc_info:
        parts.append(_FORMATTER.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return _redacted("\n".join(parts))


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}


def _time(created_s: float) -> str:
    """Return a time as `2026-11-24T02:53:15.123456Z`."""
    whole, micros = divmod(round(created_s * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{micros:06d}Z"


_FORMATTER: Final = logging.Formatter()


class TextFormatter(logging.Formatter):
    """One record, one line; the lines of a traceback follow, each marked by ` | `."""

    def __init__(self, running_job: RunningJobVar | None = None) -> None:
        """Name the job that this variable holds, if given."""
        super().__init__()
        self._running_job = running_job

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text without its final line end."""
        parts = [
            _time(record.created),
            f"{record.levelname:<7}",
            f"[{record.process}]",
            record.name,
            _escaped(_message(record)),
        ]
        job = _job(self._running_job)
        if job is not None:
            parts.append(
                f"job_id={_escaped(job.id)} task={_escaped(job.name)} attempt={job.attempt}"
            )
        parts += [f"{key}={_escaped(_redacted(str(v)))}" for key, v in _extras(record).items()]
        line = " ".join(parts)
        if traceback := _traceback(record):
            # Only \n parts lines here: str.splitlines would trust a job's own separators.
            line += "".join(f"\n | {_escaped(part)}" for part in traceback.split("\n"))
        return line


class JsonFormatter(logging.Formatter):
    """One record, one JSON object on one line: time, level, logger, message, pid, and more."""

    def __init__(self, running_job: RunningJobVar | None = None) -> None:
        """Name the job that this variable holds, if given; encode by orjson where installed."""
        super().__init__()
        self._running_job = running_job
        self._dumps: Callable[[dict[str, Any]], str] = _encoder()

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON without its final line end."""
        entry: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "pid": record.process,
        }
        job = _job(self._running_job)
        if job is not None:
            entry |= {"job_id": job.id, "task": job.name, "attempt": job.attempt}
        if traceback := _traceback(record):
            entry["traceback"] = traceback
        for key, value in _extras(record).items():
            entry.setdefault(key, _redacted(value) if isinstance(value, str) else value)
        try:
            encoded = self._dumps(entry)
        except (TypeError, ValueError, RecursionError):  # a lone surrogate, a cycle, a huge number
            plain = {key: v if isinstance(v, int) else str(v) for key, v in entry.items()}
            encoded = _dumps_plain(plain)
        if encoded.isprintable():
            return encoded
        # JSON lets C1 controls, line separators and bidirectional marks through; a terminal obeys.
        return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in encoded)


def _dumps_plain(entry: dict[str, Any]) -> str:
    return json.dumps(entry, default=_shown, separators=(",", ":"))


def _shown(value: object) -> str:
    return _redacted(str(value))


def _encoder() -> Callable[[dict[str, Any]], str]:
    try:
        import orjson  # noqa: PLC0415 - 20 ms, for a process that writes JSON only
    except ImportError:
        return _dumps_plain
    options = orjson.OPT_NON_STR_KEYS

    def dumps(entry: dict[str, Any]) -> str:
        return orjson.dumps(entry, default=_shown, option=options).decode()

    return dumps


# --- the sink ---------------------------------------------------------------------------------


class Handler(logging.Handler):
    """Writes lines to a file descriptor without ever waiting for it.

    A pipe or a terminal is opened anew without blocking, where the system lets us: the
    flag on the descriptor itself would change it for every process that shares it. Where
    it does not, the descriptor is polled and written in pieces that a writable one takes.
    """

    def __init__(self, fd: int, *, backlog_bytes: int = _BACKLOG_BYTES) -> None:
        """Write to `fd`, which stays the caller's, keeping at most `backlog_bytes` unwritten."""
        super().__init__()
        self.dropped = 0
        """Records lost so far, for want of a sink that takes them."""
        self._backlog = bytearray()
        self._backlog_bytes = backlog_bytes
        self._untold = 0  # records lost of which no line speaks yet
        self._told = 0  # records lost of which a line in the backlog speaks
        self._pid = os.getpid()
        self._own_fd, self._polled = _without_waiting(fd)
        self._fd = fd if self._own_fd is None else self._own_fd

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it, or drop and count it; never raise, never wait."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record must not break the code that made it
            line = f"{record.levelname} {record.name}: record cannot be formatted"
        self._put(line.encode("utf-8", "backslashreplace") + b"\n")

    def flush(self) -> None:
        """Write as much of the backlog as the sink takes at once.

        A process with nothing to log calls it now and then, so that the last lines before a
        pause do not wait for the next record.
        """
        with self._guarded():
            if self._backlog:
                self._drain()

    def close(self) -> None:
        """Give the sink a last moment to take what is left, then let go of it."""
        deadline = time.monotonic() + _CLOSE_WAIT_S
        with self._guarded():
            while self._backlog and (left_s := deadline - time.monotonic()) > 0:
                if not _writable(self._fd, left_s) or not self._drain():
                    break
            self._backlog.clear()
            own, self._own_fd = self._own_fd, None
            if own is not None:
                os.close(own)
                self._fd = -1
        super().close()

    @contextlib.contextmanager
    def _guarded(self) -> Any:  # noqa: ANN401 - a generator, wrapped
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _put(self, line: bytes) -> None:
        if self._pid != os.getpid():  # forked: what was unwritten is the parent's to write
            self._pid = os.getpid()
            self._backlog.clear()
            self._untold = self._told = self.dropped = 0
        if self._backlog:
            self._drain()
        if len(self._backlog) + len(line) > self._backlog_bytes:
            self.dropped += 1
            self._untold += 1
            return
        if self._untold:
            self._backlog += self._owning_up()
            self._told, self._untold = self._untold, 0
        self._backlog += line
        self._drain()

    def _owning_up(self) -> bytes:
        """Return the line that owns up to the records lost."""
        record = logging.makeLogRecord(
            {
                "name": f"{_ROOT}.log",
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "%d log records dropped: the sink did not take them",
                "args": (self._untold,),
            }
        )
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"

    def _drain(self) -> bool:
        """Write what the sink takes at once; return whether it took anything."""
        taken = False
        while self._backlog:
            if self._polled and not _writable(self._fd, 0):
                break
            piece = self._backlog[:_PIPE_BUF] if self._polled else self._backlog
            try:
                written = os.write(self._fd, piece)
            except InterruptedError:
                continue
            except OSError as problem:
                if not isinstance(problem, BlockingIOError):  # closed or full: it may come back
                    self._give_up()
                break
            taken = True
            del self._backlog[:written]
        if not self._backlog:
            self._told = 0
        return taken

    def _give_up(self) -> None:
        """Drop the backlog, line by line counted, since the sink takes nothing at all."""
        lost = self._backlog.count(b"\n") - bool(self._told)
        self.dropped += lost
        self._untold += lost + self._told
        self._told = 0
        self._backlog.clear()


def _without_waiting(fd: int) -> tuple[int | None, bool]:
    """Return a descriptor of our own that never blocks, if there is one, and whether to poll."""
    try:
        kind = os.fstat(fd).st_mode
    except OSError:  # closed: every write fails, and is counted
        return None, False
    if stat.S_ISREG(kind):
        return None, False
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        with contextlib.suppress(OSError):  # not Linux, or a pipe that another user made
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags), False
    return None, True


def _writable(fd: int, timeout_s: float) -> bool:
    """Return whether a write would be taken, or fail, at once."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(timeout_s * 1_000))


def occupy_standard_streams() -> None:
    """Open the null device where standard input, output or error is closed.

    Otherwise the next file or connection would get the number, and what is meant for the
    log would be written there. For commands, before they open anything.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(fd, True)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w", closefd=False))  # noqa: SIM115 - as long as we live


# --- set-up -----------------------------------------------------------------------------------


def configure(
    level: str = "info",
    format: str = "json",  # noqa: A002 - the setting's name
    *,
    stream: IO[str] | int | None = None,
    loggers: Iterable[str] = (),
    running_job: RunningJobVar | None = None,
) -> Handler:
    """Send the records of `bananas` to a stream, replacing what an earlier call set up.

    Commands call it, the library never does: an application that embeds us keeps its own
    set-up, in which our records arrive as any others.

    Args:
        level: `debug`, `info`, `warning`, `error` or `critical`.
        format: `json` or `text`.
        stream: A file or descriptor; standard error unless given, so that what a command
            prints can be piped.
        loggers: More loggers to send there, as in ("uvicorn.error",); never the root.
        running_job: The variable that holds the running job, so that records name it.

    Returns:
        The handler, whose `dropped` counts the records lost.

    Raises:
        ValueError: A level or format of another name.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no log level is called {level!r}")
    if format not in ("json", "text"):
        raise ValueError(f"no log format is called {format!r}")
    names = (_ROOT, *loggers)
    if not all(names) or "root" in names:
        raise ValueError("the root logger is the application's")
    fd = 2 if stream is None else stream if isinstance(stream, int) else stream.fileno()
    handler = Handler(fd)
    make = JsonFormatter if format == "json" else TextFormatter
    handler.setFormatter(make(running_job))
    for name in names:
        logger = logging.getLogger(name)
        _take_off(logger)
        logger.addHandler(handler)
        logger.setLevel(number)
        logger.propagate = False
    return handler


def _take_off(logger: logging.Logger) -> None:
    """Remove the handlers that an earlier `configure` put on."""
    for old in [handler for handler in logger.handlers if isinstance(handler, Handler)]:
        logger.removeHandler(old)
        old.close()
