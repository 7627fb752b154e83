"""A long study in an MLflow database, written in seconds: the records are a driver's, the rows are put in at once."""

import math
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from small_study import scenario_record

from study.config.objectives import aggregate
from study.driver.best_trial import BestTrial
from study.driver.mlflow_records import MlflowRecords
from study.ledger.records import ScenarioRecord
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from tracking import names
from tracking.outbox import Outbox, Record


class Collected(Outbox):
    """An outbox that only collects: nothing is written, and nothing was told of before."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record) -> None:
        self.records.append(record)

    def finished(self) -> set[str]:
        return set()

    def shown_names(self) -> dict[str, str]:
        return {}


def value_of(trial: int, scenario: int) -> float:
    """From 0 to 1, in an order of trials that is the same on every scenario, and not that of their numbers."""
    return 0.95 * (trial * 0.6180339887 % 1.0) + 0.01 * scenario


def records_of(plan: Plan, folder: Path, trials: int) -> list[Record]:
    """What the driver of a study tells MLflow: its run, its trials, and what they reached on each scenario."""
    told = Collected()
    books = MlflowRecords(plan, folder / "points", told)
    books.study_begins(plan.config.model_dump(mode="json"))
    reached: dict[float, Mapping[str, float | None]] = {}
    for number in range(trials):
        key = f"{number:032x}" if number else plan.point_key(plan.default_point)
        judged = [_judged(scenario.name, number, at) for at, scenario in enumerate(plan.scenarios)]
        for record in judged:
            books.scenario_judged(key, number, record)
        metrics = aggregate(judged, plan.goal.how).metrics
        values = tuple(float(metrics[name] or 0.0) for name in plan.goal.objectives)
        row = TrialRow(number, "complete", dict(plan.default_point), key, values, "", number == 0)
        books.trial_finished(row, judged, (), {})
        reached.setdefault(values[0], metrics)
    best = Best(reached[max(reached)])
    books.study_ends("FINISHED", {"trials": float(trials)}, best, folder / "summary", "The end.", "#0")
    return told.records


class Best(BestTrial):
    """A best trial without files."""

    def __init__(self, reached: Mapping[str, float | None]) -> None:
        self._reached = reached

    def metrics(self) -> dict[str, float | None]:
        told = {name: self._reached.get(name) for name in (*names.HEADLINE, *names.SCORES)}
        return {names.OBJECTIVE: told[names.OVERALL_SCORE], **told}

    def put_files(self, folder: Path) -> None:
        """There are none."""


def _judged(scenario: str, trial: int, at: int) -> ScenarioRecord:
    tpr = value_of(trial, at)
    metrics = {names.TPR: tpr, names.FPR: 0.1 * (1 - tpr), names.AUROC: 0.5 + tpr / 2, names.AUROC_FLAGS: tpr}
    metrics |= {names.FLAGGED_SHARE: 0.1, names.CA: 0.9 + 0.05 * math.sqrt(tpr), names.ASR: 1 - tpr}
    metrics |= {names.CA_UNDEFENDED: 0.95, names.ASR_UNDEFENDED: 1.0, names.signal("gap"): tpr / 3}
    return scenario_record(scenario, dict(metrics))


def write_runs(database: Path, experiment: str, records: Iterable[Record], begun: int) -> None:
    """Puts records into a database of MLflow, as `tracking.mlflow_log.RunLog.take` does one after the other.

    Args:
        begun: when the first run began, in seconds since 1970; each of the others one second after the one before.
    """
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record.run, []).append(record)
    ids = {run: uuid.uuid5(uuid.NAMESPACE_URL, run).hex for run in runs}
    rows: dict[str, list[tuple[Any, ...]]] = {"runs": [], "tags": [], "params": [], "metrics": [], "latest_metrics": []}
    for at, (run, told) in enumerate(runs.items()):
        _add(rows, ids, run, told, int(experiment), 1000 * (begun + at))
    views = {name: value for told in runs.values() for record in told for name, value in record.views.items()}
    rows["experiment_tags"] = [(name, value, int(experiment)) for name, value in views.items()]
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, values in rows.items():
            marks = ", ".join("?" * len(values[0]))
            connection.executemany(f"insert into {table} values ({marks})", values)


def _add(
    rows: dict[str, list[tuple[Any, ...]]],
    ids: dict[str, str],
    run: str,
    told: Sequence[Record],
    experiment: int,
    time: int,
) -> None:
    own, first, last = ids[run], told[0], told[-1]
    tags: dict[str, str] = {names.TAG_NAME: first.name}
    for record in told:
        tags |= record.tags
    if first.parent is not None:
        tags[names.TAG_PARENT] = ids[first.parent]
    place = f"file:///nowhere/{own}"
    shown = (tags[names.TAG_NAME], "LOCAL", "study.run", "", "me", last.status, time, time + 500, "", "active", place)
    rows["runs"].append((own, *shown, experiment, None))
    rows["tags"] += [(name, value, own) for name, value in tags.items()]
    rows["params"] += [(name, value, own) for record in told for name, value in record.params.items()]
    for record in told:
        for name, value in record.metrics.items():
            rows["metrics"].append((name, value, time, own, 0, False))
            rows["latest_metrics"].append((name, value, time, 0, False, own))
