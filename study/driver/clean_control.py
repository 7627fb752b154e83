"""Runs the clean control of a study: its default and its best trial on the same data with nothing poisoned.

It comes after the trials and is none of them: it changes no objective, and what is best is known by then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from defenses.registry import UserError
from study.analysis.compared import shown_trials
from study.analysis.results import Results
from study.cli.bar import Bar
from study.cli.numbers import format_number
from study.cli.terminal import last_line, print_error
from study.code_version import code_hash
from study.datasets.images import Images
from study.driver.stage_builder import task_result
from study.driver.worker import BoardReader, ProgressBoard, WorkerEnvironment
from study.driver.worker_watch import worker_watch
from study.ledger.activity import CONTROL, ActivityFile
from study.planning.plan import Plan
from study.scenarios.clean_control import clean_scenarios, run_on_clean
from study.scenarios.evaluation import EvaluationContext, cached_images
from study.scenarios.scenario import Scenario

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Control:
    """One run: a trial on the clean data of one seed.

    Attributes:
        trial, key: its number and its key.
        config: all fields of the defense that it sets.
    """

    trial: int
    key: str
    config: dict[str, Any]
    scenario: Scenario

    @property
    def label(self) -> str:
        """For progress and errors; no other control of a study has it."""
        return f"trial #{self.trial} on {self.scenario.name}"


def missing_controls(plan: Plan, results: Results) -> list[Control]:
    """The runs that a study lacks; none where its options leave the control out, or where it makes no sense.

    Args:
        results: what its trials gave.
    """
    if plan.config.clean_control == "none":
        return []
    return [
        Control(trial, str(results.trials.at[trial, "key"]), {**plan.base, **results.points[trial]}, scenario)
        for trial in shown_trials(results)
        for scenario in clean_scenarios(plan.space.defense, plan.scenarios)
        if scenario.seed not in results.clean_fpr.get(trial, {})
    ]


@ray.remote(max_retries=3)
def flagged_share(
    control: Control, defense: str, environment: EvaluationContext, images: Images, place: WorkerEnvironment, board: Any
) -> float:
    """The share of the clean data that a trial flags."""
    board.report.remote(control.label, 0, 1)
    place.enter(environment, images)

    def progress(stage: str, step: int, steps: int, values: Any) -> None:
        board.report.remote(control.label, step, steps)

    return run_on_clean(defense, control.config, control.scenario, environment, progress).flagged_share


def run_controls(
    plan: Plan, controls: Sequence[Control], activity: ActivityFile, keep: Callable[[Control, float], None]
) -> None:
    """Runs controls as Ray tasks with a trial's CPUs; one that fails is a warning, and is run again the next time.

    Args:
        keep: told what each flagged, as soon as it is known.
    """
    board = ProgressBoard.remote()  # type: ignore[attr-defined]  # Ray adds it
    images = ray.put(cached_images(plan.environment.dataset))
    gpus = 1.0 if plan.environment.device == "cuda" else 0.0
    task = flagged_share.options(num_cpus=plan.config.cpus, num_gpus=gpus)
    place = WorkerEnvironment(plan.config.threads, gpus, code_hash())
    waiting = {
        task.remote(control, plan.space.defense, plan.environment, images, place, board): control
        for control in controls
    }
    watch = worker_watch("the clean control", plan.config.address is None)
    progress, screen = BoardReader(board), _ControlProgress(len(controls), activity)
    try:
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
            for reference in finished:
                screen.finished(waiting[reference], _outcome(reference, waiting.pop(reference), keep))
            steps = progress.read()
            under_way = {one.label: steps[one.label] for one in waiting.values() if one.label in steps}
            screen.look(under_way)
            watch.look(running=bool(finished) or bool(under_way))
    finally:
        screen.close()


def _outcome(reference: Any, control: Control, keep: Callable[[Control, float], None]) -> float | None:
    """What a control flagged, kept; None where it failed, which costs a finished study nothing else."""
    try:
        share: float = task_result(reference, control.label)
    except (UserError, ray.exceptions.RayTaskError) as error:
        print_error(f"warning: the clean control of {control.label} failed: {last_line(str(error))}")
        return None
    keep(control, share)
    return share


class _ControlProgress:
    """The line that shows how far the control is, and the same for `study.status`."""

    def __init__(self, total: int, activity: ActivityFile) -> None:
        self._activity, self._total, self._done = activity, total, 0
        self._bar = Bar(total, "clean control")
        self.look({})

    def finished(self, control: Control, share: float | None) -> None:
        """A control has ended."""
        self._done += 1
        flagged = "failed" if share is None else f"flags {format_number(share)}"
        self._bar.advance(1, f"{control.label} {flagged}")

    def look(self, steps: "dict[str, tuple[int, int]]") -> None:
        """Shows what is run now."""
        lines = [f"{label}{f', step {step} of {total}' if step else ''}" for label, (step, total) in steps.items()]
        self._bar.note(*lines)
        self._activity.tell(CONTROL, self._done, self._total, lines, self._bar.left_seconds())

    def close(self) -> None:
        """Leaves the line as it stands."""
        self._bar.close()
