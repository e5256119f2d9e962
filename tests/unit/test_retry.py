"""When a failed job runs again."""

from __future__ import annotations

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.errors import FieldError
from bananas.retry import MAX_DELAY_S, RetryPolicy


def test_the_default_doubles_from_two_seconds() -> None:
    """2, 4, 8 … seconds, an hour at most."""
    policy = RetryPolicy()
    delays = [policy.delay_s(n, ValueError(), 0.0) for n in (1, 2, 3, 11, 12, 5000)]
    assert delays == [2, 4, 8, 2048, 3600, 3600]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_never_makes_a_retry_early(attempt: int, u: float) -> None:
    """Chance adds up to a tenth and takes nothing."""
    policy = RetryPolicy()
    plain = policy.delay_s(attempt, ValueError(), 0.0)
    delay = policy.delay_s(attempt, ValueError(), u)
    assert plain is not None
    assert delay is not None
    assert plain <= delay <= plain * 1.1000001


def test_errors_choose() -> None:
    """retry_on names what is retried, give_up_on what is not, subclasses included."""
    only = RetryPolicy(retry_on=(OSError,))
    assert only.delay_s(1, ConnectionError(), 0.0) == 2
    assert only.delay_s(1, ValueError(), 0.0) is None
    never = RetryPolicy(give_up_on=(OSError,))
    assert never.delay_s(1, ConnectionError(), 0.0) is None
    assert never.delay_s(1, ValueError(), 0.0) == 2


def test_giving_up_wins() -> None:
    """An error that both name is not retried, and decide() is not asked."""
    policy = RetryPolicy(
        retry_on=(OSError,), give_up_on=(ConnectionError,), decide=lambda _a, _e: 5.0
    )
    assert policy.delay_s(1, ConnectionError(), 0.0) is None
    assert policy.delay_s(1, ValueError(), 0.0) is None
    assert policy.delay_s(1, OSError(), 0.0) == 5


def test_one_class_may_stand_alone() -> None:
    """A single exception class is taken as a tuple of one."""
    assert RetryPolicy(retry_on=OSError).retry_on == (OSError,)  # type: ignore[arg-type]
    assert RetryPolicy(give_up_on=[OSError]).give_up_on == (OSError,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "delay_s"),
    [(0, 0.0), (7.5, 7.5), (True, 8.0), (None, None), (False, None), (math.inf, MAX_DELAY_S)],
)
def test_a_callable_may_decide(answer: object, delay_s: float | None) -> None:
    """It gets attempt and error; seconds, the back-off, or the end are its answers."""
    seen: list[tuple[int, BaseException]] = []
    error = ValueError("x")

    def decide(attempt: int, error: BaseException) -> object:
        seen.append((attempt, error))
        return answer

    assert RetryPolicy(decide=decide).delay_s(3, error, 0.0) == delay_s
    assert seen == [(3, error)]


@pytest.mark.parametrize("answer", [-1, math.nan, "5", ZeroDivisionError()])
def test_a_callable_that_fails_delays_and_loses_nothing(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect in decide() is logged and the back-off used."""

    def decide(_attempt: int, _error: BaseException) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with caplog.at_level(logging.ERROR, logger="bananas.retry"):
        assert RetryPolicy(decide=decide).delay_s(1, ValueError(), 0.0) == 2
    assert [record.name for record in caplog.records] == ["bananas.retry"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_s", -1),
        ("base_s", math.nan),
        ("base_s", math.inf),
        ("base_s", "1"),
        ("base_s", True),
        ("factor", 0.5),
        ("factor", 1e7),
        ("cap_s", -1),
        ("cap_s", MAX_DELAY_S * 2),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("retry_on", ("ValueError",)),
        ("give_up_on", (int,)),
        ("give_up_on", 5),
        ("decide", 5),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    """The error names the field and its rule when the policy is made."""
    with pytest.raises(FieldError, match=f"^{field}: must be") as caught:
        RetryPolicy(**{field: value})
    assert caught.value.field == field


def test_the_attempt_is_checked() -> None:
    """The first failure is attempt one."""
    with pytest.raises(ValueError, match="attempt"):
        RetryPolicy().delay_s(0, ValueError(), 0.0)
