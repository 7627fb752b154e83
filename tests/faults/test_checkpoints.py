"""F2: SIGKILL at random epochs costs an epoch a worker, and no result is another one."""

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from interrupted import checkpoint_files, digests

from defenses.storage.store import Store
from faults.epochs_worker import NEEDED, work

pytestmark = pytest.mark.faults

CONCURRENCY = 2


def start(folder: Path) -> list[BaseProcess]:
    """Workers from a server that has torch loaded: each starts in a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.epochs_worker"])
    workers = [context.Process(target=work, args=(folder, number, CONCURRENCY)) for number in range(CONCURRENCY)]
    for worker in workers:
        worker.start()
    return list(workers)


def started(folder: Path) -> int:
    path = folder / "started"
    return len(path.read_text().splitlines()) if path.exists() else 0


def ended(folder: Path) -> bool:
    return len(list(folder.glob("done*"))) == CONCURRENCY


def run(folder: Path, kills: int, draw: random.Random) -> int:
    """Runs all trials, with so many kills of all workers at once at random moments; the epochs that were started."""
    folder.mkdir()
    for _ in range(kills):
        workers, target = start(folder), started(folder) + draw.randint(1, 3)
        deadline = time.monotonic() + 60
        while started(folder) < target:
            assert time.monotonic() < deadline
            assert not ended(folder), "it ended before it was killed often enough"
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
    for worker in start(folder):
        worker.join(120)
        assert worker.exitcode == 0
    assert ended(folder)
    return started(folder)


LONG = [pytest.param(seed, 10, marks=pytest.mark.slow) for seed in range(1, 6)]


@pytest.mark.parametrize(("seed", "kills"), [(0, 4), *LONG])
def test_f2_a_kill_costs_an_epoch_a_worker(
    seed: int, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where the server finds what it loads beforehand
    assert run(tmp_path / "whole", 0, random.Random(seed)) == NEEDED  # one process builds what both need
    epochs = run(tmp_path / "killed", kills, random.Random(seed))
    assert epochs - NEEDED <= kills * CONCURRENCY
    assert epochs > NEEDED  # the kills did hit epochs
    assert digests(Store(tmp_path / "killed" / "store")) == digests(Store(tmp_path / "whole" / "store"))
    assert checkpoint_files(tmp_path) == []
