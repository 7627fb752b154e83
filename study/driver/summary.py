"""The answer in a terminal: the best configuration beside the paper's, on every scenario, beside no defense."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from defenses.signals import SIGNALS
from study.cli.numbers import format_number, format_objective, format_value
from study.cli.terminal import table
from study.config.objectives import aggregate, direction, scores
from study.config.paper_deviations import changes_line
from study.ledger import selection
from study.ledger.ledger import Ledger
from study.ledger.records import ScenarioRecord
from study.ledger.result_reader import ResultReader
from study.ledger.snapshot import LOST
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from tracking import names

_SCENARIO_HEADER = ["scenario", "model", *(name.upper() for name in names.HEADLINE)]


class Summary:
    """Everything a finished (or stopped) study has to say.

    Args:
        plan, book, ledger: of the study.
    """

    def __init__(self, plan: Plan, reader: ResultReader, ledger: Ledger) -> None:
        self.plan, self.reader = plan, reader
        rows = ledger.rows()
        self.rows = [row for row in rows if row.comparable]
        self.stopped = [row for row in rows if row.stopped_early]
        self.failed = [row for row in rows if row.state == "fail" and row.reason not in ("", LOST)]
        self.front = ledger.front()
        self.best = selection.best_or_knee(self.rows, plan.goal.directions)
        self.default = selection.paper_default(self.rows)
        self.records = {row.number: reader.readable(row.key) for row in self.rows}
        # All trials agree on the undefended model, and on whether an attack works at all.
        self.undefended = {name: record for found in self.records.values() for name, record in found.items()}

    def text(self) -> str:
        """The tables, as lines of text."""
        if self.best is None:
            return "no trial has finished yet"
        points = self._front_table() if self._several else self._point_table(self.best)
        parts = [self._headline(self.best), points, self._scenario_table()]
        notes = self.notes()
        return "\n\n".join([*parts, *([notes] if notes else [])])

    @property
    def _several(self) -> bool:
        return len(self.plan.goal.objectives) > 1

    def _headline(self, best: TrialRow) -> str:
        goal = self.plan.goal
        better = [
            f"{name} ({'lower' if direction(name) == 'minimize' else 'higher'} is better" for name in goal.objectives
        ]
        if not self._several:
            which = f"#{best.number}, {goal.describe(best.values)} ({better[0].partition(' (')[2]}"
            return (
                f"Best of {len(self.rows)} trials: {which}; "
                "an oracle: it is computed from ground truth that a defender does not have)"
            )
        worst = "each on its worst scenario; " if goal.how == "worst" else ""
        return (
            f"Pareto front of {len(self.rows)} trials: {len(self.front)} that no other beats in {'), '.join(better)})\n"
            f"({worst}oracles: they are computed from ground truth that a defender does not have)\n"
            f"{self.knee_line()}"
        )

    def knee_line(self) -> str:
        """Which trial is the knee of the front; empty for one objective, or where no trial has finished."""
        if not self._several or self.best is None:
            return ""
        default = " (paper default)" if self.best.paper_default else ""
        reached = self.plan.goal.describe(self.best.values)
        return f"Knee of the front, the trial nearest to the ideal point: #{self.best.number}{default}, {reached}"

    def _point_table(self, best: TrialRow) -> str:
        if not self.plan.space.ranges:
            return "Nothing is searched in this space."
        default = self.plan.default_point
        config_type = self.plan.defense.config_type
        rows = [
            [config_type.symbol(name), format_value(default[name]), format_value(best.point[name]), str(found)]
            for name, found in self.plan.space.ranges.items()
        ]
        return table(["hyperparameter", "paper", f"best (#{best.number})", "searched"], rows)

    def _front_table(self) -> str:
        """A line a trial: what it reached and where it lies."""
        config_type = self.plan.defense.config_type
        fields = list(self.plan.space.ranges)
        rows = [
            [name, *map(format_objective, row.values), *(format_value(row.point[field]) for field in fields)]
            for row, name in self.shown()
        ]
        symbols = [config_type.symbol(field) for field in fields]
        return table(["trial", *self.plan.goal.objectives, *symbols], rows)

    def shown(self) -> list[tuple[TrialRow, str]]:
        """The paper's default, then the best trial, or every one on the front."""
        default = [(self.default, "paper default")] if self.default is not None else []
        if default and not self.plan.space.ranges:
            return default  # there is nothing else that could be better
        return default + [(row, f"{'front' if self._several else 'best'} (#{row.number})") for row in self.front]

    def _scenario_table(self) -> str:
        rows = self.scenario_rows()
        if len(self.plan.scenarios) > 1:
            label = f"{self.plan.goal.how} of all"
            for row, name in self.shown():
                rows.append([label, name, *self._cells(self._together(row))])
                label = ""
        return table(_SCENARIO_HEADER, rows, left=2)

    def scenario_rows(self) -> list[list[str]]:
        """A line for each scenario and model that is compared on it."""
        rows: list[list[str]] = []
        for scenario in self.plan.scenarios:
            label = scenario.name + (" ATTACK FAILED" if scenario.name in self.attack_failures() else "")
            rows.append([label, "undefended", *self._cells(self._undefended_metrics(scenario.name))])
            for row, name in self._compared(scenario.name):
                rows.append(["", name, *self._cells(self._metrics(row, scenario.name))])
        return rows

    def _metrics(self, row: TrialRow, scenario: str) -> Mapping[str, float | None]:
        """What a trial gave on a scenario; nothing when its record was damaged since."""
        record = self.records[row.number].get(scenario)
        return record.metrics if record else {}

    def _undefended_metrics(self, scenario: str) -> Mapping[str, float | None]:
        metrics = self.undefended[scenario].metrics if scenario in self.undefended else {}
        return {names.CA: metrics.get(names.CA_UNDEFENDED), names.ASR: metrics.get(names.ASR_UNDEFENDED)}

    def _together(self, row: TrialRow) -> Mapping[str, float | None]:
        """A trial's metrics over all scenarios; nothing when one is missing: the rest would not compare."""
        found = list(self.records[row.number].values())
        return aggregate(found, self.plan.goal.how).metrics if len(found) == len(self.plan.scenarios) else {}

    def _compared(self, scenario: str) -> list[tuple[TrialRow, str]]:
        """The rows that a scenario shows: the paper's default, the best over all, and its own best if another one."""
        shown = self.shown()
        own = None if self._several else self._own_best(scenario)
        if own is not None and own.number not in {row.number for row, _ in shown}:
            shown.append((own, f"its own best (#{own.number})"))
        return shown

    def _own_best(self, scenario: str) -> TrialRow | None:
        (objective,) = self.plan.goal.objectives
        candidates = [
            selection.Candidate(
                row.number,
                row.state,
                scenarios={scenario: (scores(self._metrics(row, scenario)).get(objective),)},
            )
            for row in self.rows
        ]
        own = selection.best_per_scenario(candidates, direction(objective)).get(scenario)
        return None if own is None else selection.by_number(self.rows, own)

    def _cells(self, metrics: Mapping[str, float | None]) -> list[str]:
        return [format_number(metrics.get(name)) for name in names.HEADLINE]

    def notes(self) -> str:
        """What a reader should know besides, a line each."""
        lines = [] if self.front else ["no trial has finished"]
        if self.plan.space.paper:
            changes = changes_line(self.plan.config.preset, self.plan.changes)
            lines.append(f"This study makes anew: {self.plan.space.paper}{'; ' if changes else ''}{changes}")
        if self.stopped:
            rule = self.plan.config.pruner
            lines.append(
                f"{len(self.stopped)} stopped early ({rule}): they count as tried, and nothing is compared with them"
            )
        failed = self.attack_failures()
        if failed:
            lines.append(
                f"ATTACK FAILED: undefended ASR below {self.plan.environment.asr_floor:g} on {', '.join(failed)}; "
                "these scenarios count neither for nor against a defense"
            )
        if self.failed:
            reason = self.failed[0].reason.strip().splitlines()[-1]
            lines.append(f"{len(self.failed)} trials failed; the first, #{self.failed[0].number}: {reason}")
        damaged = [f"#{row.number}" for row in self.rows if len(self.records[row.number]) < len(self.plan.scenarios)]
        if damaged:
            lines.append(f"records of {', '.join(damaged)} cannot be read any more; what they held is left out")
        return "\n".join(lines)

    def attack_failures(self) -> list[str]:
        """Names of the scenarios whose attack did not work."""
        return [name for name, record in self.undefended.items() if record.attack_failed]

    def csv(self) -> str:
        """A line a trial and scenario: the point, the metrics, the costs."""
        text = io.StringIO()
        points = list(self.plan.space.ranges)
        columns = [
            "trial",
            "paper_default",
            "stopped_early",
            *self.plan.goal.labels,
            *points,
            "scenario",
            "attack_failed",
            *names.METRICS,
            *map(names.signal, SIGNALS),
        ]
        writer = csv.DictWriter(text, [*columns, "built_seconds", "wall_seconds"], lineterminator="\n")
        writer.writeheader()
        for row in sorted([*self.rows, *self.stopped], key=lambda row: row.number):
            records = self.reader.readable(row.key) if row.stopped_early else self.records[row.number]
            for record in records.values():
                writer.writerow(self._csv_row(row, record))
        return text.getvalue()

    def _csv_row(self, row: TrialRow, record: ScenarioRecord) -> dict[str, Any]:
        return {
            "trial": row.number,
            "paper_default": int(row.paper_default),
            "stopped_early": int(row.stopped_early),
            **dict(zip(self.plan.goal.labels, row.values, strict=False)),  # none when it was stopped early
            **row.point,
            "scenario": record.scenario,
            "attack_failed": int(record.attack_failed),
            **{name: record.metrics.get(name) for name in (*names.METRICS, *map(names.signal, SIGNALS))},
            "built_seconds": round(record.built_seconds, 3),
            "wall_seconds": round(record.wall_seconds, 3),
        }

    def metrics(self) -> dict[str, float]:
        """What the study's own run shows in MLflow: what the best trial reached over all scenarios, and the default.

        Of a front it shows the size, and the best that it holds of each objective.
        """
        found: dict[str, float] = {"trials": float(len(self.rows))}
        if self.plan.pruning is not None:
            found["stopped_early"] = float(len(self.stopped))
        compared = [(self.default, "paper_default")]
        if self._several and self.front:
            found["front"] = float(len(self.front))
            for position, name in enumerate(self.plan.goal.objectives):
                pick = min if direction(name) == "minimize" else max
                found[f"best/{names.objective(name)}"] = pick(row.values[position] for row in self.front)
        elif self.best is not None:
            compared.append((self.best, "best"))
        for row, prefix in compared:
            if row is not None:
                found |= {
                    f"{prefix}/{label}": value for label, value in zip(self.plan.goal.labels, row.values, strict=True)
                }
                together = self._together(row)
                found |= {f"{prefix}/{name}": v for name in names.HEADLINE if (v := together.get(name)) is not None}
        return found


def joint_text(summaries: Sequence[Summary]) -> str:
    """The tables of studies that share a space, each of one scenario."""
    finished = [summary for summary in summaries if summary.best is not None]
    if not finished:
        return "no trial has finished yet"
    plan = finished[0].plan
    fields = list(plan.space.ranges)
    points = [
        [
            summary.plan.scenarios[0].name if first else "",
            name,
            *(format_value(row.point[field]) for field in fields),
            summary.plan.goal.describe(row.values),
        ]
        for summary in finished
        for first, (row, name) in zip([True, *[False] * len(summary.rows)], summary.shown(), strict=False)
    ]
    symbols = [plan.defense.config_type.symbol(field) for field in fields]
    parts = [
        f"Each scenario's own best, of {', '.join(str(len(summary.rows)) for summary in summaries)} trials "
        "(oracles: they are computed from ground truth that a defender does not have)",
        table(["scenario", "trial", *symbols, "objective"], points, left=2),
        table(_SCENARIO_HEADER, [row for summary in finished for row in summary.scenario_rows()], left=2),
    ]
    notes = [f"{summary.plan.scenarios[0].name}: {line}" for summary in finished if (line := summary.knee_line())]
    notes += [f"{summary.plan.scenarios[0].name}: {note}" for summary in summaries if (note := summary.notes())]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])
