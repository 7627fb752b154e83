"""What a study ends with in a terminal: the best configuration beside the paper's, on every scenario.

The tables are sections of the same results that analyze, report and compare read.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from search_spaces import SEARCH_SPACES
from study.analysis.fixed_fields import load_changes, load_fields
from study.analysis.results import Results
from study.cli.numbers import format_objective, format_value
from study.config.objectives import aggregate, direction
from study.config.paper_deviations import changes_line
from study.ledger import selection
from study.ledger.snapshot import LOST
from study.report.elements import Cell, Table
from study.report.sections.summary import untold_lines
from study.report.text import table_lines
from study.scenarios.oracle_defenses import find_defense
from tracking import names

if TYPE_CHECKING:
    import pandas

NOTHING = "no trial has finished yet"

_HEADER = ("scenario", "model", *(name.upper() for name in names.HEADLINE))
_Row = tuple[Cell, ...]


class Evaluation(NamedTuple):
    """What a trial reached on a scenario; undefined metrics are None."""

    metrics: Mapping[str, float | None]
    attack_failed: bool


class Closing:
    """What is shown of a study that ended, or was stopped.

    Attributes:
        compared: label -> number of the trials that every scenario shows.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self._own = selection.best_per_scenario(results.candidates, results.goal.directions[0])
        self.scenarios = results.manifest.scenarios or tuple(map(str, results.scenarios.index))
        self.compared = self._compared()
        self._reached = _evaluations(results, {*(trial for _, trial in self.compared), *self._own.values()})

    @property
    def _several(self) -> bool:
        return len(self.results.goal.objectives) > 1

    @property
    def finished(self) -> bool:
        """Some trial is complete."""
        return self.results.best is not None

    def text(self) -> str:
        """Headline, tables and notes, as lines of text."""
        if not self.finished:
            return NOTHING
        points = self._front_table() if self._several else self._point_table()
        shown = [self.headline(), points, table_lines(self._scenario_table())]
        return "\n\n".join([*shown, *(["\n".join(notes)] if (notes := self.notes()) else [])])

    def values(self, trial: int) -> list[float]:
        """The objectives of a complete trial."""
        return [float(str(self.results.trials.at[trial, label])) for label in self.results.objective_columns]

    def headline(self) -> str:
        """Which trial is the best and what it reaches; of several objectives, how large the front is and its knee."""
        results, goal = self.results, self.results.goal
        best, trials = results.best, len(results.complete)
        assert best is not None
        sides = ["lower" if direction(name) == "minimize" else "higher" for name in goal.objectives]
        if not self._several:
            reached = goal.describe(self.values(best))
            return (
                f"Best of {trials} trial{'s' * (trials != 1)}: #{best}, {reached} ({sides[0]} is better; "
                "an oracle: it is computed from ground truth that a defender does not have)"
            )
        better = [f"{name} ({side} is better)" for name, side in zip(goal.objectives, sides, strict=True)]
        worst = "each on its worst scenario; " if goal.how == "worst" else ""
        return (
            f"Pareto front of {trials} trials: {len(results.front)} that no other beats in {', '.join(better)}\n"
            f"({worst}oracles: they are computed from ground truth that a defender does not have)\n"
            f"{self.knee_line()}"
        )

    def knee_line(self) -> str:
        """Which trial is the knee of the front; empty for one objective, or where no trial has finished."""
        best = self.results.best
        if not self._several or best is None:
            return ""
        default = " (paper default)" if best == self.results.default else ""
        reached = self.results.goal.describe(self.values(best))
        return f"Knee of the front, the trial nearest to the ideal point: #{best}{default}, {reached}"

    def _point_table(self) -> str:
        results, best = self.results, self.results.best
        assert best is not None
        if not results.ranges:
            return "Nothing is searched in this space."
        default = load_fields(results)
        rows = tuple(
            (
                self._symbol(field),
                format_value(default[field]),
                format_value(results.trials.at[best, field]),
                str(searched),
            )
            for field, searched in results.ranges.items()
        )
        header = ("hyperparameter", "paper", f"best (#{best})", "searched")
        return table_lines(Table("best", "", header, rows, left=1))

    def _front_table(self) -> str:
        """A line a trial: what it reached and where it lies."""
        rows = tuple(
            (label, *map(format_objective, self.values(trial)), *self.point(trial)) for label, trial in self.compared
        )
        header = ("trial", *self.results.goal.objectives, *self.symbols())
        return table_lines(Table("front", "", header, rows, left=1))

    def point(self, trial: int) -> list[str]:
        """A trial's searched fields."""
        return [format_value(self.results.trials.at[trial, field]) for field in self.results.ranges]

    def _symbol(self, field: str) -> str:
        return find_defense(self.results.defense).config_type.symbol(field)

    def symbols(self) -> list[str]:
        """Of the searched fields."""
        return list(map(self._symbol, self.results.ranges))

    def _compared(self) -> list[tuple[str, int]]:
        """The paper's default, then the best trial, or every one on the front."""
        results = self.results
        default = [("paper default", results.default)] if results.default is not None else []
        if default and not results.ranges:
            return default  # there is nothing else that could be better
        best = results.front if self._several else [] if results.best is None else [results.best]
        return default + [(f"{'front' if self._several else 'best'} (#{trial})", trial) for trial in best]

    def _scenario_table(self) -> Table:
        rows = self.scenario_rows()
        if len(self.scenarios) > 1:
            label = f"{self.results.goal.how} of all"
            for at, (name, trial) in enumerate(self.compared):
                rows.append(("" if at else label, name, *_cells(self.together(trial))))
        return Table("scenarios", "", _HEADER, tuple(rows), left=2)

    def scenario_rows(self) -> list[_Row]:
        """A line for each scenario and model that is compared on it, the trial that is best there among them."""
        rows: list[_Row] = []
        for scenario in self.scenarios:
            label = scenario + (" ATTACK FAILED" if scenario in self.attack_failures() else "")
            rows.append((label, "undefended", *_cells(self._undefended(scenario))))
            own = None if self._several else self._own.get(scenario)
            numbers = {trial for _, trial in self.compared}
            beside = [(f"its own best (#{own})", own)] if own is not None and own not in numbers else []
            for name, trial in [*self.compared, *beside]:
                reached = self._reached.get((trial, scenario))
                rows.append(("", name, *_cells(reached.metrics if reached else {})))
        return rows

    def _undefended(self, scenario: str) -> Mapping[str, float | None]:
        """CA and ASR without a defense, on which all trials agree."""
        scenarios = self.results.scenarios
        if scenario not in scenarios.index:
            return {}
        row = scenarios.loc[scenario]
        return {names.CA: _defined(row[names.CA_UNDEFENDED]), names.ASR: _defined(row[names.ASR_UNDEFENDED])}

    def together(self, trial: int) -> Mapping[str, float | None]:
        """A trial's metrics over all scenarios, as the study puts them together."""
        judged = [self._reached[trial, scenario] for scenario in self.scenarios]
        return aggregate(judged, self.results.goal.how).metrics

    def attack_failures(self) -> list[str]:
        """Names of the scenarios whose attack did not work."""
        scenarios = self.results.scenarios
        return [name for name in self.scenarios if name in scenarios.index and scenarios.loc[name, "attack_failed"]]

    def notes(self) -> list[str]:
        """What a reader should know besides."""
        results = self.results
        lines = [] if self.finished else ["no trial has finished"]
        paper = SEARCH_SPACES[results.space].paper
        if paper:
            changes = changes_line(results.config.preset, load_changes(results))
            lines.append(f"This study makes anew: {paper}{'; ' if changes else ''}{changes}")
        stopped = int((results.trials["state"] == "pruned").sum())
        if stopped:
            rule = results.config.pruner
            lines.append(f"{stopped} stopped early ({rule}): they count as tried, and nothing is compared with them")
        failed = self.attack_failures()
        if failed:
            lines.append(
                f"ATTACK FAILED: undefended ASR below {results.config.asr_floor:g} on {', '.join(failed)}; "
                "these scenarios count neither for nor against a defense"
            )
        return [*lines, *untold_lines(results), *self._failures()]

    @property
    def failed(self) -> "pandas.DataFrame":
        """The trials that failed for good, by number."""
        trials = self.results.trials
        return trials[(trials["state"] == "fail") & ~trials["reason"].isin(["", LOST])]

    def _failures(self) -> list[str]:
        """Trials that failed, and those whose records were damaged since."""
        trials, failed = self.results.trials, self.failed
        lines = []
        if len(failed):
            reason = str(failed["reason"].iloc[0]).strip().splitlines()[-1]
            lines.append(f"{len(failed)} trials failed; the first, #{failed.index[0]}: {reason}")
        damaged = trials.index[(trials["state"] == "complete") & ~trials.index.isin(self.results.complete.index)]
        if len(damaged):
            named = ", ".join(f"#{trial}" for trial in damaged)
            lines.append(f"records of {named} cannot be read any more; these trials are left out")
        return lines

    def metrics(self) -> dict[str, float]:
        """What the study's own run shows in MLflow: what the best trial reached over all scenarios, and the default.

        Of a front it shows the size, and the best that it holds of each objective.
        """
        results = self.results
        told: dict[str, float] = {"trials": float(len(results.complete))}
        if results.config.pruner != "none":
            told["stopped_early"] = float((results.trials["state"] == "pruned").sum())
        shown = [("paper_default", results.default)]
        if self._several and results.front:
            told["front"] = float(len(results.front))
            values = list(map(self.values, results.front))
            for at, name in enumerate(results.goal.objectives):
                column = [of_trial[at] for of_trial in values]
                told[f"best/{names.objective(name)}"] = (min if direction(name) == "minimize" else max)(column)
        else:
            shown.append(("best", results.best))
        for prefix, trial in shown:
            if trial is not None:
                reached = {**dict(zip(results.goal.labels, self.values(trial), strict=True)), **self._headline(trial)}
                told |= {f"{prefix}/{name}": value for name, value in reached.items()}
        return told

    def _headline(self, trial: int) -> dict[str, float]:
        together = self.together(trial)
        return {name: value for name in names.HEADLINE if (value := together.get(name)) is not None}


def joint_text(closings: Sequence[Closing]) -> str:
    """The tables of studies that share a space, each of one scenario."""
    finished = [closing for closing in closings if closing.finished]
    if not finished:
        return NOTHING
    points = tuple(
        (
            "" if at else closing.scenarios[0],
            name,
            *closing.point(trial),
            closing.results.goal.describe(closing.values(trial)),
        )
        for closing in finished
        for at, (name, trial) in enumerate(closing.compared)
    )
    scenarios = tuple(row for closing in finished for row in closing.scenario_rows())
    parts = [
        f"Each scenario's own best, of {', '.join(str(len(closing.results.complete)) for closing in closings)} trials "
        "(oracles: they are computed from ground truth that a defender does not have)",
        table_lines(Table("points", "", ("scenario", "trial", *finished[0].symbols(), "objective"), points, left=2)),
        table_lines(Table("scenarios", "", _HEADER, scenarios, left=2)),
    ]
    notes = [f"{closing.scenarios[0]}: {line}" for closing in finished if (line := closing.knee_line())]
    told = {closing.scenarios[0]: "\n".join(closing.notes()) for closing in closings}
    notes += [f"{name}: {note}" for name, note in told.items() if note]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _evaluations(results: Results, trials: set[int]) -> dict[tuple[int, str], Evaluation]:
    """Trial and scenario -> what was reached, of the trials that are shown."""
    shown = results.evaluations[results.evaluations["trial"].isin(trials)]
    return {
        (int(row["trial"]), str(row["scenario"])): Evaluation(
            {name: _defined(row[name]) for name in names.METRICS}, bool(row["attack_failed"])
        )
        for row in shown.to_dict("records")
    }


def _defined(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _cells(metrics: Mapping[str, float | None]) -> list[float | None]:
    return [metrics.get(name) for name in names.HEADLINE]
