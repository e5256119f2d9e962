# ruff: noqa: PYI021 - the contract is read here: the code it describes stands in two places
"""The contract of the compiled core and of its twin `_speedups_py`.

Both give the same values and raise `ValueError` with the same words for the same input.
"""

from bananas._speedups_py import J, R, ScannedRecord

def scan_record(data: bytes, max_depth: int = 64) -> ScannedRecord:
    """Read the top-level members of a job record without decoding its payload.

    Any order, any spacing, escapes in names and strings; of a known member given twice the
    last counts; `null` is absent. Known members are checked in full, and so is everything
    outside of values. Inside the payload and unknown members only strings and brackets are
    followed: their bytes go through as they are, and whoever decodes them checks them.

    Args:
        data: The record, UTF-8 JSON.
        max_depth: How deep a member's value may nest, 0 to 1024; `{}` is one deep.

    Returns:
        (id, name, description, payload, status, priority, routing_key, created_at, updated_at,
        scheduled_for, attempts, max_retries, error, timeout_s, result, expires_at, crashes,
        unclaimed, extras, place). Absent strings are "", but None for scheduled_for,
        expires_at and place, also when empty. description, error and payload are raw JSON
        (None, None and b"{}" when absent), max_retries is -1 when absent, extras holds the
        unknown members as found, joined by commas.

    Raises:
        ValueError: Not such a record; the message is the reason.
    """

def ordinary_runs(
    kind: type[J],
    models: dict[str, R],
    lease: object,
    place: str,
    ids: list[bytes],
    records: list[bytes | None],
) -> tuple[list[R | None], list[int]]:
    """Make a run of each record of ours about which nothing is to be said, by far the most.

    Ordinary is a record with an id, a name and every other required member that has not ended
    (pending, scheduled or processing), of a known priority and of the place's routing key or
    "default", without a due time, limits of its own, an expiry or foreign members, and with
    this place.

    Args:
        kind: The named tuple of `scan_record`'s twenty members.
        models: A run as new by task name. Its class has slots, none of them in a base.
        lease: What the runs belong to.
        place: Where the records were found; not empty.
        ids: Of the jobs.
        records: As many; None = missing.

    Returns:
        For each record a run, as its model but with these `lease` and `job_id` and the record,
        as a `kind`, for its `job`; or None, when it is not ordinary, no record at all
        (`scan_record` says what) or of a task without a model. Then the indexes of the latter.

    Raises:
        ValueError: There are more ids than records, or fewer.
    """

def encode_record(
    id: str,  # noqa: A002 - the member's name
    name: str,
    description_json: bytes | None,
    payload: bytes,
    status: str,
    priority: str,
    routing_key: str,
    created_at: str,
    updated_at: str,
    scheduled_for: str | None,
    attempts: int,
    max_retries: int,
    error_json: bytes | None,
    timeout_s: float | None,
    result: bool,
    expires_at: str | None,
    crashes: int,
    unclaimed: int,
    extras: bytes,
    place: str | None,
) -> bytes:
    """Write a job record: compact, members in the wire's order, the place last.

    The inverse of `scan_record`: scanning what this wrote gives the arguments back, and the
    payload and extras come through byte for byte. Strings are escaped where they need it;
    `description_json`, `payload`, `error_json` and `extras` are taken as they are.

    Raises:
        ValueError: An integer outside 0 to 2**53 - 1 (max_retries: -1 too), a timeout that
            is not finite, an empty payload, or a string with an unpaired surrogate.
    """

def finish_record(scanned: ScannedRecord, status: str, updated_at: str, attempts: int) -> bytes:
    """Write a scanned record again with these three members changed.

    Equal to `encode_record` of the changed tuple.

    Raises:
        ValueError: As `encode_record`.
    """

def json_depth(data: bytes) -> int:
    """Return how deep JSON nests: the most brackets open at once outside of strings.

    Never raises: what is not JSON gets an answer without meaning, but the same from both.
    """

def has_long_number(data: bytes) -> bool:
    """Return whether JSON has a number with 19 digits or more in a row.

    Such an integer may not fit 64 bits, where orjson silently goes on with a float. Digits
    inside of strings do not count. Never raises, as `json_depth`.
    """

def split_lines(buffer: bytes) -> tuple[list[bytes], bytes]:
    r"""Split the complete lines off a buffer.

    Returns:
        (lines without their \n or \r\n, empty ones kept so that counting stays right;
        what follows the last \n).
    """

def pack_command(words: tuple[bytes | str | int | float, ...]) -> bytes:
    """Write a command as the server reads it: RESP, an array of bulk strings.

    Raises:
        TypeError: A word is none of these four.
        UnicodeEncodeError: Text with unpaired surrogates.
    """

def uuid7_batch(unix_ms: int, count: int, random: bytes) -> list[str]:
    """Make UUIDs of version 7 (RFC 9562) that rise strictly in the order given.

    Args:
        unix_ms: Their time, milliseconds, 0 <= unix_ms < 2**48.
        count: How many, >= 0.
        random: Ten bytes, big-endian; the lower 74 bits become the first id's random part,
            each further id has it one higher. A random part that overflows carries into the
            time.

    Raises:
        ValueError: An argument is out of its range.
    """

def format_time(unix_us: int) -> str:
    """Write Unix microseconds as `2026-11-24T02:53:15.123456Z`.

    Raises:
        ValueError: Outside the years 1 to 9999.
    """

def parse_time(text: str) -> int:
    """Read an RFC 3339 time as Unix microseconds.

    Any offset; `T`, `t` or a space; none to nine digits of fraction, cut to microseconds; a
    leap second is the first second of the next minute.

    Raises:
        ValueError: Not such a time, without an offset, or outside the years 1 to 9999.
    """

def backoff(
    attempt: int, base_s: float, factor: float, cap_s: float, jitter: float, u: float
) -> float:
    """Return how long to wait before the next run: exponential, capped, jitter on top.

    min(cap_s, base_s * factor**attempt) * (1 + jitter * u), never less than without jitter.

    Args:
        attempt: Runs made so far, >= 1; the exponent is clamped at 1023.
        base_s: Scale, seconds, >= 0.
        factor: Growth a run, >= 1.
        cap_s: Longest delay before jitter, seconds, >= 0.
        jitter: Share added at most, 0 to 1.
        u: A draw from 0 to 1.

    Returns:
        Seconds.

    Raises:
        ValueError: An argument is out of its range or not finite.
    """
