"""What the curves are made of: a setup in, a sample out; figures are named as in `scenarios`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from bananas.ids import request_id
from benchmarks.bare import record_native, record_scripts, replay, server_cpu_s
from benchmarks.bed import Bed, cpu_s
from benchmarks.records import record
from servers import Server

if TYPE_CHECKING:
    from benchmarks.scenarios import Sample
    from benchmarks.setup import Setup

WARM: Final = 2_000
_KEYS_A_CALL: Final = 250


class Line:
    """A bed with workers, held still except while they drain."""

    def __init__(self, bed: Bed, setup: Setup, warm: int = WARM) -> None:
        """Start the workers, let them run `warm` jobs and hold them."""
        self._bed = bed
        self._kind = setup.kind
        self.waiting = 0
        self._done = 0
        bed.start_workers()
        self.fill(warm)
        bed.await_completed(self.waiting)
        self._done, self.waiting = self.waiting, 0
        bed.freeze_workers()

    def fill(self, jobs: int) -> Sample:
        """Enqueue more by `enqueue_many`; the time and CPU of that."""
        server_s = self._bed.server_cpu_s()
        said = self._bed.client("enqueue_many", jobs=jobs, kind=self._kind)
        self.waiting += said["accepted"]
        return {
            "enqueue_per_s": jobs / said["seconds"],
            "client_us": said["cpu_s"] / jobs * 1e6,
            "enqueue_server_us": (self._bed.server_cpu_s() - server_s) / said["accepted"] * 1e6,
        }

    def drain(self, jobs: int, *, hold: bool = True) -> Sample:
        """Let the workers go until so many more jobs are completed."""
        bed = self._bed
        server_s, workers_s = bed.server_cpu_s(), cpu_s(bed.workers)
        began_s = time.perf_counter()
        bed.thaw_workers()
        done = bed.await_completed(self._done + jobs) - self._done
        seconds = time.perf_counter() - began_s
        if hold:
            bed.freeze_workers()
        else:
            time.sleep(0.05)  # what is left to settle counts too, in CPU
        self._done += done
        self.waiting -= done
        return {
            "per_s": done / seconds,
            "worker_us": (cpu_s(bed.workers) - workers_s) / done * 1e6,
            "server_us": (bed.server_cpu_s() - server_s) / done * 1e6,
        }


def life(setup: Setup) -> Sample:
    """Jobs are enqueued by one call, then drained by workers that were held still."""
    with Bed(setup) as bed:
        line = Line(bed, setup, min(WARM, setup.jobs))
        filled = line.fill(setup.jobs)
        return filled | line.drain(line.waiting, hold=False)


def drained(setup: Setup) -> Sample:
    """As `life`; how the jobs were enqueued is left out."""
    of_life = life(setup)
    return {figure: of_life[figure] for figure in ("per_s", "worker_us", "server_us")}


def calls(setup: Setup, batch: int) -> Sample:
    """One client, one call of `enqueue_many` after the other."""
    with Bed(setup) as bed:
        jobs, server_s = max(batch, setup.jobs // batch * batch), bed.server_cpu_s()
        said = bed.client("batches", jobs=jobs, batch=batch)
        return {
            "per_s": jobs / said["seconds"],
            "client_us": said["cpu_s"] / jobs * 1e6,
            "server_us": (bed.server_cpu_s() - server_s) / jobs * 1e6,
        }


def requests(setup: Setup, batch: int) -> Sample:
    """One connection, one request of `batch` lines after the other."""
    with Bed(setup) as bed:
        api, port = bed.start_api()
        jobs = max(batch, setup.jobs // batch * batch)
        server_s, api_s = bed.server_cpu_s(), cpu_s([api])
        said = bed.client("ndjson_batches", jobs=jobs, batch=batch, port=port)
        return {
            "per_s": jobs / said["seconds"],
            "api_us": (cpu_s([api]) - api_s) / jobs * 1e6,
            "server_us": (bed.server_cpu_s() - server_s) / jobs * 1e6,
        }


def far_keys(setup: Setup, keys: int) -> Sample:
    """`MGET` and `DEL` of the oldest of so many keys, as large as records; CPU of the server."""
    server = Server(setup.server, arguments=("--enable-debug-command", "local"))
    jobs = min(setup.jobs // 2, keys // 2) // _KEYS_A_CALL * _KEYS_A_CALL
    try:
        server.start()
        with server.client(timeout_s=60.0) as redis:
            redis.execute_command("DEBUG", "POPULATE", keys, "job", len(record(request_id())))
            before_s = server_cpu_s(redis)
            for first in range(0, jobs, _KEYS_A_CALL):
                names = [f"job:{number}" for number in range(first, first + _KEYS_A_CALL)]
                assert None not in redis.mget(names)
                redis.delete(*names)
            return {"server_us": (server_cpu_s(redis) - before_s) / jobs * 1e6}
    finally:
        server.discard()


def limit(setup: Setup, batch: int, *, native: bool) -> Sample:
    """Whole lives by a bare client; `per_s` is what the server's CPU alone would allow."""
    server = Server(setup.server)
    try:
        server.start()
        record = record_native if native else record_scripts
        jobs = max(batch, setup.jobs // batch * batch)
        recorded = record(server, jobs, batch)
        with server.client() as redis:
            figures = replay(server, redis, recorded, jobs, batch)
    finally:
        server.discard()
    return figures | {"per_s": 1e6 / figures["server_us"]}
