"""Keys: no two things share one, a place is known by its name, one hash tag holds them all."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from bananas.keys import PRIORITIES, Keys, is_place, place

ROUTES = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
#: Also such that look like parts of other keys.
NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9._:-]{1,12}", fullmatch=True),
    st.lists(
        st.sampled_from(["queue", "high", "wake", "task", "route", "sorted", "job", "dead", "a"]),
        min_size=1,
        max_size=4,
    ).map(":".join),
)
PLACES = st.tuples(st.sampled_from(PRIORITIES), ROUTES, st.none() | NAMES)


def place_keys(keys: Keys, where: str) -> list[str]:
    """Return the keys of one place."""
    return [keys.waiting(where), keys.wake(where), keys.sorted(where)]


def named_keys(keys: Keys, name: str) -> list[str]:
    """Return the keys that carry a name: of a job, a request or an epoch."""
    makers = (keys.job, keys.request, keys.lease, keys.epoch_leases, keys.result)
    return [make(name) for make in makers]


def fixed_keys(keys: Keys) -> list[str]:
    """Return the keys that there is one of."""
    fixed = [keys.scheduled, keys.dead, keys.epochs, keys.counters, keys.crashes, keys.cancelled]
    return [*fixed, keys.specials, keys.specials_version, keys.workers, keys.places()]


@given(st.lists(PLACES, unique=True, max_size=6), st.lists(NAMES, unique=True, max_size=6))
def test_no_two_things_share_a_key(
    places: list[tuple[str, str, str | None]], names: list[str]
) -> None:
    """Whatever tasks, routing keys, jobs and requests are called."""
    keys = Keys("bananas")
    named = {place(priority, route, task) for priority, route, task in places}
    assert len(named) == len({(p, "" if r == "default" else r, t) for p, r, t in places})
    every = [
        *itertools.chain.from_iterable(place_keys(keys, where) for where in named),
        *itertools.chain.from_iterable(named_keys(keys, name) for name in names),
        *fixed_keys(keys),
    ]
    assert len(set(every)) == len(every)


@given(PLACES)
def test_a_place_is_known_as_one(where: tuple[str, str, str | None]) -> None:
    """What `place` makes is a place, and what stands before or behind one is none."""
    name = place(*where)
    assert is_place(name)
    assert not is_place(f"{name}:wake")
    assert not is_place(f"sorted:{name}")
    assert not is_place(f" {name}")


@given(PLACES, NAMES)
def test_a_hash_tag_holds_every_key(where: tuple[str, str, str | None], name: str) -> None:
    """One slot: the first braces of every key are those of the prefix."""
    keys = Keys("bananas:{7}")
    every = [*place_keys(keys, place(*where)), *named_keys(keys, name), *fixed_keys(keys)]
    assert {re.search(r"\{(.+?)\}", key)[1] for key in every} == {"7"}  # type: ignore[index]
