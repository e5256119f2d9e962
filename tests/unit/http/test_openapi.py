"""The OpenAPI document and its page: whole, consistent, and hostile text in its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from bananas.client import Client
from bananas.http.api import Api
from bananas.http.docs import POLICY, render
from bananas.http.problems import KINDS
from bananas.settings import Settings
from bananas.submission import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = Settings(redis_url="redis://nowhere.invalid", max_payload_bytes=12_345, max_depth=17)
DOCUMENT: dict[str, Any] = Api(Client(settings=SETTINGS), SETTINGS).document


def walk(node: object) -> Iterator[dict[str, Any]]:
    """Give every object of a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give (method, path, operation)."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_it_is_json_and_every_reference_leads_somewhere() -> None:
    """The document survives a round trip, and has no dangling reference."""
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"
    schemas = DOCUMENT["components"]["schemas"]
    for node in walk(DOCUMENT):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/components/schemas/") in schemas


def test_every_schema_is_used() -> None:
    """Nothing is described that no route speaks of."""
    used = {node["$ref"].rpartition("/")[2] for node in walk(DOCUMENT) if "$ref" in node}
    in_lines = {"Submission", "Verdict"}  # what a line of NDJSON is, only words can say
    assert set(DOCUMENT["components"]["schemas"]) <= used | in_lines


def test_every_route_is_described() -> None:
    """Each operation has an id of its own, a summary, a known tag, and each path parameter."""
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for _, path, operation in operations():
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert any(status.startswith("2") for status in operation["responses"])


def test_it_states_the_limits() -> None:
    """The limits are the settings', as data and in words."""
    limits = DOCUMENT["x-limits"]
    assert limits["max_payload_bytes"] == 12_345
    assert limits["max_depth"] == 17
    assert limits["max_body_bytes"] == limits["max_line_bytes"] == 12_345 + 16 * 1024
    words = DOCUMENT["info"]["description"]
    for limit in ("12,345 bytes", "17 deep", "28,729 bytes", "16,384 bytes", "60 s"):
        assert limit in " ".join(words.split())


def test_a_submission_has_exactly_the_fields_that_are_taken() -> None:
    """The schema and the code know the same fields."""
    schema = DOCUMENT["components"]["schemas"]["Submission"]
    assert set(schema["properties"]) == FIELDS
    assert schema["additionalProperties"] is False


def test_every_kind_of_problem_is_listed() -> None:
    """The enumeration of `type` is the table's."""
    listed = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert listed == [f"urn:bananas:problem:{kind}" for kind in KINDS]


@pytest.mark.parametrize("token", [None, "x" * 16])
def test_the_token_is_asked_for_where_it_is(token: str | None) -> None:
    """With a token every route but the probes is secured; without one none is."""
    settings = Settings(redis_url="redis://nowhere.invalid", api_token=token)
    document = Api(Client(settings=settings), settings).document
    assert document["security"] == ([{"token": []}] if token else [])
    open_paths = {
        path
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if operation.get("security") == []
    }
    assert open_paths == {"/livez", "/readyz"}


# --- the page -------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, text: str) -> None:
        """Parse the page."""
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.style = ""
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.add(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        """Leave the style."""
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        """Note the style."""
        if self._in_style:
            self.style += data


def test_the_page_is_whole_and_alone() -> None:
    """Every route and schema is on it; it has no script and loads nothing; its links lead on."""
    page = Page(render(DOCUMENT, []))
    assert {operation["operationId"] for _, _, operation in operations()} <= page.ids
    assert set(DOCUMENT["components"]["schemas"]) <= page.ids
    assert not {"script", "link", "img", "iframe", "form"} & set(page.tags)
    assert not {name for name in page.attributes if name.startswith("on")} | (
        {"style"} & page.attributes
    )
    for link in page.links:
        assert link == "openapi.json" or link.removeprefix("#") in page.ids


def test_the_policy_allows_the_pages_own_style_and_nothing_else() -> None:
    """The Content-Security-Policy knows the style by its hash."""
    page = Page(render(DOCUMENT, []))
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in POLICY


def test_hostile_text_stays_text() -> None:
    """Markup in any text of the document is shown, not obeyed."""
    hostile = "</style><script>alert(1)</script><img src=x onerror=alert(1)> `<b>`"
    document = json.loads(json.dumps(DOCUMENT))
    for node in walk(document):
        for name in ("description", "summary"):
            if isinstance(node.get(name), str):
                node[name] = hostile
    text = render(document, [{"type": hostile, "status": hostile, "title": hostile}])
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert "&lt;script&gt;" in text
