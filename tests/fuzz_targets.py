"""What bytes of anybody's are given to, and what must hold of each: decoded, or refused by name.

`python tests/fuzz_targets.py TARGET [options of libFuzzer]` lets atheris look for bytes that
break one (`make fuzz`); `tests/unit/test_fuzz_targets.py` is a slice of that for every run.
"""

# ruff: noqa: PT017 - what an error says is part of what must hold
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from bananas.codec import decode_payload, encode_payload
from bananas.errors import DecodeError, FieldError, PayloadError, SettingsError
from bananas.http.exchange import Query
from bananas.http.problems import Problem
from bananas.job import Job
from bananas.settings import Settings
from bananas.speedups import split_lines

if TYPE_CHECKING:
    from collections.abc import Callable

_WIDE: dict[str, int] = {"max_bytes": 2**40, "max_depth": 1024}


def codec(data: bytes) -> None:
    """A payload that is read can be written, and is then read as the same."""
    try:
        value = decode_payload(data)
    except DecodeError:
        return
    try:
        written = encode_payload(value, **_WIDE)
    except PayloadError as error:
        # Read by the careful library, and of more digits than one may print.
        assert "digit" in str(error), error
        return
    assert decode_payload(written) == value
    assert encode_payload(decode_payload(written), **_WIDE) == written


def record(data: bytes) -> None:
    """A record that is read can be written; what is then read is the same job."""
    try:
        job = Job.decode(data)
        written = job.encode("queue:normal")
    except (DecodeError, FieldError):
        return
    again = Job.decode(written)
    assert again.with_(place=job.place) == job
    assert again.encode("queue:normal") == written


def settings(data: bytes) -> None:
    """Any environment makes settings or the one error that tells all; those read back as equal."""
    text = data.decode("utf-8", "replace").replace("\0", "")
    environ: dict[str, str] = {"HOME": "/h"}
    names = list(Settings.from_sources(environ).describe())
    for number, line in enumerate(text.split("\n")[:12]):
        name, equals, value = line.partition("=")
        key = name if equals else names[(len(line) * 7 + number) % len(names)]
        environ[key if key.startswith("BANANAS_") else f"BANANAS_{key}"] = value or name
    try:
        read = Settings.from_sources(environ)
    except SettingsError as error:
        assert str(error).replace("\n", "").isprintable()
        assert error.problems
        return
    assert repr(read).isprintable()
    for shown in read.describe().values():
        assert shown.isprintable()


def query(data: bytes) -> None:
    """Any query is read or refused, by a problem that can be answered."""
    try:
        asked = Query(data)
        asked.text("name")
        asked.flag("all")
        asked.seconds("wait_s")
        asked.count("limit", 1)
        asked.done()
    except Problem as problem:
        assert problem.status == 400
        assert problem.body().decode("ascii").isprintable()


def lines(data: bytes) -> None:
    """Lines are the same however the bytes come in pieces."""
    whole, rest = split_lines(data)
    cut = len(data) // 2
    first, left = split_lines(data[:cut])
    second, last = split_lines(left + data[cut:])
    assert [*first, *second] == [*whole]
    assert last == rest


TARGETS: dict[str, Callable[[bytes], None]] = {
    "codec": codec,
    "record": record,
    "settings": settings,
    "query": query,
    "lines": lines,
}

SEEDS: dict[str, list[bytes]] = {
    "codec": [
        b'{"a":[1,2.5,-0,null,true,"\\u00e9"]}',
        b"[[[]]]",
        b"1e308",
        b"12345678901234567890",
    ],
    "record": [
        b'{"id":"a","name":"t","payload":{"x":1},"status":"pending","priority":"high","attempts":1}',
        b'{"name":"t","id":"c","created_at":"2026-01-02T03:04:05.678+02:00","unknown":[1]}',
        b'{"name":"t","id":"d","timeout_s":1.5,"max_retries":3,"error":"e","list":"queue:high"}',
        b'{ "payload" : "\\ud83d\\ude00", "name":"t","id":"b" }',
    ],
    "settings": [
        b"REDIS_URL=redis://u:p@h:1/0\nPROCS=auto\nJOB_TIMEOUT=1h30m\nMAX_PAYLOAD=1MiB",
        b"WORKER_MODE=specialized\nWORKER_PRIORITIES=high,low\nRETRY_JITTER=0.5\nAPI_PORT=0",
    ],
    "query": [b"name=a&all=true&wait_s=1.5&limit=10", b"name=%C3%A9%00&limit=%31"],
    "lines": [b"a\nb\r\n\nc", b"\r\n\r\n"],
}


def main() -> None:
    """Have atheris look; what it finds is written down by libFuzzer as `crash-…`."""
    import atheris  # noqa: PLC0415 - an extra

    target = TARGETS[sys.argv[1]]
    atheris.instrument_all()
    folder: Any = sys.argv[2:]
    atheris.Setup([sys.argv[0], *folder], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
