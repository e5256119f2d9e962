"""What do a record and a payload cost, written and read, by either core?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bananas import _speedups_py as pure
from bananas.codec import decode_payload, encode_payload
from bananas.job import Job
from benchmarks.records import PAYLOAD, record

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_benchmark.fixture import BenchmarkFixture

try:
    from bananas import _speedups as compiled
except ImportError:
    CORES: list[ModuleType] = [pure]
else:
    CORES = [compiled, pure]

RECORD = record("01936f2e-7d3b-7a11-8c5e-0123456789ab")
either = pytest.mark.parametrize(
    "core", CORES, ids=["pure" if core is pure else "compiled" for core in CORES]
)


@either
def bench_scan(benchmark: BenchmarkFixture, core: ModuleType) -> None:
    """A record is read into its members."""
    assert benchmark(core.scan_record, RECORD, 64)[1] == "noop"


@either
def bench_encode(benchmark: BenchmarkFixture, core: ModuleType) -> None:
    """A record is written from its members."""
    assert benchmark(core.encode_record, *core.scan_record(RECORD, 64)) == RECORD


@either
def bench_finish(benchmark: BenchmarkFixture, core: ModuleType) -> None:
    """A record is written with its end in it."""
    scanned = core.scan_record(RECORD, 64)
    assert b"completed" in benchmark(core.finish_record, scanned, "completed", scanned[7], 1)


@either
def bench_ids(benchmark: BenchmarkFixture, core: ModuleType) -> None:
    """500 ids are made in one call."""
    assert len(benchmark(core.uuid7_batch, 1_795_488_795_123, 500, bytes(range(10)))) == 500


def bench_job_decode(benchmark: BenchmarkFixture) -> None:
    """A record becomes a checked `Job`."""
    assert benchmark(Job.decode, RECORD).name == "noop"


def bench_payload_encode(benchmark: BenchmarkFixture) -> None:
    """A payload of 200 bytes is written and measured."""
    value = decode_payload(PAYLOAD)
    assert benchmark(encode_payload, value, max_bytes=1 << 20, max_depth=64) == PAYLOAD


def bench_payload_decode(benchmark: BenchmarkFixture) -> None:
    """A payload of 200 bytes is read."""
    assert len(benchmark(decode_payload, PAYLOAD)["x"]) == 191
