"""The answer in a terminal: the best configuration beside the paper's, on every scenario, beside no defense."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from search_spaces.space import significant
from study.book import Book
from study.ledger_file import LOST
from study.objective import aggregate, direction, scores
from study.plan import Plan
from study.records import ScenarioRecord
from study.search import Ledger, Row
from study.terminal import number, table
from tracking import names

_COLUMNS = (names.TPR, names.FPR, names.AUROC, names.CA, names.ASR)


class Summary:
    """Everything a finished (or stopped) study has to say.

    Args:
        plan, book, ledger: of the study.
    """

    def __init__(self, plan: Plan, book: Book, ledger: Ledger) -> None:
        self.plan = plan
        self.rows = [row for row in ledger.rows() if row.value is not None]
        self.failed = [row for row in ledger.rows() if row.state == "fail" and row.reason not in ("", LOST)]
        self.best = ledger.best()
        self.default = next((row for row in self.rows if row.paper_default), None)
        self.records = {row.number: book.intact(row.key) for row in self.rows}
        # All trials agree on the undefended model, and on whether an attack works at all.
        self.undefended = {name: record for found in self.records.values() for name, record in found.items()}

    def text(self) -> str:
        """The tables, as lines of text."""
        if self.best is None:
            return "no trial has finished yet"
        parts = [self._headline(self.best), self._point_table(self.best), self._scenario_table(self.best)]
        notes = self._notes()
        return "\n\n".join([*parts, *([notes] if notes else [])])

    def _headline(self, best: Row) -> str:
        return (
            f"Best of {len(self.rows)} trials: #{best.number}, {self.plan.objective} {best.value:.4f} "
            f"({'lower' if direction(self.plan.objective) == 'minimize' else 'higher'} is better; "
            "an oracle: it is computed from ground truth that a defender does not have)"
        )

    def _point_table(self, best: Row) -> str:
        if not self.plan.space.ranges:
            return "Nothing is searched in this space."
        default = self.plan.default_point
        config_type = self.plan.defense.config_type
        rows = [
            [config_type.symbol(name), significant(default[name]), significant(best.point[name]), str(found)]
            for name, found in self.plan.space.ranges.items()
        ]
        return table(["hyperparameter", "paper", f"best (#{best.number})", "searched"], rows)

    def _scenario_table(self, best: Row) -> str:
        rows: list[list[str]] = []
        for scenario in self.plan.scenarios:
            label = scenario.name + (" ATTACK FAILED" if scenario.name in self.attack_failures() else "")
            rows.append([label, "undefended", *self._cells(self._undefended_metrics(scenario.name))])
            for row, name in self._compared(best, scenario.name):
                rows.append(["", name, *self._cells(self._metrics(row, scenario.name))])
        if len(self.plan.scenarios) > 1:
            label = "mean of all"
            for compared, name in ((self.default, "paper default"), (best, f"best (#{best.number})")):
                if compared is not None:
                    rows.append([label, name, *self._cells(self._means(compared))])
                    label = ""
        return table(["scenario", "model", *(name.upper() for name in _COLUMNS)], rows, left=2)

    def _metrics(self, row: Row, scenario: str) -> Mapping[str, float | None]:
        """What a trial gave on a scenario; nothing when its record was damaged since."""
        record = self.records[row.number].get(scenario)
        return record.metrics if record else {}

    def _undefended_metrics(self, scenario: str) -> Mapping[str, float | None]:
        metrics = self.undefended[scenario].metrics if scenario in self.undefended else {}
        return {names.CA: metrics.get(names.CA_UNDEFENDED), names.ASR: metrics.get(names.ASR_UNDEFENDED)}

    def _means(self, row: Row) -> Mapping[str, float | None]:
        """A trial's metrics averaged over all scenarios; nothing when one is missing: the rest would not compare."""
        found = list(self.records[row.number].values())
        return aggregate(found).metrics if len(found) == len(self.plan.scenarios) else {}

    def _compared(self, best: Row, scenario: str) -> list[tuple[Row, str]]:
        """The rows that a scenario shows: the paper's default, the best over all, and its own best if another one."""
        shown = [(self.default, "paper default"), (best, f"best (#{best.number})")]
        own = self._own_best(scenario)
        if own is not None and own.number not in {row.number for row, _ in shown if row is not None}:
            shown.append((own, f"its own best (#{own.number})"))
        return [(row, name) for row, name in shown if row is not None]

    def _own_best(self, scenario: str) -> Row | None:
        sign = -1 if direction(self.plan.objective) == "minimize" else 1
        judged = [
            (sign * value, -row.number, row)
            for row in self.rows
            if (value := scores(self._metrics(row, scenario)).get(self.plan.objective)) is not None
        ]
        return max(judged)[2] if judged else None

    def _cells(self, metrics: Mapping[str, float | None]) -> list[str]:
        return [number(metrics.get(name)) for name in _COLUMNS]

    def _notes(self) -> str:
        lines = []
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
        columns = ["trial", "paper_default", "objective", *points, "scenario", "attack_failed", *names.METRICS]
        writer = csv.DictWriter(text, [*columns, "built_seconds", "wall_seconds"], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            for record in self.records[row.number].values():
                writer.writerow(self._csv_row(row, record))
        return text.getvalue()

    def _csv_row(self, row: Row, record: ScenarioRecord) -> dict[str, Any]:
        return {
            "trial": row.number,
            "paper_default": int(row.paper_default),
            "objective": row.value,
            **row.point,
            "scenario": record.scenario,
            "attack_failed": int(record.attack_failed),
            **{name: record.metrics.get(name) for name in names.METRICS},
            "built_seconds": round(sum(stage["built_seconds"] for stage in record.stages), 3),
            "wall_seconds": round(record.wall_seconds, 3),
        }

    def metrics(self) -> dict[str, float]:
        """What the study's own run shows in MLflow: the best trial's means and the paper default's."""
        found: dict[str, float] = {"trials": float(len(self.rows))}
        for row, prefix in ((self.best, "best"), (self.default, "paper_default")):
            if row is None or row.value is None:
                continue
            found[f"{prefix}/{names.OBJECTIVE}"] = row.value
            means = self._means(row)
            found |= {f"{prefix}/{name}": v for name in _COLUMNS if (v := means.get(name)) is not None}
        return found
