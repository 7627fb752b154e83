"""Runs a plan on Ray: the shared stages as tasks, then the trials through Ray Tune; the driver keeps the books."""

import gc
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from defenses import DEFENSES
from defenses.registry import UserError
from defenses.runner import run_stages
from study.cell import Environment, judge_undefended, prepare, train_trigger
from study.plan import Build, Plan
from study.search import Ledger
from study.terminal import Bar
from study.trainable import KEY, POINT, TrialRunner, TrialTask

BREAKER = 3  # trials that may fail at the start before the study gives up: something is wrong with all of them
_POLL_SECONDS = 0.5
log = logging.getLogger(__name__)

Undefended = dict[str, dict[str, float | None]]
"""Scenario name -> ``ca_undefended`` and ``asr_undefended``."""


def quiet_ray() -> None:
    """Settings that must be made before Ray is imported or started: no telemetry, no chatter."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_DEDUP_LOGS": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us, and we know what to keep
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Ray, for as long as the block lasts: a cluster's, or one started here that listens on loopback alone."""
    options: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if address is None:
        options["_node_ip_address"] = "127.0.0.1"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **({} if address else options))
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


@ray.remote(num_cpus=0)
class Board:
    """Where workers tell how far their stage is, and the driver looks."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int, int]] = {}

    def tell(self, label: str, step: int, steps: int) -> None:
        """Sets a stage's progress."""
        self._steps[label] = (step, steps)

    def look(self) -> dict[str, tuple[int, int]]:
        """All stages' progress."""
        return dict(self._steps)


@ray.remote(max_retries=3)
def build_stage(
    build: Build, environment: Environment, threads: int, board: Any, *needs: Any
) -> dict[str, float | None]:
    """Builds one shared stage into the store. Its parents' references make Ray wait for them."""
    import torch

    torch.set_num_threads(threads)

    def progress(stage: str, step: int, steps: int, values: Any) -> None:
        board.tell.remote(build.label, step, steps)

    if build.stage == "trigger":
        train_trigger(build.scenario, environment, progress)
        return {}
    poisoned, context, runs = prepare(build.scenario, environment, progress)
    if build.stage == "poison":
        return {}
    if build.stage == "standard_training":
        return judge_undefended(poisoned, runs[-1].key, context, environment)[0]
    defense = DEFENSES[build.defense]
    run_stages(defense(defense.config_type.from_mapping(build.config)), poisoned.suspect, context, stop_at=build.stage)
    return {}


def build_shared(plan: Plan) -> Undefended:
    """Builds what all trials share, as many stages at once as there is room for, while no trial holds a GPU.

    Returns:
        CA and ASR of the undefended model of each scenario.
    """
    board = Board.remote()  # type: ignore[attr-defined]  # Ray adds it
    references: list[Any] = []
    for build in plan.builds:
        networks = build.stage != "poison" or bool(build.scenario.parsed.trained)
        needs_gpu = networks and plan.environment.device == "cuda"
        options = {"num_cpus": plan.config.cpus_per_trial, "num_gpus": 1 if needs_gpu else 0, "name": build.label}
        task = build_stage.options(**options)
        needs = [references[position] for position in build.needs]
        references.append(task.remote(build, plan.environment, threads_of(plan), board, *needs))
    bar = Bar(len(references), "shared stages", unit="stage")
    waiting = {reference: build for reference, build in zip(references, plan.builds, strict=True)}
    try:
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
            for reference in finished:
                build = waiting.pop(reference)
                _get(reference)
                bar.advance(1, build.label)
            bar.note(_running(ray.get(board.look.remote()), {build.label for build in waiting.values()}))
    finally:
        bar.close()
    return {
        build.scenario.name: _get(reference)
        for build, reference in zip(plan.builds, references, strict=True)
        if build.stage == "standard_training"
    }


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None


def _running(steps: dict[str, tuple[int, int]], unfinished: set[str]) -> str:
    shown = [f"{label} {step}/{total}" for label, (step, total) in steps.items() if label in unfinished]
    return ", ".join(shown[:2])


def threads_of(plan: Plan) -> int:
    """Torch threads a trial: its CPU share, at least one."""
    return max(1, int(plan.config.cpus_per_trial))


class _StaysHere:
    """An object of the driver's that Ray writes to its experiment folder, from which nothing is ever restored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerSearcher(_StaysHere, Searcher):
    """Hands Ray Tune the ledger's points. Results do not pass through here: the driver reads them from disk."""

    def __init__(self, ledger: Ledger, target: int, settle: Callable[[int, str, str], None]) -> None:
        super().__init__()
        self._ledger, self._target, self._settle = ledger, target, settle
        self._numbers: dict[str, tuple[int, str]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next point, or that there is none."""
        if self._ledger.remaining(self._target) <= len(self._numbers):
            return Searcher.FINISHED
        number, point, key = self._ledger.ask()
        self._numbers[trial_id] = (number, key)
        return {POINT: point, KEY: key}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Settles the trial from what it left on disk."""
        if trial_id in self._numbers:
            number, key = self._numbers.pop(trial_id)
            self._settle(number, key, "the worker process died" if error else "")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Ray's own resume is never used."""


class Watch(_StaysHere, Callback):
    """Tells the study's bookkeeping of every scenario that a trial finished."""

    def __init__(self, on_scenario: Callable[[str, str], None]) -> None:
        self._on_scenario = on_scenario

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Ray Tune for each step of a trial."""
        if not result.get("failure"):
            self._on_scenario(result["config"][KEY], result["scenario"])


class Brake(_StaysHere, Stopper):
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
    brake: Brake,
) -> None:
    """Runs the trials that the ledger lacks, as many at once as the resources allow.

    Args:
        points: folder of results.
        scratch: Ray's own folder; may be removed afterwards.
        settle: (trial number, point key, error) once a trial ended.
        on_scenario: (point key, scenario name) once a scenario was judged.
    """
    remaining = ledger.remaining(plan.config.trials)
    if remaining == 0:
        return
    task = TrialTask(
        plan.space.defense,
        plan.base,
        plan.scenarios,
        plan.environment,
        plan.config.until,
        points,
        threads_of(plan),
    )
    resources = trial_resources(plan)
    trainable = tune.with_resources(tune.with_parameters(TrialRunner, task=task), resources)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(ledger, plan.config.trials, settle),
            num_samples=remaining,
            reuse_actors=True,
            max_concurrent_trials=concurrency(resources),
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Watch(on_scenario)],
            stop=brake,
            failure_config=tune.FailureConfig(max_failures=3),
        ),
    )
    tuner.fit()


def concurrency(resources: dict[str, float]) -> int:
    """How many trials fit on the cluster at once; each has to fit on one node.

    Raises:
        UserError: not even one fits.
    """
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    wanted = {name.upper(): amount for name, amount in resources.items() if amount > 0}
    at_once = sum(min(math.floor(node.get(name, 0.0) / amount) for name, amount in wanted.items()) for node in nodes)
    if at_once < 1:
        largest = {name: max(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
        raise UserError(
            f"a trial needs {resources} and the largest node has {largest['CPU']:g} CPUs and {largest['GPU']:g} "
            "GPUs: lower --cpus-per-trial or --gpus-per-trial"
        )
    return at_once


def trial_resources(plan: Plan) -> dict[str, float]:
    """What Ray sets aside for a trial."""
    return {"cpu": plan.config.cpus_per_trial, "gpu": plan.gpus}
