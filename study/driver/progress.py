"""What a study shows while its trials run: where it stands in one line, failures, with ``-v`` what each trial gave."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from study.cli.bar import Bar
from study.cli.numbers import format_number, format_objective, format_value
from study.cli.terminal import duration, last_line, print_error
from study.code_version import code_version
from study.config.objectives import in_words
from study.driver.first_trainings import FirstTrainings
from study.ledger.activity import TRIALS, ActivityFile
from study.ledger.ledger import Ledger
from study.ledger.records import ScenarioRecord
from study.ledger.selection import best_or_knee
from study.ledger.study_folder import study_command
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images
from study.scenarios.scenario import scenario_order
from tracking import names

_WARNED = 5  # failed trials that have a line each
_LOOK_SECONDS = 1.0  # between two looks at what is in use
_ENDED = {"pruned": "stopped early", "fail": "failed"}


def describe_start(plan: Plan, folder: Path, uri: str, resources: str) -> str:
    """What was found before anything was built, and where things are written: for ``-v``."""
    images, environment = cached_images(plan.environment.dataset), plan.environment
    parts = {
        "images": f"{environment.dataset.name}: {len(images.train_labels)} to train and {len(images.test_labels)} to "
        f"test, {images.image_size} px, {images.num_classes} classes"
        + (f", {len(images.reserve)} clean ones for the defense" if images.reserve else ""),
        "scenarios": " ".join(scenario.name for scenario in plan.scenarios),
        "target": f"class {plan.target}",
        "search": f"{plan.goal.words}, {plan.config.sampler}, over {', '.join(plan.space.ranges) or 'nothing'}",
        "machine": f"{resources}; a trial has {plan.config.cpus:g} CPUs and {plan.gpus:g} GPUs, on "
        f"{environment.device} in {environment.precision}",
        "results": f"{folder} ({shutil.disk_usage(folder).free >> 30} GiB free)",
        "store": str(environment.store),
        "MLflow": uri,
        "code": code_version(),
    }
    return "\n".join(f"  {name}: {text}" for name, text in parts.items())


def describe_scenario(trial: str, record: ScenarioRecord) -> str:
    """What a trial gave on one scenario, and what that cost."""
    reached = ", ".join(f"{in_words(name)} {format_number(record.metrics.get(name))}" for name in names.HEADLINE)
    return (
        f"{trial} {record.scenario}: {reached}; took {duration(record.wall_seconds)}, "
        f"{record.stored_stages} of {len(record.stages)} stages reused"
    )


class TrialProgress:
    """The line that shows how far the trials of a study are, and the same for `study.status`.

    Args:
        remaining: trials that are still to run.
        in_use: gives which CPUs and GPUs are.
        activity: told what is being run; None for nobody.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        remaining: int,
        in_use: Callable[[], str],
        activity: ActivityFile | None = None,
    ) -> None:
        self._plan, self._ledger, self._in_use, self._activity = plan, ledger, in_use, activity
        self._verbose = plan.config.verbose > 0
        trials = plan.config.trials
        self._first = FirstTrainings(plan, ledger)
        self._bar = Bar(
            trials,
            "trials",
            initial=trials - remaining,
            every_line=self._verbose,
            parts=len(plan.scenarios),
            part_unit="scenarios done",
            building=self._first.left,
        )
        self._done: Counter[str] = Counter()  # scenarios of trials that run, by the key of their settings
        self._failed = self._stored = self._stages = 0
        self._looked = 0.0
        self._used = ""
        self._best = self._best_text()
        self.look()

    def look(self) -> None:
        """Shows what is in use now, unless that was looked at a moment ago."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked, self._used = now, self._in_use()
            self._bar.note(*self._texts())
            if self._activity is not None:
                left = self._bar.left_seconds()
                self._activity.tell(TRIALS, self._bar.moved, self._bar.parts, self._running(), left, self._bar.builds)

    def scenario(self, key: str, record: ScenarioRecord) -> None:
        """A trial is done with a scenario."""
        self._done[key] += 1
        self._bar.first_took(record.wall_seconds)
        self._bar.move(built=self._first.made(key, record.scenario))
        self._stored += record.stored_stages
        self._stages += len(record.stages)
        if self._verbose:
            trial = next((f"#{row.number}" for row in self._ledger.rows() if row.key == key), key[:8])
            print_error(describe_scenario(trial, record))

    def read_back(self, key: str, name: str) -> None:
        """A trial has a scenario that was judged before the study went on."""
        self._done[key] += 1
        self._bar.skip(1, self._first.made(key, name))

    def settled(self, row: TrialRow) -> None:
        """A trial ended."""
        self._best = self._best_text()
        if row.state == "fail":
            self._warn(row)
        point = ", ".join(f"{name} {format_value(value)}" for name, value in row.point.items()) if self._verbose else ""
        gave = self._reached(row) if row.comparable else _ENDED[row.state]
        shown = f"#{row.number} {gave}{f' ({point})' if point else ''}"
        self._bar.note(*self._texts())
        # A trial that failed or was stopped early is over, and so are the scenarios that it has not come to.
        rest = max(0, len(self._plan.scenarios) - self._done.pop(row.key, 0))
        over = self._first.given_up(row)
        self._bar.advance(1, ", ".join([shown, *self._texts()]), rest, over)

    def close(self) -> None:
        """Leaves the line as it stands."""
        self._bar.close()

    def _running(self) -> list[str]:
        """The trials that run, each with the scenario that it is at."""
        lines = []
        for row in self._ledger.rows():
            if row.state == "running":
                order = scenario_order(self._plan.scenarios, row.key)
                done = min(self._done[row.key], len(order) - 1)
                lines.append(f"trial #{row.number} on {order[done].name} (scenario {done + 1} of {len(order)})")
        return lines

    def _reached(self, row: TrialRow) -> str:
        goal = self._plan.goal
        pairs = zip(goal.objectives, row.values, strict=True)
        return ", ".join(f"{in_words(name)} {format_objective(value)}" for name, value in pairs)

    def _warn(self, row: TrialRow) -> None:
        self._failed += 1
        if self._failed <= _WARNED:
            print_error(f"warning: trial #{row.number} failed: {last_line(row.reason)}")
        elif self._failed == _WARNED + 1:
            config = self._plan.config
            command = study_command("status", config.out / config.study_name)
            print_error(f"warning: more trials fail; to see why:  {command}")

    def _texts(self) -> list[str]:
        """What stands behind the bar, the most important first."""
        failed = [f"{self._failed} failed"] if self._failed else []
        stages = [f"{self._stored} of {self._stages} stages reused"] if self._stages else []
        return [self._best, *failed, self._used, *stages]

    def _best_text(self) -> str:
        front: Sequence[TrialRow] = self._ledger.front()
        best = best_or_knee(front, self._plan.goal.directions)
        if best is None:
            return "no trial done yet"
        if len(self._plan.goal.objectives) > 1:
            return f"Pareto front of {len(front)}, its knee #{best.number}"
        return f"best {format_objective(best.value)} (#{best.number})"
