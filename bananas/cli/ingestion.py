"""An ingestion under way: rows out of a file, verdicts into the ledger, a bar for who watches."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from bananas.cli import screen
from bananas.cli.ledger import Ledger, LedgerError, Progress, begin
from bananas.cli.post import Answer, Poster
from bananas.cli.rows import Ids, Row, Shape, max_line_bytes, read_rows
from bananas.cli.session import PATIENT_S, located, opened, run
from bananas.errors import FieldError, PayloadError, PayloadTypeError
from bananas.producer import MEMORY
from bananas.settings import redacted_url
from bananas.submission import Drafter, rejection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence

    from bananas.settings import Settings
    from bananas.submission import Verdict

_POST_LINES: Final = 2000
_POST_BYTES: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for; see the command's help."""

    file: str
    task: str | None
    id_from: str | None
    options: Mapping[str, Any]
    resume: bool
    restart: bool
    url: str | None
    rejected: Path
    quiet: bool


class _Judged(Protocol):
    """What both ways of submitting say of a row."""

    @property
    def status(self) -> str: ...
    @property
    def field(self) -> str | None: ...
    @property
    def rule(self) -> str | None: ...


class Ingestion:
    """One run over one file."""

    def __init__(self, request: Request, settings: Settings) -> None:
        """Prepare; nothing is opened yet."""
        self._request = request
        self._settings = settings
        self._ledger: Ledger | None = None
        self._under_way: deque[Row] = deque()
        self._bar: screen.Progress | None = None
        self._begun_s = 0.0
        self._first_row = 0
        self._judged = 0  # rows of this stream
        self.elapsed_s = 0.0
        self.rejected_path = request.rejected

    @property
    def progress(self) -> Progress | None:
        """How far it got; None = not begun."""
        return None if self._ledger is None else self._ledger.progress

    @property
    def rows(self) -> int:
        """Rows that this run had judged."""
        return 0 if self._ledger is None else self._ledger.progress.rows - self._first_row

    def run(self) -> None:
        """Submit every row.

        Raises:
            LedgerError: An earlier run does not fit.
            NoServerError: There is no server.
            BananasError: What submitting raises; the ledger knows how far it got.
        """
        request = self._request
        settings = self._settings if request.url is not None else located(self._settings)
        with ExitStack() as stack:
            file = stack.enter_context(_opened(request.file))
            ledger = self._ledger = self._open_ledger(file, settings)
            stack.callback(ledger.close)
            shape = self._shape(settings, ledger.progress)
            self._first_row = ledger.progress.rows
            size = _size(file)
            self._bar = stack.enter_context(
                screen.progress(
                    "ingesting",
                    size,
                    "rows",
                    "rate",
                    begun=ledger.progress.offset,
                    quiet=request.quiet,
                )
            )
            self._begun_s = time.monotonic()
            try:
                if request.url is not None:
                    self._post(file, shape, request.url)
                else:
                    run(self._stream(file, shape, settings))
            finally:
                self.elapsed_s = time.monotonic() - self._begun_s
            ledger.finish(ledger.progress.offset if size is None else max(file.tell(), 0))
            self._show()

    def _open_ledger(self, file: BinaryIO, settings: Settings) -> Ledger:
        request = self._request
        if request.file == "-":
            progress = begin(self._target(settings), request.task, request.id_from)
            request.rejected.unlink(missing_ok=True)
            return Ledger(progress, None, request.rejected)
        ledger = Ledger.open(
            file,
            Path(f"{request.file}.progress"),
            request.rejected,
            target=self._target(settings),
            task=request.task,
            id_from=request.id_from,
            resume=request.resume,
            restart=request.restart,
        )
        file.seek(ledger.progress.offset)
        return ledger

    def _target(self, settings: Settings) -> str:
        """Return where jobs go; the socket of an embedded server is another at each start."""
        if self._request.url is not None:
            return redacted_url(self._request.url)
        if self._settings.redis_url is None:
            return f"embedded {settings.data_dir} {settings.key_prefix}"
        return f"{redacted_url(self._settings.redis_url)} {settings.key_prefix}"

    def _shape(self, settings: Settings, progress: Progress) -> Shape:
        drafter = Drafter(
            max_retries=settings.max_retries,
            max_payload_bytes=settings.max_payload_bytes,
            max_depth=settings.max_depth,
            durability=settings.durability,
        )
        return Shape(
            drafter,
            Ids(progress.run, progress.started_ms),
            task=progress.task,
            id_from=progress.id_from,
            options=self._request.options,
            max_payload_bytes=settings.max_payload_bytes,
            max_depth=settings.max_depth,
        )

    def _rows(self, file: BinaryIO) -> Iterator[Row]:
        """Give the rows that are left, remembering those under way."""
        assert self._ledger is not None  # noqa: S101 - opened by run()
        progress = self._ledger.progress
        remember = self._under_way.append
        longest = max_line_bytes(self._settings.max_payload_bytes)
        for row in read_rows(file, offset=progress.offset, number=progress.line, max_bytes=longest):
            remember(row)
            yield row

    # --- straight to the server -------------------------------------------------------------------

    async def _stream(self, file: BinaryIO, shape: Shape, settings: Settings) -> None:
        rows: Iterator[Row] | AsyncIterator[Row] = self._rows(file)
        if not _is_regular(file):
            rows = self._piped_rows(file)
        async with opened(settings, patience_s=PATIENT_S) as client:
            await client.stream(rows, shape.draft, keep_verdicts=False, on_chunk=self._took)

    async def _piped_rows(self, file: BinaryIO) -> AsyncIterator[Row]:
        """Give the rows of a pipe or a terminal as they come, without holding up the loop."""
        reader = asyncio.StreamReader(limit=_READ_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        longest = max_line_bytes(self._settings.max_payload_bytes)
        rest, number, offset, skipping = b"", 0, 0, False
        try:
            while True:
                data = await reader.read(_READ_BYTES)
                *lines, rest = (rest + data).split(b"\n")
                if not data and rest:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    number += 1
                    offset += len(line) + 1
                    stripped = line.strip()
                    if skipping or len(line) > longest:
                        skipping = False
                        row = Row(number, offset, None)
                    elif stripped:
                        row = Row(number, offset, stripped)
                    else:
                        continue
                    self._under_way.append(row)
                    yield row
                if not data:
                    return
                if len(rest) > longest:
                    rest, skipping = b"", True
        finally:
            transport.close()

    def _took(self, verdicts: Sequence[Verdict]) -> None:
        """Enter the verdicts of a chunk; none of those after a chunk that got no answer."""
        if verdicts and verdicts[0].index != self._judged:
            return
        self._judged += len(verdicts)
        self._enter(verdicts)

    # --- over HTTP --------------------------------------------------------------------------------

    def _post(self, file: BinaryIO, shape: Shape, url: str) -> None:
        """Have one chunk under way while the next is being read."""
        token = self._settings.api_token
        asked = self._settings.durability
        poster = Poster(
            url,
            None if token is None else token.reveal(),
            durability=None if asked == MEMORY else asked,
        )
        under_way: _Posted | None = None
        chunk = _Chunk()
        with poster, ThreadPoolExecutor(1, "bananas-post") as thread:
            try:
                for row in self._rows(file):
                    chunk.add(row, shape)
                    if chunk.is_full:
                        self._land(under_way)
                        under_way, chunk = _Posted(chunk, poster, thread), _Chunk()
                self._land(under_way)
                under_way = _Posted(chunk, poster, thread)
                self._land(under_way)
            except BaseException:
                poster.abort()
                if under_way is not None:
                    wait([under_way.future])
                    self._enter(under_way.verdicts())
                raise

    def _land(self, posted: _Posted | None) -> None:
        """Wait for a chunk's verdicts, and enter them.

        Raises:
            ApiUnavailableError: Some never came.
            ApiRefusedError: None will.
        """
        if posted is not None:
            posted.future.result()
            self._enter(posted.verdicts())

    # --- both -------------------------------------------------------------------------------------

    def _enter(self, verdicts: Sequence[_Judged]) -> None:
        """Enter the verdicts on the oldest rows under way, and remember how far that is."""
        ledger = self._ledger
        if ledger is None or not verdicts:
            return
        progress = ledger.progress
        row = self._under_way[0]
        for verdict in verdicts:
            row = self._under_way.popleft()
            if verdict.status == "accepted":
                progress.accepted += 1
            elif verdict.status == "duplicate":
                progress.duplicates += 1
            else:
                ledger.reject(row, verdict.field, verdict.rule)
        ledger.acknowledge(row.end, row.number)
        self._show()

    def _show(self) -> None:
        if self._bar is None or self._ledger is None:
            return
        progress = self._ledger.progress
        elapsed_s = max(1e-6, time.monotonic() - self._begun_s)
        rejected = f", {screen.count(progress.rejected)} rejected" if progress.rejected else ""
        self._bar.to(
            progress.offset,
            rows=f"{screen.count(progress.rows)} rows{rejected}",
            rate=f"{screen.count(self.rows / elapsed_s)}/s",
        )


class _Chunk:
    """Rows for one request: those that the API is to judge, and those judged here."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.judged: list[_Judged | None] = []  # by row; None = for the API
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self.judged) >= _POST_LINES or self._bytes >= _POST_BYTES

    def add(self, row: Row, shape: Shape) -> None:
        try:
            line = shape.wire(row)
        except (FieldError, PayloadError, PayloadTypeError) as error:
            self.judged.append(rejection(0, error))
        else:
            self.judged.append(None)
            self.lines.append(line)
            self._bytes += len(line)


class _Posted:
    """A chunk on its way, in a thread; its verdicts are taken once, when it has ended."""

    def __init__(self, chunk: _Chunk, poster: Poster, thread: ThreadPoolExecutor) -> None:
        self._answers: list[Answer] = []
        self._judged = deque(chunk.judged)
        self.future = thread.submit(poster.post, chunk.lines, self._answers.extend)

    def verdicts(self) -> list[_Judged]:
        """Return the verdicts there are, in the order of the rows, without a gap."""
        answers = iter(self._answers)
        found: list[_Judged] = []
        while self._judged:
            verdict = self._judged.popleft() or next(answers, None)
            if verdict is None:
                break
            found.append(verdict)
        self._judged.clear()
        return found


@contextmanager
def _opened(name: str) -> Generator[BinaryIO]:
    """Open the file, for this process alone; standard input stays open.

    Raises:
        LedgerError: Another process is ingesting it.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    with open(name, "rb", buffering=1 << 20) as file:  # noqa: PTH123 - as given
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerError(f"{name} is being ingested by another process") from None
        except OSError:  # a file system without locks
            pass
        yield file


def _is_regular(file: BinaryIO) -> bool:
    """Tell whether the end of the file can be foreseen."""
    with suppress(OSError, ValueError):
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    return True  # no real file at all: it does not block either


def _size(file: BinaryIO) -> int | None:
    """Return the bytes of a file, None = not to be foreseen."""
    with suppress(OSError, ValueError):
        if _is_regular(file):
            return os.fstat(file.fileno()).st_size
    return None
