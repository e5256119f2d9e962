"""Every exception bananas raises, grouped by whose fault it is.

Three families: the caller can fix it (`UsageError`), the other side failed
(`BrokerError`), the job is not in the state you thought (`StateError`).
Control flow of a handler (`Retry`, `Snooze`, `Discard`) stands apart from
`BananasError`, so that `except BananasError` in a task never swallows it.
"""

from __future__ import annotations


class BananasError(Exception):
    """Root of all errors of this package; `hint` says what to do next, if anything."""

    hint: str | None = None


# --- the caller can fix it ----------------------------------------------------------------


class UsageError(BananasError):
    """The call, the settings or the data given are wrong; trying again will not help."""


class FieldError(UsageError, ValueError):
    """One named field broke one named rule."""

    def __init__(self, field: str, rule: str, value: object = None) -> None:
        """Keep the field, the rule and the value that broke it."""
        self.field = field
        self.rule = rule
        self.value = value
        super().__init__(f"{field}: {rule}")


class SettingsError(UsageError, ValueError):
    """One or more settings are wrong; `problems` holds (variable, reason) for all of them."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        """Keep every problem, so that a user mends them in one round."""
        self.problems = problems
        # A name that is no setting's may be anything that an environment can hold.
        lines = "\n".join(
            f"  {name if name.isprintable() else ascii(name)[1:-1]}: {reason}"
            for name, reason in problems
        )
        super().__init__(f"invalid settings:\n{lines}")


class UnknownTaskError(UsageError, LookupError):
    """No task of this name is registered here."""

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        """Keep the name asked for and the names that exist."""
        self.name = name
        self.known = known
        listed = ", ".join(known) or "none"
        super().__init__(f'task "{name}" is not registered (known: {listed})')


class PayloadError(UsageError, ValueError):
    """A payload cannot be sent: not JSON, too large, or too deep."""

    def __init__(self, why: str, *, task: str | None = None) -> None:
        """Keep the task's name, where known, and the reason."""
        self.task = task
        self.why = why
        super().__init__(f'payload of "{task}": {why}' if task else f"payload: {why}")


class PayloadTypeError(UsageError, TypeError):
    """A payload holds a value that JSON has no form for, or does not fit the signature."""

    def __init__(self, why: str, *, task: str | None = None) -> None:
        """Keep the task's name, where known, and the reason."""
        self.task = task
        self.why = why
        super().__init__(f'payload of "{task}": {why}' if task else f"payload: {why}")


class DecodeError(UsageError, ValueError):
    """A job record found in Redis is not one; `data` holds its bytes untouched."""

    def __init__(self, why: str, data: bytes = b"") -> None:
        """Keep the reason and the raw bytes."""
        self.why = why
        self.data = data
        super().__init__(f"broken job record: {why}")


class NewerRecordError(DecodeError):
    """A later version wrote this record; only a process of that version may touch it."""

    def __init__(self, protocol: int, data: bytes = b"", *, status: str = "") -> None:
        """Keep the version, the raw bytes and the status as it stands there."""
        self.protocol = protocol
        self.status = status
        super().__init__(f"it is of protocol {protocol}, this version reads none so new", data)


# --- the other side failed ----------------------------------------------------------------


class BrokerError(BananasError):
    """Redis did not do what was asked; `operation` names the call, the cause is chained."""

    def __init__(self, operation: str, why: str) -> None:
        """Keep the operation, as in "broker.dequeue", and the server's words."""
        self.operation = operation
        self.why = why
        super().__init__(f"{operation}: {why}")


class BrokerUnavailableError(BrokerError, ConnectionError):
    """No answer within the retry window: the outcome is unknown, repeating is safe."""


class BrokerFullError(BrokerError):
    """Redis is at maxmemory and takes no new jobs; those waiting can still be worked off."""


class EvictionError(BrokerError):
    """The server may throw waiting jobs away when it is full, so nobody works on it."""

    hint = (
        "CONFIG SET maxmemory-policy noeviction, and in the server's configuration file; "
        "BANANAS_ALLOW_EVICTION=true starts all the same"
    )


class BrokerDeniedError(BrokerError):
    """Redis refused the credentials or the command (AUTH, ACL)."""


class ScriptError(BrokerError):
    """A script answered what its header does not promise: a defect of ours."""


class DurabilityError(BrokerError):
    """The server cannot keep jobs as safe as was asked; nothing was enqueued."""

    def __init__(self, durability: str, server: str, why: str, remedy: str | None = None) -> None:
        """Keep what was asked for, the server with its version, what it lacks, what to do."""
        self.durability = durability
        self.server = server
        self.reason = why
        self.remedy = remedy
        told = f'{server} cannot give durability "{durability}" (BANANAS_DURABILITY): {why}'
        super().__init__("producer.confirm", told if remedy is None else f"{told}; {remedy}")


class DurabilityUnconfirmedError(BrokerError):
    """The jobs are accepted in memory, but nobody confirmed that they are as safe as asked.

    They may run all the same. To be sure, wait again with `client.confirm(error)`, or submit
    them again under the same ids: whoever finds them there says so only once they are safe.
    """

    hint = "wait again with confirm(error), or submit again under the same ids: none is doubled"

    def __init__(
        self,
        durability: str,
        why: str,
        job_ids: tuple[str, ...] = (),
        requests: tuple[str, ...] = (),
    ) -> None:
        """Keep what was asked for, why it is open, whose it is, and what `confirm` asks about."""
        self.durability = durability
        self.reason = why
        self.job_ids = job_ids
        self.requests = requests
        jobs = f'job "{job_ids[0]}" is' if len(job_ids) == 1 else f"{len(job_ids)} jobs are"
        super().__init__(
            "producer.confirm",
            f'{jobs} accepted in memory, durability "{durability}" unconfirmed: {why}',
        )

    @classmethod
    def of(cls, errors: list[DurabilityUnconfirmedError]) -> DurabilityUnconfirmedError:
        """Return one error about the jobs of several."""
        first = errors[0]
        ids = tuple(job_id for error in errors for job_id in error.job_ids)
        requests = tuple(request for error in errors for request in error.requests)
        return cls(first.durability, first.reason, ids, requests)


class EmbeddedServerError(BananasError):
    """The embedded server could not be found or started; the message names the remedy."""


# --- the job is not in the state you thought ------------------------------------------------


class StateError(BananasError):
    """The operation does not fit the state the job is in."""

    def __init__(self, job_id: str, why: str) -> None:
        """Keep the job's id and what is wrong."""
        self.job_id = job_id
        self.why = why
        super().__init__(f'job "{job_id}": {why}')


class JobNotFoundError(StateError, LookupError):
    """No record of this id: never made, or past its retention."""

    def __init__(self, job_id: str) -> None:
        """Keep the id."""
        super().__init__(job_id, "not found")


class DuplicateJobError(StateError):
    """A job of this id exists already; nothing was changed."""

    def __init__(self, job_id: str) -> None:
        """Keep the id."""
        super().__init__(job_id, "exists already")


class JobFailedError(StateError):
    """The awaited job ended as failed; `error` is its last error."""

    def __init__(self, job_id: str, error: str) -> None:
        """Keep the id and the last error."""
        self.error = error
        super().__init__(job_id, f"failed: {error}")


class JobCancelledError(StateError):
    """The awaited job was cancelled."""

    def __init__(self, job_id: str) -> None:
        """Keep the id."""
        super().__init__(job_id, "was cancelled")


class ResultTimeoutError(StateError, TimeoutError):
    """The awaited job did not end in time; it goes on and may be awaited again."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        """Keep the id and the time waited, seconds."""
        self.timeout_s = timeout_s
        super().__init__(job_id, f"no result within {timeout_s:g} s")


class JobTimedOutError(BananasError, TimeoutError):
    """Raised inside a handler that outlived its soft time limit."""


# --- control flow of handlers: not errors -----------------------------------------------------


class Control(Exception):  # noqa: N818 - verbs that a handler raises to us, not errors
    """What a handler raises to say how its job should go on."""


class Retry(Control):
    """Run the job again after `delay_s` (None = the task's back-off); charged as an attempt."""

    def __init__(self, delay_s: float | None = None, reason: str = "") -> None:
        """Keep the delay in seconds, >= 0, and the reason stored as the job's last error."""
        if delay_s is not None and not delay_s >= 0:
            raise FieldError("delay_s", "must be >= 0", delay_s)
        self.delay_s = delay_s
        self.reason = reason
        super().__init__(reason or "retry")


class Snooze(Control):
    """Run the job again after `delay_s` without charging an attempt."""

    def __init__(self, delay_s: float) -> None:
        """Keep the delay in seconds, >= 0."""
        if not delay_s >= 0:
            raise FieldError("delay_s", "must be >= 0", delay_s)
        self.delay_s = delay_s
        super().__init__(f"snooze {delay_s:g} s")


class Discard(Control):
    """Fail the job at once, whatever attempts are left; it goes to the dead-letter queue."""

    def __init__(self, reason: str = "discarded by its handler") -> None:
        """Keep the reason, stored as the job's last error."""
        self.reason = reason
        super().__init__(reason)


class Halt(BaseException):
    """Ends a supervised process from inside, past any `except Exception`; internal."""

    def __init__(self, exit_status: int) -> None:
        """Keep the status the process leaves with."""
        self.exit_status = exit_status
        super().__init__(f"exit {exit_status}")
