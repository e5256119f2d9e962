"""What a document asks to be run: its fenced blocks, and a shell that runs them as a reader would.

The info string of a block says what it is: a language, then one of

    file=NAME        a file of the working folder, or more of it; all are written beforehand
    run              python: a script, in which `await` may stand; a block "text printed" that
                     follows is what it prints
                     console: commands after "$ " with what they print
    run exit=N       the same, the last command ending with status N instead of 0
    background       one command that goes on; what is shown is what it prints while it starts
    shown="reason"   nothing a test could run, for this reason

In what is printed "…" stands for anything, and white space for any or none, so that JSON may
be spread over lines. Ports 8000 and 8080 of 127.0.0.1 are free ones.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = (
    ROOT / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
RUN: Final = ("python", "console")
"""Languages whose blocks say how they are run."""

# The commands of the package under test, installed or not.
_COMMANDS: Final = {
    "python": "",
    "bananas": "-m bananas",
    "bananas-supervisor": "-c 'from bananas.cli import supervisor_main; supervisor_main()'",
}
_PORTS: Final = ("8080", "8000")
_COMMAND_S: Final = 30.0
_START_S: Final = 30.0
_STOP_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        document: Where it stands.
        line: Of its fence, from 1.
        language: The first word of its info string.
        options: The other words, by name; a bare word has the value "".
        text: What is between the fences.
    """

    document: Path
    line: int
    language: str
    options: dict[str, str]
    text: str

    @property
    def where(self) -> str:
        """The place, as editors take it."""
        return f"{os.path.relpath(self.document, ROOT)}:{self.line}"

    def steps(self) -> list[tuple[str, str]]:
        """Return (command, what it prints) in order."""
        steps: list[tuple[str, str]] = []
        going_on = False
        for line in self.text.splitlines():
            if going_on or line.startswith("$ "):
                text = line if going_on else line[2:]
                before = steps.pop()[0] + "\n" if going_on else ""
                steps.append((before + text, ""))
                going_on = text.endswith("\\")
            elif steps:
                command, printed = steps.pop()
                steps.append((command, printed + line + "\n"))
            else:
                raise ValueError(f'{self.where}: begins with no "$ "')
        return steps


def blocks(document: Path) -> Iterator[Block]:
    """Yield a document's fenced blocks."""
    fence = language = ""
    options: dict[str, str] = {}
    lines: list[str] = []
    begin = 0
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if fence:
            if line.strip() == fence:
                yield Block(document, begin, language, options, "\n".join(lines) + "\n")
                fence = ""
            else:
                lines.append(line)
        elif line.startswith("```"):
            fence, begin, lines = "```", number, []
            words = shlex.split(line[3:]) or [""]
            language = words[0]
            options = {
                name: value for name, _, value in (word.partition("=") for word in words[1:])
            }
    if fence:
        raise ValueError(f"{document.name}:{begin}: a block without an end")


def matches(expected: str, printed: str) -> bool:
    """Whether a command printed what the document shows."""
    pattern = r"\s*".join(["", *map(_pattern, expected.split()), ""])
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def _pattern(word: str) -> str:
    """Return the pattern of a word, which is not a part of a longer one."""
    begin = r"(?<!\w)" if re.match(r"\w", word) else ""
    end = r"(?!\w)" if re.search(r"\w$", word) else ""
    return begin + ".*?".join(map(re.escape, word.split("…"))) + end


class Reader:
    """Someone who follows a document in a fresh folder, with one shell and one free port."""

    def __init__(self, folder: Path) -> None:
        """Prepare the surroundings: no settings of the machine, our commands first on the path."""
        self.folder = folder
        with ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in _PORTS]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            self._ports = [str(probe.getsockname()[1]) for probe in probes]
        commands = folder / "bin"
        commands.mkdir()
        for name, code in _COMMANDS.items():
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {code} "$@"\n')
            (commands / name).chmod(0o755)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("BANANAS_") or name == "BANANAS_PURE"
        }
        self.environ = kept | {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "BANANAS_DATA_DIR": str(folder / "data"),
            "BANANAS_API_PORT": self._ports[0],
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "100",
            "PS1": "",
        }
        self._fleet: list[tuple[subprocess.Popen[bytes], Block]] = []
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],  # noqa: S607 - whichever bash the user has
            cwd=folder,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """End all that was started, the last first; each must leave in good order."""
        statuses = []
        for process, block in reversed(self._fleet):
            process.send_signal(signal.SIGTERM)
            try:
                statuses.append((block.where, process.wait(_STOP_S)))
            except subprocess.TimeoutExpired:
                process.kill()
                statuses.append((block.where, process.wait()))
        self._shell.kill()
        self._shell.wait()
        for pipe in (self._shell.stdin, self._shell.stdout):
            if pipe is not None:
                pipe.close()
        if failure is None:
            assert [item for item in statuses if item[1] not in {0, -signal.SIGTERM}] == []

    def follow(self, document: Path) -> int:
        """Do all that a document asks for; returns how many blocks that were."""
        found = [block for block in blocks(document) if "shown" not in block.options]
        if document.parent != ROOT:
            for source in document.parent.glob("*.py"):
                shutil.copy(source, self.folder)
        for block in found:
            if "file" in block.options:
                path = self.folder / block.options["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                before = path.read_text() + "\n\n" if path.exists() else ""
                path.write_text(before + self._here(block.text))
        ran = 0
        for block, follower in zip_longest(found, found[1:]):
            if "run" in block.options and block.language == "python":
                told = follower is not None and "printed" in follower.options
                self._run_script(block, follower.text if told else "…")
                ran += 1
            elif "run" in block.options:
                self._run(block)
                ran += 1
            elif "background" in block.options:
                self._start(block)
                ran += 1
        return ran

    def _here(self, text: str) -> str:
        for shown, free in zip(_PORTS, self._ports, strict=True):
            text = re.sub(rf"(127\.0\.0\.1:|--port ){shown}\b", rf"\g<1>{free}", text)
        return text

    def _run_script(self, block: Block, expected: str) -> None:
        """Run Python, all of it in a coroutine."""
        path = self.folder / f"snippet_{block.line}.py"
        body = indent(self._here(block.text), "    ")
        path.write_text(f"import asyncio\n\n\nasync def main():\n{body}\n\nasyncio.run(main())\n")
        self._check(block, f"python {path.name}", expected, int(block.options.get("exit", "0")))

    def _run(self, block: Block) -> None:
        steps = block.steps()
        for number, (command, expected) in enumerate(steps, 1):
            wanted = int(block.options.get("exit", "0")) if number == len(steps) else 0
            self._check(block, command, expected, wanted)

    def _check(self, block: Block, command: str, expected: str, wanted: int) -> None:
        """Run a command and compare."""
        printed, status = self._say(self._here(command))
        told = f"{block.where}\n$ {command}\n{printed}\n(status {status})\n{self._words()}"
        assert status == wanted, told
        assert matches(self._here(expected), printed), f"{told}\nexpected:\n{expected}"

    def _say(self, command: str) -> tuple[str, int]:
        """Run a command in the shell; returns what it printed, and its status."""
        talk, answer = self._shell.stdin, self._shell.stdout
        assert talk is not None
        assert answer is not None
        mark = f"end-{os.urandom(8).hex()}-"
        talk.write(f"{{ {command}\n}} </dev/null; printf '{mark}%d\\n' $?\n".encode())
        talk.flush()
        deadline_s = time.monotonic() + _COMMAND_S
        heard = b""
        while True:
            end = re.search(rb"%b(\d+)\n$" % mark.encode(), heard)
            if end is not None:
                return heard[: end.start()].decode(), int(end[1])
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([answer], [], [], max(0.0, left_s))
            data = os.read(answer.fileno(), 65536) if ready else b""
            assert data, f"$ {command}\n{heard.decode()}\n(no end within {_COMMAND_S:g} s)"
            heard += data

    def _start(self, block: Block) -> None:
        """Start what goes on, and wait until it has printed what the document shows."""
        ((command, expected),) = block.steps()
        log = self.folder / f"background-{len(self._fleet)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                shlex.split(self._here(command)),
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._fleet.append((process, block))
        deadline_s = time.monotonic() + _START_S
        while not matches(self._here(expected) + " …", log.read_text()):
            told = f"{block.where}\n$ {command}\n{log.read_text()}\nexpected:\n{expected}"
            assert process.poll() is None, told
            assert time.monotonic() < deadline_s, told
            time.sleep(0.05)  # a file that grows has no event to wait for

    def _words(self) -> str:
        """Return what the processes in the background said last."""
        logs = sorted(self.folder.glob("background-*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)
