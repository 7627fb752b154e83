"""Runs the trials that a study lacks through Ray Tune."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import TrialScheduler

from study.cli.bar import working
from study.cli.terminal import print_line
from study.code_version import code_hash
from study.driver import gpu_memory
from study.driver.ray_nodes import alive, concurrency, trial_resources
from study.driver.searcher import MAX_WORKER_RESTARTS, LedgerSearcher, StaysHere
from study.driver.stage_builder import task_result
from study.driver.worker import (
    GPUS,
    KEY,
    MEASURED,
    BoardReader,
    ProgressBoard,
    TrialRunner,
    TrialTask,
    measure_share,
)
from study.driver.worker_watch import wait_for, worker_watch
from study.ledger.ledger import Ledger
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images

MAX_FAILURES_AT_START = 3  # trials that fail before the study gives up: something is wrong with all of them
MAX_NODE_RETRIES = 1000  # trials that may be handed out once more because their node was lost


class ResultCallback(StaysHere, Callback):
    """Tells the study's bookkeeping of every scenario that a trial finished, and of every moment between."""

    def __init__(self, on_scenario: Callable[[str, str], None], on_step: Callable[[bool], None]) -> None:
        self._on_scenario, self._on_step = on_scenario, on_step

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune many times a second."""
        states = {trial.status for trial in trials}
        self._on_step("RUNNING" in states or "PENDING" not in states)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Lets go of the averages that Ray Tune keeps of every number in a trial's results, to the end of the study."""
        trial.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Ray Tune for each step of a trial."""
        if not result.get("failure"):
            self._on_scenario(result["config"][KEY], result["scenario"])


class StudyStopper(StaysHere, Stopper):
    """Stops every trial once `stopped` is set."""

    def __init__(self) -> None:
        self.stopped = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the study is to stop."""
        return self.stopped


def run_trials(
    plan: Plan,
    ledger: Ledger,
    points: Path,
    scratch: Path,
    settle: Callable[[int, str, str], None],
    on_scenario: Callable[[str, str], None],
    stopper: StudyStopper,
    runner: type[TrialRunner] = TrialRunner,
    scheduler: TrialScheduler | None = None,
    on_step: Callable[[bool], None] = lambda _: None,
) -> None:
    """Runs the trials that the ledger lacks, as many at once as the resources allow.

    Args:
        points: folder of results.
        scratch: Ray's own folder; may be removed afterwards.
        settle: (trial number, point key, error) once a trial ended.
        on_scenario: (point key, scenario name) once a scenario was judged.
        runner: what a worker runs.
        scheduler: stops trials early; by default none is stopped.
        on_step: called all the time with whether a trial runs, or none is to.

    Raises:
        DiskFull: there is no room left for results.
        OtherCode: a worker found other code than the driver runs.
    """
    remaining = ledger.remaining(plan.config.trials)
    if remaining == 0:
        return
    studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, plan.config.until)
    drawn = frozenset({plan.point_key(plan.default_point)})
    task = TrialTask(*studied, points, plan.config.threads, code_hash(), drawn, plan.pruning)
    images = cached_images(plan.environment.dataset)
    if plan.config.gpus_per_trial == "auto":
        plan = dataclasses.replace(plan, gpus=_measure(plan, task))
    trainable = tune.with_resources(tune.with_parameters(runner, task=task, images=images), _Resources(plan))
    searcher = LedgerSearcher(ledger, plan.config.trials, settle, plan.gpus, alive)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=remaining * (1 + gpu_memory.RETRIES) + MAX_NODE_RETRIES,
            scheduler=scheduler,
            reuse_actors=True,
            max_concurrent_trials=concurrency(trial_resources(plan)),
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[ResultCallback(on_scenario, on_step)],
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=MAX_WORKER_RESTARTS),
        ),
    )
    tuner.fit()
    if searcher.halted is not None:
        raise searcher.halted


class _Resources:
    """What Ray sets aside for a trial: its configuration says which share of a GPU it is tried with."""

    def __init__(self, plan: Plan) -> None:
        self._cpus = plan.config.cpus

    def __call__(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """As Ray Tune wants it."""
        return tune.PlacementGroupFactory([{"CPU": self._cpus, "GPU": config[GPUS]}])


def _measure(plan: Plan, task: TrialTask) -> float:
    """The share of a GPU that the paper's default needs on the first scenario."""
    shared = {build.stage for build in plan.builds}
    own = {stage.name for stage in plan.defense.stages} - shared
    images = ray.put(cached_images(plan.environment.dataset))
    measure = measure_share.options(num_cpus=plan.config.cpus, num_gpus=1)
    board = ProgressBoard.remote()  # type: ignore[attr-defined]  # Ray adds it
    measured = measure.remote(task, plan.default_point, own, images, board)
    watch = worker_watch(MEASURED, plan.config.address is None)
    progress = BoardReader(board)
    with working("measuring how much of a GPU a trial takes"):
        wait_for(measured, watch, lambda: MEASURED in progress.read())
    share = float(task_result(measured, MEASURED))
    print_line(f"A trial gets {share:g} of a GPU, by what the paper's default took at its peak.")
    return share
