"""The dead-letter queue over HTTP: paged, filtered, retried and deleted, tried first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Api


async def test_failed_jobs_are_listed_newest_first(api: Api) -> None:
    """The list has the records of failed jobs; with `oldest_first` the other way round."""
    ids = await api.bury(3, error="no disk")
    page = (await api.http.get("/dead")).json()
    assert [job["id"] for job in page["jobs"]] == ids[::-1]
    assert page["cursor"] is None
    assert page["jobs"][0]["status"] == "failed"
    assert page["jobs"][0]["error"] == "no disk"
    turned = (await api.http.get("/dead?oldest_first=1")).json()
    assert [job["id"] for job in turned["jobs"]] == ids


async def test_pages_follow_their_cursor(api: Api) -> None:
    """Pages of two give every job once."""
    ids = await api.bury(5)
    seen: list[str] = []
    cursor = ""
    for _ in range(4):
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await api.http.get("/dead", params=params)).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert seen == ids[::-1]


async def test_ids_that_a_stranger_made_stop_no_page(api: Api) -> None:
    """However long, and whatever bytes: pages of one pass over all of them."""
    (ours,) = await api.bury(1)
    broker = (await api.client.session()).broker
    odd = [
        b"",
        b"\0",
        b"\xff" * 300,
        b"&=#+%;" * 100,
        b"x" * 20_000,
        b"x" * 20_001,
        "é".encode() * 200,
    ]
    for raw_id in odd:
        await broker.transport.command("ZADD", broker.keys.dead, 5, raw_id)
    seen: list[str] = []
    cursor = ""
    for _ in range(len(odd) + 2):
        params = {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        answer = await api.http.get("/dead", params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["cursor"]
        if not cursor:
            break
    shown = [raw_id.decode("utf-8", "backslashreplace") for raw_id in sorted(odd, reverse=True)]
    assert seen == [ours, *shown]


async def test_filters_narrow_the_list(api: Api) -> None:
    """By task, and by a part of the error."""
    first = await api.bury(2, name="a", error="disk full")
    await api.bury(1, name="b", error="disk full")
    await api.bury(1, name="a", error="timeout")
    page = (await api.http.get("/dead", params={"name": "a", "error": "disk"})).json()
    assert [job["id"] for job in page["jobs"]] == first[::-1]


async def test_a_dry_run_only_counts(api: Api) -> None:
    """What a write would touch is counted, and nothing is touched."""
    await api.bury(2, name="a")
    await api.bury(1, name="b")
    for method, path in (("POST", "/dead/retry"), ("DELETE", "/dead")):
        answer = await api.http.request(method, path, params={"name": "a", "dry_run": "1"})
        assert (answer.status_code, answer.json()) == (200, {"matched": 2, "dry_run": True})
        answer = await api.http.request(method, path, params={"all": "1", "dry_run": "1"})
        assert answer.json() == {"matched": 3, "dry_run": True}
    assert await api.client.dead_count() == 3


async def test_jobs_are_retried_on_a_filter(api: Api) -> None:
    """Those that match go back to their queue, the others stay."""
    await api.bury(2, name="a")
    await api.bury(1, name="b")
    answer = await api.http.post("/dead/retry", params={"name": "a"})
    assert (answer.status_code, answer.json()) == (200, {"retried": 2, "dry_run": False})
    stats = await api.client.stats()
    assert (stats["waiting"], stats["dead"], stats["drift"]) == (2, 1, 0)


async def test_jobs_are_deleted_on_a_filter(api: Api) -> None:
    """Those that match are gone for good, the others stay."""
    await api.bury(2, error="disk full")
    (left,) = await api.bury(1, error="timeout")
    answer = await api.http.delete("/dead", params={"error": "disk"})
    assert (answer.status_code, answer.json()) == (200, {"deleted": 2, "dry_run": False})
    page = (await api.http.get("/dead")).json()
    assert [job["id"] for job in page["jobs"]] == [left]
    answer = await api.http.delete("/dead", params={"all": "true"})
    assert answer.json() == {"deleted": 1, "dry_run": False}


@pytest.mark.parametrize(("method", "path"), [("POST", "/dead/retry"), ("DELETE", "/dead")])
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "all"),
        ("?all=0", "all"),
        ("?dry_run=1", "all"),
        ("?all=1&name=a", "all"),
        ("?nmae=a", "nmae"),
        ("?name=a&dryrun=1", "dryrun"),
        ("?name=a%20b", "name"),
        ("?error=", "error"),
        ("?name=a&dry_run=maybe", "dry_run"),
    ],
)
async def test_a_write_needs_a_filter_without_mistakes(
    api: Api, method: str, path: str, query: str, field: str
) -> None:
    """No filter, or one with a typing error, touches nothing."""
    answer = await api.http.request(method, path + query)
    assert answer.status_code == 400
    assert answer.json()["field"] == field


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=ten", "limit"),
        ("?limit=%C2%B2", "limit"),
        ("?cursor=nonsense", "cursor"),
        ("?cursor=", "cursor"),
        ("?name=", "name"),
        ("?oldest_first=2", "oldest_first"),
    ],
)
async def test_a_page_is_asked_for_by_rule(api: Api, query: str, field: str) -> None:
    """Limits and cursors that break their rule are refused by name."""
    answer = await api.http.get(f"/dead{query}")
    assert answer.status_code == 400
    assert answer.json()["field"] == field
