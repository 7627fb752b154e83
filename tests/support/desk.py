"""A study's folder with what its driver works with, for tests that play the driver."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_study import empty_ledger, scenario_record

from study.analysis.results import load_results
from study.driver.driver import claim_folder
from study.driver.mlflow_records import MlflowRecords
from study.driver.settlement import Settlement
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord, write_record
from study.ledger.result_reader import ResultReader
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from study.report.results_csv import results_csv
from study.report.sections.closing import Closing
from tracking.outbox import Outbox, Record

Metrics = dict[str, float | None]


BAD, GOOD = "badnets-0.1-s0", "blended_random-0.1-s0"


def judged(tpr: float | None, fpr: float, ca: float, asr: float | None) -> Metrics:
    undefended: Metrics = {"ca_undefended": 0.9, "asr_undefended": None if asr is None else 1.0}
    return {"tpr": tpr, "fpr": fpr, "auroc": tpr, "ca": ca, "asr": asr, **undefended}


@dataclass
class Desk:
    """A study's folder with what its driver works with."""

    plan: Plan
    folder: Path

    def __post_init__(self) -> None:
        path = self.folder / "study.db"
        if not path.exists():
            path.write_bytes(empty_ledger(self.plan.goal.directions))
        self.outbox = Outbox(self.folder / "outbox.jsonl")
        self.reader = ResultReader(self.folder / "points", self.plan.scenarios, self.plan.goal, self.plan.reads)
        self.told = MlflowRecords(self.plan, self.reader.points, self.outbox)
        self.ledger = Ledger(
            path,
            "toy",
            self.plan.space,
            self.plan.goal.directions,
            "random",
            0,
            12,
            self.plan.point_key,
        )
        self.settlement = Settlement(self.plan, self.reader, self.ledger, self.told)

    def write(self, key: str, point: dict[str, Any], metrics: list[Metrics], failed: tuple[str, ...] = ()) -> None:
        """What a worker leaves on disk."""
        scenarios = [scenario.name for scenario in self.plan.scenarios]
        for scenario, found in zip(scenarios, metrics, strict=False):
            record = scenario_record(scenario, found, attack_failed=scenario in failed)
            write_record(self.reader.points / key / f"{scenario}.json", record)
        write_record(self.reader.points / key / "result.json", TrialRecord(key, point, scenarios))

    def trial(self, *metrics: Metrics, failed: tuple[str, ...] = ()) -> TrialRow:
        """One trial from its point to its settlement."""
        number, point, key = self.ledger.ask()
        self.write(key, point, list(metrics), failed)
        return self.settlement.finish_trial(number, key, "")

    def failure(self, reason: str) -> TrialRow:
        number, point, key = self.ledger.ask()
        write_record(self.reader.points / key / "result.json", TrialRecord(key, point, [], reason))
        return self.settlement.finish_trial(number, key, "")

    def records(self) -> list[Record]:
        return [record for record, _ in self.outbox.pending()]

    def closing(self) -> Closing:
        claim_folder(self.plan, self.folder)
        return Closing(load_results(self.folder, self.folder.parent))

    def csv(self) -> str:
        return results_csv(self.closing().results)


def rows_of(text: str, header: str) -> list[list[str]]:
    """The cells of the table that starts with a header, without it and its rule."""
    lines = text.splitlines()
    start = next(position for position, line in enumerate(lines) if line.startswith(header))
    body = lines[start + 2 :]
    end = next((position for position, line in enumerate(body) if not line.strip()), len(body))
    widths = [len(rule) for rule in lines[start + 1].split("  ")]
    rows = []
    for line in body[:end]:
        cells, rest = [], line
        for width in widths:
            cells.append(rest[:width].strip())
            rest = rest[width + 2 :]
        rows.append(cells)
    return rows


@dataclass(frozen=True)
class Outcome:
    """The least that can be aggregated."""

    metrics: dict[str, float | None]
    attack_failed: bool = False
