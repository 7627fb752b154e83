"""One driver a study, and what is refused before anything starts."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from defenses.registry import UserError
from defenses.training import precision
from study.config.config import CommonConfig, StudyConfig
from study.driver import ray_nodes
from study.ledger.lock import study_lock
from study.planning import devices, places

HOLD = """
import sys, time
from pathlib import Path
from study.ledger.lock import study_lock
with study_lock(Path(sys.argv[1]), "mine"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_told_who_runs_the_study(tmp_path: Path) -> None:
    with study_lock(tmp_path, "mine"):
        with pytest.raises(UserError) as refused, study_lock(tmp_path, "mine"):
            pytest.fail("two drivers at once")
        message = str(refused.value)
        assert message.startswith(f"study 'mine' is being run by process {os.getpid()}: ")
        assert "--name" in message
        assert (tmp_path / "lock").read_text() == str(os.getpid()), "the refused driver changes nothing"
    with study_lock(tmp_path, "mine"):
        pass  # free again


def test_an_error_lets_go_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), study_lock(tmp_path, "mine"):
        raise RuntimeError("broken")
    with study_lock(tmp_path, "mine"):
        pass


def test_a_killed_driver_lets_go_of_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid}:"), study_lock(tmp_path, "mine"):
            pytest.fail("two drivers at once")
        holder.kill()
    with study_lock(tmp_path, "mine"):
        # The pid of the dead one may be longer than ours: nothing of it may be left.
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_two_studies_do_not_wait_for_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with study_lock(tmp_path / "a", "a"), study_lock(tmp_path / "b", "b"):
        assert all((tmp_path / name / "lock").read_text() == str(os.getpid()) for name in ("a", "b"))


@pytest.mark.parametrize(
    ("gpu", "wanted", "remote", "settled"),
    [
        (False, None, False, ("cpu", 0.0)),
        (True, None, False, ("cuda", 1.0)),
        (True, 0.0, False, ("cpu", 0.0)),
        (True, 0.25, False, ("cuda", 0.25)),
        (True, 2.0, False, ("cuda", 2.0)),
        # What a cluster has cannot be seen from here: no GPU unless the user asks for one.
        (True, None, True, ("cpu", 0.0)),
        (False, 0.5, True, ("cuda", 0.5)),
    ],
)
def test_the_device(
    gpu: bool, wanted: float | None, remote: bool, settled: tuple[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert devices.settle_device(wanted, remote) == settled


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--gpus-per-trial 0\.5 needs a GPU .* this machine has none: leave it out"):
        devices.settle_device(0.5, remote=False)


def test_one_and_a_half_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"--gpus-per-trial must be at most 1 or a whole number, got 1\.5"):
        devices.settle_device(1.5, remote=False)


@pytest.mark.parametrize("fast", [True, False])
def test_precision_is_settled_once(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: fast)
    assert devices.settle_precision("auto", "cpu") == ("bf16" if fast else "fp32")
    assert devices.settle_precision("auto", "cuda") == "bf16"
    for wanted in ("bf16", "fp32"):
        assert devices.settle_precision(wanted, "cpu") == wanted
        assert devices.settle_precision(wanted, "cuda") == wanted


def test_a_folder_is_made_and_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places.check_folder(Path("a b/c"), "--out") == tmp_path / "a b" / "c"
    assert list((tmp_path / "a b" / "c").iterdir()) == []


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as refused:
            places.check_folder(folder, "--store")
        assert str(refused.value).startswith(f"--store must be a folder that can be written, got {folder}: ")


def disk(free_mib: int) -> object:
    usage = namedtuple("usage", "total used free")
    return lambda _folder: usage(1 << 40, 1 << 39, free_mib << 20)


def test_a_disk_that_is_nearly_full_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", disk(499))
    with pytest.raises(UserError, match=f"at least 500 MiB of disk, and {tmp_path} has 499: free some"):
        places.check_room(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", disk(500))
    places.check_room(tmp_path)


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Asked of the system, not tried out: tests may run as root, who may write everywhere.
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[Path] = []
    monkeypatch.setattr(os, "access", lambda path, mode: bool(asked.append(path)))
    with pytest.raises(UserError, match=f"{tmp_path} is missing or read-only: set HOME to another"):
        places.check_home()
    (tmp_path / ".ray").mkdir()
    with pytest.raises(UserError, match="read-only"):
        places.check_home()
    assert asked == [tmp_path, tmp_path / ".ray"]


def test_places_are_made_and_only_a_study_needs_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    folders = {"out": tmp_path / "out", "store": tmp_path / "store"}
    assert places.check_places(CommonConfig(**folders)) == tmp_path / "out"
    assert folders["store"].is_dir()
    with pytest.raises(UserError, match="home"):
        places.check_places(StudyConfig(**folders))


def test_more_cores_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    devices.check_cpus(2, remote=False)
    devices.check_cpus(64, remote=True)  # a cluster is asked once it is reached
    with pytest.raises(UserError, match=r"--cpus-per-trial, by default --threads, must be at most 2, .* got 2\.5"):
        devices.check_cpus(2.5, remote=False)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    # Nodes of 4 CPUs and 1 GPU, and of 3 CPUs: a trial lives on one of them.
    [({"cpu": 1.0, "gpu": 0.0}, 7), ({"cpu": 2.0, "gpu": 0.0}, 3), ({"cpu": 1.0, "gpu": 0.25}, 4)],
)
def test_how_many_trials_fit(wanted: dict[str, float], fits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 100.0}},
    ]
    monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: found)
    assert ray_nodes.concurrency(wanted) == fits
    with pytest.raises(UserError, match="the largest node has 4 CPUs and 1 GPUs: lower --cpus-per-trial"):
        ray_nodes.concurrency({"cpu": 5.0, "gpu": 0.0})
