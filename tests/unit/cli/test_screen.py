"""What is printed: plain where nobody watches, harmless everywhere."""

from __future__ import annotations

import json
import sys

import pytest

from bananas.cli import screen


def test_escape_sequences_are_written_out() -> None:
    """Neither colours, nor cursor moves, nor titles come out of a job's text."""
    assert screen.harmless("a\x1b[31mb\x07") == "a\\u001b[31mb\\u0007"
    assert screen.harmless("two\nlines\té") == "two\nlines\té"


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed for machines reads back as it was, on one line."""
    value = {"text": "é\x1b[0m\u2028\x7f", "n": 12345678901234567890123}
    screen.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert printed.count("\n") == 1
    assert "\x7f" not in printed


def test_a_table_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Off the terminal, cells are whole, so that they can be searched."""
    screen.table(["name", ">n"], [["a", "1"], ["b" * 200, "22,000"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "n"]
    assert lines[2] == "b" * 200 + "  22,000"
    assert len(lines[1]) == len(lines[2])


def test_a_cell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A line break in a job's error does not break the table."""
    screen.table(["e"], [["a\nb\x1b"]])
    assert capsys.readouterr().out.splitlines() == ["e", "a b\\u001b"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0345, "34ms"),
        (12.4, "12s"),
        (200, "3m 20s"),
        (18_600, "5h 10m"),
        (183_600, "2d 3h"),
    ],
)
def test_ages_are_rough(seconds: float | None, text: str) -> None:
    """Two units at most."""
    assert screen.age(seconds) == text


def test_counts_have_their_noun() -> None:
    """One job, two jobs."""
    assert screen.jobs(1, "failed") == "1 failed job"
    assert screen.jobs(12_000) == "12,000 jobs"


def test_first_lines_are_cut() -> None:
    """A traceback in a table is its first line."""
    assert screen.first_line("a\nb") == "a"
    assert len(screen.first_line("x" * 1000)) == 160
    assert screen.first_line("") == ""


def test_long_values_continue_below(capsys: pytest.CaptureFixture[str]) -> None:
    """Further lines stand under the first, so that the names can be read down."""
    screen.members([("a", "1\n2"), ("long", "3")])
    assert capsys.readouterr().out.splitlines() == ["a     1", "      2", "long  3"]


def test_progress_says_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a log file a bar would be a mess."""
    monkeypatch.setattr(screen, "_PLAIN_PROGRESS_S", 0.0)
    with screen.progress("working", 10, "rows") as bar:
        bar.to(5, rows="5 rows")
    with screen.progress("working", 10, quiet=True) as bar:
        bar.to(5)
    said = capsys.readouterr()
    assert said.err == "working: 50% 5 rows\n"
    assert said.out == ""


def test_all_is_plain_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich is an extra: on a terminal without it, a table is a plain one."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    screen.table(["name"], [["a"]])
    assert capsys.readouterr().out.splitlines() == ["name", "a"]


def test_a_terminal_gets_boxes_and_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With rich and a terminal, the table has a rule and the work a bar."""
    pytest.importorskip("rich")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    screen.table(["name", ">n"], [["[bold]a", "1"]])
    with screen.progress("working", 10, "rows", begun=2) as bar:
        bar.to(10, rows="10 rows")
    with screen.progress("looking", None, "rows") as bar:
        bar.to(3, rows="3 rows")
    said = capsys.readouterr()
    assert "─" in said.out
    assert "[bold]a" in said.out  # texts of jobs are no markup
    assert "100%" in said.err
    assert "3 rows" in said.err
