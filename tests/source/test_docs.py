"""The documents are whole: every snippet says how it is run, links lead somewhere, names exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from bananas.http.api import Api
from bananas.settings import Settings
from cli_page import BEGIN, END, PAGE, commands
from snippets import DOCUMENTS, ROOT, RUN, blocks

if TYPE_CHECKING:
    from pathlib import Path

WAYS = {"file", "run", "background", "shown"}

# Beside the settings: for builds, for commands, for one process.
OTHER_VARIABLES = {"BANANAS_APP", "BANANAS_PURE", "BANANAS_REQUIRE_EXT", "BANANAS_TEST_LONG"}

by_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@by_document
def test_every_snippet_says_how_it_is_run(document: Path) -> None:
    """A snippet of Python or of a console is a file, is run, or says why it is not."""
    untold = [
        block.where
        for block in blocks(document)
        if block.language in RUN and len(WAYS & block.options.keys()) != 1
    ]
    assert untold == []


@by_document
def test_links_lead_somewhere(document: Path) -> None:
    """A link within the project names a file that is there, and a heading in it."""
    broken = []
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", _prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (heading and heading not in _headings(path)):
            broken.append(f"[{text}]({target})")
    assert broken == []


@by_document
def test_variables_are_settings(document: Path) -> None:
    """A variable that a document names is one that is read."""
    known = OTHER_VARIABLES | Settings.from_sources({}).describe().keys()
    named = set(re.findall(r"\bBANANAS_[A-Z_]+[A-Z]\b", document.read_text()))
    strangers = {name for name in named - known if not name.startswith("BANANAS_CLI_")}
    assert strangers == set()


def test_command_line_is_described_as_it_is() -> None:
    """The page about the command line holds what the commands print."""
    between = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert between == commands(), "run: python tests/cli_page.py"


async def test_every_route_is_described() -> None:
    """The page about the HTTP API has a heading for each route, and for no other."""
    from bananas.client import Client  # noqa: PLC0415 - beside its one use

    settings = Settings.from_sources({})
    api = Api(Client(settings=settings), settings)
    there = {f"{operation.method} {operation.path}" for operation in api.operations}
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "http.md").read_text(), re.MULTILINE)
    described = {route for heading in headings for route in re.findall(r"`([A-Z]+ /\S+)`", heading)}
    assert described == there


def _prose(document: Path) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def _headings(document: Path) -> set[str]:
    """Return the anchors of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", _prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
