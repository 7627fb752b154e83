"""A study on a real cluster of two nodes on this machine: raylets, object stores and a driver of their own each."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT
from ray_clusters import NODE, SMALL_STORE, small_cluster
from small_images import make_images
from small_study import TINY_PIPD, save_npz, small_plan

from defenses.registry import UserError
from study import code_version
from study.driver import ray_nodes, ray_session
from study.planning.places import check_folder
from study.planning.shared_folder import find_marks, leave_mark


def cluster_example(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "study" / "cluster" / name).read_text()))


@pytest.mark.filterwarnings("ignore")
def test_the_ray_up_example_is_one_that_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    example = cluster_example("ray-up.yaml")
    validate_config(prepare_config(example))
    starts = [
        line for line in example["head_start_ray_commands"] + example["worker_start_ray_commands"] if "start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in example["file_mounts"]


def test_the_kuberay_example_has_a_token_and_a_command_that_works() -> None:
    from study.cli.options import given_options
    from study.config.config import StudyConfig, resolve
    from study.run import _parser

    spec = cluster_example("kuberay.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    command = spec["entrypoint"].split()
    assert command[:3] == ["python", "-m", "study.run"]
    config = resolve(StudyConfig, given_options(_parser().parse_args(command[3:]), StudyConfig))
    assert (config.address, config.gpus_per_trial) == ("auto", "auto")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        for place in (config.out, Path(config.store_place), Path(config.dataset.partition(":")[2])):
            assert place is not None
            assert place.is_relative_to(mounts["shared"])


def test_a_node_that_cannot_write_says_where(tmp_path: Path) -> None:
    assert leave_mark([tmp_path], ".node_a", code_version.code_hash()) == ""
    assert (tmp_path / ".node_a").exists()
    problem = leave_mark([tmp_path, tmp_path / "gone"], ".node_a", code_version.code_hash())
    assert problem.startswith(f"cannot write to {tmp_path / 'gone'} (No such file or directory): share it")


def test_a_node_with_other_code_says_so_and_writes_nothing(tmp_path: Path) -> None:
    problem = leave_mark([tmp_path], ".node_a", "0123456789ab")
    assert f"has the hash {code_version.code_hash()} and the driver's has 0123456789ab" in problem
    assert not list(tmp_path.iterdir())


def test_a_node_that_does_not_see_the_others_files_names_them(tmp_path: Path) -> None:
    leave_mark([tmp_path], ".node_a", code_version.code_hash())
    assert find_marks([tmp_path], {".node_a": "one"}) == ""
    problem = find_marks([tmp_path], {".node_a": "one", ".node_b": "two (10.0.0.2)"})
    assert problem.startswith(f"does not see in {tmp_path} what node two (10.0.0.2) wrote there: ")


@pytest.mark.parametrize("url", ["s3://bucket/runs", "gs://bucket", "memory://x"])
def test_a_url_does_not_become_a_folder(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"--out must be a folder, since a study's ledger needs file locks, got the URL"
    ):
        check_folder(Path(url), "--out")
    assert not list(tmp_path.iterdir())


def test_shipped_code_is_the_code_and_nothing_else(tmp_path: Path) -> None:
    code_version.copy_code(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(code_version.PACKAGES)
    assert not list(tmp_path.rglob("__pycache__"))
    asked = "from study.code_version import code_hash; print(code_hash())"
    found = subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == code_version.code_hash()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head of one CPU; tests add the other node. Its address is told to nobody else on this machine."""
    with small_cluster(monkeypatch) as nodes:
        yield nodes


def command(folder: Path, address: str, *options: str) -> list[str]:
    dataset = save_npz(folder / "data.npz", make_images(320, 80))
    return [
        *(sys.executable, "-m", "study.run", "--space", "pipd", "--dataset", dataset, "--out", str(folder / "runs")),
        *("--name", "far", "--attacks", "badnets,trojan_square", "--width", "8", "--asr-floor", "0"),
        *("--set", "pre_isolation_epochs=3", "selective_epochs=4", "--trials", "6", "--address", address, *options),
    ]


def states(study: Path) -> Counter[str]:
    with sqlite3.connect(study / "study.db") as database:
        return Counter(state for (state,) in database.execute("select state from trials"))


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_node_is_killed_in_the_middle_of_a_trial(cluster: Any, tmp_path: Path, nodes: int) -> None:
    """F7, through the command as a user types it: one of two nodes, one of three; all trials complete, each once."""
    node = [cluster.add_node(**NODE) for _ in range(nodes - 1)][-1]
    study = tmp_path / "runs" / "far"
    process = subprocess.Popen(
        command(tmp_path, cluster.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: list(study.glob("points/*/badnets-0.1-s0.json")) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        cluster.remove_node(node, allow_graceful=False)
        printed, _ = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed
    assert states(study) == {"COMPLETE": 6}
    assert len(list(study.glob("points/*/result.json"))) == 6, "no point was tried as two trials"
    assert not list(study.glob(".node_*"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")
def test_workers_import_the_code_that_the_driver_ships(cluster: Any, tmp_path: Path) -> None:
    """On every node; and a worker whose code is another's is refused in one line (F22)."""
    import ray

    cluster.add_node(**NODE)
    dataset = save_npz(tmp_path / "data.npz", make_images(32, 16))
    plan = small_plan(dataset, tmp_path, set=TINY_PIPD, address=cluster.address)

    def where() -> str:
        import study

        return str(study.__file__)

    with ray_session.ray_session(cluster.address):
        assert len(ray.nodes()) == 2
        for node in ray.nodes():
            here = ray_nodes.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            found = ray.get(ray.remote(where).options(num_cpus=0, scheduling_strategy=here).remote())
            assert "working_dir_files" in found, "the shipped copy goes before what is installed"
        ray_nodes.check_cluster(plan, tmp_path)
        assert not list(tmp_path.rglob(".node_*"))

    stale = tmp_path / "stale"
    code_version.copy_code(stale)
    (stale / "study" / "metrics.py").write_text("# changed\n" + (stale / "study" / "metrics.py").read_text())
    ray.init(address=cluster.address, log_to_driver=False, runtime_env={"working_dir": str(stale)})
    with pytest.raises(UserError) as refused:
        ray_nodes.check_cluster(plan, tmp_path)
    assert "node " in str(refused.value)
    assert f"and the driver's has {code_version.code_hash()}: install" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_does_not_share_the_folder_is_named(cluster: Any, tmp_path: Path) -> None:
    """The second node lives in a mount namespace of its own, in which another disk lies over the results."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to unshare mounts")
    (tmp_path / "runs").mkdir()
    start = f"mount -t tmpfs none {tmp_path / 'runs'} && exec {Path(sys.executable).parent / 'ray'} start --block"
    start += f" --address={cluster.address} --num-cpus=1 --object-store-memory={SMALL_STORE}"
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", start],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: sum(found["alive"] for found in alive(cluster)) == 2, 60)
        done = subprocess.run(
            command(tmp_path, cluster.address), capture_output=True, text=True, timeout=200, check=False
        )
    finally:
        node.terminate()
        node.wait(timeout=30)
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: node ")
    assert str(tmp_path / "runs") in line
    assert not list((tmp_path / "runs").rglob("result.json"))


def alive(cluster: Any) -> list[dict[str, Any]]:
    return [{"alive": node["Alive"]} for node in cluster.global_state.node_table()]
