"""The compiled core and its twin: one suite for both, and each against the other."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bananas import _speedups_py as pure
from bananas import speedups

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

EXTENSION_REQUIRED = os.environ.get("BANANAS_REQUIRE_EXT", "") in ("1", "true", "yes", "on")


def load_compiled() -> ModuleType:
    """Return the compiled core; without one the test is skipped, or fails where it must exist."""
    try:
        from bananas import _speedups  # noqa: PLC0415 - it may not be there
    except ImportError:
        if EXTENSION_REQUIRED:
            pytest.fail("BANANAS_REQUIRE_EXT is set and bananas._speedups is not built")
        pytest.skip("bananas._speedups is not built")
    return _speedups


@pytest.fixture(params=["compiled", "pure"], scope="module")
def core(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the two cores."""
    return pure if request.param == "pure" else load_compiled()


@pytest.fixture(scope="module")
def compiled() -> ModuleType:
    """The compiled core, to hold against the pure one."""
    return load_compiled()


def outcome(call: Callable[..., object], *args: object) -> tuple[str, str]:
    """What a call gives, types and all, or the words it fails with."""
    try:
        return "value", repr(call(*args))
    except ValueError as error:
        return "ValueError", str(error)


# Every member set, so that a slot taken for its neighbour shows.
FULL = (
    "01932f5e-7d60-7a3b-8c1d-000000000001",
    "send_email",
    b'"one \\u00fc"',
    b'{"to": "a@example.com", "n": [1, 2.50, {"deep": [null]}]}',
    "scheduled",
    "high",
    "gpu",
    "2026-11-24T02:53:15.123456Z",
    "2026-11-24T02:53:16.000000Z",
    "2026-11-24T03:00:00.000000Z",
    2,
    5,
    b'"ValueError: x\\n"',
    12.5,
    True,
    "2026-11-25T00:00:00Z",
    1,
    4,
    b'"trace":{"id":"abc"},"v" : 1',
    "route:gpu:queue:high",
)
FULL_RECORD = (
    b'{"id":"01932f5e-7d60-7a3b-8c1d-000000000001","name":"send_email",'
    b'"description":"one \\u00fc",'
    b'"payload":{"to": "a@example.com", "n": [1, 2.50, {"deep": [null]}]},'
    b'"status":"scheduled","priority":"high","routing_key":"gpu",'
    b'"created_at":"2026-11-24T02:53:15.123456Z","updated_at":"2026-11-24T02:53:16.000000Z",'
    b'"scheduled_for":"2026-11-24T03:00:00.000000Z","attempts":2,"max_retries":5,'
    b'"error":"ValueError: x\\n","timeout_s":12.5,"result":true,'
    b'"expires_at":"2026-11-25T00:00:00Z","crashes":1,"unclaimed":4,'
    b'"trace":{"id":"abc"},"v" : 1,"list":"route:gpu:queue:high"}'
)
EMPTY = ("", "", None, b"{}", *[""] * 5, None, 0, -1, None, None, False, None, 0, 0, b"", None)
OWN_RECORD = (
    b'{"id":"a","name":"t","payload":{"x":1},"status":"pending","priority":"normal",'
    b'"routing_key":"default","created_at":"c","updated_at":"c","attempts":0,"max_retries":3,'
    b'"list":"queue:normal"}'
)
OWN = (
    *("a", "t", None, b'{"x":1}', "pending", "normal", "default", "c", "c", None, 0, 3),
    *(None, None, False, None, 0, 0, b"", "queue:normal"),
)


class Row(tuple[Any, ...]):
    """A record's twenty members."""

    __slots__ = ()


class Sprint:
    """A run."""

    __slots__ = ("definition", "fast", "job", "job_id", "lease", "soft_limit_s", "unset")

    def __init__(
        self, lease: object, job_id: bytes, job: object, definition: object, limit_s: float
    ) -> None:
        """Leave one slot empty."""
        self.lease = lease
        self.job_id = job_id
        self.job = job
        self.definition = definition
        self.soft_limit_s = limit_s
        self.fast = True


class TestChoice:
    """Which core runs."""

    def test_the_compiled_core_runs_where_it_was_built(self) -> None:
        """A built extension is the one in use, unless BANANAS_PURE says otherwise."""
        if os.environ.get("BANANAS_PURE", "") in ("1", "true", "yes", "on"):
            assert not speedups.COMPILED
        else:
            assert speedups.scan_record is load_compiled().scan_record
            assert speedups.COMPILED

    def test_every_name_comes_from_one_core(self) -> None:
        """No function of the chosen core is taken from the other one."""
        chosen = load_compiled() if speedups.COMPILED else pure
        functions = [name for name in speedups.__all__ if name[0].islower()]
        assert len(functions) == 12
        assert all(getattr(speedups, name) is getattr(chosen, name) for name in functions)


class TestReadOrdinary:
    """Reading a record of ours about which nothing is to be said."""

    @staticmethod
    def read(
        core: ModuleType, record: bytes, place: str = "queue:normal", name: str = ""
    ) -> Row | None:
        """Read a record that was found in a place."""
        names = ("t", "aa", "a-task-with-a-name-of-its-own", name)
        models = {each: Sprint(None, b"", None, each, 5.0) for each in names}
        before = OWN_RECORD.replace(b'"name":"t"', b'"name":"%b"' % name.encode())
        records = [before, record]
        runs, others = core.ordinary_runs(Row, models, "lease", place, [b"0", b"1"], records)
        assert others == [at for at, run in enumerate(runs) if run is None]
        row: Row | None = None if runs[1] is None else runs[1].job
        return row

    @pytest.mark.parametrize("name", ["", "é", OWN[1], "another"])
    def test_it_gives_what_scan_record_does(self, core: ModuleType, name: str) -> None:
        """An own record comes as the type asked for, whatever the name was taken to be."""
        row = self.read(core, OWN_RECORD, name=name)
        assert type(row) is Row
        assert row == OWN == core.scan_record(OWN_RECORD)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            *(
                (b'"status":"pending"', b'"status":"%b"' % word)
                for word in (b"scheduled", b"processing")
            ),
            *((b'"priority":"normal"', b'"priority":"%b"' % word) for word in (b"high", b"low")),
            (b'"max_retries":', b'"max_retries":1'),
        ],
    )
    def test_ordinary_are(self, core: ModuleType, old: bytes, new: bytes) -> None:
        """Each live status, each priority, any count."""
        record = OWN_RECORD.replace(old, new)
        assert record != OWN_RECORD
        assert self.read(core, record) == core.scan_record(record)

    @pytest.mark.parametrize(
        ("place", "key", "ordinary"),
        [
            ("route:gpu:queue:normal", "gpu", True),
            ("route:gpu:task:t:queue:normal", "gpu", True),
            ("route:gpu:queue:normal", "default", True),
            ("route:gpu:queue:normal", "gpu:queue", False),
            ("route:gpu:queue:normal", "", False),
            ("route:gpu:queue:normal", "cpu", False),
            ("task:gpu:queue:normal", "gpu", False),
            ("route:\xe9:queue:normal", "\xe9", True),
        ],
    )
    def test_the_key_of_the_place_is_ordinary(
        self, core: ModuleType, place: str, key: str, ordinary: bool
    ) -> None:
        """Or the default one: a job may have been brought there; any other has a rule to meet."""
        record = OWN_RECORD.replace(b'"queue:normal"', b'"%b"' % place.encode())
        record = record.replace(b'"routing_key":"default"', b'"routing_key":"%b"' % key.encode())
        row = self.read(core, record, place)
        assert row == (core.scan_record(record) if ordinary else None)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"id":"a"', b'"id":""'),
            (b'"name":"t"', b'"name":""'),
            (b'"status":"pending"', b'"status":"completed"'),
            (b'"status":"pending"', b'"status":"cancelled"'),
            (b'"status":"pending"', b'"status":""'),
            (b'"priority":"normal"', b'"priority":"urgent"'),
            (b'"priority":"normal"', b'"priority":null'),
            (b'"routing_key":"default"', b'"routing_key":"gpu"'),
            (b'"routing_key":"default",', b""),
            (b'"attempts":', b'"scheduled_for":"2026-01-01T00:00:00Z","attempts":'),
            (b'"max_retries":3', b'"max_retries":null'),
            (b'"max_retries":3,', b""),
            (b',"list"', b',"timeout_s":1.5,"list"'),
            (b',"list"', b',"expires_at":"2026-01-01T00:00:00Z","list"'),
            (b',"list"', b',"trace":"x","list"'),
            (b',"list":"queue:normal"', b""),
            (b'"list":"queue:normal"', b'"list":"queue:high"'),
            (b'"list":"queue:normal"}', b'"list":"queue:normal"'),
            (b'"attempts":0', b'"attempts":-1'),
        ],
    )
    def test_others_are_not(self, core: ModuleType, old: bytes, new: bytes) -> None:
        """Whatever a rule has something to say about is left to who knows the rules."""
        record = OWN_RECORD.replace(old, new)
        assert record != OWN_RECORD
        assert self.read(core, record) is None

    def test_a_likely_name_is_not_taken_for_bytes_that_are_no_text(self, core: ModuleType) -> None:
        """The byte of a Latin letter is no UTF-8, even where a name of that letter is expected."""
        record = OWN_RECORD.replace(b'"name":"t"', b'"name":"\xe9"')
        assert self.read(core, record, name="\xe9") is None

    def test_a_likely_name_of_wide_letters_is_not_taken_for_their_bytes(
        self, core: ModuleType
    ) -> None:
        """Two letters whose bytes in memory spell the name's are another name all the same."""
        record = OWN_RECORD.replace(b'"name":"t"', b'"name":"aa"')
        row = self.read(core, record, name="\u6161\u6161")
        assert row is not None
        assert row[1] == "aa"

    @pytest.mark.parametrize("word", ["pending", "normal", "default", "queue:normal"])
    def test_words_may_be_written_with_escapes(self, core: ModuleType, word: str) -> None:
        """Only what they say counts."""
        escaped = f'"\\u{ord(word[0]):04x}{word[1:]}"'.encode()
        record = OWN_RECORD.replace(b'"%b"' % word.encode(), escaped)
        assert record != OWN_RECORD
        assert self.read(core, record) == OWN

    def test_each_run_is_its_tasks_model_but_for_three(self, core: ModuleType) -> None:
        """In the order of the records; what cannot be one is None and named by its index."""
        other = OWN_RECORD.replace(b'"name":"t"', b'"name":"other"')
        unknown = OWN_RECORD.replace(b'"name":"t"', b'"name":"unknown"')
        models = {name: Sprint("nobody", b"", None, name, 7.5) for name in ("t", "other")}
        records = [OWN_RECORD, None, other, b"{", unknown, OWN_RECORD]
        ids = [b"%d" % at for at in range(6)]
        runs, others = core.ordinary_runs(Row, models, "lease", "queue:normal", ids, records)
        assert others == [1, 3, 4]
        assert [at for at, run in enumerate(runs) if run is None] == others
        for at, name in ((0, "t"), (2, "other"), (5, "t")):
            run = runs[at]
            assert type(run) is Sprint
            assert (run.lease, run.job_id, run.job[1]) == ("lease", ids[at], name)
            assert (run.definition, run.soft_limit_s, run.fast) == (name, 7.5, True)
            assert not hasattr(run, "unset")
            run.fast = False
        assert all(model.fast and model.lease == "nobody" for model in models.values())

    def test_there_are_as_many_ids_as_records(self, core: ModuleType) -> None:
        """An answer of the server that says otherwise is none."""
        for ids in ([], [b"0", b"1"]):
            with pytest.raises(ValueError, match="as many ids as records"):
                core.ordinary_runs(Row, {}, None, "queue:normal", ids, [OWN_RECORD])

    def test_runs_end_like_any_object(self, core: ModuleType) -> None:
        """References are counted right: what a thousand runs hold is let go with them."""
        held = [object() for _ in range(3)]
        models = {"t": Sprint(held[0], b"", None, held[1], 7.5)}
        counts = [sys.getrefcount(each) for each in held]
        runs, _ = core.ordinary_runs(
            Row, models, held[2], "queue:normal", [b"0"] * 1000, [OWN_RECORD] * 1000
        )
        assert sys.getrefcount(held[2]) == counts[2] + 1000
        gc.collect()
        assert all(run.lease is held[2] and run.job == OWN for run in runs)
        del runs
        assert [sys.getrefcount(each) for each in held] == counts

    def test_only_a_class_of_plain_slots_makes_runs(self) -> None:
        """The compiled core copies slots, so it refuses an object that holds more."""

        class Loose(Sprint):
            """A run with a dictionary."""

        if speedups.COMPILED:
            for model in (Loose(None, b"", None, None, 1.0), object(), 1):
                with pytest.raises(TypeError, match="a model must have slots"):
                    speedups.ordinary_runs(
                        Row,
                        {"t": model},
                        None,
                        "queue:normal",
                        [b"0"],
                        [OWN_RECORD],  # type: ignore[type-var]
                    )

    def test_it_is_hashed_as_what_it_holds(self, core: ModuleType) -> None:
        """Equal tuples have equal hashes, whoever made them."""
        row = self.read(core, OWN_RECORD)
        assert row is not None
        assert hash(row) == hash(OWN)

    def test_the_place_is_compared_as_text(self, core: ModuleType) -> None:
        """Another place than asked for is none, be it longer, shorter or the same length."""
        for place in ("queue:norma", "queue:normal2", "queue:normaI", "x"):
            assert self.read(core, OWN_RECORD, place) is None

    def test_what_it_makes_ends_like_any_tuple(self, core: ModuleType) -> None:
        """References are counted right: the texts of a thousand rows go with them."""
        name = "a-task-with-a-name-of-its-own"
        record = OWN_RECORD.replace(b'"name":"t"', b'"name":"%b"' % name.encode())
        counts = [sys.getrefcount(name) for _ in range(2)]
        rows = [self.read(core, record, name=name) for _ in range(1000)]
        assert rows[0] is not None
        assert rows[0][1] == name
        gc.collect()
        assert rows[999] == rows[0]
        del rows
        counts += [sys.getrefcount(name) for _ in range(2)]
        assert counts[-1] == counts[1]


class TestScanRecord:
    """Reading a record without decoding its payload."""

    def test_every_member_lands_in_its_slot(self, core: ModuleType) -> None:
        """A record with all members set gives all of them."""
        assert core.scan_record(FULL_RECORD) == FULL

    def test_an_own_record_is_read(self, core: ModuleType) -> None:
        """The common record, without the optional members, gives their defaults."""
        assert core.scan_record(OWN_RECORD) == OWN

    def test_absent_members_have_defaults(self, core: ModuleType) -> None:
        """An empty object is a record without anything."""
        assert core.scan_record(b"{}") == EMPTY
        assert core.scan_record(b" \t\r\n{ \n } ") == EMPTY

    def test_null_is_absent(self, core: ModuleType) -> None:
        """A null member reads as if it were not there, but a null payload is a payload."""
        names = [*json.loads(FULL_RECORD)]
        record = json.dumps(dict.fromkeys(set(names) - {"trace", "v"})).encode()
        assert core.scan_record(record) == (*EMPTY[:3], b"null", *EMPTY[4:])

    def test_empty_text_is_absent(self, core: ModuleType) -> None:
        """scheduled_for, expires_at and list are None when they are empty strings."""
        record = b'{"scheduled_for":"","expires_at":"","list":"","id":""}'
        assert core.scan_record(record) == EMPTY
        own = OWN_RECORD.replace(b',"attempts":', b',"scheduled_for":"","attempts":')
        own = own.replace(b',"list":"queue:normal"', b',"expires_at":"","list":""')
        assert core.scan_record(own) == (*OWN[:19], None)

    def test_order_and_spacing_are_free(self, core: ModuleType) -> None:
        """A foreign producer may write members in any order, with any white space."""
        members = list(json.loads(OWN_RECORD).items())
        record = json.dumps(dict(reversed(members)), indent=2).encode()
        expected = list(OWN)
        expected[3] = json.dumps({"x": 1}, indent=2).replace("\n", "\n  ").encode()
        assert core.scan_record(record) == tuple(expected)
        for spaced in (b'{"x":1} ', b'{"x":1}\n', b' {"x":1}'):
            assert core.scan_record(OWN_RECORD.replace(b'{"x":1}', spaced)) == OWN

    def test_the_last_duplicate_counts(self, core: ModuleType) -> None:
        """Of a known member given twice the last value counts, null included."""
        scanned = core.scan_record(
            b'{"name":"a","attempts":1,"name":"b","attempts":null,"payload":1,"payload":2}'
        )
        assert (scanned[1], scanned[10], scanned[3]) == ("b", 0, b"2")

    def test_unknown_duplicates_are_all_kept(self, core: ModuleType) -> None:
        """Unknown members are nobody's to merge: each goes through as found."""
        assert core.scan_record(b'{"x":1, "x" : 2 ,"id":"a"}')[18] == b'"x":1,"x" : 2'

    def test_escaped_names_are_known(self, core: ModuleType) -> None:
        """A member's name may be written with escapes."""
        assert core.scan_record(b'{"n\\u0061me":"x","\\u0069d":"y"}')[:2] == ("y", "x")

    def test_escapes_in_text_are_undone(self, core: ModuleType) -> None:
        r"""Known strings come out as text: short escapes, \\u, surrogate pairs, raw UTF-8."""
        record = rb'{"name":"\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00 ' + "é😀".encode()
        assert core.scan_record(record + b'"}')[1] == '"\\/\b\f\n\r\tAé€😀 é😀'

    def test_names_hidden_in_the_payload_are_not_members(self, core: ModuleType) -> None:
        """What looks like a member inside the payload, nested or in a string, is payload."""
        for payload in (
            b'{"status":"x","list":"y"}',
            b'{"a":1,"status":"x","priority":"y"}',
            rb'"\",\"status\":\"x"',
            b'[{"a":"}"},"]",[]]',
            rb'{"a":"\\","b":"\"}"}',
        ):
            record = OWN_RECORD.replace(b'{"x":1}', payload)
            assert core.scan_record(record) == (*OWN[:3], payload, *OWN[4:])

    @pytest.mark.parametrize("length", range(56, 72))
    def test_strings_may_cross_any_block(self, core: ModuleType, length: int) -> None:
        """Quotes, escapes and brackets are found wherever a block of 16 or 64 bytes ends."""
        for text in ("x" * length, "x" * length + '\\"', "x" * length + "\\\\", "é" * length):
            payload = f'{{"a":["{text}]}}",{{"{text}":"{text}"}}]}}'.encode()
            record = OWN_RECORD.replace(b'{"x":1}', payload)
            assert core.scan_record(record)[3] == payload

    @pytest.mark.parametrize(
        "payload",
        [b"null", b"true", b"false", b"0", b"-1.5e+10", b'""', b'"x"', b"[]", b"{}", b"[ ]"],
    )
    def test_any_json_is_a_payload(self, core: ModuleType, payload: bytes) -> None:
        """Scalars are payloads, too."""
        assert core.scan_record(b'{"payload":%b}' % payload)[3] == payload
        assert core.scan_record(OWN_RECORD.replace(b'{"x":1}', payload))[3] == payload

    @pytest.mark.parametrize(
        "record",
        [
            b"",
            b" ",
            b"null",
            b"[]",
            b'"x"',
            b"\xef\xbb\xbf{}",
            b"\x00",
            b"not json",
        ],
    )
    def test_only_an_object_is_a_record(self, core: ModuleType, record: bytes) -> None:
        """Anything but an object is refused in these words."""
        with pytest.raises(ValueError, match=r"^not a JSON object$"):
            core.scan_record(record)

    @pytest.mark.parametrize(
        "record",
        [
            b"{",
            b"{,}",
            b'{"',
            b'{"id"',
            b'{"id"}',
            b'{"id":"a"',
            b'{"id":"a",',
            b'{"id":"a",}',
            b'{"id":"a"}}',
            b'{"id":"a"} x',
            b'{"id":"a"}{}',
            b'{"id" "a"}',
            b'{"id":"a" "name":"b"}',
            b"{id:1}",
            b"{'id':1}",
            b'{"id":"\n"}',
            b'{"id":"\\x"}',
            b'{"id":"\\u12"}',
            b'{"id":"\\u12g4"}',
            b'{"id":"\\',
            b'{"i\x01d":1}',
            b'{"payload":}',
            b'{"payload":[}',
            b'{"payload":[}]',
            b'{"payload":{]}',
            b'{"payload":["}',
            b'{"payload":["\\',
            b'{"payload":[[]}',
            b'{"payload":NaN}',
            b'{"payload":Infinity}',
            b'{"payload":01}',
            b'{"payload":1.}',
            b'{"payload":.5}',
            b'{"payload":1e}',
            b'{"payload":-}',
            b'{"payload":+1}',
            b'{"payload":tru}',
            b'{"payload":truex}',
            b'{"payload":nul',
            b'{"payload":nullnull}',
            b'{"payload":]}',
            b'{"attempts":01}',
            b'{"result":truefalse}',
            b'{"id":nullx}',
            b'{"x":1,"x"}',
            b'{"a":1}\x00',
        ],
    )
    def test_broken_json_is_refused(self, core: ModuleType, record: bytes) -> None:
        """The object itself and its scalars are checked by JSON's grammar."""
        with pytest.raises(ValueError, match=r"^not valid JSON$"):
            core.scan_record(record)

    @pytest.mark.parametrize(
        "payload",
        [b"[1}", b"[{]}", b"{}{}", b"[[1],[2]][3]", b'{"a":"}"}}', b'{"a":"]}', b"", b"1 2", b"]"],
    )
    def test_a_broken_payload_breaks_an_own_record(self, core: ModuleType, payload: bytes) -> None:
        """What stands between two members of ours must be one value."""
        with pytest.raises(ValueError, match=r"^not valid JSON$"):
            core.scan_record(OWN_RECORD.replace(b'{"x":1}', payload))

    @pytest.mark.parametrize(
        ("member", "words"),
        [
            (b'"id":1', '"id" must be a string'),
            (b'"name":[]', '"name" must be a string'),
            (b'"description":{}', '"description" must be a string'),
            (b'"error":false', '"error" must be a string'),
            (b'"list":0', '"list" must be a string'),
            (b'"status":', '"status" must be a string'),
            (b'"attempts":"1"', '"attempts" must be a number'),
            (b'"attempts":true', '"attempts" must be a number'),
            (b'"attempts":1.0', '"attempts" must be an integer'),
            (b'"attempts":1e2', '"attempts" must be an integer'),
            (b'"attempts":-1', '"attempts" is out of range'),
            (b'"max_retries":9007199254740992', '"max_retries" is out of range'),
            (b'"crashes":99999999999999999999', '"crashes" is out of range'),
            (b'"unclaimed":' + b"9" * 100_000, '"unclaimed" is out of range'),
            (b'"timeout_s":"1"', '"timeout_s" must be a number'),
            (b'"timeout_s":1e999', '"timeout_s" is out of range'),
            (b'"timeout_s":' + b"9" * 100_000, '"timeout_s" is out of range'),
            (b'"result":1', '"result" must be true or false'),
            (b'"result":"true"', '"result" must be true or false'),
            (b'"name":"\xff"', "a string is not valid Unicode"),
            (b'"name":"\\u0041\xff"', "a string is not valid Unicode"),
            (b'"name":"\xed\xa0\x80"', "a string is not valid Unicode"),
            (b'"name":"\\ud800"', "a string is not valid Unicode"),
            (b'"name":"\\ud8ff\\u0041"', "a string is not valid Unicode"),
            (b'"name":"\\ud800\\ud800"', "a string is not valid Unicode"),
            (b'"name":"\\udc00\\ud800"', "a string is not valid Unicode"),
            (b'"error":"\\udfff"', "a string is not valid Unicode"),
            (b'"description":"\xc3"', "a string is not valid Unicode"),
            (b'"\\ud800":1', "a string is not valid Unicode"),
        ],
    )
    def test_a_wrong_member_is_named(self, core: ModuleType, member: bytes, words: str) -> None:
        """A known member of the wrong kind is refused by name and rule."""
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            core.scan_record(b"{%b}" % member)

    @pytest.mark.parametrize("member", [b"payload", b"foreign"])
    def test_depth_is_bounded(self, core: ModuleType, member: bytes) -> None:
        """A value may nest as deep as the limit and no deeper, however deep the bomb."""
        record = b'{"%b":%b}'
        allowed = record % (member, b"[" * 64 + b"]" * 64)
        for deep, payload in ((64, b"[" * 64 + b"]" * 64), (1, b"{}"), (3, b'{"a":[{}]}')):
            own = OWN_RECORD.replace(b'{"x":1}', payload)
            assert core.scan_record(own, deep)[3] == payload
            with pytest.raises(ValueError, match=rf"^nested deeper than {deep - 1}$"):
                core.scan_record(own, deep - 1)
        assert core.scan_record(allowed) is not None
        assert core.scan_record(b'{"payload":{}}', 1)[3] == b"{}"
        for depth in (65, 100_000):
            for opened, closed in ((b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")):
                with pytest.raises(ValueError, match=r"^nested deeper than 64$"):
                    core.scan_record(record % (member, opened * depth + closed * depth))
        with pytest.raises(ValueError, match=r"^nested deeper than 0$"):
            core.scan_record(record % (member, b"{}"), 0)

    def test_depth_has_a_ceiling(self, core: ModuleType) -> None:
        """No caller can ask for more than 1024 levels."""
        core.scan_record(b'{"payload":%b}' % (b"[" * 1024 + b"]" * 1024), 1024)
        for max_depth in (-1, 1025):
            with pytest.raises(ValueError, match=r"^max_depth must be from 0 to 1024$"):
                core.scan_record(b"{}", max_depth)

    def test_payload_bytes_are_opaque(self, core: ModuleType) -> None:
        """Big integers, duplicate keys, invalid UTF-8 and surrogates go through untouched."""
        for payload in (
            b"9" * 100_000,
            b'{"n":%b}' % (b"9" * 100_000),
            b'{"a":1,"a":2}',
            b'{"a":"\xff\x00"}',
            rb'["\ud800"]',
            b"-0",
            b"[NaN]",
            b'{"a"  :\t1.500 }',
        ):
            record = OWN_RECORD.replace(b'{"x":1}', payload)
            scanned = core.scan_record(record)
            assert scanned[3] == payload
            assert core.encode_record(*scanned) == record

    def test_only_bytes_are_scanned(self, core: ModuleType) -> None:
        """Text and None are no records: a TypeError, not a crash."""
        for data in ("{}", None, 1):
            with pytest.raises(TypeError):
                core.scan_record(data)


class TestEncodeRecord:
    """Writing a record."""

    def test_members_stand_in_the_order_of_the_wire(self, core: ModuleType) -> None:
        """All members set, the record is exactly this."""
        assert core.encode_record(*FULL) == FULL_RECORD

    def test_absent_members_are_left_out(self, core: ModuleType) -> None:
        """Nothing optional is written when it says nothing."""
        assert core.encode_record(*OWN) == OWN_RECORD
        without = (*OWN[:11], -1, *OWN[12:19], None)
        assert core.encode_record(*without) == OWN_RECORD.replace(b',"max_retries":3', b"").replace(
            b',"list":"queue:normal"', b""
        )

    def test_text_is_escaped_where_it_must_be(self, core: ModuleType) -> None:
        """Text that JSON cannot hold as it is gets the escapes of the standard library."""
        text = "".join(map(chr, range(0x80))) + "é€😀"
        record = core.encode_record(text, text, *OWN[2:])
        quoted = json.dumps(text, ensure_ascii=False)
        assert record.startswith(f'{{"id":{quoted},"name":{quoted},"payload"'.encode())
        assert core.scan_record(record)[:2] == (text, text)
        for special in text:
            for slot in (*range(2), *range(4, 10), 15, 19):
                members: list[object] = list(OWN)
                members[slot] = f"a{special}b"
                assert core.scan_record(core.encode_record(*members)) == tuple(members)

    @pytest.mark.parametrize(
        ("slot", "value", "words"),
        [
            (10, -1, '"attempts" is out of range'),
            (10, 2**53, '"attempts" is out of range'),
            (10, 10**30, '"attempts" is out of range'),
            (11, -2, '"max_retries" is out of range'),
            (16, -1, '"crashes" is out of range'),
            (17, 2**64, '"unclaimed" is out of range'),
            (13, math.inf, '"timeout_s" is out of range'),
            (13, math.nan, '"timeout_s" is out of range'),
            (3, b"", "payload is empty"),
            (0, "\ud800", "a string is not valid Unicode"),
            (19, "\udfff", "a string is not valid Unicode"),
        ],
    )
    def test_what_a_record_cannot_carry_is_refused(
        self, core: ModuleType, slot: int, value: object, words: str
    ) -> None:
        """Out of range values are a ValueError that names the member."""
        members: list[object] = list(OWN)
        members[slot] = value
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            core.encode_record(*members)

    def test_a_place_is_the_last_member(self, core: ModuleType) -> None:
        """Scripts read the place from the last bytes, whatever else a record holds."""
        assert core.encode_record(*FULL).endswith(b',"list":"route:gpu:queue:high"}')

    def test_finishing_changes_three_members(self, core: ModuleType) -> None:
        """finish_record equals encode_record of the changed tuple."""
        for members in (FULL, OWN):
            changed: list[object] = list(members)
            changed[4], changed[8], changed[10] = "completed", "2026-11-24T02:53:17Z", 7
            assert core.finish_record(
                members, "completed", "2026-11-24T02:53:17Z", 7
            ) == core.encode_record(*changed)


class TestJsonAsBytes:
    """What is asked of JSON without decoding it."""

    @pytest.mark.parametrize(
        ("data", "depth"),
        [
            (b"", 0),
            (b"1", 0),
            (b'"[[[["', 0),
            (b"{}", 1),
            (b'[[],{"a":[1]}]', 3),
            (rb'["\"[[", [1]]', 2),
            (b"]]]][[", 0),
            (b'["', 1),
            (b'["\\', 1),
        ],
    )
    def test_depth_is_counted_outside_of_strings(
        self, core: ModuleType, data: bytes, depth: int
    ) -> None:
        """Brackets in strings do not nest."""
        assert core.json_depth(data) == depth

    @pytest.mark.parametrize(
        ("data", "long"),
        [
            (b"", False),
            (b"9" * 18, False),
            (b"9" * 19, True),
            (b"[%b]" % (b"9" * 18), False),
            (b"[-%b]" % (b"9" * 19), True),
            (b'["%b"]' % (b"9" * 40), False),
            (b'["\\"%b"]' % (b"9" * 40), False),
            (b'["x",%b]' % (b"1" * 25), True),
            (b"0.%b" % (b"3" * 19), True),
            (b"%b,%b" % (b"9" * 18, b"9" * 18), False),
        ],
    )
    def test_long_numbers_are_found(self, core: ModuleType, data: bytes, long: bool) -> None:
        """Nineteen digits in a row outside of strings, wherever they stand."""
        for shift in range(40):
            assert core.has_long_number(b" " * shift + data + b" ") is long

    def test_lines_are_split_off(self, core: ModuleType) -> None:
        """Complete lines come without their end, the rest waits; empty lines keep the count."""
        assert core.split_lines(b"") == ([], b"")
        assert core.split_lines(b"a") == ([], b"a")
        assert core.split_lines(b"a\nb\r\n\n\r\nc\r") == ([b"a", b"b", b"", b""], b"c\r")
        assert core.split_lines(b"a\rb\n\r\r\n") == ([b"a\rb", b"\r"], b"")


class TestUuid7Batch:
    """Ids."""

    def test_the_layout_is_that_of_rfc_9562(self, core: ModuleType) -> None:
        """The RFC's example (appendix A.6) comes out of its parts."""
        tail = (0xCC3 << 62) | 0x18C4DC0C0C07398F
        made = core.uuid7_batch(0x017F22E279B0, 1, tail.to_bytes(10, "big"))
        assert made == ["017f22e2-79b0-7cc3-98c4-dc0c0c07398f"]
        assert uuid.UUID(made[0]).version == 7
        assert uuid.UUID(made[0]).variant == uuid.RFC_4122

    def test_ids_rise_over_every_carry(self, core: ModuleType) -> None:
        """A random part that overflows carries on, into the time at last."""
        for tail in ((1 << 74) - 2, (1 << 62) - 2, (1 << 48) - 2, (1 << 32) - 2):
            made = core.uuid7_batch(1_764_000_000_000, 5, tail.to_bytes(10, "big"))
            assert made == sorted(set(made))
            assert all(uuid.UUID(i).version == 7 for i in made)
            assert all(uuid.UUID(i).variant == uuid.RFC_4122 for i in made)

    def test_the_time_leads(self, core: ModuleType) -> None:
        """The first 48 bits are the milliseconds."""
        (made,) = core.uuid7_batch(1_764_000_000_123, 1, b"\xff" * 10)
        assert uuid.UUID(made).int >> 80 == 1_764_000_000_123

    @pytest.mark.parametrize(
        ("unix_ms", "count", "random"),
        [
            (-1, 1, bytes(10)),
            (1 << 48, 1, bytes(10)),
            (1 << 48, 0, bytes(10)),
            (10**30, 1, bytes(10)),
            ((1 << 48) - 1, 2, b"\xff" * 10),
            (0, -1, bytes(10)),
            (0, 1, bytes(9)),
            (0, 1, b""),
        ],
    )
    def test_arguments_out_of_range_are_refused(
        self, core: ModuleType, unix_ms: int, count: int, random: bytes
    ) -> None:
        """A time beyond 48 bits, a negative count, a seed of another size."""
        with pytest.raises(ValueError, match=r"unix_ms|count|random"):
            core.uuid7_batch(unix_ms, count, random)
        assert core.uuid7_batch((1 << 48) - 1, 1, b"\xff" * 10)
        assert core.uuid7_batch(0, 0, bytes(10)) == []


class TestTimes:
    """RFC 3339."""

    @pytest.mark.parametrize(
        ("text", "unix_us"),
        [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2026-11-24T02:53:15.123456Z", 1_795_488_795_123_456),
            ("2026-11-24 02:53:15.123456z", 1_795_488_795_123_456),
            ("2026-11-24t03:53:15.123456+01:00", 1_795_488_795_123_456),
            ("2026-11-23T20:23:15.1234569-06:30", 1_795_488_795_123_456),
            ("2026-11-24T02:53:15.123456789Z", 1_795_488_795_123_456),
            ("2026-11-24T02:53:15.1Z", 1_795_488_795_100_000),
            ("2000-02-29T00:00:00-00:00", 951_782_400_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ],
    )
    def test_times_are_read(self, core: ModuleType, text: str, unix_us: int) -> None:
        """Any offset, up to nine digits, a space for the T, a leap second."""
        assert core.parse_time(text) == unix_us

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "now",
            "2026-11-24",
            "2026-11-24T02:53:15",
            "2026-11-24T02:53Z",
            "2026-11-24T02:53:15.Z",
            "2026-11-24T02:53:15.1234567890Z",
            "2026-11-24T02:53:15,5Z",
            "2026-11-24T02:53:15+0100",
            "2026-11-24T02:53:15+01",
            "2026-11-24T02:53:15+24:00",
            "2026-11-24T02:53:15+01:60",
            "2026-11-24T02:53:15ZZ",
            "2026-11-24T02:53:15Z\n",
            " 2026-11-24T02:53:15Z",
            "2026-13-24T02:53:15Z",
            "2026-00-24T02:53:15Z",
            "2026-02-29T02:53:15Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-00T02:53:15Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T02:60:15Z",
            "2026-11-24T02:53:61Z",
            "0000-01-01T00:00:00Z",
            "+026-11-24T02:53:15Z",
            "20\uff126-11-24T02:53:15Z",
            "2026-11-24T02:53:15\uff3a",
            "\ud800" * 20,
        ],
    )
    def test_anything_else_is_refused(self, core: ModuleType, text: str) -> None:
        """What RFC 3339 does not allow, a missing offset above all, is a ValueError."""
        with pytest.raises(ValueError, match=r"^not an RFC 3339 time$"):
            core.parse_time(text)

    @pytest.mark.parametrize("text", ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])
    def test_an_offset_may_not_leave_the_range(self, core: ModuleType, text: str) -> None:
        """A time that is beyond the years 1 to 9999 in UTC cannot be written again."""
        with pytest.raises(ValueError, match=r"^time is out of range$"):
            core.parse_time(text)

    def test_times_are_written(self, core: ModuleType) -> None:
        """UTC, six digits, a Z."""
        assert core.format_time(1_795_488_795_123_456) == "2026-11-24T02:53:15.123456Z"
        assert core.format_time(0) == "1970-01-01T00:00:00.000000Z"
        assert core.format_time(-62_135_596_800_000_000) == "0001-01-01T00:00:00.000000Z"
        for unix_us in (-62_135_596_800_000_001, 253_402_300_800_000_000, 10**40, -(10**40)):
            with pytest.raises(ValueError, match=r"^time is out of range$"):
                core.format_time(unix_us)

    @given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
    def test_times_come_back(self, core: ModuleType, unix_us: int) -> None:
        """Every time survives being written and read, and agrees with datetime."""
        text = core.format_time(unix_us)
        assert core.parse_time(text) == unix_us
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=unix_us)
        assert datetime.fromisoformat(text) == moment


class TestBackoff:
    """The delay before the next run."""

    def test_the_defaults_double_from_two_seconds(self, core: ModuleType) -> None:
        """2, 4, 8 … up to the cap."""
        delays = [core.backoff(n, 1.0, 2.0, 3600.0, 0.1, 0.0) for n in range(1, 14)]
        assert delays == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]

    def test_jitter_only_adds(self, core: ModuleType) -> None:
        """A draw of one adds the whole share, a draw of zero nothing."""
        assert core.backoff(1, 1.0, 2.0, 3600.0, 0.1, 1.0) == pytest.approx(2.2)
        assert core.backoff(1, 1.0, 2.0, 3600.0, 0.1, 0.0) == 2.0

    @pytest.mark.parametrize("attempt", [1023, 1024, 1025, 2**31, 2**63, 10**30])
    @pytest.mark.parametrize("factor", [1.0, 1.0001, 2.0, 10.0, 1e300])
    def test_no_attempt_overflows(self, core: ModuleType, attempt: int, factor: float) -> None:
        """However many attempts and whatever factor, the delay stays within its cap."""
        assert 0 < core.backoff(attempt, 1.0, factor, 3600.0, 0.1, 0.5) <= 3600 * 1.05
        assert core.backoff(attempt, 0.0, factor, 3600.0, 0.1, 0.5) == 0

    @pytest.mark.parametrize(
        "arguments",
        [
            (0, 1.0, 2.0, 60.0, 0.1, 0.5),
            (-(10**30), 1.0, 2.0, 60.0, 0.1, 0.5),
            (1, -1.0, 2.0, 60.0, 0.1, 0.5),
            (1, math.nan, 2.0, 60.0, 0.1, 0.5),
            (1, math.inf, 2.0, 60.0, 0.1, 0.5),
            (1, 1.0, 0.5, 60.0, 0.1, 0.5),
            (1, 1.0, math.nan, 60.0, 0.1, 0.5),
            (1, 1.0, 2.0, -1.0, 0.1, 0.5),
            (1, 1.0, 2.0, math.inf, 0.1, 0.5),
            (1, 1.0, 2.0, 60.0, -0.1, 0.5),
            (1, 1.0, 2.0, 60.0, 1.5, 0.5),
            (1, 1.0, 2.0, 60.0, 0.1, -0.5),
            (1, 1.0, 2.0, 60.0, 0.1, math.nan),
        ],
    )
    def test_nonsense_is_refused(self, core: ModuleType, arguments: tuple[Any, ...]) -> None:
        """Each argument has a range, and NaN lies in none."""
        with pytest.raises(ValueError, match=r"must be"):
            core.backoff(*arguments)

    @given(
        st.integers(1, 5000),
        st.floats(0, 1e6),
        st.floats(1, 1e3),
        st.floats(0, 1e6),
        st.floats(0, 1),
        st.floats(0, 1),
    )
    def test_a_delay_is_never_early_nor_late(  # noqa: PLR0913, PLR0917 - as backoff
        self,
        core: ModuleType,
        attempt: int,
        base_s: float,
        factor: float,
        cap_s: float,
        jitter: float,
        u: float,
    ) -> None:
        """Never less than without jitter, never more than the cap and its jitter."""
        plain = core.backoff(attempt, base_s, factor, cap_s, 0.0, u)
        delay = core.backoff(attempt, base_s, factor, cap_s, jitter, u)
        assert plain <= delay <= cap_s * (1 + jitter)


class TestPackCommand:
    """Writing a command for the server."""

    @pytest.mark.parametrize(
        ("words", "data"),
        [
            ((), b"*0\r\n"),
            ((b"PING",), b"*1\r\n$4\r\nPING\r\n"),
            (("\xe9", b"\x00\r\n"), b"*2\r\n$2\r\n\xc3\xa9\r\n$3\r\n\x00\r\n\r\n"),
            ((0, -5), b"*2\r\n$1\r\n0\r\n$2\r\n-5\r\n"),
            ((10**20, 0.1), b"*2\r\n$21\r\n100000000000000000000\r\n$3\r\n0.1\r\n"),
            ((b"", "x" * 1000), b"*2\r\n$0\r\n\r\n$1000\r\n%b\r\n" % (b"x" * 1000)),
        ],
    )
    def test_each_word_is_a_bulk_string(
        self, core: ModuleType, words: tuple[Any, ...], data: bytes
    ) -> None:
        """Numbers as they are printed, text as UTF-8, bytes as they are."""
        assert core.pack_command(words) == data

    def test_it_takes_many_words(self, core: ModuleType) -> None:
        """A call has some thousands."""
        words = tuple(b"%d" % number for number in range(3000))
        parts = core.pack_command(words).split(b"\r\n")
        assert (parts[0], parts[2:-1:2]) == (b"*3000", [*words])

    @pytest.mark.parametrize("word", [None, True, bytearray(b"x"), [b"x"]])
    def test_other_words_are_refused(self, core: ModuleType, word: object) -> None:
        """Nobody could say how the server should read them."""
        with pytest.raises(TypeError, match="must be bytes, str, int or float"):
            core.pack_command((b"SET", word))

    def test_text_that_is_no_unicode_is_refused(self, core: ModuleType) -> None:
        """It has no bytes."""
        with pytest.raises(UnicodeEncodeError):
            core.pack_command((b"SET", "\ud800"))


# --- twin against twin ----------------------------------------------------------------------

counts = st.integers(0, 2**53 - 1) | st.integers(0, 20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
words = texts | st.sampled_from(["pending", "normal", "default", "queue:normal", "high"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=4)
)
raw_texts = st.builds(lambda t, a: json.dumps(t, ensure_ascii=a).encode(), texts, st.booleans())
raw_values = st.builds(lambda v, a: json.dumps(v, ensure_ascii=a).encode(), values, st.booleans())
maybe_empty = words.map(lambda text: text or None)
tuples = st.tuples(
    *(words, words, st.none() | raw_texts, raw_values, words, words, words, words, words),
    *(st.none() | maybe_empty, counts, counts | st.just(-1), st.none() | raw_texts),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    *(st.booleans(), st.none() | maybe_empty, st.just(0) | counts, st.just(0) | counts),
    st.just(b"") | raw_values.map(lambda v: b'"x-foreign":' + v),
    st.none() | maybe_empty,
)

NAMES = [*json.loads(FULL_RECORD), "x", "", "ид", 'a"b', "payload2"]
spaces = st.text(" \t\r\n", max_size=3)


@st.composite
def foreign_records(draw: st.DrawFn) -> bytes:
    """An object as any JSON library may write it, of known and unknown members."""
    parts = []
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=12)):
        likely = draw(st.sampled_from(["any", "text", "count", "flag"]))
        kinds = {"any": values, "text": words, "count": counts, "flag": st.booleans()}
        ascii_only = draw(st.booleans())
        key = json.dumps(name, ensure_ascii=ascii_only)
        if draw(st.booleans()) and name.isascii() and name.isalnum():
            key = f'"\\u{ord(name[0]):04x}{name[1:]}"'
        value = json.dumps(
            draw(kinds[likely]), ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1]))
        )
        parts.append(draw(spaces) + key + draw(spaces) + ":" + draw(spaces) + value + draw(spaces))
    return (draw(spaces) + "{" + ",".join(parts) + draw(spaces) + "}" + draw(spaces)).encode()


FRAGMENTS = [
    *(b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b" ", b"\n", b"null", b"true", b"false"),
    *(b'"id"', b'"name":', b'"payload":', b'"attempts":', b'"result":', b'"error":', b'"list":'),
    *(b'"timeout_s":', b'"x":', b"0", b"1", b"-", b".", b"e", b"99999999999999999999", b"\\u00"),
    *(b"\\ud83d", b"\\ude00", b"\xff", b"\xc3\xa9", b"\x00", b'"a"', b"NaN", b"[[[[[[[[[["),
]
fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join)


@st.composite
def damaged_records(draw: st.DrawFn) -> bytes:
    """A good record with a few bytes cut out, put in or changed."""
    record = bytearray(
        draw(
            st.sampled_from([FULL_RECORD, OWN_RECORD])
            | tuples.map(lambda t: pure.encode_record(*t))
        )
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(record)))
        width = draw(st.integers(0, 3))
        record[at : at + width] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=2))
    return bytes(record)


class TestTwins:
    """The two cores agree on everything, bit for bit."""

    @given(tuples)
    def test_records_are_written_alike_and_come_back(
        self, compiled: ModuleType, members: tuple[Any, ...]
    ) -> None:
        """Both write the same bytes, both read them back, and it is JSON."""
        record = pure.encode_record(*members)
        assert compiled.encode_record(*members) == record
        assert pure.scan_record(record) == members
        assert compiled.scan_record(record) == members
        decoded = json.loads(record)
        assert decoded["payload"] == json.loads(members[3])

    @given(tuples, words, words, counts)
    def test_records_are_finished_alike(
        self,
        compiled: ModuleType,
        members: tuple[Any, ...],
        status: str,
        updated_at: str,
        attempts: int,
    ) -> None:
        """Finishing gives what encoding the changed tuple gives."""
        record = pure.finish_record(members, status, updated_at, attempts)
        assert compiled.finish_record(members, status, updated_at, attempts) == record
        changed = list(members)
        changed[4], changed[8], changed[10] = status, updated_at, attempts
        assert compiled.encode_record(*changed) == record

    @given(foreign_records())
    @settings(max_examples=300)
    def test_foreign_records_are_read_alike(self, compiled: ModuleType, record: bytes) -> None:
        """Any order, spacing, escapes, duplicates: one answer; what is read survives."""
        answer = outcome(pure.scan_record, record)
        assert outcome(compiled.scan_record, record) == answer
        if answer[0] == "value":
            scanned = compiled.scan_record(record)
            again = compiled.encode_record(*scanned)
            assert compiled.scan_record(again) == scanned
            assert pure.scan_record(again) == scanned
            own, found = json.loads(again), json.loads(record)
            for name in found.keys() - set(json.loads(FULL_RECORD)) | ({"payload"} & found.keys()):
                assert own[name] == found[name]

    @given(damaged_records(), st.sampled_from([0, 1, 2, 64]))
    @settings(max_examples=500)
    def test_damaged_records_fail_alike(
        self, compiled: ModuleType, record: bytes, max_depth: int
    ) -> None:
        """The same value or the same words, and never a value where JSON is broken outside."""
        answer = outcome(pure.scan_record, record, max_depth)
        assert outcome(compiled.scan_record, record, max_depth) == answer

    @given(fragments, st.sampled_from([0, 3, 64]))
    @example(b'{"payload":"\\', 64)
    @settings(max_examples=500)
    def test_rubble_fails_alike(self, compiled: ModuleType, record: bytes, max_depth: int) -> None:
        """Pieces of JSON in any order have one answer."""
        for data in (record, b"{" + record + b"}", b'{"payload":' + record + b"}"):
            answer = outcome(pure.scan_record, data, max_depth)
            assert outcome(compiled.scan_record, data, max_depth) == answer

    @given(tuples.map(lambda t: pure.encode_record(*t)) | damaged_records())
    def test_the_short_cut_gives_what_the_walk_gives(self, record: bytes) -> None:
        """The pure core's quick reading of own records never differs from its plain one."""
        quick = pure._scan_own(record, 64)
        if quick is not None:
            assert repr(quick) == repr(pure._scan_any(record, 64))

    @given(fragments | st.binary(max_size=100) | raw_values)
    def test_json_is_looked_through_alike(self, compiled: ModuleType, data: bytes) -> None:
        """Depth, long numbers and lines, whatever the bytes."""
        digits = data.replace(b"1", b"1" * 19)
        for text in (data, digits, data.replace(b" ", b"\r\n")):
            assert compiled.json_depth(text) == pure.json_depth(text)
            assert compiled.has_long_number(text) == pure.has_long_number(text)
            lines, rest = compiled.split_lines(text)
            assert (lines, rest) == pure.split_lines(text)

    @given(
        st.integers(-5, 1 << 49),
        st.integers(-1, 50),
        st.binary(min_size=10, max_size=10) | st.just(b"\xff" * 10) | st.binary(max_size=12),
    )
    def test_ids_are_made_alike(
        self, compiled: ModuleType, unix_ms: int, count: int, random: bytes
    ) -> None:
        """The same ids, rising, or the same refusal."""
        answer = outcome(pure.uuid7_batch, unix_ms, count, random)
        assert outcome(compiled.uuid7_batch, unix_ms, count, random) == answer

    @given(
        st.tuples(
            st.integers(-5, 3000) | st.integers(),
            st.floats() | st.floats(0, 1e6),
            st.floats() | st.floats(1, 10),
            st.floats() | st.floats(0, 1e6),
            st.floats() | st.floats(0, 1),
            st.floats() | st.floats(0, 1),
        )
    )
    @example((1025, 1.0, 2.0, 3600.0, 0.1, 0.3))
    @settings(max_examples=300)
    def test_delays_are_equal_to_the_bit(
        self, compiled: ModuleType, arguments: tuple[float, ...]
    ) -> None:
        """The same float, also where one language overflows and the other does not."""
        answer = outcome(pure.backoff, *arguments)
        assert outcome(compiled.backoff, *arguments) == answer

    @given(
        st.from_regex(
            r"\A[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-6][0-9]"
            r"(\.[0-9]{0,10})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])?\Z"
        )
        | st.text(max_size=30)
    )
    @settings(max_examples=300)
    def test_times_are_read_alike(self, compiled: ModuleType, text: str) -> None:
        """The same microsecond or the same words."""
        answer = outcome(pure.parse_time, text)
        assert outcome(compiled.parse_time, text) == answer

    @given(st.integers(-(10**18), 10**18) | st.integers())
    def test_times_are_written_alike(self, compiled: ModuleType, unix_us: int) -> None:
        """The same text or the same words."""
        answer = outcome(pure.format_time, unix_us)
        assert outcome(compiled.format_time, unix_us) == answer
