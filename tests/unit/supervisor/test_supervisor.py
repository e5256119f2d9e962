"""What a supervisor refuses before it forks anything, and the words it uses."""

from __future__ import annotations

import logging

import pytest

from bananas.errors import FieldError
from bananas.supervisor import Child, Event, ProcessSpec, Supervisor, log_event, slots_needed
from bananas.table import Table


def target(_child: Child) -> int:
    """Do nothing."""
    return 0


def test_roles_are_distinct() -> None:
    """Two specs of one role are refused."""
    specs = [ProcessSpec("worker", 1, target), ProcessSpec("worker", 2, target)]
    with pytest.raises(FieldError, match="distinct roles"):
        Supervisor(specs, Table.create(9, 1))


def test_a_role_fits_its_slot() -> None:
    """A role that the table would cut is refused."""
    with pytest.raises(FieldError, match="at most 15 bytes"):
        Supervisor([ProcessSpec("a" * 16, 1, target)], Table.create(9, 1))


def test_the_table_has_room_for_a_replacement() -> None:
    """A table without a slot to spare is refused, since no child could be replaced first."""
    specs = [ProcessSpec("worker", 2, target)]
    with pytest.raises(FieldError, match="more slots"):
        Supervisor(specs, Table.create(2, 1))
    Supervisor(specs, Table.create(3, 1))


def test_slots_needed_leaves_room_for_a_roll_of_all() -> None:
    """The size proposed holds every child twice, and then some."""
    specs = [ProcessSpec("worker", 4, target), ProcessSpec("warden", 1, target)]
    assert slots_needed(specs, spare=0) == 12


def test_an_event_is_one_line() -> None:
    """An event reads as its kind and its fields, and goes to the package's own logger."""
    event = Event("child-ended", logging.ERROR, {"role": "worker", "code": -9})
    assert str(event) == "child-ended role=worker code=-9"


def test_events_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The default callback logs with the event's level and fields."""
    with caplog.at_level(logging.DEBUG, "bananas"):
        log_event(Event("child-ended", logging.ERROR, {"name": "x", "code": -9}))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("bananas.supervisor", logging.ERROR)
    assert record.getMessage() == "child-ended"
    assert record.__dict__["child_code"] == -9
