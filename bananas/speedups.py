"""The choice between the compiled core and its twin, made once, at import.

`COMPILED` says which one runs; nothing else in the package asks. `BANANAS_PURE=1`
forces the twin. The contract of every function stands in `_speedups.pyi`.
"""

from __future__ import annotations

import os
from typing import Final

from bananas._speedups_py import DEPTH_CEILING, MAX_COUNT, ScannedRecord

__all__ = [
    "COMPILED",
    "DEPTH_CEILING",
    "MAX_COUNT",
    "ScannedRecord",
    "backoff",
    "encode_record",
    "finish_record",
    "format_time",
    "has_long_number",
    "json_depth",
    "ordinary_runs",
    "pack_command",
    "parse_time",
    "scan_record",
    "split_lines",
    "uuid7_batch",
]

_PURE_WANTED: Final = os.environ.get("BANANAS_PURE", "").strip().lower() in {
    "1",
    "true",
    "yes",
    "on",
}

try:
    if _PURE_WANTED:
        raise ImportError("BANANAS_PURE is set")  # noqa: TRY301 - the same way as not built
    from bananas._speedups import (
        backoff,
        encode_record,
        finish_record,
        format_time,
        has_long_number,
        json_depth,
        ordinary_runs,
        pack_command,
        parse_time,
        scan_record,
        split_lines,
        uuid7_batch,
    )
except ImportError:
    from bananas._speedups_py import (
        backoff,
        encode_record,
        finish_record,
        format_time,
        has_long_number,
        json_depth,
        ordinary_runs,
        pack_command,
        parse_time,
        scan_record,
        split_lines,
        uuid7_batch,
    )

COMPILED: Final[bool] = scan_record.__module__ == "bananas._speedups"
"""True when the compiled core runs."""
