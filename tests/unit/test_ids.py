"""Ids: they rise, whatever the clock, the threads and the forks do."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from bananas.ids import IdMaker, request_id


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, unix_us: int) -> None:
        """Stand at so many microseconds."""
        self.unix_us = unix_us

    def real_us(self) -> int:
        """Wall time."""
        return self.unix_us

    def mono_s(self) -> float:
        """Not asked here."""
        raise NotImplementedError

    def boot_ns(self) -> int:
        """Not asked here."""
        raise NotImplementedError


NOW_US = 1_764_000_000_123_456


def test_ids_are_uuids_of_version_7() -> None:
    """An id carries its millisecond."""
    made = uuid.UUID(IdMaker(Clock(NOW_US)).new_id())
    assert made.version == 7
    assert made.int >> 80 == NOW_US // 1000


def test_ids_rise_within_a_millisecond_and_when_the_clock_steps_back() -> None:
    """The order of making is the order of the ids, one by one and in batches."""
    clock = Clock(NOW_US)
    maker = IdMaker(clock)
    made = [maker.new_id(), *maker.new_ids(100), maker.new_id()]
    clock.unix_us -= 3_600_000_000
    made += [maker.new_id(), *maker.new_ids(3)]
    clock.unix_us += 3_600_001_000
    made += [maker.new_id()]
    assert made == sorted(set(made))
    assert uuid.UUID(made[-1]).int >> 80 == NOW_US // 1000 + 1


def test_a_random_part_at_its_end_still_rises() -> None:
    """Even the highest draw leaves room for a millisecond's ids; past it they go on rising."""
    maker = IdMaker(Clock(NOW_US), entropy=lambda n: b"\xff" * n)
    assert uuid.UUID(maker.new_id()).int >> 80 == NOW_US // 1000
    maker._last |= (1 << 74) - 1
    made = maker.new_ids(3)
    assert made == sorted(set(made))
    assert uuid.UUID(made[0]).int >> 80 == NOW_US // 1000 + 1
    assert maker.new_id() > made[-1]


def test_makers_do_not_share_ids() -> None:
    """Two makers of one millisecond draw apart."""
    one, two = IdMaker(Clock(NOW_US)), IdMaker(Clock(NOW_US))
    assert not set(one.new_ids(1000)) & set(two.new_ids(1000))


def test_the_count_is_checked() -> None:
    """None is allowed, fewer are not, and neither moves the maker."""
    maker = IdMaker(Clock(NOW_US))
    assert maker.new_ids(0) == []
    with pytest.raises(ValueError, match="count"):
        maker.new_ids(-1)


def test_threads_get_ids_of_their_own() -> None:
    """Eight threads of one maker never see the same id, and each sees its own rise."""
    maker = IdMaker()
    start = threading.Barrier(8)
    made: list[list[str]] = [[] for _ in range(8)]

    def run(mine: list[str]) -> None:
        start.wait()
        for _ in range(200):
            mine.extend(maker.new_ids(3))

    threads = [threading.Thread(target=run, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len({i for mine in made for i in mine}) == 8 * 600


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_makes_other_ids() -> None:
    """A child draws anew, also when another thread held the maker at the fork."""
    maker = IdMaker(Clock(NOW_US))
    maker.new_id()
    reader, writer = os.pipe()
    with maker._lock:
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            os.write(writer, maker.new_id().encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    ours = maker.new_ids(1000)
    assert uuid.UUID(theirs).version == 7
    assert theirs not in ours
    # Counting on from the parent's last id would lie within a few steps of it.
    assert abs(uuid.UUID(theirs).int - uuid.UUID(ours[0]).int) > 1 << 20


def test_request_ids_are_32_hex_digits() -> None:
    """A request id is 128 bits of chance."""
    made = {request_id() for _ in range(100)}
    assert len(made) == 100
    assert all(len(i) == 32 and int(i, 16) >= 0 and i == i.lower() for i in made)
