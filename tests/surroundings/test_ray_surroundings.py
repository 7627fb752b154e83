"""Surroundings that would decide how Ray starts and whom it joins: the command as a user types it, Ray for real."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from faults.leftovers import owned
from ray_clusters import NODE, small_cluster
from study_process import ONE_AT_A_TIME, Driver, make_workplace, states
from uninstalled import hide_package

pytestmark = [pytest.mark.surroundings, pytest.mark.ray]

IN_A_MINUTE = 60 + 45  # seconds: the command's own start and end come on top, on machines that do much else


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small npz dataset; studies of this module share its store."""
    return make_workplace(tmp_path_factory.mktemp("workplace"), train=64, test=16)


def command(folder: Path, name: str, *options: str, epochs: int = 2) -> list[str]:
    """A study of one attack."""
    data = ["--dataset", f"npz:{folder / 'data.npz'}", "--out", str(folder / "runs"), "--name", name]
    sizes = ["--attacks", "badnets", "--width", "4", "--asr-floor", "0", "--set", f"pre_isolation_epochs={epochs}"]
    sizes += ["--clean-control", "none"]
    return [sys.executable, "-m", "study.run", "--space", "pipd", "--until", "isolate", *data, *sizes, *options]


def run_under_uv(
    command: list[str], folder: Path, environment: dict[str, str], before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a command below a process that is called `uv run`, from a folder that is not the checkout's."""
    (folder / "run").write_text(f"{before}\n{shlex.join(command)}\nexit $?\n")
    return subprocess.run(
        ["uv", "run", *command[:3]],
        executable="/bin/sh",
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.slow
def test_nothing_of_the_surroundings_decides_how_workers_start(workplace: Path, tmp_path: Path) -> None:
    """All at once: `uv run`, another cluster's variables, a shell's start file, a long TMPDIR, 128 open files.

    The checkout is known by a relative path alone and is no installed package, and the command is run from elsewhere.
    """
    (tmp_path / "shell").write_text("exit 3\n")
    temporary = tmp_path / ("x" * 90)
    temporary.mkdir()
    surroundings = {
        "PYTHONPATH": os.pathsep.join((os.path.relpath(ROOT, tmp_path), str(hide_package(tmp_path / "hidden")))),
        "BASH_ENV": str(tmp_path / "shell"),
        "TMPDIR": str(temporary),
        "UV": "/no/such/uv",
        "UV_RUN_RECURSION_DEPTH": "1",
        "CONDA_PREFIX": "/no/such/conda",
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_REDIS_ADDRESS": "127.0.0.1:1",
        "RAY_RUNTIME_ENV_HOOK": "no.such.hook",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "gcs://gone.zip"}}',
    }
    done = run_under_uv(
        command(workplace, "surrounded", "--trials", "1", *ONE_AT_A_TIME),
        tmp_path,
        surroundings,
        before="ulimit -n 128",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(workplace / "runs" / "surrounded") == {"COMPLETE": 1}
    for name in ("RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        assert name in done.stderr
    assert "not heeded: this study starts a Ray of its own here" in done.stderr
    assert "warning: TMPDIR is too long for Ray's sockets" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_study_with_the_reason(workplace: Path, tmp_path: Path) -> None:
    refusing = (
        "import sys\nif any('default_worker' in word for word in sys.orig_argv):\n    sys.exit('no worker here')\n"
    )
    (tmp_path / "sitecustomize.py").write_text(refusing)
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    started = time.monotonic()
    done = subprocess.run(
        command(workplace, "workerless", "--trials", "1"),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert time.monotonic() - started < 60 + IN_A_MINUTE
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert (
        "a worker on this machine does not start, since Ray's workers die at once: SystemExit: no worker here" in last
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_sixty_four_mebibytes_of_shared_memory_are_enough(workplace: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to unshare mounts")
    study = shlex.join(command(workplace, "squeezed", "--trials", "1"))
    small = f"mount -t tmpfs -o size=64m none /dev/shm && exec {study}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", small], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(workplace / "runs" / "squeezed") == {"COMPLETE": 1}


@pytest.mark.slow
def test_an_address_at_which_nothing_runs_ends_within_a_minute(workplace: Path) -> None:
    started = time.monotonic()
    options = ["--trials", "1", "--address", "127.0.0.1:1"]
    done = subprocess.run(
        command(workplace, "nowhere", *options), cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert time.monotonic() - started < IN_A_MINUTE
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]  # "loading torch ..."
    assert line.startswith("error: no Ray cluster answers at 127.0.0.1:1")
    assert not (workplace / "runs" / "nowhere").exists()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes of one CPU. Its address is told to nobody else on this machine."""
    with small_cluster(monkeypatch) as nodes:
        nodes.add_node(**NODE)
        yield nodes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_runs_beside_is_not_joined_unasked(cluster: Any, workplace: Path) -> None:
    """Both ways in which Ray finds one: RAY_ADDRESS, and the file in which `ray start` leaves it."""
    with tempfile.TemporaryDirectory(prefix="rt") as folder:
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text(cluster.address)
        beside = {"RAY_ADDRESS": cluster.address, "RAY_TMPDIR": folder}
        done = subprocess.run(
            command(workplace, "alone", "--trials", "1"),
            cwd=ROOT,
            env={**os.environ, **beside},
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(workplace / "runs" / "alone") == {"COMPLETE": 1}
    assert "RAY_ADDRESS set, not heeded" in done.stderr
    assert not cluster.global_state.job_table()


def check_end(driver: Driver, printed: str, gone: str) -> None:
    """A study whose Ray went away: one line, and soon."""
    killed = time.monotonic()
    assert driver.wait(IN_A_MINUTE) == 2, driver.printed
    assert time.monotonic() - killed < IN_A_MINUTE
    (line,) = [line for line in driver.printed.removeprefix(printed).splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {gone}")
    assert "the same command goes on from here" in line
    for unwanted in ("Traceback", "(raylet)", "[state-dump]"):
        assert unwanted not in driver.printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("when", ["stages", "trials"])
def test_a_cluster_that_loses_its_head(cluster: Any, workplace: Path, tmp_path: Path, when: str) -> None:
    name, epochs = f"headless-{when}", 2 if when == "trials" else 3000
    study = workplace / "runs" / name
    driver = Driver(
        command(workplace, name, "--trials", "20", "--address", cluster.address, epochs=epochs), tmp_path / "log"
    )
    with driver:
        if when == "trials":
            driver.wait_for(lambda: list(study.glob("points/*/*.json")))
        else:
            driver.wait_for(lambda: "shared stages" in driver.printed)
        before = driver.printed
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        check_end(driver, before, "the head of the Ray cluster at ")
    if when == "trials":
        more = subprocess.run(
            command(workplace, name, "--trials", "20"), cwd=ROOT, capture_output=True, text=True, timeout=400
        )
        assert more.returncode == 0, more.stdout + more.stderr
        assert states(study)["COMPLETE"] == 20


def servers(driver: Driver, name: str) -> list[int]:
    """Processes of a driver's own Ray that run a program."""
    commands = owned("nobody's", [driver.process.pid])
    return [pid for pid, line in commands.items() if line.partition(" ")[0].endswith(f"/{name}")]


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gcs_server", "raylet"])
def test_a_ray_of_our_own_that_dies(workplace: Path, tmp_path: Path, server: str) -> None:
    """As the system kills it when memory runs out."""
    study = workplace / "runs" / server
    with Driver(command(workplace, server, "--trials", "20"), tmp_path / "log") as driver:
        driver.wait_for(lambda: list(study.glob("points/*/*.json")))
        before = driver.printed
        (victim,) = servers(driver, server)
        os.kill(victim, signal.SIGKILL)
        check_end(
            driver, before, "Ray on this machine is gone" if server == "gcs_server" else "Ray's node on this machine"
        )
        assert not servers(driver, "gcs_server") + servers(driver, "raylet")
