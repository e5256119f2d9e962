"""Records read to find where jobs belong: a little at a time, whatever their size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bananas.broker import Specials
from bananas.keys import Keys
from bananas.placement import FALLBACK, find_places, read_records


class Store:
    """A server that holds the same record under every key, and notes how many are asked for."""

    def __init__(self, record: bytes | None) -> None:
        """Hold it."""
        self.record = record
        self.asked: list[int] = []

    async def command(self, name: str, *keys: bytes, repeat: bool) -> list[bytes | None]:
        """Answer MGET."""
        assert (name, repeat) == ("MGET", True)
        self.asked.append(len(keys))
        return [self.record] * len(keys)


def broker(store: Store) -> Any:  # noqa: ANN401 - what stands for a broker
    """Return what has a transport, keys and specials."""
    return SimpleNamespace(transport=store, keys=Keys("p"), specials=Specials())


IDS = [b"%d" % number for number in range(500)]


@pytest.mark.parametrize(("size", "most"), [(200, 128), (100_000, 16), (1 << 20, 16)])
async def test_records_come_in_calls_of_a_few_mib(size: int, most: int) -> None:
    """Small ones by the hundred; of large ones 16 at first, then as many as make a MiB."""
    store = Store(b"x" * size)
    got = [job_id async for job_id, _ in read_records(broker(store), IDS)]
    assert got == IDS
    assert max(store.asked) == most
    assert all(asked * size <= 2 << 20 for asked in store.asked[1:])


async def test_each_job_has_the_place_that_its_record_names() -> None:
    """A missing or broken record goes where a worker meets and buries it."""
    low = Store(b'{"id":"x","name":"t","payload":{},"priority":"low"}')
    assert await find_places(broker(low), IDS) == dict.fromkeys(IDS, "queue:low")
    assert await find_places(broker(Store(None)), IDS[:2]) == dict.fromkeys(IDS[:2], FALLBACK)
    assert await find_places(broker(Store(b"{")), IDS[:2]) == dict.fromkeys(IDS[:2], FALLBACK)
    nothing = Store(None)
    assert await find_places(broker(nothing), []) == {}
    assert nothing.asked == []
