"""What runs on a worker: a trial as Ray Tune runs it, one scenario a step, and the building of a shared stage."""

import dataclasses
import json
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from filelock import FileLock
from ray import tune

from defenses.api import Progress, StageRun
from defenses.registry import UserError
from defenses.runner import run_stages
from defenses.storage.atomic_files import DiskFull, full_disk_errors
from defenses.storage.inventory import MEASURING_PREFIX
from study.code_version import OtherCode, check_code
from study.datasets.images import Images
from study.driver import gpu_memory
from study.ledger.pruning import Pruning
from study.ledger.records import (
    ScenarioRecord,
    TrialRecord,
    build_record,
    read_path,
    read_scenario,
    scenario_path,
    trial_path,
    write_record,
)
from study.planning.shared_stages import Build, is_undefended
from study.scenarios.evaluation import (
    EvaluationContext,
    EvaluationResult,
    cached_images,
    cached_store,
    evaluate_scenario,
    judge_undefended,
    prepare,
    train_trigger,
)
from study.scenarios.oracle_defenses import make_defense
from study.scenarios.scenario import Scenario, scenario_order
from tracking import artifacts

# The point travels as text: of every number in a configuration Ray Tune keeps averages, for every trial, to the end.
POINT, KEY, GPUS, TRIES = "point", "key", "gpus", "tries"
READ = "read"  # in a result: the epoch after which a training was read; 0 where a trial's own says so
OOM, DISK_FULL, OTHER_CODE = "oom", "no_room", "other_code"
MEASURED = "the trial that is measured"


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class ProgressBoard:
    """Where workers tell how far their stage is, and the driver looks. Outlives its node, but not what it was told."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int, int]] = {}

    def report(self, label: str, step: int, steps: int) -> None:
        """Sets a stage's progress."""
        self._steps[label] = (step, steps)

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """All stages' progress."""
        return dict(self._steps)


class BoardReader:
    """Reads a board without waiting for it: it may have no worker yet, or none any longer."""

    def __init__(self, board: Any) -> None:
        self._board, self._asked = board, board.snapshot.remote()
        self._steps: dict[str, tuple[int, int]] = {}

    def read(self) -> dict[str, tuple[int, int]]:
        """The progress of every stage that has begun, as far as the board has answered."""
        if ray.wait([self._asked], timeout=0)[0]:
            self._steps |= ray.get(self._asked)
            self._asked = self._board.snapshot.remote()
        return self._steps


@dataclasses.dataclass(frozen=True)
class WorkerEnvironment:
    """How a worker works: the threads and GPUs it has, and the hash of the code that it must run."""

    threads: int
    gpus: float
    code: str

    def enter(self, environment: EvaluationContext, images: Images) -> None:
        """Makes this process ready to train.

        Raises:
            OtherCode: it runs other code than the driver.
        """
        check_code(self.code)
        torch.set_num_threads(self.threads)
        cached_images.lend(environment.dataset, images)
        if environment.device == "cuda" and self.gpus > 0:
            gpu_memory.cap(self.gpus)


@dataclasses.dataclass(frozen=True)
class Built:
    """What building a shared stage gave.

    Attributes:
        undefended: ``ca_undefended`` and ``asr_undefended``, where it is the undefended model.
        seconds: that building it took, whenever that was.
    """

    undefended: dict[str, float | None]
    seconds: float


@ray.remote(max_retries=3)
def build_stage(
    build: Build, environment: EvaluationContext, images: Images, place: WorkerEnvironment, board: Any, *needs: Any
) -> Built:
    """Builds one shared stage into the store. Its parents' references make Ray wait for them."""
    started = time.perf_counter()
    board.report.remote(build.label, 0, 1)
    place.enter(environment, images)

    def progress(stage: str, step: int, steps: int, values: Any) -> None:
        board.report.remote(build.label, step, steps)

    undefended, runs = _build(build, environment, progress)
    earlier = sum(run.built_seconds for run in runs) if all(run.hit for run in runs) else 0.0
    return Built(undefended, max(earlier, time.perf_counter() - started))


def _build(
    build: Build, environment: EvaluationContext, progress: Progress
) -> tuple[dict[str, float | None], Sequence[StageRun]]:
    """Builds a stage, unless it is there. Gives what the undefended model reaches, and the stage's own runs."""
    if build.stage == "trigger":
        return {}, train_trigger(build.scenario, environment, progress)
    poisoned, context, runs = prepare(build.scenario, environment, progress)
    if build.stage == "poison":
        return {}, runs[-1:]
    if is_undefended(build, environment):
        return judge_undefended(poisoned, runs[-1].key, context, environment)
    defense = make_defense(build.defense, build.config, poisoned)
    outputs = run_stages(defense, poisoned.suspect, context, stop_at=build.stage)
    return {}, [outputs[build.stage].run]


@dataclasses.dataclass(frozen=True)
class TrialTask:
    """What all trials of a study share. Small and picklable.

    Attributes:
        defense: key of the defense.
        base: fields of its Config that all trials share.
        points: folder in which each point has one of its own.
        threads: torch threads a trial.
        code: hash of the driver's.
        drawn: keys of the points whose flags are drawn at once.
        pruning: how trials are stopped early; None when they are not.
    """

    defense: str
    base: dict[str, Any]
    scenarios: tuple[Scenario, ...]
    environment: EvaluationContext
    until: str | None
    points: Path
    threads: int
    code: str
    drawn: frozenset[str] = frozenset()
    pruning: Pruning | None = None

    def reads(self, point: Mapping[str, Any]) -> list[int]:
        """The epochs after which a trial is read before its own, or at it: none of them is trained twice."""
        if self.pruning is None:
            return []
        own = self.pruning.own_read({**self.base, **point})
        return [epoch for epoch in self.pruning.reads if epoch <= own]


@ray.remote(max_retries=3)
def measure_share(task: TrialTask, point: dict[str, Any], own_stages: set[str], images: Images, board: Any) -> float:
    """Runs a point on the first scenario with a whole GPU, and gives the share of it that a trial needs.

    What it builds is thrown away: a trial's own stages that the store has already would not show their peak.
    """
    board.report.remote(MEASURED, 0, 1)
    WorkerEnvironment(task.threads, 1.0, task.code).enter(task.environment, images)
    root = cached_store(task.environment.store).root
    with tempfile.TemporaryDirectory(prefix=MEASURING_PREFIX, dir=root) as folder:
        for stage in root.iterdir():
            if stage.is_dir() and stage.name not in own_stages and not stage.name.startswith(MEASURING_PREFIX):
                (Path(folder) / stage.name).symlink_to(stage)
        environment = dataclasses.replace(task.environment, store=Path(folder))
        config = {**task.base, **point}
        return gpu_memory.measured_share(
            lambda: evaluate_scenario(task.defense, config, task.scenarios[0], environment, task.until)
        )


class TrialRunner(tune.Trainable):
    """Steps through the scenarios. A process is used again for the next trial: it has torch and the data loaded.

    Where trials are compared after epochs, it goes through all scenarios at each of them first: their trainings go on
    from there, and never do where a trial is stopped.

    A scenario that an earlier process finished is read back, not run again. A failure is reported, not raised: Ray
    would throw away the process, and retry what would fail again.
    """

    def setup(self, config: dict[str, Any], task: TrialTask | None = None, images: Images | None = None) -> None:
        """Called once a process, whose trials all have the same share of a GPU."""
        assert task is not None
        assert images is not None
        self.task, self.images = task, images
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called instead of `setup` when the process is used again."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        self.point, self.key = json.loads(config[POINT]), config[KEY]
        self.place = WorkerEnvironment(self.task.threads, config[GPUS], self.task.code)
        self.tries = config[TRIES]
        self.folder = self.task.points / self.key
        self.scenarios = scenario_order(self.task.scenarios, self.key)
        reads = [*self.task.reads(self.point), 0]
        self.steps = [(scenario, read) for read in reads for scenario in self.scenarios]
        self.position = 0

    def step(self) -> dict[str, Any]:
        """Judges the next scenario, or what an early read of its training gives."""
        scenario, read = self.steps[self.position]
        told = {"scenario": scenario.name, READ: read, "objective": None}
        try:
            with full_disk_errors(self.folder):
                return told | self._judge(scenario, read)
        except DiskFull as error:  # no failure of this point, which is run again once there is room
            return told | {"done": True, "failure": str(error), DISK_FULL: True}
        except OtherCode as error:  # nor is this: a worker that started again found code that had changed
            return told | {"done": True, "failure": str(error), OTHER_CODE: True}

    def _judge(self, scenario: Scenario, read: int) -> dict[str, Any]:
        self.position += 1
        last = self.position == len(self.steps)
        failure, out_of_memory = "", False
        try:
            self.place.enter(self.task.environment, self.images)
            with full_disk_errors(self.folder):
                self._scenario(scenario, read)
        except (DiskFull, OtherCode):
            raise
        except Exception as error:
            failure, out_of_memory = f"{scenario.name}: {_reason(error)}", gpu_memory.ran_out(error)
        if out_of_memory:
            failure = f"{OOM}: {scenario.name} needs more than {self.place.gpus:g} of a GPU"
            gpu_memory.release()
        # A trial that gets more memory is not finished: the driver hands it out again.
        if (failure or last) and not (out_of_memory and gpu_memory.larger(self.place.gpus, self.tries)):
            self._finish(failure)
        done = last or bool(failure)
        return {"done": done, "failure": failure, OOM: out_of_memory}

    def _scenario(self, scenario: Scenario, read: int) -> ScenarioRecord:
        """Judges a scenario, or reads what another worker wrote of it.

        One writes, as in the store: a worker that a driver lost sight of may still be at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{scenario.name}.lock"):
            if read:
                path = read_path(self.folder, scenario.name, read)
                return read_scenario(path) or self._read_early(scenario, read, path)
            path = scenario_path(self.folder, scenario.name)
            return read_scenario(path) or self._judged(scenario, path)

    def _read_early(self, scenario: Scenario, read: int, path: Path) -> ScenarioRecord:
        """What is flagged after some epochs of the training, for the pruner alone: no result, so nothing is drawn."""
        assert self.task.pruning is not None
        fields = {**self.task.base, **self.point, self.task.pruning.field: read}
        result = evaluate_scenario(self.task.defense, fields, scenario, self.task.environment, "isolate")
        record = dataclasses.replace(build_record(result, Path()), artifacts="")
        write_record(path, record)
        return record

    def _judged(self, scenario: Scenario, path: Path) -> ScenarioRecord:
        fields, pruning = {**self.task.base, **self.point}, self.task.pruning
        if pruning is not None and pruning.field:  # a named end is one more read: it goes on from the last one
            fields[pruning.field] = pruning.own_read(fields)
        result = evaluate_scenario(self.task.defense, fields, scenario, self.task.environment, self.task.until)
        folder = self.folder / scenario.name
        write_artifacts(folder, result, plots=self.key in self.task.drawn)
        record = build_record(result, folder.relative_to(self.task.points.parent))  # holds when the study is moved
        write_record(path, record)
        return record

    def _finish(self, failure: str) -> None:
        names = [scenario.name for scenario in self.scenarios]
        write_record(trial_path(self.folder), TrialRecord(self.key, self.point, names, failure))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: finished scenarios and stages are the checkpoint."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, likewise."""


def _reason(error: Exception) -> str:
    """A failure in one line for a rule that was broken, with the traceback for anything unforeseen."""
    if isinstance(error, UserError):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()


def write_artifacts(folder: Path, result: EvaluationResult, plots: bool) -> None:
    """The files of a judged scenario.

    Args:
        plots: of the flags; others are drawn when somebody looks (`study.report.run_plots`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if result.preview is not None:
        artifacts.write_preview(folder, result.preview, result.scenario.parsed.preview_rows)
    flags = result.flags
    if flags is None:
        return
    artifacts.write_flags(folder, flags)
    if plots:
        artifacts.write_plots(folder, flags.scores, flags.flagged, flags.is_poison, result.scenario.name)
