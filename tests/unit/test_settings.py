"""Settings: every source, every rule, every problem at once, and no secret in any text."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.errors import SettingsError
from bananas.settings import (
    TOOL_VARIABLES,
    Secret,
    Settings,
    available_cores,
    format_duration,
    format_size,
    load_pyproject,
    parse_duration,
    parse_size,
    redacted_url,
    settings_table,
)

CANARY = "c4nary-S3cret/w?th@odd:bits"
TOKEN = "t" * 8 + "0k3n" * 8

BARE = [
    "REDIS_URL",
    "API_PORT",
    "WORKER_MODE",
    "WORKER_CONCURRENCY",
    "WORKER_PRIORITIES",
    "WORKER_JOB_TYPES",
    "WORKER_ROUTING_KEYS",
    "ENABLE_SCHEDULER",
    "SCHEDULER_INTERVAL",
    "JOB_TIMEOUT",
    "MAX_RETRIES",
    "CRON_SCHEDULER_ENABLED",
    "RESULT_BACKEND_ENABLED",
    "RESULT_BACKEND_TTL_SUCCESS",
    "RESULT_BACKEND_TTL_FAILURE",
    "LOG_LEVEL",
    "LOG_FORMAT",
]


def env(**variables: str) -> Settings:
    """Return the settings of these variables alone."""
    return Settings.from_sources(variables)


def problems(
    environ: dict[str, str], pyproject: dict[str, object] | None = None, **flags: object
) -> dict[str, str]:
    """Return reason by variable of a refusal."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_sources(environ, pyproject, **flags)
    return dict(caught.value.problems)


# --- defaults and sources ---------------------------------------------------------------------


def test_defaults() -> None:
    """Nothing set: the documented defaults hold."""
    settings = env(HOME="/home/x")
    assert settings.redis_url is None
    assert settings.key_prefix == "bananas"
    assert settings.data_dir == Path("/home/x/.local/share/bananas")
    assert (settings.api_host, settings.api_port) == ("127.0.0.1", 8080)
    assert settings.worker_mode == "default"
    assert settings.procs == "auto"
    assert settings.worker_concurrency == 10
    assert settings.worker_routing_keys == ("default",)
    assert settings.job_timeout_s == 300
    assert settings.max_retries == 3
    assert settings.result_backend_ttl_failure_s == 86_400
    assert settings.retention_failed_s == 7 * 86_400
    assert settings.max_payload_bytes == 2**20
    assert (settings.log_level, settings.log_format) == ("info", "json")


def test_bare_constructor_equals_no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings()` and no sources at all give equal, hashable objects."""
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert Settings() == env(HOME="/home/x")
    assert hash(Settings()) == hash(env(HOME="/home/x"))


def test_frozen() -> None:
    """Settings cannot be changed, only replaced; a replacement is validated."""
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.max_retries = 5  # type: ignore[misc]
    assert dataclasses.replace(settings, max_retries=5).max_retries == 5
    with pytest.raises(SettingsError, match="BANANAS_MAX_RETRIES"):
        dataclasses.replace(settings, max_retries=-1)


def test_survive_copy_and_pickle() -> None:
    """Settings with a secret can be copied and sent to another process."""
    settings = Settings(api_token=Secret(TOKEN))
    assert copy.deepcopy(settings) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", BARE)
def test_bare_names_count(name: str) -> None:
    """Each name of the reference is read with and without our prefix, and ours wins."""
    bad = "\x01"
    assert set(problems({name: bad})) == {name}
    assert set(problems({f"BANANAS_{name}": bad})) == {f"BANANAS_{name}"}
    assert set(problems({f"BANANAS_{name}": bad, name: bad})) == {f"BANANAS_{name}"}


@pytest.mark.parametrize("name", ["KEY_PREFIX", "PROCS", "API_TOKEN", "LEASE_TTL", "DATA_DIR"])
def test_other_bare_names_do_not_count(name: str) -> None:
    """A name that the reference does not have is nobody's without the prefix."""
    assert env(**{name: "\x01"}, HOME="/h") == env(HOME="/h")


def test_order_of_sources() -> None:
    """A flag wins over the environment, that over pyproject.toml, that over the default."""
    pyproject = {"tool": {"bananas": {"max_retries": 7, "max-batch": 70, "max_depth": 17}}}
    settings = Settings.from_sources(
        {"BANANAS_MAX_RETRIES": "8", "BANANAS_MAX_BATCH": "80"}, pyproject, max_retries=9
    )
    assert (settings.max_retries, settings.max_batch, settings.max_depth) == (9, 80, 17)


@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_is_not_set(empty: str) -> None:
    """An empty variable, as compose files make them, is as if absent; the bare name then counts."""
    assert env(BANANAS_JOB_TIMEOUT=empty, JOB_TIMEOUT="1m").job_timeout_s == 60
    assert env(BANANAS_API_TOKEN=empty).api_token is None


def test_unit_suffixes_leave_the_variable() -> None:
    """A field in seconds or bytes has a variable without the unit; its value carries it."""
    settings = env(BANANAS_JOB_TIMEOUT="90s", BANANAS_RECYCLE_RSS="512MiB")
    assert (settings.job_timeout_s, settings.recycle_rss_bytes) == (90, 512 * 2**20)
    assert (
        "BANANAS_JOB_TIMEOUT?" in problems({"BANANAS_JOB_TIMEOUT_S": "3s"})["BANANAS_JOB_TIMEOUT_S"]
    )


def test_flags() -> None:
    """Flags go by field or by short name; None is not given; text is read as a variable's."""
    settings = Settings.from_sources(
        {"BANANAS_PROCS": "3"}, procs=None, job_timeout="2m", lease_ttl_s=20, max_payload="2KiB"
    )
    assert settings.procs == 3
    assert (settings.job_timeout_s, settings.lease_ttl_s) == (120, 20)
    assert settings.max_payload_bytes == 2048


def test_unknown_flag_is_a_programming_error() -> None:
    """A flag of an unknown name is a TypeError, for it is our own mistake."""
    with pytest.raises(TypeError, match="no_such"):
        Settings.from_sources({}, no_such=1)


def test_pyproject_types() -> None:
    """TOML's own numbers, booleans and arrays are taken as they are."""
    table = {
        "worker-mode": "specialized",
        "worker_priorities": ["high", "low"],
        "enable_scheduler": True,
        "retry_factor": 3,
        "job_timeout_s": 1.5,
        "max_payload": 4096,
        "scheduler_interval": "2s",
    }
    settings = Settings.from_sources({}, {"tool": {"bananas": table}})
    assert settings.worker_priorities == ("high", "low")
    assert settings.scheduler_enabled is True
    assert (settings.retry_factor, settings.job_timeout_s) == (3.0, 1.5)
    assert (settings.max_payload_bytes, settings.scheduler_interval_s) == (4096, 2.0)


def test_pyproject_number_needs_its_unit() -> None:
    """A bare number under a name without a unit is refused: seconds would be a guess."""
    found = problems({}, {"tool": {"bananas": {"job_timeout": 300}}})
    assert "job_timeout_s" in found["BANANAS_JOB_TIMEOUT"]
    assert "pyproject.toml" in found["BANANAS_JOB_TIMEOUT"]


@pytest.mark.parametrize("pyproject", [None, {}, {"tool": {}}, {"tool": 3}, {"project": {}}])
def test_pyproject_without_us(pyproject: dict[str, object] | None) -> None:
    """A pyproject.toml that does not speak of us changes nothing."""
    assert Settings.from_sources({"HOME": "/h"}, pyproject) == env(HOME="/h")


def test_pyproject_must_be_a_table_of_settings() -> None:
    """`[tool.bananas]` that is no table, or holds an unknown key, is an error."""
    assert "tool.bananas" in problems({}, {"tool": {"bananas": 3}})
    found = problems({}, {"tool": {"bananas": {"max_retrys": 3}}})
    assert "max_retries" in found["tool.bananas.max_retrys"]


def test_load_pyproject(tmp_path: Path) -> None:
    """The nearest pyproject.toml upwards is parsed; a broken one is named."""
    (tmp_path / "pyproject.toml").write_text("[tool.bananas]\nmax_retries = 4\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert Settings.from_sources({}, load_pyproject(inner)).max_retries == 4
    (inner / "pyproject.toml").write_text("[tool")
    with pytest.raises(SettingsError, match=r"b/pyproject\.toml"):
        load_pyproject(inner)


def test_load_pyproject_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any pyproject.toml there is nothing to read."""
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert load_pyproject() is None


# --- problems ---------------------------------------------------------------------------------


def test_all_problems_together() -> None:
    """Wrong values, unknown names and contradictions come in one error, each by its variable."""
    found = problems(
        {
            "WORKER_MODE": "specialized",
            "API_PORT": "99999",
            "BANANAS_LOG_LEVEL": "loud",
            "BANANAS_WORKER_CONCURENCY": "3",
            "BANANAS_LEASE_TTL": "5s",
        },
        {"tool": {"bananas": {"max_depth": "deep"}}},
        procs="many",
    )
    assert set(found) == {
        "WORKER_MODE",
        "API_PORT",
        "BANANAS_LOG_LEVEL",
        "BANANAS_WORKER_CONCURENCY",
        "BANANAS_LEASE_TTL",
        "BANANAS_MAX_DEPTH",
        "BANANAS_PROCS",
    }
    assert '"99999"' in found["API_PORT"]
    assert "BANANAS_WORKER_CONCURRENCY" in found["BANANAS_WORKER_CONCURENCY"]
    assert "flag" in found["BANANAS_PROCS"]
    assert "pyproject" in found["BANANAS_MAX_DEPTH"]


def test_error_text_names_everything() -> None:
    """The error's own text holds every variable with its reason."""
    with pytest.raises(SettingsError) as caught:
        env(API_PORT="x", MAX_RETRIES="y")
    assert 'API_PORT: must be an integer, not "x"' in str(caught.value)
    assert 'MAX_RETRIES: must be an integer, not "y"' in str(caught.value)


def test_unknown_variables() -> None:
    """An unknown variable under our prefix is an error; other programs' are not looked at."""
    assert set(problems({"BANANAS_NONSENSE": "1", "NONSENSE": "1"})) == {"BANANAS_NONSENSE"}
    assert set(problems({"BANANAS_": "1"})) == {"BANANAS_"}


def test_tool_variables() -> None:
    """Variables of builds, of tests and of commands' options are not settings, and no errors."""
    environ = dict.fromkeys(TOOL_VARIABLES, "1") | {
        "BANANAS_TEST_ANYTHING": "1",
        "BANANAS_CLI_ENQUEUE_WAIT": "1",
        "HOME": "/h",
    }
    assert Settings.from_sources(environ) == env(HOME="/h")
    assert set(problems({"BANANAS_CLIENT": "1", "BANANAS_TESTS": "1"})) == {
        "BANANAS_CLIENT",
        "BANANAS_TESTS",
    }


@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster"])
def test_a_cluster_wants_a_hash_tag_in_the_prefix(scheme: str) -> None:
    """The default gets one by itself; another without one is refused, with the rule."""
    url = f"{scheme}://u:hunter2@a:1,b:2"
    assert Settings.from_sources({"REDIS_URL": url}).key_prefix == "{bananas}"
    assert env(REDIS_URL=url, BANANAS_KEY_PREFIX="x:{mine}").key_prefix == "x:{mine}"
    found = problems({"REDIS_URL": url, "BANANAS_KEY_PREFIX": "mine"})
    assert found == {
        "BANANAS_KEY_PREFIX": "needs a hash tag when REDIS_URL names a cluster, as in "
        '"{mine}": all keys must lie in one slot'
    }
    assert Settings(redis_url="redis://a").key_prefix == "bananas"


def test_kubernetes_service_links() -> None:
    """What Kubernetes sets for services called bananas and bananas-api is not ours."""
    links = {
        "BANANAS_SERVICE_HOST": "10.0.0.1",
        "BANANAS_SERVICE_PORT": "80",
        "BANANAS_SERVICE_PORT_HTTP": "80",
        "BANANAS_PORT": "tcp://10.0.0.1:80",
        "BANANAS_PORT_80_TCP": "tcp://10.0.0.1:80",
        "BANANAS_PORT_80_TCP_ADDR": "10.0.0.1",
        "BANANAS_API_SERVICE_HOST": "10.0.0.1",
        "BANANAS_API_PORT": "tcp://10.0.0.1:80",
        "BANANAS_API_PORT_80_TCP_PROTO": "tcp",
        "API_PORT": "tcp://10.0.0.1:80",
        "HOME": "/h",
    }
    assert Settings.from_sources(links) == env(HOME="/h")
    assert set(problems({"BANANAS_PORT": "8080"})) == {"BANANAS_PORT"}


WRONG: list[tuple[str, list[str]]] = [
    ("REDIS_URL", ["localhost", "http://h", "redis://h:0", "redis://h:x", "redis://h/one"]),
    ("REDIS_URL", ["unix://", "unix://host/x", "redis+sentinel://h:1"]),
    ("REDIS_URL", ["redis://a b", "redis://h:99999", "redis+sentinel://:1/m", "redis://[::1"]),
    ("BANANAS_KEY_PREFIX", ["a b", "{a}{b}", "{}", "a{", "x" * 65, "é", "a*"]),
    ("BANANAS_DATA_DIR", ["\0", "~nobody-of-this-name/x"]),
    ("BANANAS_API_HOST", ["http://x", "a b"]),
    ("API_PORT", ["-1", "65536", "8080.0", "٣", "1e3"]),
    ("BANANAS_API_TOKEN", ["short", "with space in the middle", "é" * 20, "x" * 513]),
    ("BANANAS_API_PROCS", ["0", "auto"]),
    ("WORKER_MODE", ["fast", "jobspecialized"]),
    ("BANANAS_PROCS", ["0", "-1", "all", "1.5", "1025"]),
    ("WORKER_CONCURRENCY", ["0", "none", "10001"]),
    ("WORKER_ROUTING_KEYS", [",", "a b", "a,a", "x" * 65, "a.b"]),
    ("BANANAS_ROUTING_ORDER", ["fifo"]),
    ("ENABLE_SCHEDULER", ["maybe", "2", "truee"]),
    ("SCHEDULER_INTERVAL", ["5", "1 s", "-1s", "0", "1ms", "2h", "s", "1e3s", "5S"]),
    ("JOB_TIMEOUT", ["0", "300", "9" * 400 + "h", "1000d"]),
    ("MAX_RETRIES", ["-1", "1001"]),
    ("BANANAS_RETRY_FACTOR", ["0.5", "nan", "inf", "x"]),
    ("BANANAS_RETRY_JITTER", ["-0.1", "1.1"]),
    ("BANANAS_RETENTION_COMPLETED", ["500ms", "-1s"]),
    ("BANANAS_DEQUEUE_BATCH", ["0", "1001"]),
    ("BANANAS_RECYCLE_RSS", ["1MiB", "1.5", "1K", "-1MiB", "1 M B"]),
    ("BANANAS_MAX_PAYLOAD", ["0", "1GiB", "lots"]),
    ("LOG_LEVEL", ["verbose", "10"]),
    ("LOG_FORMAT", ["xml"]),
]


@pytest.mark.parametrize(
    ("variable", "value"), [(variable, value) for variable, values in WRONG for value in values]
)
def test_wrong_values_are_refused(variable: str, value: str) -> None:
    """A value that breaks its rule is the only problem reported, under its variable."""
    assert set(problems({variable: value})) == {variable}


RIGHT: list[tuple[str, str, str, object]] = [
    ("REDIS_URL", "redis://:p%40ss@h:6380/15?x=1", "redis_url", "redis://:p%40ss@h:6380/15?x=1"),
    ("REDIS_URL", "rediss://[::1]:6380", "redis_url", "rediss://[::1]:6380"),
    ("REDIS_URL", "redis://", "redis_url", "redis://"),
    ("REDIS_URL", "unix:///run/r.sock?db=2", "redis_url", "unix:///run/r.sock?db=2"),
    ("REDIS_URL", "unix://u:p@/r.sock", "redis_url", "unix://u:p@/r.sock"),
    ("REDIS_URL", "redis+sentinel://a:1,b:2/mymaster/3", "redis_url", ...),
    ("REDIS_URL", "rediss+sentinel://u:p@a:1,b/m/0", "redis_url", ...),
    ("BANANAS_KEY_PREFIX", "a{b}:c", "key_prefix", "a{b}:c"),
    ("BANANAS_DATA_DIR", "/a/../b", "data_dir", Path("/b")),
    ("API_PORT", "0", "api_port", 0),
    ("BANANAS_API_TOKEN", TOKEN, "api_token", Secret(TOKEN)),
    ("BANANAS_PROCS", "AUTO", "procs", "auto"),
    ("BANANAS_PROCS", "4", "procs", 4),
    ("WORKER_ROUTING_KEYS", "gpu, default,", "worker_routing_keys", ("gpu", "default")),
    ("ENABLE_SCHEDULER", "Off", "enable_scheduler", False),
    ("ENABLE_SCHEDULER", "yes", "enable_scheduler", True),
    ("CRON_SCHEDULER_ENABLED", "0", "cron_scheduler_enabled", False),
    ("SCHEDULER_INTERVAL", "500ms", "scheduler_interval_s", 0.5),
    ("JOB_TIMEOUT", "1h30m", "job_timeout_s", 5400.0),
    ("BANANAS_RETENTION_COMPLETED", "0", "retention_completed_s", 0.0),
    ("BANANAS_SHUTDOWN_GRACE", "0s", "shutdown_grace_s", 0.0),
    ("BANANAS_RECYCLE_RSS", "0", "recycle_rss_bytes", 0),
    ("BANANAS_MAX_PAYLOAD", "64MB", "max_payload_bytes", 64_000_000),
    ("LOG_LEVEL", "WARN", "log_level", "warning"),
]


@pytest.mark.parametrize(("variable", "text", "name", "value"), RIGHT)
def test_right_values_are_taken(variable: str, text: str, name: str, value: object) -> None:
    """A value that keeps its rule is read as meant."""
    found = getattr(env(**{variable: text}), name)
    assert found == (text if value is ... else value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", True),
        ("max_retries", "x"),
        ("retry_factor", True),
        ("retry_factor", 10**400),
        ("job_timeout_s", None),
        ("job_timeout_s", True),
        ("job_timeout_s", math.nan),
        ("job_timeout_s", 10**400),
        ("max_payload_bytes", 1.5),
        ("enable_scheduler", 1),
        ("worker_routing_keys", 3),
        ("worker_routing_keys", (3,)),
        ("data_dir", 3),
        ("log_level", 3),
        ("key_prefix", None),
        ("redis_url", 3),
        ("api_token", 3),
    ],
)
def test_direct_construction_is_validated(name: str, value: object) -> None:
    """A typed value that breaks its rule is refused too."""
    wrong: Any = {name: value}
    with pytest.raises(SettingsError) as caught:
        Settings(**wrong)
    assert len(caught.value.problems) == 1


# --- contradictions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "blamed", "other"),
    [
        ({"WORKER_MODE": "specialized"}, "WORKER_MODE", "WORKER_PRIORITIES"),
        ({"WORKER_MODE": "job-specialized"}, "WORKER_MODE", "WORKER_JOB_TYPES"),
        ({"WORKER_JOB_TYPES": "a"}, "WORKER_JOB_TYPES", "WORKER_MODE"),
        ({"WORKER_PRIORITIES": "high"}, "WORKER_PRIORITIES", "WORKER_MODE"),
        (
            {"WORKER_MODE": "thin", "WORKER_PRIORITIES": "high"},
            "WORKER_PRIORITIES",
            "WORKER_MODE",
        ),
        (
            {"WORKER_MODE": "scheduler-only", "WORKER_PRIORITIES": "high"},
            "WORKER_PRIORITIES",
            "WORKER_MODE",
        ),
        (
            {"WORKER_MODE": "specialized", "WORKER_PRIORITIES": "high", "WORKER_JOB_TYPES": "a"},
            "WORKER_JOB_TYPES",
            "WORKER_MODE",
        ),
        ({"WORKER_MODE": "thin", "BANANAS_PROCS": "2"}, "BANANAS_PROCS", "WORKER_MODE"),
        ({"WORKER_MODE": "scheduler-only", "BANANAS_PROCS": "2"}, "BANANAS_PROCS", "WORKER_MODE"),
        (
            {"WORKER_MODE": "scheduler-only", "ENABLE_SCHEDULER": "false"},
            "ENABLE_SCHEDULER",
            "WORKER_MODE",
        ),
        ({"BANANAS_LEASE_TTL": "6s"}, "BANANAS_LEASE_TTL", "BANANAS_BEAT_INTERVAL"),
        ({"BANANAS_BEAT_INTERVAL": "8s"}, "BANANAS_LEASE_TTL", "BANANAS_BEAT_INTERVAL"),
        ({"BANANAS_RETRY_CAP": "500ms"}, "BANANAS_RETRY_CAP", "BANANAS_RETRY_BASE"),
        ({"BANANAS_API_HOST": "0.0.0.0"}, "BANANAS_API_HOST", "BANANAS_API_TOKEN"),  # noqa: S104
        ({"BANANAS_API_HOST": "127.evil.example"}, "BANANAS_API_HOST", "BANANAS_API_TOKEN"),
    ],
)
def test_contradictions_name_both(environ: dict[str, str], blamed: str, other: str) -> None:
    """Settings that do not go together are one problem, whose text names both variables."""
    found = problems(environ)
    assert set(found) == {blamed}
    assert other in found[blamed]


def test_contradiction_with_a_broken_value_is_not_guessed() -> None:
    """A setting that could not be read is reported alone, without consequences made up."""
    assert set(problems({"WORKER_MODE": "speciallized", "WORKER_PRIORITIES": "high"})) == {
        "WORKER_MODE"
    }
    assert set(problems({"WORKER_MODE": "specialized", "WORKER_PRIORITIES": "urgent"})) == {
        "WORKER_PRIORITIES"
    }


@pytest.mark.parametrize(
    "environ",
    [
        {"WORKER_MODE": "specialized", "WORKER_PRIORITIES": "low,high"},
        {"WORKER_MODE": "job-specialized", "WORKER_JOB_TYPES": "resize,a.b:c"},
        {"WORKER_MODE": "job-specialized", "WORKER_JOB_TYPES": "a", "WORKER_PRIORITIES": "low"},
        {"WORKER_MODE": "thin", "BANANAS_PROCS": "1"},
        {"BANANAS_API_HOST": "0.0.0.0", "BANANAS_API_TOKEN": TOKEN},  # noqa: S104
        {"BANANAS_API_HOST": "::1"},
        {"BANANAS_API_HOST": "localhost"},
        {"BANANAS_API_HOST": "127.1.2.3"},
    ],
)
def test_settings_that_go_together(environ: dict[str, str]) -> None:
    """What each mode needs is accepted."""
    Settings.from_sources(environ)


# --- what settings mean -----------------------------------------------------------------------


def test_thin_mode_defaults() -> None:
    """Thin mode is one process with five jobs at a time, unless the number is set."""
    assert env(WORKER_MODE="thin").worker_concurrency == 5
    assert env(WORKER_MODE="thin").proc_count == 1
    assert env(WORKER_MODE="thin", WORKER_CONCURRENCY="7").worker_concurrency == 7
    assert Settings(worker_mode="thin").worker_concurrency == 5


def test_proc_count() -> None:
    """Auto is one process per available core; a scheduler-only host runs no workers."""
    assert env().proc_count == available_cores()
    assert env(BANANAS_PROCS="3").proc_count == 3
    assert env(WORKER_MODE="scheduler-only").proc_count == 0


def test_available_cores_keep_to_the_quota(tmp_path: Path) -> None:
    """A container's quota cuts the number of cores, in both versions of control groups."""
    free = available_cores(tmp_path)
    assert free >= 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert available_cores(tmp_path) == free
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert available_cores(tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert available_cores(tmp_path) == free
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    assert available_cores(tmp_path) == 1


def test_priorities_are_strict_whatever_their_order() -> None:
    """High comes first, however the list was written; none set means all."""
    mixed = env(WORKER_MODE="specialized", WORKER_PRIORITIES="low,high")
    assert mixed.priorities == ("high", "low")
    assert env().priorities == ("high", "normal", "low")


@pytest.mark.parametrize(
    ("mode", "extra", "expected"),
    [
        ("default", {}, True),
        ("thin", {}, True),
        ("scheduler-only", {}, True),
        ("specialized", {"WORKER_PRIORITIES": "low"}, False),
        ("job-specialized", {"WORKER_JOB_TYPES": "a"}, False),
        ("specialized", {"WORKER_PRIORITIES": "low", "ENABLE_SCHEDULER": "true"}, True),
        ("default", {"ENABLE_SCHEDULER": "false"}, False),
    ],
)
def test_scheduler_by_mode(mode: str, extra: dict[str, str], expected: bool) -> None:
    """The scheduler is on by the mode's default, unless set."""
    assert env(WORKER_MODE=mode, **extra).scheduler_enabled is expected


def test_sync_threads() -> None:
    """Threads follow the concurrency up to 32, unless set."""
    assert env().sync_thread_count == 10
    assert env(WORKER_CONCURRENCY="500").sync_thread_count == 32
    assert env(BANANAS_SYNC_THREADS="50").sync_thread_count == 50


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_DATA_HOME": "/x"}, "/x/bananas"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/bananas"),
        ({"XDG_DATA_HOME": "/x", "BANANAS_DATA_DIR": "/y"}, "/y"),
    ],
)
def test_data_dir(environ: dict[str, str], expected: str) -> None:
    """The data folder follows the XDG rules, unless set."""
    assert Settings.from_sources(environ).data_dir == Path(expected)


# --- secrets ----------------------------------------------------------------------------------


def test_secret_shows_nothing() -> None:
    """A secret prints as stars everywhere and compares by its text."""
    secret = Secret(CANARY)
    assert {repr(secret), str(secret), f"{secret}", "%s" % secret} == {"***"}  # noqa: UP031
    assert secret.reveal() == CANARY
    assert secret == Secret(CANARY)
    assert secret != Secret("x")
    assert secret != CANARY
    assert len({secret, Secret(CANARY)}) == 1


def test_settings_repr_is_redacted() -> None:
    """Neither the repr nor the description of settings holds a password or a token."""
    settings = env(REDIS_URL=f"redis://u:{TOKEN}@h/1", BANANAS_API_TOKEN=TOKEN)
    for text in (repr(settings), str(settings), str(settings.describe())):
        assert TOKEN not in text
        assert "redis://u:***@h/1" in text


def test_repr_tells_what_differs() -> None:
    """The repr holds what was changed, as one would write it, and no more."""
    assert repr(env(JOB_TIMEOUT="90m", WORKER_ROUTING_KEYS="a,b")) == (
        "Settings(worker_routing_keys=a,b, job_timeout_s=90m)"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", f"redis://:{CANARY}@h:notaport/0"),
        ("REDIS_URL", f"redis://:{CANARY}"),
        ("REDIS_URL", f"redis://h/{CANARY}"),
        ("REDIS_URL", f"redis://[{CANARY}"),
        ("REDIS_URL", CANARY),
        ("BANANAS_API_TOKEN", CANARY + " "),
        ("BANANAS_API_TOKEN", f"{CANARY} {CANARY}"),
        ("BANANAS_KEY_PREFIX", f"redis://:{CANARY}@h"),
        (f"BANANAS_{'X'}", CANARY),
    ],
)
def test_errors_hold_no_secret(variable: str, value: str) -> None:
    """No message, and no chained cause, quotes what may be a password or a token."""
    with pytest.raises(SettingsError) as caught:
        env(**{variable: value}, LOG_LEVEL="x")
    for part in ("c4nary", "S3cret", "w?th", "odd:bits"):
        assert part not in str(caught.value)
        assert part not in repr(caught.value.problems)
    assert caught.value.__cause__ is None


SECRET_TEXT = st.text(st.characters(codec="utf-8"), min_size=1).map(lambda text: f"K9{text}K9")


@given(password=SECRET_TEXT, user=st.sampled_from(["", "user"]))
def test_redacted_url_never_leaks(password: str, user: str) -> None:
    """Whatever characters a password holds, escaped or not, it is not in the redacted URL."""
    shown = redacted_url(f"redis://{user}:{password}@host:6379/0")
    assert shown == f"redis://{user}:***@host:6379/0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://tokenonly@host", "redis://***@host"),
        ("user:pw@host:1", "user:***@host:1"),
        ("unix:///r.sock?db=1&Password=pw&x=2", "unix:///r.sock?db=1&Password=***&x=2"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_redacted_url(url: str, shown: str) -> None:
    """Credentials go wherever they stand; the rest stays readable."""
    assert redacted_url(url) == shown


def test_messages_stay_on_one_short_line() -> None:
    """A quoted value is cut and its control characters are escaped."""
    reason = problems({"LOG_LEVEL": "\x1b[31m\n" + "x" * 500})["LOG_LEVEL"]
    assert "\x1b" not in reason
    assert "\n" not in reason
    assert len(reason) < 200


# --- durations and sizes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5),
        ("5m", 300),
        ("1h", 3600),
        ("7d", 604_800),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        (" 3s ", 3),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is read to the nearest float."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-5s", "s", "5 s", "5sec", "1e3s", ".5s", "5.s", "٣s"])
def test_not_durations(text: str) -> None:
    """Anything else is refused; a bare number too."""
    with pytest.raises(ValueError, match="such as 500ms"):
        parse_duration(text)


@given(st.floats(min_value=0, max_value=1e9, allow_subnormal=False))
def test_duration_round_trip(seconds: float) -> None:
    """Any number of seconds is written so that it reads back exactly."""
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_duration_units(count: int, unit: str) -> None:
    """A whole number of any unit is exact, and formatting it changes nothing."""
    scale = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[unit]
    seconds = parse_duration(f"{count}{unit}")
    assert seconds == count * scale / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(max_size=12))
def test_duration_parser_never_breaks(text: str) -> None:
    """Any text is a finite, non-negative number of seconds or a ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < math.inf


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65_536),
        ("10B", 10),
        ("512KiB", 524_288),
        ("1MiB", 1_048_576),
        ("64MB", 64_000_000),
        ("1.5 gib", 1_610_612_736),
        ("0.5KB", 500),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """A size is read exactly; KB is a thousand, KiB 1,024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1K", "1M", "-1", "1e3", "1.5", "0.3KiB", "1 M B"])
def test_not_sizes(text: str) -> None:
    """Anything else is refused, a fraction of a byte too."""
    with pytest.raises(ValueError, match="must be a"):
        parse_size(text)


@given(st.integers(0, 2**53))
def test_size_round_trip(size: int) -> None:
    """Any size is written so that it reads back exactly."""
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=12))
def test_size_parser_never_breaks(text: str) -> None:
    """Any text is a non-negative integer or a ValueError."""
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert size >= 0


# --- table ------------------------------------------------------------------------------------


def test_table_lists_each_field() -> None:
    """Every field has one row: its variables, a default and a meaning."""
    head, rule, *rows = settings_table().splitlines()
    assert (head, rule) == ("| variable | default | meaning |", "|---|---|---|")
    assert len(rows) == len(dataclasses.fields(Settings))
    for item, row in zip(dataclasses.fields(Settings), rows, strict=True):
        variable = "BANANAS_" + item.name.removesuffix("_bytes").removesuffix("_s").upper()
        forms, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        bare = variable.removeprefix("BANANAS_")
        assert forms == f"`{variable}`" + (f", `{bare}`" if bare in BARE else "")
        assert default
        assert meaning


def test_defaults_read_back() -> None:
    """What `describe` shows is what the environment would have to hold for the same settings."""
    settings = env(HOME="/h")
    shown = settings.describe()
    for variable in (
        "REDIS_URL",
        "API_TOKEN",
        "API_TOKENS_FILE",
        "WORKER_PRIORITIES",
        "WORKER_JOB_TYPES",
    ):
        del shown[f"BANANAS_{variable}"]  # not set
    del shown["BANANAS_ENABLE_SCHEDULER"]  # by mode
    assert Settings.from_sources(shown) == settings


def test_import_is_light() -> None:
    """Importing the settings brings in no client, no loop and no JSON."""
    heavy = {"redis", "asyncio", "orjson", "json", "logging", "tomllib", "subprocess", "ssl"}
    code = (
        "import sys, types; package = types.ModuleType('bananas'); package.__path__ = ['bananas'];"
        "sys.modules['bananas'] = package; import bananas.settings;"  # without the root's imports
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert said.stdout.strip() == "[]"
