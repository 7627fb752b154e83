"""One trial as Ray Tune runs it: a configuration, judged on one scenario a step."""

import dataclasses
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune

from defenses.registry import UserError
from study.cell import CellResult, Environment, evaluate_cell
from study.records import ScenarioRecord, TrialRecord, read_scenario, record_of, write_record
from study.scenario import Scenario, order_of
from tracking import artifacts

POINT, KEY = "point", "key"


@dataclasses.dataclass(frozen=True)
class TrialTask:
    """What all trials of a study share. Small and picklable.

    Attributes:
        defense: key of the defense.
        base: fields of its Config that all trials share.
        points: folder in which each point has one of its own.
        threads: torch threads a trial.
    """

    defense: str
    base: dict[str, Any]
    scenarios: tuple[Scenario, ...]
    environment: Environment
    until: str | None
    points: Path
    threads: int


class TrialRunner(tune.Trainable):
    """Steps through the scenarios. A process is used again for the next trial: it has torch and the data loaded.

    A scenario that an earlier process finished is read back, not run again. A failure is reported, not raised: Ray
    would throw away the process, and retry what would fail again.
    """

    def setup(self, config: dict[str, Any], task: TrialTask | None = None) -> None:
        """Called once a process."""
        assert task is not None
        self.task = task
        torch.set_num_threads(task.threads)
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called instead of `setup` when the process is used again."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        self.point, self.key = config[POINT], config[KEY]
        self.folder = self.task.points / self.key
        self.scenarios = order_of(self.task.scenarios, self.key)
        self.position = 0

    def step(self) -> dict[str, Any]:
        """Judges the next scenario."""
        scenario = self.scenarios[self.position]
        self.position += 1
        last = self.position == len(self.scenarios)
        try:
            found = self._scenario(scenario)
        except Exception as error:
            failure = f"{scenario.name}: {_reason(error)}"
            self._finish(failure)
            return {"done": True, "scenario": scenario.name, "failure": failure, "objective": None}
        if last:
            self._finish("")
        return {"done": last, "scenario": found.scenario, "failure": "", "objective": None}

    def _scenario(self, scenario: Scenario) -> ScenarioRecord:
        path = self.folder / f"{scenario.name}.json"
        known = read_scenario(path)
        if known is not None:
            return known
        result = evaluate_cell(
            self.task.defense, {**self.task.base, **self.point}, scenario, self.task.environment, self.task.until
        )
        folder = self.folder / scenario.name
        write_artifacts(folder, result)
        record = record_of(result, folder)
        write_record(path, record)
        return record

    def _finish(self, failure: str) -> None:
        names = [scenario.name for scenario in self.scenarios]
        write_record(self.folder / "result.json", TrialRecord(self.key, self.point, names, failure))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: finished scenarios and stages are the checkpoint."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, likewise."""


def _reason(error: Exception) -> str:
    """A failure in one line for a rule that was broken, with the traceback for anything unforeseen."""
    if isinstance(error, UserError):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()


def write_artifacts(folder: Path, result: CellResult) -> None:
    """The files of a judged scenario."""
    folder.mkdir(parents=True, exist_ok=True)
    if result.preview is not None:
        artifacts.write_preview(folder, result.preview)
    if result.flagged is None or result.labels is None:
        return
    fingerprint = result.meta["fingerprint"]
    artifacts.write_flags(folder, result.scores, result.flagged, result.labels, result.poison_mask, fingerprint)
    artifacts.write_plots(folder, result.scores, result.flagged, result.poison_mask, result.scenario.name)
