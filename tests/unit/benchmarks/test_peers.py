"""The side-by-side harness: counts by any process, ranks, multiples, and who can do what."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from benchmarks.peers.board import Board
from benchmarks.peers.homes import PROGRAMS
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.peers import PEERS
from benchmarks.peers.table import plot, table

if TYPE_CHECKING:
    from pathlib import Path

BY_NAME = {peer.name: peer for peer in PEERS}
OURS, BULLMQ, RQ = BY_NAME["bananas"], BY_NAME["BullMQ"], BY_NAME["RQ"]


def test_a_board_counts_for_every_process(tmp_path: Path) -> None:
    """Forked processes count in slots of their own; a stamp is the process's monotonic clock."""
    with closing(Board.create(tmp_path / "board")) as board:
        _count_in_children(board, tmp_path)


def _count_in_children(board: Board, folder: Path) -> None:
    board.count()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            for _ in range(100):
                board.count()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    board.stamp(7)
    with closing(Board(folder / "board")) as seen:
        assert seen.done == 301
        assert seen.stamped_ns(6) == 0 < seen.stamped_ns(7)
        seen.clear()
        assert (board.done, board.stamped_ns(7)) == (0, 0)
        board.count()
        assert seen.done == 1


def test_the_best_comes_first_and_a_peer_that_wins_is_said_to(tmp_path: Path) -> None:
    """More is better for rates, less for latencies; the multiple is of the medians."""
    samples = {
        "async": {
            "bananas": [{"per_s": 1000.0, "worker_us": 9.0, "server_us": 5.0}] * 2,
            "BullMQ": [
                {"per_s": 100.0, "worker_us": 60.0, "server_us": 20.0},
                {"per_s": 300.0, "worker_us": 80.0, "server_us": 20.0},
            ],
        },
        "latency": {
            "bananas": [{"p50_ms": 2.0, "p99_ms": 3.0}],
            "RQ": [{"p50_ms": 1.0, "p99_ms": 9.0}],
        },
    }
    measures = [MEASURES["async"], MEASURES["latency"], MEASURES["memory"]]
    lines = table(samples, measures, PEERS).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    glance = rows[: len(PEERS) + 2]
    assert glance[0] == (
        "| peer | drain async/s | worker µs a no-op | server µs a no-op "
        "| idle p50 ms | idle p99 ms |"
    )
    assert "| bananas | **1,000** ◀ | **9.0** ◀ | **5.0** ◀ | 2.00 | **3.00** ◀ |" in glance
    assert "| BullMQ | 200 | 70.0 | 20.0 |  |  |" in glance
    assert "| RQ |  |  |  | **1.00** ◀ | 9.00 |" in glance
    assert glance[-1] == (
        "| *bananas to the best peer* | 5 × BullMQ | 7.8 × BullMQ | 4 × BullMQ "  # noqa: RUF001
        "| RQ wins: 2 × | 3 × RQ |"  # noqa: RUF001
    )
    assert [row for row in rows[len(glance) :] if not row.startswith("| peer")] == [
        "| bananas | **1,000** (1,000–1,000) | **9.0** (9.0–9.0) | **5.0** (5.0–5.0) |  |",  # noqa: RUF001
        "| BullMQ | **200** (100–300) | **70.0** (60.0–80.0) | **20.0** (20.0–20.0) | 5.0 × |",  # noqa: RUF001
        "| RQ | **1.00** (1.00–1.00) | **9.00** (9.00–9.00) | wins, 2.0 × |",  # noqa: RUF001
        "| bananas | **2.00** (2.00–2.00) | **3.00** (3.00–3.00) |  |",  # noqa: RUF001
    ]
    picture = tmp_path / "peers.svg"
    plot(samples, measures, PEERS, picture)
    assert b"BullMQ" in picture.read_bytes() or picture.stat().st_size > 1000


def test_what_applies_to_whom() -> None:
    """Blocking handlers stand in where a peer has no async ones; bulk needs a bulk call."""
    assert MEASURES["async"].applies(OURS)
    assert not MEASURES["async"].applies(RQ)
    assert MEASURES["enqueue"].applies(RQ)
    assert MEASURES["sleep"].applies(RQ)
    assert not MEASURES["sync"].applies(BULLMQ)
    assert not MEASURES["bulk"].applies(BY_NAME["huey"])


def test_every_peer_has_its_program_and_an_exact_version() -> None:
    """So that a run can be made again."""
    for peer in PEERS:
        assert (PROGRAMS / peer.program).is_file()
        assert peer.settings
        if peer.version:
            assert any(peer.version in each for each in peer.requirements)
