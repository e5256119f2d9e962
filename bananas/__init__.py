"""A distributed task queue on Redis, for very many jobs through few cores.

The names here are what users import; inside the package nobody does. Each is loaded when
first asked for: importing any module of the package runs this file, and the supervisor is
to stay without event loop, client and user code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bananas.app import AsyncTask, Bananas, BatchTask, SyncTask
    from bananas.client import Client
    from bananas.context import JobContext, current_job
    from bananas.errors import (
        BananasError,
        BrokerDeniedError,
        BrokerError,
        BrokerFullError,
        BrokerUnavailableError,
        DecodeError,
        Discard,
        DuplicateJobError,
        DurabilityError,
        DurabilityUnconfirmedError,
        EmbeddedServerError,
        EvictionError,
        FieldError,
        JobCancelledError,
        JobFailedError,
        JobNotFoundError,
        JobTimedOutError,
        PayloadError,
        PayloadTypeError,
        ResultTimeoutError,
        Retry,
        SettingsError,
        Snooze,
        StateError,
        UnknownTaskError,
        UsageError,
    )
    from bananas.handle import JobHandle, SyncJobHandle
    from bananas.job import Job
    from bananas.registry import Outcome
    from bananas.results import Result
    from bananas.retry import RetryPolicy
    from bananas.settings import Settings
    from bananas.speedups import COMPILED
    from bananas.submission import Report, Submission, Verdict
    from bananas.sync_client import SyncClient

    __version__: str

__all__ = [
    "COMPILED",
    "AsyncTask",
    "Bananas",
    "BananasError",
    "BatchTask",
    "BrokerDeniedError",
    "BrokerError",
    "BrokerFullError",
    "BrokerUnavailableError",
    "Client",
    "DecodeError",
    "Discard",
    "DuplicateJobError",
    "DurabilityError",
    "DurabilityUnconfirmedError",
    "EmbeddedServerError",
    "EvictionError",
    "FieldError",
    "Job",
    "JobCancelledError",
    "JobContext",
    "JobFailedError",
    "JobHandle",
    "JobNotFoundError",
    "JobTimedOutError",
    "Outcome",
    "PayloadError",
    "PayloadTypeError",
    "Report",
    "Result",
    "ResultTimeoutError",
    "Retry",
    "RetryPolicy",
    "Settings",
    "SettingsError",
    "Snooze",
    "StateError",
    "Submission",
    "SyncClient",
    "SyncJobHandle",
    "SyncTask",
    "UnknownTaskError",
    "UsageError",
    "Verdict",
    "__version__",
    "current_job",
]

_HOMES = {
    "AsyncTask": "app",
    "Bananas": "app",
    "BatchTask": "app",
    "SyncTask": "app",
    "Client": "client",
    "JobContext": "context",
    "current_job": "context",
    "BananasError": "errors",
    "BrokerDeniedError": "errors",
    "BrokerError": "errors",
    "BrokerFullError": "errors",
    "BrokerUnavailableError": "errors",
    "DecodeError": "errors",
    "Discard": "errors",
    "DuplicateJobError": "errors",
    "DurabilityError": "errors",
    "DurabilityUnconfirmedError": "errors",
    "EmbeddedServerError": "errors",
    "EvictionError": "errors",
    "FieldError": "errors",
    "JobCancelledError": "errors",
    "JobFailedError": "errors",
    "JobNotFoundError": "errors",
    "JobTimedOutError": "errors",
    "PayloadError": "errors",
    "PayloadTypeError": "errors",
    "ResultTimeoutError": "errors",
    "Retry": "errors",
    "SettingsError": "errors",
    "Snooze": "errors",
    "StateError": "errors",
    "UnknownTaskError": "errors",
    "UsageError": "errors",
    "JobHandle": "handle",
    "SyncJobHandle": "handle",
    "Job": "job",
    "Outcome": "registry",
    "Result": "results",
    "RetryPolicy": "retry",
    "Settings": "settings",
    "COMPILED": "speedups",
    "Report": "submission",
    "Submission": "submission",
    "Verdict": "submission",
    "SyncClient": "sync_client",
}


def __getattr__(name: str) -> object:
    """Load a name of `__all__` from the module that has it."""
    value: object
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - 30 ms that few need

        value = version("bananas")
    elif name in _HOMES:
        value = getattr(import_module(f"bananas.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return what can be asked for."""
    return sorted({*globals(), *__all__})
