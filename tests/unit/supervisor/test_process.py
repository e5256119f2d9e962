"""What can be said of a process without forking one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from bananas.supervisor.process import Child, ProcessSpec, birth_of, exit_words, kill_exactly


def target(_child: Child) -> int:
    """Do nothing."""
    return 0


def test_titles_name_role_number_and_detail() -> None:
    """A child's title says what it is."""
    assert ProcessSpec("api", 1, target).title(1) == "bananas: api 1"
    spec = ProcessSpec("worker", 4, target, detail="default")
    assert spec.title(3) == "bananas: worker 3 (default)"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-signal.SIGKILL, "killed by SIGKILL, perhaps out of memory"),
        (-40, "killed by signal 40"),
    ],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    """An exit code reads as what happened."""
    assert exit_words(code) == words


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_only_the_very_process_is_killed() -> None:
    """A process is killed by pid and birth together, never by a pid that may have been reused."""
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeper:
        birth = birth_of(sleeper.pid)
        assert birth > 0
        assert not kill_exactly(sleeper.pid, birth + 1)
        assert not kill_exactly(sleeper.pid, 0)
        assert not kill_exactly(0, birth)
        assert sleeper.poll() is None
        assert kill_exactly(sleeper.pid, birth)
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        assert birth_of(sleeper.pid) == 0, "one that has ended and is not buried yet"
        assert sleeper.wait(10) == -signal.SIGKILL
    assert birth_of(sleeper.pid) == 0
    assert not kill_exactly(sleeper.pid, birth)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_birth_is_found_behind_any_name() -> None:
    """The name of a process may hold spaces and parentheses."""
    code = (
        "import sys; open('/proc/self/comm', 'w').write('a) R 1 (b')\n"
        "print(1, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as odd:
        assert odd.stdout
        assert odd.stdin
        odd.stdout.readline()
        assert birth_of(odd.pid) >= birth_of(os.getpid()) > 0
        odd.stdin.close()
