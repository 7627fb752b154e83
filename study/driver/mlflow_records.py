"""The driver's books: what each trial gave, told to the ledger, to MLflow and to the person who waits."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from study.code_version import code_version
from study.config.config import NOT_IDENTITY
from study.config.objectives import aggregate
from study.ledger.ledger import Ledger, Outcome, TrialRow
from study.ledger.pruning import Step, Stopped, build_steps
from study.ledger.records import ScenarioRecord, TrialRecord, read_scenario, read_trial, write_record
from study.ledger.snapshot import is_finished
from study.planning.plan import Plan
from study.scenarios.scenario import scenario_order
from tracking import names
from tracking.mlflow_log import now_ms
from tracking.outbox import Outbox, Record

NO_ATTACK = "no attack of this study works even undefended, so there is nothing to defend against"


class Book:
    """Reads what trials left on disk and passes it on, each thing once.

    Args:
        plan: of the study.
        folder: of the study.
        outbox: for MLflow.
    """

    def __init__(self, plan: Plan, folder: Path, outbox: Outbox) -> None:
        self.plan, self.folder, self.outbox = plan, folder, outbox
        self.points = folder / "points"
        self.hits = self.stages = 0
        self.failures_at_start = 0
        self._succeeded = False
        self._passed_on = outbox.finished()
        self._opened: set[str] = set()

    @property
    def study_run(self) -> str:
        """Key of the study's run."""
        return self._run("study")

    def _run(self, kind: str, *parts: str) -> str:
        return names.run_key(kind, self.plan.config.study_name, self.plan.config.identity, *parts)

    def trial_run(self, key: str) -> str:
        """Key of a trial's run."""
        return self._run("trial", key)

    def scenario_run(self, key: str, scenario: str) -> str:
        """Key of the run of a trial's scenario."""
        return self._run("scenario", key, scenario)

    def scenarios(self, key: str) -> list[ScenarioRecord] | None:
        """All scenarios of a point; None when one is missing."""
        found = list(self.intact(key).values())
        return found if len(found) == len(self.plan.scenarios) else None

    def intact(self, key: str) -> dict[str, ScenarioRecord]:
        """The scenarios of a point that can be read, by name."""
        found = {s.name: read_scenario(self.points / key / f"{s.name}.json") for s in self.plan.scenarios}
        return {name: record for name, record in found.items() if record is not None}

    def outcome(self, key: str) -> Outcome | None:
        """The objective of a finished point, or why it has none; None when the point is not finished."""
        trial = read_trial(self.points / key / "result.json")
        if trial is None:
            return None
        if trial.failure:
            return None, trial.failure
        if trial.stopped:
            whole = set(trial.scenarios) <= self.intact(key).keys()
            return Stopped(self.steps(key, trial.scenarios[-1])) if whole else None
        records = self.scenarios(key)
        if records is None:
            return None
        if all(record.attack_failed for record in records):
            return None, NO_ATTACK
        values = self.plan.goal.values(records)
        undefined = [name for name, value in zip(self.plan.goal.objectives, values, strict=True) if value is None]
        reason = f"{' and '.join(undefined)} is undefined on every scenario" if undefined else ""
        return values[0] if len(values) == 1 else values, reason

    def steps(self, key: str, last: str | None = None) -> tuple[Step, ...]:
        """What a trial of one objective had reached after each scenario, up to the last one that is asked for."""
        judged: list[ScenarioRecord] = []
        for scenario in scenario_order(self.plan.scenarios, key):
            record = read_scenario(self.points / key / f"{scenario.name}.json")
            if record is None:
                break
            judged.append(record)
            if scenario.name == last:
                break
        return build_steps(judged, self.plan.goal)

    def stop(self, key: str, point: dict[str, Any], last: str) -> None:
        """Writes down that a trial was stopped early, so that no later driver goes on with it.

        Args:
            last: scenario that it was judged on.
        """
        order = [scenario.name for scenario in scenario_order(self.plan.scenarios, key)]
        judged = order[: order.index(last) + 1]
        write_record(self.points / key / "result.json", TrialRecord(key, point, judged, stopped=True))

    def open_study(self, settings: dict[str, Any]) -> None:
        """Tells MLflow of the study. What may change when it goes on is a tag: MLflow never changes a param."""
        images = self.plan.environment.dataset.name
        shown = {name: _text(value) for name, value in settings.items() if value not in (None, {}, [])}
        self.outbox.append(
            Record(
                run=self.study_run,
                parent=None,
                name=self.plan.config.study_name,
                time_ms=now_ms(),
                params={name: text for name, text in shown.items() if name not in NOT_IDENTITY},
                tags={
                    names.TAG_KIND: "study",
                    names.TAG_STUDY: self.plan.config.study_name,
                    names.TAG_CODE: code_version(),
                    names.TAG_DATASET: images,
                    **{names.TAG_SETTING + name: text for name, text in shown.items() if name in NOT_IDENTITY},
                },
            )
        )

    def scenario_done(self, key: str, scenario: str) -> ScenarioRecord | None:
        """Passes a judged scenario on to MLflow, and gives it; None when it cannot be read or was passed on before."""
        record = read_scenario(self.points / key / f"{scenario}.json")
        run = self.scenario_run(key, scenario)
        if record is None or run in self._passed_on:
            return None
        self._passed_on.add(run)
        self._open_trial(key, now_ms() - int(1000 * record.wall_seconds))
        hits = [stage["hit"] for stage in record.stages]
        self.hits += sum(hits)
        self.stages += len(hits)
        self.outbox.append(
            Record(
                run=run,
                parent=self.trial_run(key),
                name=scenario,
                time_ms=now_ms(),
                start_ms=now_ms() - int(1000 * record.wall_seconds),
                dataset=(f"{self.plan.environment.dataset.name} {scenario}", record.meta["fingerprint"]),
                params={name: _text(record.meta[name]) for name in sorted(record.meta)},
                tags=self._scenario_tags(record, hits),
                metrics={**_defined(record.metrics), **_costs(record)},
                series=record.series,
                artifacts=record.artifacts,
                status="FINISHED",
            )
        )
        return record

    def _scenario_tags(self, record: ScenarioRecord, hits: list[bool]) -> dict[str, str]:
        return {
            names.TAG_KIND: "scenario",
            names.TAG_STUDY: self.plan.config.study_name,
            names.TAG_CODE: code_version(),
            names.TAG_FINGERPRINT: record.meta["fingerprint"],
            names.TAG_STAGES: " ".join(f"{stage['stage']}={stage['key'][:12]}" for stage in record.stages),
            names.TAG_HITS: f"{sum(hits)} of {len(hits)}",
            names.TAG_ATTACK_FAILED: str(record.attack_failed).lower(),
        }

    def _open_trial(self, key: str, start_ms: int) -> None:
        if key not in self._opened:
            self._opened.add(key)
            tags = {names.TAG_KIND: "trial", names.TAG_STUDY: self.plan.config.study_name}
            run = self.trial_run(key)
            self.outbox.append(Record(run, self.study_run, "trial", now_ms(), start_ms=start_ms, tags=tags))

    def trial_done(self, row: TrialRow) -> None:
        """Passes a settled trial on to MLflow."""
        run = self.trial_run(row.key)
        if run in self._passed_on:
            return
        self._passed_on.add(run)
        records = (list(self.intact(row.key).values()) if row.stopped_early else self.scenarios(row.key)) or []
        self._open_trial(row.key, now_ms())
        folder = self.points / row.key / "trial"
        folder.mkdir(parents=True, exist_ok=True)
        config = dataclasses.asdict(self.plan.full_config(row.point))
        (folder / names.CONFIG_YAML).write_text(yaml.safe_dump(_plain(config), sort_keys=False))
        # A part of the scenarios does not compare with all of them, so it gets no metric of the same name.
        found = {} if row.stopped_early else aggregate(records, self.plan.goal.how).metrics
        metrics = dict(zip(self.plan.goal.labels, row.values, strict=False))  # none when the trial failed
        tags = {names.TAG_PAPER_DEFAULT: str(row.paper_default).lower(), names.TAG_CODE: code_version()}
        if row.reason:
            tags[names.TAG_NOTE] = names.as_note(row.reason[:2000])
        series: dict[str, list[float]] = {}
        if self.plan.pruning is not None:
            tags[names.TAG_STOPPED_EARLY] = str(row.stopped_early).lower()
            series[names.OBJECTIVE_SO_FAR] = [step.value for step in self.steps(row.key)]
        label = "paper default" if row.paper_default else f"trial {row.number}"
        self.outbox.append(
            Record(
                run=run,
                parent=self.study_run,
                name=label,
                time_ms=now_ms(),
                params={name: _text(value) for name, value in config.items()},
                tags={**tags, names.TAG_NAME: label},
                metrics={**metrics, **_defined(found), **_total_costs(records)},
                series=series,
                artifacts=str(folder),
                status="FAILED" if row.state == "fail" else "FINISHED",
            )
        )

    def close_study(self, status: str, metrics: dict[str, float], artifacts: Path, summary: str, best: str) -> None:
        """Tells MLflow that the study ended, and how; the summary becomes the run's description."""
        self.outbox.append(
            Record(
                run=self.study_run,
                parent=None,
                name=self.plan.config.study_name,
                time_ms=now_ms(),
                tags={names.TAG_BEST: best, names.TAG_NOTE: names.as_note(summary)},
                metrics=metrics,
                artifacts=str(artifacts),
                keep_artifacts=True,
                status=status,
            )
        )

    def settle(self, ledger: Ledger, number: int, key: str, error: str) -> TrialRow:
        """Tells the ledger what a trial gave, and MLflow; keeps count of failures at the start."""
        outcome = self.outcome(key) or (None, error or "the trial left no result")
        ledger.tell(number, outcome)
        row = next(found for found in ledger.rows() if found.number == number)
        self._succeeded = self._succeeded or row.state != "fail"
        self.failures_at_start += not self._succeeded
        self.trial_done(row)
        return row

    def catch_up(self, ledger: Ledger) -> None:
        """Passes on what was settled while no driver was there to pass it on."""
        for row in ledger.rows():
            if row.key and is_finished(row.state, row.reason):
                for scenario in self.plan.scenarios:
                    self.scenario_done(row.key, scenario.name)
                self.trial_done(row)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _defined(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _costs(record: ScenarioRecord) -> dict[str, float]:
    return {
        names.COST_BUILT: sum(stage["built_seconds"] for stage in record.stages),
        names.COST_WALL: record.wall_seconds,
        names.COST_HITS: float(sum(stage["hit"] for stage in record.stages)),
    }


def _total_costs(records: list[ScenarioRecord]) -> dict[str, float]:
    total: dict[str, float] = {}
    for record in records:
        for name, value in _costs(record).items():
            total[name] = total.get(name, 0.0) + value
    return total
