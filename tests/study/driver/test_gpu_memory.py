"""Shares of a GPU: what is held, what is tried next, what a measurement gives. No GPU is needed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkout import PYTHONPATH
from fake_runs import Crowd, Fake, Hungry, Mortal
from ray.tune.search import Searcher
from small_images import make_images
from small_study import TINY_PIPD, empty_ledger, save_npz, small_plan

from defenses.registry import UserError
from study.code_version import OtherCode, code_hash
from study.driver import gpu_memory, tune_runner
from study.driver.library_env import quiet_ray
from study.driver.mlflow_records import MlflowRecords
from study.driver.ray_session import _shut_down_ray
from study.driver.searcher import LedgerSearcher
from study.driver.settlement import Settlement
from study.driver.worker import GPUS, KEY, OOM, POINT, TrialTask
from study.ledger.ledger import Ledger
from study.ledger.result_reader import ResultReader
from study.ledger.trial_row import TrialRow
from study.planning.devices import settle_device, trials_at_once
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images
from tracking.outbox import Outbox

GIB = 1 << 30


@pytest.mark.parametrize(
    ("share", "tries", "expected"),
    [(0.25, 0, 0.5), (0.5, 1, 1.0), (0.7, 0, 1.0), (0.1, 1, 0.2), (0.1, 2, None), (1.0, 0, None), (2.0, 0, None)],
)
def test_the_next_share_doubles_at_most_twice_and_never_exceeds_a_gpu(
    share: float, tries: int, expected: float | None
) -> None:
    assert gpu_memory.larger(share, tries) == expected


def test_a_trial_on_the_cpu_is_not_tried_again() -> None:
    assert gpu_memory.larger(0.0, 0) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("CUDA error: out of memory"), False),
        (MemoryError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_gpu_memory(error: Exception, expected: bool) -> None:
    assert gpu_memory.ran_out(error) is expected


@pytest.mark.parametrize(
    ("peak", "total", "expected"),
    [
        (0.1 * GIB, 16 * GIB, 0.0555),  # 0.875 of 16 GiB: 18 fit
        (2 * GIB, 16 * GIB, 0.2),  # 3.25 GiB: 4.9, so four would fit with room, and Ray would pack four
        (4 * GIB, 16 * GIB, 0.5),  # 5.75: two
        (12 * GIB, 16 * GIB, 1.0),
    ],
)
def test_a_measured_peak_gets_a_share_that_fills_the_gpu(peak: float, total: int, expected: float) -> None:
    share = gpu_memory.share_for(int(peak), total)
    at_once = trials_at_once({"GPU": 1.0}, {"GPU": share})
    assert at_once * share <= 1.0
    assert at_once * (1.25 * peak + 0.75 * GIB) <= total or at_once == 1
    assert share >= min(1.0, (1.25 * peak) / total)


def test_measuring_gives_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [999]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peaks.append(0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peaks[-1])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    properties = type("P", (), {"total_memory": 16 * GIB})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    assert gpu_memory.measured_share(lambda: peaks.append(4 * GIB)) == gpu_memory.share_for(4 * GIB, 16 * GIB)

    def too_large() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="does not fit a whole GPU: take a smaller --width or batch_size"):
        gpu_memory.measured_share(too_large)


def test_a_process_is_held_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", held.append)
    for share in (0.25, 1.0, 2.0):
        gpu_memory.cap(share)
    assert held == [0.25, 1.0, 1.0]


def test_auto_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--gpus-per-trial auto needs a GPU that torch can use, and this machine has"):
        settle_device("auto", remote=False)
    assert settle_device("auto", remote=True) == ("cuda", 1.0)  # the cluster is asked once it is reached
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settle_device("auto", remote=False) == ("cuda", 1.0)


@pytest.mark.parametrize(
    ("node", "wanted", "fits"),
    [
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.4}, 4),  # a share lies on one device
        ({"CPU": 3.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.4}, 3),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 2.0}, 1),
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 0.25}, 0),
        ({"CPU": 6.0}, {"CPU": 0.2, "GPU": 0.0}, 30),  # 6 / 0.2 is 29.999… in floats
    ],
)
def test_how_many_trials_fit_on_a_node(node: dict[str, float], wanted: dict[str, float], fits: int) -> None:
    assert trials_at_once(node, wanted) == fits


def make_plan(folder: Path, trials: int, gpus: float) -> Plan:
    dataset = save_npz(folder / "data.npz", make_images(32, 16))
    options = {"set": TINY_PIPD, "trials": trials, "cpus_per_trial": 0.5}
    return replace(small_plan(dataset, folder, **options), gpus=gpus)


def open_ledger(plan: Plan, folder: Path) -> Ledger:
    path = folder / "study.db"
    path.write_bytes(empty_ledger("maximize"))
    return Ledger(path, "toy", plan.space, "maximize", "random", 0, plan.config.trials, plan.point_key)


def settlement_of(plan: Plan, folder: Path, ledger: Ledger) -> Settlement:
    reader = ResultReader(folder / "points", plan.scenarios, plan.goal)
    return Settlement(plan, reader, ledger, MlflowRecords(plan, reader.points, Outbox(folder / "outbox.jsonl")))


def run(plan: Plan, folder: Path, runner: type[Fake]) -> list[TrialRow]:
    """Runs the trials of a plan as a driver does, and gives the ledger's rows."""
    ledger = open_ledger(plan, folder)
    tune_runner.run_trials(
        plan,
        ledger,
        folder / "points",
        folder / "ray",
        settlement_of(plan, folder, ledger).finish_trial,
        lambda key, scenario: None,
        tune_runner.StudyStopper(),
        runner,
    )
    return ledger.rows()


def by_hand(plan: Plan, folder: Path, runner: type[Fake]) -> tuple[list[list[float]], list[tuple[int, str]]]:
    """The same without Ray, one trial after the other: the shares that each had, and (number, error) as settled."""
    settled: list[tuple[int, str]] = []
    ledger = Ledger(folder / "study.db", "toy", plan.space, "maximize", "random", 0, plan.config.trials, plan.point_key)
    settlement = settlement_of(plan, folder, ledger)

    def settle(number: int, key: str, error: str) -> None:
        row = settlement.finish_trial(number, key, error)
        settled.append((number, row.reason))

    searcher = LedgerSearcher(ledger, plan.config.trials, settle, plan.gpus)
    studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, None)
    task = TrialTask(*studied, folder / "points", 1, code_hash())
    images = cached_images(plan.environment.dataset)
    waiting: list[str] = []
    while (config := searcher.suggest(name := f"try{len(waiting)}")) != Searcher.FINISHED:
        if config is None:
            raise AssertionError("nothing runs, so nothing may be waited for")
        assert isinstance(config, dict)
        waiting.append(name)
        worker = runner.__new__(runner)
        worker.setup(config, task, images)
        searcher.on_trial_complete(name, worker.step())
    return list(started(folder).values()), settled


def started(folder: Path) -> dict[str, list[float]]:
    """Point key -> the shares of a GPU that its attempts had."""
    return {
        point.name: [json.loads(attempt.read_text())["gpus"] for attempt in sorted(point.iterdir())]
        for point in (folder / "started").iterdir()
    }


@pytest.mark.faults
def test_out_of_memory_gives_back_the_trial_and_not_a_failure(tmp_path: Path) -> None:
    """F14 without Ray."""
    shares, settled = by_hand(make_plan(tmp_path, 4, 0.25), tmp_path, Hungry)
    assert sorted(shares) == [[0.25], [0.25], [0.25, 0.5], [0.25, 0.5, 1.0]]
    assert sorted(number for number, _ in settled) == [0, 1, 2, 3], "each is settled once"
    assert [reason for _, reason in settled if reason] == ["oom: badnets-0.1-s0 needs more than 1 of a GPU"]


def test_out_of_memory_with_a_whole_gpu_is_final(tmp_path: Path) -> None:
    shares, settled = by_hand(make_plan(tmp_path, 3, 1.0), tmp_path, Hungry)
    assert sorted(shares) == [[1.0], [1.0], [1.0]]
    assert [reason for _, reason in settled if reason] == ["oom: badnets-0.1-s0 needs more than 1 of a GPU"]


def test_a_searcher_waits_while_a_running_trial_may_come_again(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, 1, 0.25)
    ledger = open_ledger(plan, tmp_path)
    searcher = LedgerSearcher(ledger, 1, lambda *_: None, 0.25)
    first = searcher.suggest("a")
    assert isinstance(first, dict)
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", {OOM: True})
    again = searcher.suggest("c")
    assert isinstance(again, dict)
    assert (again[POINT], again[KEY]) == (first[POINT], first[KEY])
    assert (first[GPUS], again[GPUS]) == (0.25, 0.5)


def test_a_trial_whose_node_was_lost_is_handed_out_again(tmp_path: Path) -> None:
    """Ray starts it on the dying node until its restarts are used up; that says nothing about the trial."""
    plan = make_plan(tmp_path, 1, 0.0)
    there = {"head", "other"}
    settled: list[tuple[int, str, str]] = []
    searcher = LedgerSearcher(
        open_ledger(plan, tmp_path), 1, lambda *ended: settled.append(ended), 0.0, lambda: frozenset(there)
    )
    first = searcher.suggest("a")
    there.discard("other")
    searcher.on_trial_complete("a", None, error=True)
    assert not settled
    again = searcher.suggest("b")
    assert isinstance(first, dict)
    assert isinstance(again, dict)
    assert again[KEY] == first[KEY]
    searcher.on_trial_complete("b", None, error=True)  # no node went away meanwhile: it is the trial's own
    assert [error for _, _, error in settled] == ["the worker process died, and again at each of 3 restarts"]


@pytest.fixture(scope="class")
def one_gpu() -> Iterator[None]:
    """Ray with a GPU that does not exist, of which only the counting is tested."""
    yield from fake_gpus(1)


def fake_gpus(count: int) -> Iterator[None]:
    import ray

    quiet_ray()
    ray.init(
        num_cpus=8,
        num_gpus=count,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": PYTHONPATH}},  # for fake_runs
    )
    yield
    _shut_down_ray()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray's and MLflow's own
@pytest.mark.usefixtures("one_gpu")
class TestOneGpu:
    @pytest.mark.slow
    @pytest.mark.faults
    def test_four_quarters_run_at_once_and_no_more(self, tmp_path: Path) -> None:
        """F15."""
        rows = run(make_plan(tmp_path, 8, 0.25), tmp_path, Crowd)
        assert [row.state for row in rows] == ["complete"] * 8
        assert max(int(path.read_text()) for path in (tmp_path / "crowds").iterdir()) == 4

    @pytest.mark.slow
    @pytest.mark.faults
    def test_out_of_memory_is_tried_with_twice_the_share(self, tmp_path: Path) -> None:
        """F14."""
        rows = run(make_plan(tmp_path, 4, 0.25), tmp_path, Hungry)
        shares = started(tmp_path)
        assert sorted(shares.values()) == [[0.25], [0.25], [0.25, 0.5], [0.25, 0.5, 1.0]]
        failed = [row for row in rows if row.state == "fail"]
        assert [row.reason for row in failed] == ["oom: badnets-0.1-s0 needs more than 1 of a GPU"]
        assert shares[failed[0].key] == [0.25, 0.5, 1.0]
        assert sum(row.state == "complete" for row in rows) == 3
        assert len(rows) == 4, "a trial that is tried again is one trial"

    @pytest.mark.slow
    def test_a_worker_that_is_killed_is_replaced_three_times(self, tmp_path: Path) -> None:
        """F8."""
        rows = run(make_plan(tmp_path, 3, 0.0), tmp_path, Mortal)
        attempts = started(tmp_path)
        assert sorted(len(found) for found in attempts.values()) == [1, 4, 4]
        failed = [row for row in rows if row.state == "fail"]
        assert [row.reason for row in failed] == ["the worker process died, and again at each of 3 restarts"]
        assert sum(row.state == "complete" for row in rows) == 2

    @pytest.mark.faults
    def test_other_code_is_refused_before_anything_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """F22: a worker that joined late, or was started from an old copy."""
        monkeypatch.setattr(tune_runner, "code_hash", lambda: "0123456789ab")
        with pytest.raises(OtherCode, match="the driver's has 0123456789ab: install the driver's version") as told:
            run(make_plan(tmp_path, 1, 0.0), tmp_path, Fake)
        assert "\n" not in str(told.value)
        assert not (tmp_path / "started").exists()


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_gpus_hold_four_times_two_fifths(tmp_path: Path) -> None:
    """F15: each trial's share lies on one device."""
    session = fake_gpus(2)
    next(session)
    try:
        rows = run(make_plan(tmp_path, 8, 0.4), tmp_path, Crowd)
    finally:
        next(session, None)
    assert [row.state for row in rows] == ["complete"] * 8
    assert max(int(path.read_text()) for path in (tmp_path / "crowds").iterdir()) == 4
