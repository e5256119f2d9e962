"""Reads the header of a Lua script as the contract it is, and holds the body to it.

A script's head is comment lines, in this order: `-- <name>: <what it does>`,
then the slots `-- KEYS[n] name TYPE meaning` and `-- ARGV[n] name unit meaning`
(the last of each may be a tail, `KEYS[5..]`), then `returns`, `moves` and
`cost`, then `-- include: lib/<name>.lua` lines.  More than one space after the
dashes continues the line above.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TYPES = frozenset({"STRING", "LIST", "SET", "HASH", "ZSET", "mixed"})
UNITS = frozenset(
    {"id", "name", "string", "record", "JSON", "bytes", "count", "ms", "s", "0|1", "mixed"}
)
STATES = frozenset(
    # the wire's words, and the two ends of a job that no record shows
    {"pending", "scheduled", "processing", "completed", "failed", "cancelled"}
    | {"nothing", "expired", "deleted"}
)
#: Not in Redis 7.0, or of Valkey or Redis 8 alone; the oldest server served is 7.0.
TOO_NEW = frozenset(
    {"HEXPIRE", "HEXPIREAT", "HEXPIRETIME", "HPEXPIRE", "HPEXPIREAT", "HPEXPIRETIME", "HPERSIST"}
    | {"HTTL", "HPTTL", "HGETEX", "HSETEX", "HGETDEL", "DELIFEQ", "XACKDEL", "XDELEX", "MSETEX"}
)
#: Walk the whole key space, drop data of others, or leave the script's own rules.
FORBIDDEN = frozenset(
    {"KEYS", "SCAN", "RANDOMKEY", "FLUSHALL", "FLUSHDB", "SWAPDB", "SELECT", "EVAL", "EVALSHA"}
    | {"SORT", "WAIT", "RENAME", "DBSIZE"}
)
GIVEN = frozenset(
    {"redis", "KEYS", "ARGV", "ipairs", "pairs", "tonumber", "tostring", "type", "unpack"}
    | {"string", "table", "math", "next", "select", "error", "assert", "pcall"}
)
RESERVED = frozenset(
    {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in"}
    | {"local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while"}
)

_SLOT = re.compile(r"-- (KEYS|ARGV)\[(\d+)(\.\.)?\] +(\w+) +(\S+) +(\S.*)")
_FACT = re.compile(r"-- (returns|moves|cost) +(\S.*)")
_INCLUDE = re.compile(r"-- include: (lib/\w+\.lua)")
_TOKEN = re.compile(
    r"""(?P<comment>--\[\[.*?\]\]|--[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\[\[.*?\]\])
      | (?P<number>\d[\w.]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>\.\.\.|\.\.|==|~=|<=|>=|[^\s\w])""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Slot:
    """One declared input: `KEYS[n]` or `ARGV[n]`, or the tail that begins there."""

    vector: str
    number: int
    tail: bool
    name: str
    kind: str
    meaning: str


@dataclass(slots=True)
class Head:
    """What a head declares, and what in it broke the form."""

    title: str = ""
    slots: list[Slot] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    includes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    body: str = ""

    def of(self, vector: str) -> list[Slot]:
        """Return the declared slots of KEYS or of ARGV."""
        return [slot for slot in self.slots if slot.vector == vector]


def read_head(source: str) -> Head:
    """Split a script into its head and its body; a line without a form is a problem."""
    lines = source.splitlines()
    head = Head(title=lines[0] if lines else "")
    order: list[str] = []
    last = ""
    for at, line in enumerate(lines[1:], 1):
        goes_on = line.startswith("--  ") and last not in {"", "--"}
        word = _read_line(line, head)
        if word:
            order.append(word)
        elif not line.startswith("--") or ("cost" in head.facts and not goes_on):
            head.body = "\n".join(lines[at:])  # which may begin with a comment of its own
            break
        elif line != "--" and not goes_on:
            head.problems.append(f"line {at + 1} has no form: {line}")
        last = line
    ranks = ["KEYS", "ARGV", "returns", "moves", "cost", "include"]
    if order != sorted(order, key=ranks.index):
        head.problems.append(f"the head's order is {', '.join(ranks)}")
    return head


def _read_line(line: str, head: Head) -> str:
    """Add what the line declares to the head; return its kind, '' for a line of no form."""
    if slot := _SLOT.fullmatch(line):
        vector, number, tail, name, kind, meaning = slot.groups()
        head.slots.append(Slot(vector, int(number), bool(tail), name, kind, meaning))
        return vector
    if fact := _FACT.fullmatch(line):
        word, text = fact.groups()
        if word in head.facts:
            head.problems.append(f"`{word}` stands twice")
        head.facts[word] = text
        return word
    if include := _INCLUDE.fullmatch(line):
        head.includes.append(include[1])
        return "include"
    return ""


def script_problems(name: str, source: str, libs: Mapping[str, str]) -> list[str]:
    """Return every rule the script breaks; `libs` maps `lib/<name>.lua` to its source."""
    head = read_head(source)
    return [
        *head.problems,
        *_title_problems(name, head),
        *_slot_problems(head),
        *_fact_problems(head),
        *_use_problems(head),
        *_include_problems(head.includes, head.body, libs),
        *_command_problems(head.body, may_ask_time=False),
        *_name_problems(head.body, _functions_of(head.includes, libs)),
    ]


def lib_problems(name: str, source: str, libs: Mapping[str, str]) -> list[str]:
    """Return every rule the shared function breaks."""
    includes = _INCLUDE.findall(source)
    tokens = list(_tokens(source))
    found = _INCLUDE.sub("", source).lstrip()
    problems = []
    if not found.startswith(f"-- {name}: "):
        problems.append(f"the first comment must begin with `-- {name}: `")
    if len(_exports(source)) != 1:
        problems.append(f"one function a file, found {_exports(source)}")
    if {"KEYS", "ARGV"} & set(tokens):
        problems.append("a shared function takes its inputs as arguments, not from KEYS and ARGV")
    return [
        *problems,
        *_include_problems(includes, source, libs),
        *_command_problems(source, may_ask_time=name == "now"),
        *_name_problems(source, _functions_of(includes, libs)),
    ]


def _title_problems(name: str, head: Head) -> Iterator[str]:
    if not re.fullmatch(rf"-- {re.escape(name)}: \S.*", head.title):
        yield f"the first line must be `-- {name}: what it does`, not {head.title!r}"


def _slot_problems(head: Head) -> Iterator[str]:
    for vector, kinds in (("KEYS", TYPES), ("ARGV", UNITS)):
        slots = head.of(vector)
        if [slot.number for slot in slots] != list(range(1, len(slots) + 1)):
            yield f"{vector} must be numbered 1, 2, 3 … without a gap"
        for slot in slots:
            if slot.tail and slot is not slots[-1]:
                yield f"{vector}[{slot.number}..] is a tail and must come last"
            if slot.kind not in kinds:
                where = f"{vector}[{slot.number}] {slot.name}"
                yield f"{where}: {slot.kind!r} is none of {sorted(kinds)}"
        names = [slot.name for slot in slots]
        if len(set(names)) != len(names):
            yield f"two slots of {vector} have one name"
    for slot in head.of("ARGV"):
        clock = re.search(r"\b(current|present|caller's)\b.*\btime\b", slot.meaning)
        if clock or re.fullmatch(r"now(_\w+)?|time(_\w+)?|clock", slot.name):
            yield f"ARGV[{slot.number}] {slot.name}: time comes from Redis (lib/now.lua) only"


def _fact_problems(head: Head) -> Iterator[str]:
    for word in ("returns", "moves", "cost"):
        if word not in head.facts:
            yield f"no `{word}` line"
    moves = head.facts.get("moves", "nothing")
    if moves == "nothing":
        return
    path = moves.split(",")[0].split(";")[0]
    sides = path.split("->")
    if len(sides) != 2:
        yield f"`moves` is `nothing` or `state | … -> state | …`, not {moves!r}"
        return
    for state in re.split(r"->|\|", path):
        if state.strip() not in STATES:
            yield f"`moves` names {state.strip()!r}, which is none of {sorted(STATES)}"


def _use_problems(head: Head) -> Iterator[str]:
    code = " ".join(_tokens(head.body))
    for vector in ("KEYS", "ARGV"):
        slots = head.of(vector)
        fixed = {slot.number for slot in slots if not slot.tail}
        tail = next((slot.number for slot in slots if slot.tail), None)
        used = {int(number) for number in re.findall(rf"\b{vector} \[ (\d+) \]", code)}
        indexed = re.findall(rf"\b{vector} \[ (?!\d+ \])", code)
        passed = [int(number) for number in re.findall(rf"unpack \( {vector} , (\d+)", code)]
        whole = re.search(rf"\b{vector} (?!\[)", code) is not None
        for number in sorted(used):
            if number not in fixed and (tail is None or number < tail):
                yield f"the body uses {vector}[{number}], which is not declared"
        if (indexed or whole) and tail is None:
            yield f"the body takes {vector} whole or by computed index; no tail is declared"
        if tail is not None and not (indexed or whole or any(n >= tail for n in used)):
            yield f"{vector}[{tail}..] is declared and not used"
        reached = used | {n for start in passed for n in fixed if n >= start}
        for number in sorted(fixed - reached):
            yield f"{vector}[{number}] is declared and not used"


def _include_problems(includes: list[str], body: str, libs: Mapping[str, str]) -> Iterator[str]:
    used = set(_tokens(body))
    for include in includes:
        if include not in libs:
            yield f"{include} does not exist"
        elif not used & set(_exports(libs[include])):
            yield f"{include} is included and not used"
    if len(set(includes)) != len(includes):
        yield "a file is included twice"


def _command_problems(body: str, *, may_ask_time: bool) -> Iterator[str]:
    tokens = list(_tokens(body, keep_strings=True))
    for word in sorted({"cjson", "cmsgpack", "os", "loadstring", "require"} & set(tokens)):
        yield f"`{word}` has no place in a script"
    for at, token in enumerate(tokens):
        if token not in {"call", "pcall"} or tokens[at - 2 : at] != ["redis", "."]:
            continue
        commands = _commands(tokens[at + 2] if at + 2 < len(tokens) else "", body)
        if not commands:
            yield f"redis.{token} takes a command that can be read here, not {tokens[at + 2]!r}"
        for command in commands:
            yield from _one_command_problems(command, may_ask_time=may_ask_time)


def _commands(token: str, body: str) -> list[str]:
    """Return the command, or those a local variable chooses from: `local side = … 'A' or 'B'`."""
    if token.startswith(("'", '"')):
        return [token[1:-1]]
    found = re.search(rf"local {re.escape(token)} = ([^\n]*)", body)
    return re.findall(r"'([A-Z]{3,})'", found[1]) if found else []


def _one_command_problems(command: str, *, may_ask_time: bool) -> Iterator[str]:
    if command != command.upper():
        yield f"commands are written in capitals: {command}"
    command = command.upper()
    if command in FORBIDDEN:
        yield f"{command} has no place in a script"
    if command in TOO_NEW:
        yield f"{command} is not in Redis 7.0"
    if command == "TIME" and not may_ask_time:
        yield "TIME is asked in lib/now.lua only, where tests can put another clock"


def _name_problems(body: str, included: set[str]) -> Iterator[str]:
    """Find names that nobody made known: a typing error, a lost include, a global."""
    tokens = list(_tokens(body))
    known = GIVEN | included | _declared(tokens)
    for at, token in enumerate(tokens):
        if not token.isidentifier() or token in RESERVED or token in known:
            continue
        before = tokens[at - 1] if at else ""
        after = tokens[at + 1] if at + 1 < len(tokens) else ""
        if before in {".", ":"} or (after == "=" and before in {"{", ","}):
            continue  # a member, or a key of a table being made
        yield f"`{token}` is not known here: misspelt, not included, or a global"


def _declared(tokens: list[str]) -> set[str]:
    """Return every name a `local`, a `for` or a parameter list makes known, scopes aside."""
    names: set[str] = set()
    for at, token in enumerate(tokens):
        if token in {"local", "for"} and tokens[at + 1] != "function":
            here = at + 1
            while tokens[here].isidentifier() and tokens[here] not in RESERVED:
                names.add(tokens[here])
                if here + 2 >= len(tokens) or tokens[here + 1] != ",":
                    break
                here += 2
        if token == "function":  # noqa: S105 - a word of Lua
            here = at + 1
            if tokens[here].isidentifier():
                names.add(tokens[here])
            while tokens[here] != ")":
                here += 1
                if tokens[here].isidentifier():
                    names.add(tokens[here])
    return names


def _functions_of(includes: list[str], libs: Mapping[str, str]) -> set[str]:
    return {name for include in includes for name in _exports(libs.get(include, ""))}


def _exports(source: str) -> list[str]:
    return re.findall(r"^local function (\w+)", source, re.MULTILINE)


def _tokens(source: str, *, keep_strings: bool = False) -> Iterator[str]:
    """Yield the code's tokens: no comments, and strings as `''` unless kept."""
    for match in _TOKEN.finditer(source):
        if match.lastgroup == "comment":
            continue
        yield match[0] if match.lastgroup != "string" or keep_strings else "''"
