"""Shared small data. Everything here is seeded; nothing needs a download or more than a second."""

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before anything imports Ray or MLflow: tests neither report usage nor leave the machine.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Ray's workers give way to everything else (niceness 15): beside tests that fill the processor they would hardly begin.
os.environ.setdefault("RAY_worker_niceness", "0")
# Tests start hundreds of Pythons: where bytecode is not kept, each compiles torch and MLflow anew, for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
import torch
from filelock import FileLock
from small_images import CLASSES, SIZE, make_images
from watched_process import WatchedRun, watch

from defenses.models import ModelSpec
from defenses.runner import RunContext
from defenses.storage.store import Store
from study.datasets.images import Images

sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def images() -> Images:
    """128 training and 64 test images of 16 px in 4 classes."""
    return make_images()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., RunContext]:
    """Run contexts for the small images, in float32 on the CPU."""

    def make(seed: int = 0, width: int = 8, name: str = "resnet18", folder: str = "store") -> RunContext:
        spec = ModelSpec(name, width, (1, 1, 1, 1), CLASSES, SIZE)
        return RunContext(Store(tmp_path / folder), spec, seed, torch.device("cpu"), "fp32")

    return make


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> WatchedRun:
    """A study of three trials on two scenarios and the clean control, run to its end while its processes were seen.

    Its folder has the dataset, and ``runs/whole``. Ray makes it take a minute: all that can look at the same one does.
    """
    from study_process import command, make_workplace  # not above: tests on a leased GPU have no pydantic

    # Processes that run tests side by side share it: the folder above theirs is that of the whole run.
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    seen = shared / "whole_study.pickle"
    with FileLock(shared / "whole_study.lock"):
        if not seen.exists():
            folder = make_workplace(tmp_path_factory.mktemp("whole"))
            run = watch(command(folder, "--clean-control", "run", "--name", "whole", "--trials", "3"), folder)
            seen.write_bytes(pickle.dumps(run))
    known: WatchedRun = pickle.loads(seen.read_bytes())
    return known


@pytest.fixture(autouse=True, scope="session")
def _migrations_are_read_once() -> Iterator[None]:
    """Optuna reads all its migration scripts each time a ledger is opened: 40 ms, hundreds of times."""
    if find_spec("optuna") is None:  # as on a leased GPU
        yield
        return
    from optuna.storages._rdb.storage import _VersionManager as manager

    head_of = manager.get_head_version
    known: list[str] = []

    def head(this: Any) -> str:
        if not known:
            known.append(head_of(this))
        return known[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager, "get_head_version", head)
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Trained weights depend on how many threads add up their gradients, whatever ran in this process before."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine adds no lines (`study.cli.bar.working`) to what a test reads; those of the lines set it anew."""
    monkeypatch.setattr("study.cli.bar._SHOWN_AFTER_SECONDS", 600.0)


STARTS_RAY = {
    "test_study_end_to_end",
    "test_security",
    "test_begun_before",
    "test_pruning_ray",
    "test_gpu_memory",
    "test_cluster",
    "test_per_scenario",
    "test_holdout",
    "test_moved_study",
    "test_ray_surroundings",
}
"""Files outside `faults` whose tests start Ray. Two at once keep each other waiting; beside others they cost little."""


def starts_ray(path: Path) -> bool:
    """Whether a file's tests start Ray."""
    return path.parent.name == "faults" or path.stem in STARTS_RAY


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what starts Ray first: it takes longest."""
    items.sort(key=lambda item: not starts_ray(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `-n`: one worker takes all that starts Ray, the others the rest, a file at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class RayApart(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ray" if starts_ray(Path(path)) else path

    config.option.loadscopereorder = False
    return RayApart(config, log)
