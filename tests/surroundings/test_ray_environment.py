"""What Ray's workers are told of the surroundings, without starting Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

from defenses.registry import UserError
from study.driver import library_env, ray_session, worker_watch
from study.driver.worker_watch import WorkerWatch

pytestmark = pytest.mark.surroundings

MEANT_FOR_OTHERS = {
    "RAY_ADDRESS": "10.255.255.1:6379",
    "RAY_RUNTIME_ENV_HOOK": "no.such.hook",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}",
    "RAY_REDIS_ADDRESS": "127.0.0.1:1",
    "RAY_RUNTIME_ENV": "{}",
    "RAY_worker_register_timeout_seconds": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "0",
}
OF_THE_MACHINE = {
    "RAY_TMPDIR": "/tmp/elsewhere",
    "RAY_AUTH_MODE": "disabled",
    "RAY_memory_usage_threshold": "0.9",
    "RAY_worker_niceness": "5",
}


def environment_after(local: bool, **before: str) -> dict[str, str]:
    """The environment of a process that was told what a study needs."""
    asked = (
        "import json, os; from study.driver.library_env import before_imports;"
        f"aside = before_imports(local={local}); print(json.dumps([list(aside), dict(os.environ)]))"
    )
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    environment = {**ours, "PYTHONPATH": str(ROOT), **before}
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    aside, after = json.loads(done.stdout)
    return {**after, "ASIDE": " ".join(aside)}


def test_what_is_meant_for_another_cluster_is_set_aside_and_named() -> None:
    after = environment_after(True, **MEANT_FOR_OTHERS, **OF_THE_MACHINE)
    assert not MEANT_FOR_OTHERS.keys() & after.keys()
    assert after["ASIDE"].split() == sorted(MEANT_FOR_OTHERS)
    assert OF_THE_MACHINE.items() <= after.items()
    assert after["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_on_a_cluster_all_but_the_hook_of_uv_is_heeded() -> None:
    cluster = {name: value for name, value in MEANT_FOR_OTHERS.items() if "JOB" not in name}
    after = environment_after(False, **cluster)
    assert cluster.items() <= after.items()
    assert after["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_a_job_keeps_the_way_in_which_its_workers_start() -> None:
    after = environment_after(False, **MEANT_FOR_OTHERS)
    assert MEANT_FOR_OTHERS.items() <= after.items()
    assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV" not in after


def test_workers_get_the_modules_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["relative", "", "/with:colon", *sys.path])
    monkeypatch.setenv("PYTHONPATH", "as it was")
    monkeypatch.setenv("BASH_ENV", "/what/a/shell/reads/first")
    with library_env.workers_inherit_this_process():
        inherited = os.environ["PYTHONPATH"].split(os.pathsep)
        assert "BASH_ENV" not in os.environ
    assert inherited[:2] == [str(tmp_path / "relative"), str(tmp_path)]
    assert "/with" not in inherited
    assert all(os.path.isabs(place) for place in inherited)
    assert str(ROOT) in inherited
    assert os.environ["PYTHONPATH"] == "as it was"
    assert os.environ["BASH_ENV"] == "/what/a/shell/reads/first"


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_long_for_sockets_is_replaced_aloud(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    longest = ray_session._LONGEST_SOCKET_BYTES - ray_session._SOCKET_BYTES - len("/ray")
    monkeypatch.setenv(variable, "/" + "x" * (longest - 1))
    assert ray_session.folder_for_sockets() is None
    monkeypatch.setenv(variable, "/" + "ä" * (longest // 2) + "x")
    assert ray_session.folder_for_sockets() == "/tmp/ray"
    printed = capsys.readouterr().err
    assert printed == (
        f"warning: {variable} is too long for Ray's sockets (at most {longest} bytes), so Ray's files go to /tmp/ray\n"
    )
    monkeypatch.setattr(ray_session, "_SHORT", "/no/such/folder")
    with pytest.raises(UserError, match=rf"^{variable} must have at most {longest} bytes"):
        ray_session.folder_for_sockets()


class Clock:
    """In place of the clock of a watch, and of how busy the machine is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.load = 0.0, 0.0
        monkeypatch.setattr(worker_watch.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(worker_watch.os, "getloadavg", lambda: (self.load,) * 3)
        monkeypatch.setattr(worker_watch.os, "cpu_count", lambda: 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_has_not_started_for_a_minute_is_told_once(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raylet.err").write_text("[2026 E] Ray's own\nbash: line 1: exec: uv: not found\n- The agent\n")
    watch = WorkerWatch("a trial", tmp_path, limit=300)
    for clock.now in range(100):
        watch.look(running=clock.now == 20)
    reason = f": bash: line 1: exec: uv: not found; {tmp_path} has more"
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed == "warning: a trial has not started for 60 s, still waiting" + reason
    clock.now = 400.0
    with pytest.raises(UserError, match=r"^a trial has not started within 300 s: bash: line 1"):
        watch.look(running=False)


def test_a_worker_that_a_busy_machine_keeps_waiting_is_waited_for(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch, clock.load = WorkerWatch("a trial", tmp_path, limit=300), 22.4
    for clock.now in range(1000):
        watch.look(running=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: a trial has not started for 60 s, still waiting: this machine is busy (22 processes want its 2 "
        "cores), and Ray's workers give way to all else, unless RAY_worker_niceness is 0"
    )
    clock.now, clock.load = 1001.0, 0.5
    with pytest.raises(UserError, match=r"^a trial has not started within 300 s: .* may tell why$"):
        watch.look(running=False)


def test_workers_that_die_at_the_start_are_not_waited_for(clock: Clock, tmp_path: Path) -> None:
    death = "worker_pool.cc:660: Some workers have not registered within the timeout. The process is dead, probably\n"
    (tmp_path / "raylet.out").write_text(death)
    watch = WorkerWatch("a worker", tmp_path, limit=300)  # that one died before this began
    for clock.now in range(50):
        watch.look(running=False)
    (tmp_path / "raylet.out").write_text(death * 2)
    clock.now = 52.0
    with pytest.raises(UserError, match=r"^a worker does not start, since Ray's workers die at once: .* may tell why$"):
        watch.look(running=False)


def test_a_cluster_that_is_busy_is_waited_for(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watch = WorkerWatch("a trial", None)
    for clock.now in range(0, 100_000, 10):
        watch.look(running=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: a trial has not started for 60 s, still waiting: its CPUs and GPUs are in use, or")
