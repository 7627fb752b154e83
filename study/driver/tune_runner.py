"""Runs a plan on Ray: the shared stages as tasks, then the trials through Ray Tune; the driver keeps the books."""

import dataclasses
import gc
import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from defenses.registry import UserError
from defenses.storage.atomic_files import DiskFull
from study.cli.terminal import Bar, library_logs_enabled, print_line
from study.code_version import code_hash, copy_code
from study.driver import gpu_memory
from study.driver.library_env import for_workers, quiet_ray
from study.driver.ray_nodes import alive, concurrency, trial_resources
from study.driver.worker import (
    DISK_FULL,
    GPUS,
    KEY,
    OOM,
    POINT,
    TRIES,
    ProgressBoard,
    TrialRunner,
    TrialTask,
    WorkerEnvironment,
    build_stage,
    measure_share,
)
from study.ledger.ledger import Ledger
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images

MAX_FAILURES_AT_START = (
    3  # trials that may fail at the start before the study gives up: something is wrong with all of them
)
MAX_WORKER_RESTARTS = 3  # of a trial whose worker or node was lost
_POLL_SECONDS = 0.5
MAX_NODE_RETRIES = 1000  # trials that may be handed out once more because their node was lost
log = logging.getLogger(__name__)

Undefended = dict[str, dict[str, float | None]]
"""Scenario name -> ``ca_undefended`` and ``asr_undefended``."""


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Ray, for as long as the block lasts: a cluster's, or one started here that listens on loopback alone."""
    quiet_ray()
    level = logging.INFO if library_logs_enabled() else logging.ERROR
    if not library_logs_enabled():
        unused = "ray.tune.execution.experiment_state"  # Ray's own snapshots, from which nothing is ever restored
        logging.getLogger(unused).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {
        "log_to_driver": library_logs_enabled(),
        "logging_level": level,
        "configure_logging": True,
    }
    if address is None:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if address is not None and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job brought its code
                copy_code(Path(folder))
                shipped = {"working_dir": folder, "excludes": ["__pycache__"], "env_vars": for_workers()}
                options["runtime_env"] = shipped
            ray.init(address=address or "local", **options)  # never whatever cluster happens to run here
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"Ray could not be {'reached at ' + address if address else 'started'}: {str(error).splitlines()[0]}"
        ) from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one of its own, which aborts before the books are closed
    try:
        yield
    finally:
        _shut_down_ray()


def _shut_down_ray() -> None:
    """Stops Ray with no reference to its objects left to be collected meanwhile.

    A collection in another thread (the one that feeds MLflow) that meets such a reference while Ray's core worker is
    going down makes Ray end the whole process at once, with code 1.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def build_shared(plan: Plan) -> Undefended:
    """Builds what all trials share, as many stages at once as there is room for, while no trial holds a GPU.

    Returns:
        CA and ASR of the undefended model of each scenario.
    """
    board = ProgressBoard.remote()  # type: ignore[attr-defined]  # Ray adds it
    images = ray.put(cached_images(plan.environment.dataset))
    references: list[Any] = []
    for build in plan.builds:
        networks = build.stage != "poison" or bool(build.scenario.parsed.trained)
        needs_gpu = networks and plan.environment.device == "cuda"
        gpus = 1.0 if needs_gpu else 0.0
        task = build_stage.options(num_cpus=plan.config.cpus_per_trial, num_gpus=gpus, name=build.label)
        needs = [references[position] for position in build.needs]
        place = WorkerEnvironment(torch_threads(plan), gpus, code_hash())
        references.append(task.remote(build, plan.environment, images, place, board, *needs))
    bar = Bar(len(references), "shared stages", unit="stage")
    waiting = {reference: build for reference, build in zip(references, plan.builds, strict=True)}
    try:
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
            for reference in finished:
                build = waiting.pop(reference)
                _get(reference, build.label)
                bar.advance(1, build.label)
            bar.note(_running(ray.get(board.snapshot.remote()), {build.label for build in waiting.values()}))
    finally:
        bar.close()
    return {
        build.scenario.name: _get(reference, build.label)
        for build, reference in zip(plan.builds, references, strict=True)
        if build.stage == "standard_training"
    }


def _get(reference: Any, label: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if gpu_memory.ran_out(error.cause):
            raise UserError(f"{OOM}: {label} does not fit a whole GPU: take a smaller --width or batch_size") from None
        raise error.cause if isinstance(error.cause, UserError) else error from None


def _running(steps: dict[str, tuple[int, int]], unfinished: set[str]) -> str:
    shown = [f"{label} {step}/{total}" for label, (step, total) in steps.items() if label in unfinished]
    return ", ".join(shown[:2])


def torch_threads(plan: Plan) -> int:
    """Torch threads a trial: its CPU share, at least one."""
    return max(1, int(plan.config.cpus_per_trial))


class _StaysHere:
    """An object of the driver's that Ray writes to its experiment folder, from which nothing is ever restored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A trial of the ledger that Ray Tune runs, or is to run again with a larger share of a GPU."""

    number: int
    point: dict[str, Any]
    key: str
    gpus: float
    tries: int = 0
    nodes: frozenset[str] = frozenset()  # that were there when it was handed out


class LedgerSearcher(_StaysHere, Searcher):
    """Hands Ray Tune the ledger's points. Results do not pass through here: the driver reads them from disk.

    Args:
        gpus: what a trial is tried with first.
        alive: tells which nodes are there; by default nobody knows, and none is ever lost.
    """

    def __init__(
        self,
        ledger: Ledger,
        target: int,
        settle: Callable[[int, str, str], None],
        gpus: float,
        alive: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        super().__init__()
        self._alive = alive
        self._ledger, self._target, self._settle, self._gpus = ledger, target, settle, gpus
        self.no_room = ""  # what a worker told of a full disk; no other trial is started then
        self._running: dict[str, Attempt] = {}
        self._again: list[Attempt] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next point; None while only running trials could still bring one; or that there is none."""
        if self._again and not self.no_room:
            chosen = self._again.pop(0)
        elif self.no_room or self._ledger.remaining(self._target) <= len(self._running):
            return None if self._running else Searcher.FINISHED
        else:
            number, point, key = self._ledger.ask()
            chosen = Attempt(number, point, key, self._gpus)
        chosen = dataclasses.replace(chosen, nodes=self._alive())
        self._running[trial_id] = chosen
        return {POINT: json.dumps(chosen.point), KEY: chosen.key, GPUS: chosen.gpus, TRIES: chosen.tries}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Settles the trial from what it left on disk, unless it is to have more memory."""
        ended = self._running.pop(trial_id, None)
        if ended is None:
            return
        if result and result.get(DISK_FULL):
            self.no_room = result["failure"]  # the trial stays open, and the next driver runs it again
            return
        # Until Ray knows that a node is gone, it starts a trial there again, which uses up the trial's restarts.
        if error and not ended.nodes <= self._alive():
            self._again.append(ended)
            return
        more = gpu_memory.larger(ended.gpus, ended.tries) if result and result.get(OOM) else None
        if more is None:
            died = f"the worker process died, and again at each of {MAX_WORKER_RESTARTS} restarts" if error else ""
            self._settle(ended.number, ended.key, died)
        else:
            self._again.append(dataclasses.replace(ended, gpus=more, tries=ended.tries + 1))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Ray's own resume is never used."""


class ResultCallback(_StaysHere, Callback):
    """Tells the study's bookkeeping of every scenario that a trial finished, and of every moment between."""

    def __init__(self, on_scenario: Callable[[str, str], None], on_step: Callable[[], None]) -> None:
        self._on_scenario, self._on_step = on_scenario, on_step

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune many times a second."""
        self._on_step()

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


class StudyStopper(_StaysHere, Stopper):
    """Stops every trial once it is pulled."""

    def __init__(self) -> None:
        self.pulled = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the brake is pulled."""
        return self.pulled


def run_trials(
    plan: Plan,
    ledger: Ledger,
    points: Path,
    scratch: Path,
    settle: Callable[[int, str, str], None],
    on_scenario: Callable[[str, str], None],
    brake: StudyStopper,
    runner: type[TrialRunner] = TrialRunner,
    scheduler: TrialScheduler | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Runs the trials that the ledger lacks, as many at once as the resources allow.

    Args:
        points: folder of results.
        scratch: Ray's own folder; may be removed afterwards.
        settle: (trial number, point key, error) once a trial ended.
        on_scenario: (point key, scenario name) once a scenario was judged.
        runner: what a worker runs.
        scheduler: stops trials early; by default none is stopped.
        on_step: called all the time.
    """
    remaining = ledger.remaining(plan.config.trials)
    if remaining == 0:
        return
    studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, plan.config.until)
    task = TrialTask(*studied, points, torch_threads(plan), code_hash())
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
            stop=brake,
            failure_config=tune.FailureConfig(max_failures=MAX_WORKER_RESTARTS),
        ),
    )
    tuner.fit()
    if searcher.no_room:
        raise DiskFull(searcher.no_room)


class _Resources:
    """What Ray sets aside for a trial: its configuration says which share of a GPU it is tried with."""

    def __init__(self, plan: Plan) -> None:
        self._cpus = plan.config.cpus_per_trial

    def __call__(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """As Ray Tune wants it."""
        return tune.PlacementGroupFactory([{"CPU": self._cpus, "GPU": config[GPUS]}])


def _measure(plan: Plan, task: TrialTask) -> float:
    """The share of a GPU that the paper's default needs on the first scenario."""
    shared = {build.stage for build in plan.builds}
    own = {stage.name for stage in plan.defense.stages} - shared
    images = ray.put(cached_images(plan.environment.dataset))
    measure = measure_share.options(num_cpus=plan.config.cpus_per_trial, num_gpus=1)
    share = float(_get(measure.remote(task, plan.default_point, own, images), "the trial that is measured"))
    print_line(f"A trial gets {share:g} of a GPU, by what the paper's default took at its peak.")
    return share
