"""A slice of the search for bytes that break what reads them: a few thousand, from a seed."""

from __future__ import annotations

import os
import random

import pytest

from fuzz_targets import SEEDS, TARGETS

SEED = os.environ.get("BANANAS_TEST_SEED", "20240601")
ROUNDS = {"settings": 400}
PIECES = [b"[", b"]", b"{", b"}", b'"', b"\\u", b"\\ud800", b"9" * 40, b"1e999", b"-", b"\n", b"="]
PIECES += [b"\0", b"\xff", b"\xc3", b"\xe2\x80\xa8", b"\x1b[2J", b"NaN", b"null", b"%", b"&", b":"]
PIECES += [b"@", b"://", b"1h", b"KiB", b",", b" ", b"'", b"Z", b"+25:00", b"0000-00-00T"]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """Return a seed with some of it changed, gone, doubled, or something put in."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.randint(1, 12)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randint(1, 40)]
        else:
            data[at:at] = chance.choice(PIECES) * chance.choice([1, 1, 1, 2, 300])
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_break_a_reader(name: str) -> None:
    """Each target holds for what is near to its seeds."""
    chance = random.Random(f"{SEED} {name}")
    for number in range(ROUNDS.get(name, 4000)):
        data = mutated(chance.choice(SEEDS[name]), chance)
        try:
            TARGETS[name](data)
        except Exception as error:
            error.add_note(f"BANANAS_TEST_SEED={SEED}, round {number}: {data[:400]!r}")
            raise
