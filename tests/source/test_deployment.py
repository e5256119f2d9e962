"""Images and compose files name files, variables and targets that exist.

No engine is needed: the files are parsed.  What only a build can show, the
build shows (`make test-docker`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSES = ["docker-compose.yml", "docker-compose.dev.yml"]
ROLES = ["api", "worker", "scheduler"]


def resolved(text: str) -> str:
    """Fill `${NAME:-default}` with its default, and a required one with a made-up token."""
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "0123456789abcdef0123456789abcdef", text)
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def compose(name: str) -> dict[str, Any]:
    """Return a compose file as compose would see it on a machine with no variables set."""
    parsed: dict[str, Any] = yaml.safe_load(resolved((ROOT / name).read_text()))
    return parsed


def stages() -> dict[str, str]:
    """Return the text of each named stage of the Dockerfile, by name."""
    parts = re.split(r"^FROM (\S+) AS (\w+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return {parts[at + 1]: parts[at + 2] for at in range(1, len(parts), 3)}


def bases() -> dict[str, str]:
    """Return what each stage is made from."""
    found = re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return {name: base for base, name in found}


def inherited(stage: str) -> str:
    """Return the text of a stage and of the stages it is made from."""
    text = stages()[stage]
    base = bases()[stage]
    return (inherited(base) if base in stages() else "") + text


@pytest.mark.parametrize("role", [*ROLES, "dev"])
def test_image_is_not_root_and_has_a_health_check(role: str) -> None:
    """Each image ends as a plain user, with a probe and an entry point in exec form."""
    text = inherited(role)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] in {"10001:10001", "bananas"}
    assert re.search(r"^HEALTHCHECK (.|\\\n)*CMD \[", text, re.MULTILINE)
    assert re.search(r"^ENTRYPOINT \[", text, re.MULTILINE)


def test_images_demand_the_compiled_core() -> None:
    """No image can come out pure by accident: the build demands the core, and looks."""
    for stage in ("build", "dev"):
        assert "BANANAS_REQUIRE_EXT=1" in stages()[stage]
        assert "assert COMPILED" in stages()[stage]


def test_production_images_hold_no_compiler() -> None:
    """What builds stays in the build stage."""
    for role in ROLES:
        assert "apt-get" not in inherited(role)


def test_copied_files_exist() -> None:
    """Each COPY from the context names a file or folder of the repository."""
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE):
        *sources, _ = [part for part in line.split() if not part.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source


@pytest.mark.parametrize("name", COMPOSES)
def test_compose_builds_targets_that_exist(name: str) -> None:
    """Each built service names the Dockerfile and one of its stages."""
    for service in compose(name)["services"].values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).samefile(DOCKERFILE)
            assert service["build"]["target"] in stages()
            assert (ROOT / service["build"]["context"]).is_dir()
        else:
            assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", service["image"]), "a version, not latest"


@pytest.mark.parametrize("name", COMPOSES)
def test_compose_mounts_what_exists(name: str) -> None:
    """A mount from the host names a folder of the repository; a volume is declared."""
    parsed = compose(name)
    for service in parsed["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in parsed["volumes"] or (ROOT / source).exists(), mount


@pytest.mark.parametrize("name", COMPOSES)
def test_compose_settings_are_valid_settings(name: str) -> None:
    """The variables a service gets are known, of the right form, and do not contradict."""
    from bananas.settings import Settings  # noqa: PLC0415

    for role in ROLES:
        environment = compose(name)["services"][role]["environment"]
        for variable, value in environment.items():
            assert isinstance(value, str), f"{role}: {variable} must be quoted in YAML"
        settings = Settings.from_sources(environment, None)
        assert settings.redis_url == "redis://redis:6379/0"


@pytest.mark.parametrize("name", COMPOSES)
def test_compose_keeps_what_redis_is_given(name: str) -> None:
    """Redis has a volume, an append-only file, no eviction and a health check others wait for."""
    services = compose(name)["services"]
    redis = services["redis"]
    command = redis["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert any(mount.endswith(":/data") for mount in redis["volumes"])
    assert redis["healthcheck"]["test"][0] == "CMD"
    for role in ROLES:
        assert services[role]["depends_on"]["redis"]["condition"] == "service_healthy"
        assert services[role]["restart"] == "unless-stopped"
        assert int(services[role]["stop_grace_period"].removesuffix("s")) > 35


def test_production_is_three_workers_one_scheduler_and_port_8080() -> None:
    """The fleet is the documented one, and only the api is reachable from outside."""
    services = compose("docker-compose.yml")["services"]
    assert services["worker"]["deploy"]["replicas"] == 3
    assert services["scheduler"]["deploy"]["replicas"] == 1
    assert services["api"]["ports"] == ["8080:8080"]
    assert [name for name, service in services.items() if "ports" in service] == ["api"]


def test_development_reloads_the_mounted_source() -> None:
    """The reloader runs the command, the source is mounted, and ports stay on this machine."""
    services = compose("docker-compose.dev.yml")["services"]
    assert re.search(r'^ENTRYPOINT \["python", "docker/reload.py"\]', stages()["dev"], re.MULTILINE)
    for role in ROLES:
        assert ".:/src" in services[role]["volumes"]
        assert services[role]["init"] is True
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_default_application_exists() -> None:
    """The application that compose runs unless told otherwise can be found."""
    app = compose("docker-compose.yml")["services"]["worker"]["environment"]["BANANAS_APP"]
    module, _, attribute = app.partition(":")
    assert attribute
    if not any((ROOT / "bananas").glob("demo*")):
        pytest.skip("not written yet")
    assert importlib.util.find_spec(module) is not None


class TestHealth:
    """docker/health.py, the probe of the images."""

    @pytest.fixture
    def proc(self, tmp_path: Path) -> Path:
        """Return a /proc with a supervisor, a worker and a zombie of a warden."""
        for pid, line in {
            "1": b"bananas: supervisor\0",
            "7": b"bananas: worker 1 (default)\0",
            "8": b"",
        }.items():
            (tmp_path / pid).mkdir()
            (tmp_path / pid / "cmdline").write_bytes(line)
        return tmp_path

    def test_a_living_child_is_health(self, proc: Path) -> None:
        """The worker's image is healthy while one worker lives, whatever else died."""
        health = load("health")
        assert health.main(["worker"], proc) == 0
        assert health.main(["any"], proc) == 0

    def test_no_living_child_is_not(self, proc: Path) -> None:
        """A zombie is no warden."""
        assert load("health").main(["scheduler"], proc) == 1

    def test_a_worker_that_stands_still_is_not(self, proc: Path) -> None:
        """The warden's title says so; what else runs there is not to blame for it."""
        (proc / "8" / "cmdline").write_bytes(b"bananas: warden 1, 2 workers stalled\0")
        assert load("health").main(["worker"], proc) == 1
        assert load("health").main(["scheduler"], proc) == 0

    def test_an_api_that_does_not_answer_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing listens on the port: not healthy."""
        monkeypatch.setenv("BANANAS_API_PORT", "1")
        assert load("health").main(["api"]) == 1

    def test_a_misspelt_role_is_an_error(self) -> None:
        """A probe that cannot fail is worse than none."""
        assert load("health").main(["workers"]) == 2


def test_reloader_sends_one_hangup_for_a_saved_file(tmp_path: Path) -> None:
    """A saved file becomes SIGHUP, others do not, and the command's status is passed on."""
    pytest.importorskip("watchfiles")
    (tmp_path / "command.py").write_text(  # blocked and waited for: a handler may come too late
        "import signal, sys\n"
        "wanted = {signal.SIGHUP, signal.SIGTERM}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, wanted)\n"
        "print('ready', flush=True)\n"
        "while signal.sigwait(wanted) == signal.SIGHUP: print('hangup', flush=True)\n"
        "sys.exit(7)\n"
    )
    source = tmp_path / "source"
    source.mkdir()
    reloader = subprocess.Popen(
        [sys.executable, ROOT / "docker" / "reload.py", sys.executable, tmp_path / "command.py"],
        env={"RELOAD_DIR": str(source), "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert reloader.stdout
    try:
        assert reloader.stdout.readline() == "ready\n"
        for attempt in range(50):  # the watch begins a moment after the command does
            (source / "notes.txt").write_text(str(attempt))
            (source / "tasks.py").write_text(f"{attempt = }")
            if readable(reloader.stdout, 1.0):
                break
        assert reloader.stdout.readline() == "reload: tasks.py\n"
        assert reloader.stdout.readline() == "hangup\n"
        reloader.terminate()
        assert reloader.wait(10) == 7
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(reloader.pid, signal.SIGKILL)  # the command too
        reloader.wait()
        reloader.stdout.close()


def readable(stream: Any, timeout_s: float) -> bool:  # noqa: ANN401 - anything with a fileno
    """Whether something can be read within the time."""
    import select  # noqa: PLC0415

    return bool(select.select([stream], [], [], timeout_s)[0])


def load(name: str) -> Any:  # noqa: ANN401 - a module
    """Import a script of docker/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
