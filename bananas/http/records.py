"""Records as answers: as they are stored, and those asked for together read together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bananas.codec import check_json, encode_text
from bananas.errors import JobNotFoundError, PayloadError

if TYPE_CHECKING:
    from bananas.client import Client
    from bananas.job import Job

SHOWN_BYTES: Final = 2**40
SHOWN_DEPTH: Final = 1024
"""Limits for what is shown: what got in also gets out."""

MAX_READ: Final = 500
MAX_READ_BYTES: Final = 1024 * 1024
_PLACE_MEMBER: Final = b',"list":"'


def record_json(job: Job) -> bytes:
    """Return a job's record as JSON in the wire's order, its place left out.

    The payload is the stored one, byte for byte. A foreign producer's is looked at first:
    what is not JSON is shown as a string, so that the answer is JSON whatever was stored.
    """
    if job.place is None:
        try:
            check_json(job.payload_json, max_bytes=SHOWN_BYTES, max_depth=SHOWN_DEPTH)
        except PayloadError:
            job = job.with_(payload_json=encode_text(job.payload_json.decode("utf-8", "replace")))
    return job.encode(None)


class Records:
    """Reads records of our own; what is asked for in one tick of the loop is one command."""

    def __init__(self, client: Client) -> None:
        """Read through the client's connection."""
        self._client = client
        self._wanted: list[tuple[str, asyncio.Future[bytes]]] = []
        self._wanted_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def read(self, job_id: str, payload_bytes: int) -> asyncio.Future[bytes]:
        """Return the record of a job that was just enqueued, as JSON, its place left out.

        It fails with `JobNotFoundError` when the job is done and deleted already.

        Args:
            job_id: Whose.
            payload_bytes: About how long it is: what is read at a time is bounded.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        if not self._wanted:
            loop.call_soon(self._flush)
        self._wanted.append((job_id, future))
        self._wanted_bytes += payload_bytes
        if len(self._wanted) >= MAX_READ or self._wanted_bytes >= MAX_READ_BYTES:
            self._flush()
        return future

    def _flush(self) -> None:
        wanted, self._wanted, self._wanted_bytes = self._wanted, [], 0
        if wanted:
            task = asyncio.get_running_loop().create_task(self._read(wanted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read(self, wanted: list[tuple[str, asyncio.Future[bytes]]]) -> None:
        try:
            session = self._client.open_session() or await self._client.session()
            prefix = session.broker.keys.job_prefix
            keys = [prefix + job_id for job_id, _ in wanted]
            found = await session.broker.transport.command("MGET", *keys, repeat=True)
        except BaseException as error:
            for _, future in wanted:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (job_id, future), data in zip(wanted, found, strict=True):
            if future.done():
                continue
            if data is None:
                future.set_exception(JobNotFoundError(job_id))
            else:
                # The place is the last member of every record of ours.
                future.set_result(data[: data.rindex(_PLACE_MEMBER)] + b"}")
