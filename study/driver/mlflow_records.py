"""What MLflow is told of a study: a record for its run, each trial's and each scenario's, put into the outbox once."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from defenses.storage.atomic_files import write_atomic
from study.code_version import code_version
from study.config.identity import NOT_IDENTITY
from study.config.objectives import aggregate
from study.driver.best_trial import BestTrial
from study.ledger.method_cost import method_cost
from study.ledger.pruning import Step
from study.ledger.records import ScenarioRecord
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from tracking import names
from tracking.mlflow_log import now_ms
from tracking.outbox import Outbox, Record
from tracking.ui_address import study_view


class MlflowRecords:
    """Writes a study's records. It is handed all that they hold, and reads and decides nothing.

    Args:
        plan: of the study.
        points: folder in which each point has one of its own.
        outbox: for MLflow; what was told of before, by this driver or an earlier one, is not told again.
    """

    def __init__(self, plan: Plan, points: Path, outbox: Outbox) -> None:
        self._plan, self._points, self._outbox = plan, points, outbox
        self._told = outbox.finished()
        self._shown = outbox.shown_names()
        self._opened: set[str] = set()
        self._default = plan.point_key(plan.default_point)
        self._study, self._identity = plan.config.study_name, plan.config.identity  # hashed once: every run has them
        self._repeats = {scenario.name: scenario.repeat for scenario in plan.scenarios}
        self._own = frozenset(stage.name for stage in plan.defense.stages)

    @property
    def study_run(self) -> str:
        """Key of the study's run."""
        return self._run("study")

    def _run(self, kind: str, *parts: str) -> str:
        return names.run_key(kind, self._study, self._identity, *parts)

    def trial_run(self, key: str) -> str:
        """Key of a trial's run."""
        return self._run("trial", key)

    def scenario_run(self, key: str, scenario: str) -> str:
        """Key of the run of a trial's scenario."""
        return self._run("scenario", key, scenario)

    def _trial_name(self, key: str, number: int) -> str:
        """A trial's name in MLflow, which says which it is wherever it stands."""
        return f"{self._study} #{number}{' paper default' if key == self._default else ''}"

    def _append(self, record: Record) -> None:
        self._shown[record.run] = record.tags.get(names.TAG_NAME) or self._shown.get(record.run, record.name)
        self._outbox.append(record)

    def knows_scenario(self, key: str, scenario: str) -> bool:
        """Whether a scenario of a trial was told of before."""
        return self.scenario_run(key, scenario) in self._told

    def knows_trial(self, key: str) -> bool:
        """Whether the end of a trial was told of before."""
        return self.trial_run(key) in self._told

    def study_begins(self, settings: Mapping[str, Any]) -> None:
        """The study's run. What may change when it goes on is a tag: MLflow never changes a param."""
        shown = {name: _text(value) for name, value in settings.items() if value not in (None, {}, [])}
        study, goal = self._study, self._plan.goal
        self._append(
            Record(
                run=self.study_run,
                parent=None,
                name=study,
                time_ms=now_ms(),
                params={name: text for name, text in shown.items() if name not in NOT_IDENTITY},
                tags={
                    names.TAG_KIND: "study",
                    names.TAG_STUDY: study,
                    names.TAG_CODE: code_version(),
                    names.TAG_DATASET: self._plan.environment.dataset.name,
                    **{names.TAG_SETTING + name: text for name, text in shown.items() if name in NOT_IDENTITY},
                },
                views=study_view(
                    study, goal.objectives[0], goal.directions[0] == "minimize", tuple(self._plan.space.ranges)
                ),
            )
        )

    def scenario_judged(
        self, key: str, number: int, record: ScenarioRecord, earlier: Sequence[ScenarioRecord] = ()
    ) -> None:
        """A scenario of a trial with its metrics, series, costs and files.

        Args:
            number: the trial's.
            earlier: the same scenario, read at earlier epochs to compare trials.
        """
        self._told.add(self.scenario_run(key, record.scenario))
        started = now_ms() - int(1000 * record.wall_seconds)
        self._open_trial(key, number, started)
        self._append(
            Record(
                run=self.scenario_run(key, record.scenario),
                parent=self.trial_run(key),
                name=f"{self._trial_name(key, number)} {record.scenario}",
                time_ms=now_ms(),
                start_ms=started,
                dataset=(f"{self._plan.environment.dataset.name} {record.scenario}", record.meta["fingerprint"]),
                params={name: _text(record.meta[name]) for name in sorted(record.meta)},
                tags=self._scenario_tags(record),
                metrics=self._metrics({**record.metrics, **self._costs(record, earlier)}),
                series=record.series,
                artifacts=self._place(self._points / key / record.scenario) if record.artifacts else "",
                status="FINISHED",
            )
        )

    def _scenario_tags(self, record: ScenarioRecord) -> dict[str, str]:
        return {
            names.TAG_KIND: "scenario",
            names.TAG_STUDY: self._study,
            names.TAG_CODE: code_version(),
            names.TAG_FINGERPRINT: record.meta["fingerprint"],
            names.TAG_STAGES: " ".join(f"{stage['stage']}={stage['key'][:12]}" for stage in record.stages),
            names.TAG_HITS: f"{record.stored_stages} of {len(record.stages)}",
            names.TAG_ATTACK_FAILED: str(record.attack_failed).lower(),
            **({names.TAG_REPEAT: str(self._repeats[record.scenario])} if self._plan.config.repeats > 1 else {}),
        }

    def _place(self, folder: Path) -> str:
        """A folder as it is named in a record, which must hold after the study was moved: within the study's own."""
        return folder.relative_to(self._points.parent).as_posix()

    def _metrics(self, metrics: Mapping[str, float | None]) -> dict[str, float]:
        """The metrics that are defined, as MLflow shows them."""
        objectives = self._plan.goal.objectives
        return {names.in_mlflow(name, *objectives): value for name, value in metrics.items() if value is not None}

    def _read(self, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
        """Those that people read. The others say something on a scenario alone, and MLflow lists them first."""
        objectives = self._plan.goal.objectives
        return {name: value for name, value in metrics.items() if names.in_mlflow(name, *objectives) == name}

    def _open_trial(self, key: str, number: int, start_ms: int) -> None:
        if key not in self._opened:
            self._opened.add(key)
            tags = {names.TAG_KIND: "trial", names.TAG_STUDY: self._study}
            name = self._trial_name(key, number)
            self._append(Record(self.trial_run(key), self.study_run, name, now_ms(), start_ms=start_ms, tags=tags))

    def _rename_scenarios(self, row: TrialRow, records: Sequence[ScenarioRecord]) -> None:
        """What was judged before a kill has the number that the trial had then."""
        for record in records:
            run, name = (
                self.scenario_run(row.key, record.scenario),
                f"{self._trial_name(row.key, row.number)} {record.scenario}",
            )
            if self._shown.get(run, name) != name:
                self._append(Record(run, self.trial_run(row.key), name, now_ms(), tags={names.TAG_NAME: name}))

    def trial_finished(
        self,
        row: TrialRow,
        records: Sequence[ScenarioRecord],
        steps: Sequence[Step],
        earlier: Mapping[str, Sequence[ScenarioRecord]],
    ) -> None:
        """A settled trial, with its whole configuration as a file.

        Args:
            records: of its scenarios, as far as it got.
            steps: what it had reached after each of them; none where no pruner asks.
            earlier: of each scenario, what was read at earlier epochs to compare trials.
        """
        self._told.add(self.trial_run(row.key))
        self._open_trial(row.key, row.number, now_ms())
        self._rename_scenarios(row, records)
        idle = self._plan.space.ranges.keys() - row.point.keys()  # what did nothing is not told beside the result
        whole = dataclasses.asdict(self._plan.full_config(row.point))
        config = {name: value for name, value in whole.items() if name not in idle}
        label = self._trial_name(row.key, row.number)
        # A part of the scenarios does not compare with all of them, so it gets no metric of the same name.
        together = {} if row.stopped_early else self._read(aggregate(records, self._plan.goal.how).metrics)
        # None when the trial failed; of several objectives each is there under its own name alone.
        objective = {names.OBJECTIVE: row.value} if len(self._plan.goal.objectives) == 1 else {}
        self._append(
            Record(
                run=self.trial_run(row.key),
                parent=self.study_run,
                name=label,
                time_ms=now_ms(),
                params={name: _text(value) for name, value in config.items()},
                tags={**self._trial_tags(row), names.TAG_NAME: label},
                metrics=self._metrics({**objective, **together, **self._total_costs(records, earlier)}),
                series={names.OBJECTIVE_SO_FAR: [step.value for step in steps]} if self._plan.pruning else {},
                artifacts=self._write_config(row.key, config),
                status="FAILED" if row.state == "fail" else "FINISHED",
            )
        )

    def _costs(self, record: ScenarioRecord, earlier: Sequence[ScenarioRecord]) -> dict[str, float | None]:
        """What a scenario of a point cost, with what its training was read for at earlier epochs."""
        cost = method_cost(record.stages, self._own, [stage for one in earlier for stage in one.stages])
        return {
            names.COST_BUILT: record.built_seconds,
            names.COST_WALL: record.wall_seconds + sum(one.wall_seconds for one in earlier),
            names.COST_HITS: float(record.stored_stages),
            names.COST_EPOCHS_BUILT: cost.built_epochs,
            names.COST_EPOCHS_SPENT: cost.spent_epochs,
            names.COST_DEFENSE_BUILT: cost.built_seconds,
            names.COST_DEFENSE_SPENT: cost.spent_seconds,
        }

    def _total_costs(
        self, records: Sequence[ScenarioRecord], earlier: Mapping[str, Sequence[ScenarioRecord]]
    ) -> dict[str, float | None]:
        """Over the scenarios; a cost that one of them does not tell has no total."""
        each = [self._costs(record, earlier.get(record.scenario, ())) for record in records]
        columns = {name: [costs[name] for costs in each] for name in (each[0] if each else ())}
        return {name: None if None in values else sum(filter(None, values)) for name, values in columns.items()}

    def _trial_tags(self, row: TrialRow) -> dict[str, str]:
        tags = {names.TAG_PAPER_DEFAULT: str(row.paper_default).lower(), names.TAG_CODE: code_version()}
        if row.reason:
            tags[names.TAG_NOTE] = names.as_note(row.reason[:2000])
        if self._plan.pruning is not None:
            tags[names.TAG_STOPPED_EARLY] = str(row.stopped_early).lower()
        return tags

    def _write_config(self, key: str, config: Mapping[str, Any]) -> str:
        """The file that goes with a trial; gives its folder, as a record names it."""
        folder = self._points / key / "trial"
        folder.mkdir(parents=True, exist_ok=True)
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
        write_atomic(folder / names.CONFIG_YAML, yaml.safe_dump(plain, sort_keys=False))
        return self._place(folder)

    def control_done(self, key: str, number: int, share: float) -> None:
        """What a trial flags of the data unpoisoned, the mean over seeds, beside what it reached."""
        run, name = self.trial_run(key), self._trial_name(key, number)
        self._append(Record(run, self.study_run, name, now_ms(), metrics=self._metrics({names.FPR_CLEAN: share})))

    def study_ends(
        self, status: str, metrics: Mapping[str, float], best: BestTrial, artifacts: Path, summary: str, front: str
    ) -> None:
        """The study ended, and how; the summary becomes the run's description.

        The study's run has what its best trial reached under the same names as a trial, so that studies compare.

        Args:
            metrics: what else is to be shown of it.
            artifacts: folder of the files that go with it; those of its report and of its best trial are put there.
            front: the best trial, or the front, for people.
        """
        best.put_files(artifacts)
        reached = best.metrics()
        others = {name: value for name, value in metrics.items() if reached.get(name.removeprefix("best/")) is None}
        self._append(
            Record(
                run=self.study_run,
                parent=None,
                name=self._study,
                time_ms=now_ms(),
                tags={names.TAG_BEST: front, names.TAG_NOTE: names.as_note(summary)},
                metrics=self._metrics({**others, **reached}),
                artifacts=self._place(artifacts),
                keep_artifacts=True,
                status=status,
            )
        )


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
