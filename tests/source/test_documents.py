"""What is written beside the code says what the code does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def tracked() -> list[Path]:
    """Return the files git knows, or, without git, all that are no one's cache."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - whichever git the user has
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name]
    skipped = {".venv", "build", "dist", ".git"}
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not skipped & set(path.relative_to(ROOT).parts)
    ]


def test_changelog_has_a_place_for_the_next_release() -> None:
    """Changes are written down as they are made, under Unreleased, first of all versions."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_changelog_uses_the_known_headings() -> None:
    """Entries stand under the headings of Keep a Changelog."""
    headings = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_readme_lists_the_settings_as_they_are() -> None:
    """The table in the README is the one the code prints."""
    from bananas.settings import settings_table  # noqa: PLC0415

    between = re.search(
        r"<!-- settings:begin -->\n(.*?)<!-- settings:end -->", README.read_text(), re.DOTALL
    )
    assert between, "the README lost its settings markers"
    assert between[1].strip() == settings_table().strip(), (
        "put bananas.settings.settings_table() between the README's settings markers"
    )


def test_no_file_names_a_folder_of_one_machine() -> None:
    """A path that exists only where the author sat helps nobody else."""
    private = re.compile(
        r"(?<![\w./])/(?:home/(?!x\b)\w|Users/\w|root/\.|root/\w|work/\w|tmp/plan|opt/pypi)|\.pyenv/"
    )
    found = []
    for path in tracked():
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if private.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert found == []


@pytest.mark.parametrize("target", ["demo", "test", "check", "up", "scale-workers"])
def test_make_help_names_the_target(target: str) -> None:
    """`make` alone explains itself."""
    said = subprocess.run(
        ["make", "--no-print-directory"],  # noqa: S607 - whichever make the user has
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(rf"^  {target} +\S", said, re.MULTILINE)
