"""A study as it lies on disk, as tables: its trials, what each gave on each scenario, and what that cost."""

import dataclasses
import functools
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.registry import UserError
from search_spaces.conditions import Conditions
from search_spaces.space import Range, SearchSpace
from study.analysis.clean_fpr import gather_clean_fpr
from study.analysis.repeats import count_repeats, merge_repeats
from study.analysis.result_tables import evaluation_table, read_evaluations, stage_table, trial_table
from study.config.config import StudyConfig
from study.config.objectives import Goal
from study.config.sampling import SPACE_FILLING
from study.ledger import selection
from study.ledger.clean_control import read_clean_control
from study.ledger.manifest import Manifest, read_manifest
from study.ledger.records import read_scenario, scenario_path
from study.ledger.snapshot import read_ledger
from study.ledger.study_folder import LEDGER, POINTS, find_study, study_command
from study.planning.searched_space import load_space
from tracking import names

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Results:
    """All that a study tells. Read once; nothing in it is changed.

    Attributes:
        manifest: what the study was started with.
        ranges: the searched fields, in the space's order.
        trials: a row a trial that was started, by its number: the searched fields (None where one does nothing),
            ``key``, ``state`` (complete, pruned, fail, running), ``paper_default``, ``calibrated`` (bools), ``value``
            (the objective, the first of several), ``reason`` of a failure, and of several objectives a column each
            (``objective/asr``).
        cells: a row a trial and scenario that was judged: ``trial``, ``scenario``, ``attack``, ``poison_rate``,
            ``seed``, ``repeat``, ``stratum`` (the scenario without seed and repeat), ``poisoning`` (the scenario
            without its repeat: the name of the poisoned data), ``attack_failed``, every metric of
            `tracking.names.METRICS`, the three scores, signals (``signal/...``), ``built_seconds`` (the stages' cost
            when they were built), ``wall_seconds`` (what this cell spent) and the defense's own cost by `COSTS`.
            Undefined metrics are NaN.
        stages: a row a stage of a cell: ``trial``, ``scenario``, ``stage``, ``key``, ``hit``, ``wall_seconds``,
            ``built_seconds``, ``epoch_equivalents`` (NaN where the record does not say), ``training`` (what the epochs
            of one training have in common, else the key), ``early`` (where a trial was compared with others at an epoch
            before its own).
        points: number of a trial -> its searched fields that act there, as the ledger has them.
        clean_fpr: number of a trial -> seed -> the FPR when nothing is poisoned, of the trials that were run on that.
        damaged: files that could not be read; what they held is left out.
        command: what makes the study, or goes on with it; empty where no command of this version can.
        judged: of a hold-out study, what the chosen settings reached on seeds that the search never saw.
    """

    name: str
    folder: Path
    manifest: Manifest
    space: str
    defense: str
    ranges: Mapping[str, Range]
    goal: Goal
    trials: "pandas.DataFrame"
    evaluations: "pandas.DataFrame"
    stages: "pandas.DataFrame"
    damaged: tuple[str, ...] = ()
    command: str = ""
    holdout_results: "Results | None" = None
    clean_fpr: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    points: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def config(self) -> StudyConfig:
        """The study's options."""
        return self.manifest.config

    @property
    def conditions(self) -> Conditions:
        """Of the searched fields on each other."""
        return Conditions({name: own.when for name, own in self.ranges.items()})

    @functools.cached_property
    def complete(self) -> "pandas.DataFrame":
        """The trials with a readable result on every scenario: a mean over fewer would not compare."""
        judged = self.evaluations.groupby("trial").size().reindex(self.trials.index, fill_value=0)
        planned = len(self.manifest.scenarios) or len(self.scenarios)  # what no trial could be read on counts as well
        return self.trials[(self.trials["state"] == "complete") & (judged == planned)]

    @functools.cached_property
    def compared(self) -> "pandas.DataFrame":
        """The cells of complete trials on scenarios whose attack works: all that counts for or against a defense."""
        whole = self.evaluations["trial"].isin(self.complete.index)
        return self.evaluations[whole & ~self.evaluations["attack_failed"]]

    @functools.cached_property
    def space_filling_trials(self) -> "pandas.DataFrame":
        """The complete trials that lie evenly over the space: what sensitivity may be computed on.

        Empty for a sampler that searches. What no sampler drew, the paper's default above all, is left out.
        """
        complete = self.complete
        filling = self.config.sampler in SPACE_FILLING and not self.manifest.given_points
        return complete[~complete["paper_default"] & ~complete["calibrated"]] if filling else complete.iloc[:0]

    @functools.cached_property
    def scenarios(self) -> "pandas.DataFrame":
        """A row a scenario: its parts, whether the attack failed, CA and ASR undefended."""
        of_attack = ["attack", "poison_rate", "seed", "repeat", "stratum", "poisoning", "attack_failed"]
        return self.evaluations.groupby("scenario", sort=False)[
            [*of_attack, names.CA_UNDEFENDED, names.ASR_UNDEFENDED]
        ].first()

    @functools.cached_property
    def candidates(self) -> tuple[selection.Candidate, ...]:
        """The trials for the rules of `study.ledger.selection`, with the study's objectives on every scenario.

        A complete trial with a result that cannot be read is left out: it would be compared by fewer scenarios.
        """
        whole = self.trials.index.isin(self.complete.index) | (self.trials["state"] != "complete")
        reached: dict[int, dict[str, tuple[float | None, ...]]] = {}
        columns = self.evaluations[["trial", "scenario", *self.goal.objectives]]
        for trial, scenario, *values in columns.itertuples(index=False):
            reached.setdefault(int(trial), {})[scenario] = tuple(values)
        return tuple(
            selection.Candidate(
                number=int(str(number)),
                state=str(row["state"]),
                values=tuple(row[label] for label in self.objective_columns),
                paper_default=bool(row["paper_default"]),
                scenarios=reached.get(int(str(number)), {}),
            )
            for number, row in self.trials[whole].iterrows()
        )

    @property
    def objective_columns(self) -> tuple[str, ...]:
        """Columns of `trials` that hold the objectives."""
        return self.goal.labels if len(self.goal.objectives) > 1 else ("value",)

    @functools.cached_property
    def default(self) -> int | None:
        """The complete trial of the paper's default; None where there is none."""
        return _number(selection.paper_default(self.candidates))

    @functools.cached_property
    def best(self) -> int | None:
        """The best complete trial over all scenarios, of several objectives the knee of their front; or None."""
        return _number(selection.best_or_knee(self.candidates, self.goal.directions))

    @property
    def best_name(self) -> str:
        """What people are told that `best` is: ``best``, or ``knee of the front``."""
        return selection.best_name(self.goal.directions)

    @functools.cached_property
    def front(self) -> list[int]:
        """The complete trials that no other beats in every objective."""
        return [trial.number for trial in selection.front(self.candidates, self.goal.directions)]

    @functools.cached_property
    def worst_case_best(self) -> int | None:
        """The trial that is best by its worst scenario whose attack works, however the study aggregates; or None."""
        return _number(selection.worst_case_best(self.candidates, self.goal.directions, self._working))

    def best_on(self, scenarios: Iterable[str]) -> int | None:
        """The trial that `best` would be if the study had these scenarios alone; None where no attack works there."""
        wanted = set(self._working).intersection(scenarios)
        rule = selection.worst_case_best if self.goal.how == "worst" else selection.mean_best
        return _number(rule(self.candidates, self.goal.directions, wanted))

    @property
    def _working(self) -> list[str]:
        """Scenarios whose attack works."""
        return [str(name) for name in self.scenarios.index[~self.scenarios["attack_failed"]]]

    def command_for(self, name: str) -> str:
        """A command about this study, to copy: ``python -m study.analyze NAME``."""
        return study_command(name, self.folder.with_name(self.name))

    @property
    def machines(self) -> list[str]:
        """What its cells were computed on: more than one where it went on elsewhere, or on nodes of several kinds."""
        return sorted({str(name) for name in self.evaluations["computed_on"]} - {""})

    @property
    def seeds(self) -> list[int]:
        """Of the scenarios."""
        return sorted(int(seed) for seed in self.scenarios["seed"].unique())

    @functools.cached_property
    def repeats(self) -> int:
        """How often each poisoned set was trained on."""
        return count_repeats(self.evaluations)

    @functools.cached_property
    def over_repeats(self) -> "Results":
        """The study with the means over the repeats of each scenario; itself where there is one training of each.

        What compares configurations, explains metrics or spreads over seeds reads this: repeats of one poisoned set
        are not independent of each other.
        """
        if self.repeats == 1:
            return self
        held, manifest = self.holdout_results, self.manifest
        firsts = manifest.first_repeats if manifest.parts else ()
        return dataclasses.replace(
            self,
            manifest=dataclasses.replace(manifest, scenarios=firsts),
            evaluations=merge_repeats(self.evaluations),
            holdout_results=None if held is None else held.over_repeats,
        )

    def clean_fpr_mean(self, trial: int) -> tuple[float | None, float | None]:
        """The FPR of a trial when nothing is poisoned: mean and standard deviation (n - 1) over seeds, or None."""
        shares = list(self.clean_fpr.get(trial, {}).values())
        mean = statistics.fmean(shares) if shares else None
        return mean, statistics.stdev(shares) if len(shares) > 1 else None

    def series(self, trial: int, scenario: str) -> dict[str, list[float]]:
        """Per-epoch or per-round values of a cell, by ``stage.name``; read from disk each time."""
        key = str(self.trials.loc[trial, "key"])
        record = read_scenario(scenario_path(self.folder / POINTS / key, scenario))
        return record.series if record is not None else {}


def _number(trial: selection.Candidate | None) -> int | None:
    return None if trial is None else trial.number


def read_results(out: Path, name: str) -> Results:
    """Reads a study; of one that holds out, its search, with what was judged beside it.

    Args:
        out: the folder of all studies.

    Raises:
        UserError: no such study, one that cannot be read, one in which nothing was judged yet, or one whose scenarios
            are studies of their own.
    """
    folder = find_study(out, name)
    manifest = _load_manifest(folder)
    children = [child.name for child in manifest.child_studies(folder)]
    if manifest.config.holdout:
        search = _read(out, children[0])
        try:
            judged = _read(out, children[1])
        except UserError:  # it was stopped before: the search alone has something to tell
            judged = None
        return dataclasses.replace(
            search, name=name, manifest=manifest, command=manifest.resume_command(out), holdout_results=judged
        )
    if children:
        of = "defense" if manifest.config.defenses else "scenario"
        raise UserError(f"study {name!r} searched each {of} in a study of its own: name one of {', '.join(children)}")
    return _read(out, name)


def _load_manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except ValueError as error:
        raise UserError(f"study {folder.name!r} cannot be read: {error}") from error


def _read(out: Path, name: str) -> Results:
    results = load_results(find_study(out, name), out)
    if results.evaluations.empty:
        raise UserError(
            f"study {name!r} has no result yet, so there is nothing to tell: {_why_empty(results)} "
            f"({results.command_for('status')} shows where it stands)"
        )
    return results


def load_results(folder: Path, out: Path) -> Results:
    """Reads the study in a folder; one without any result has tables without rows.

    Args:
        out: the folder of all studies, as the user names it.

    Raises:
        UserError: it cannot be read.
    """
    manifest = _load_manifest(folder)
    try:
        ledger = read_ledger(folder / LEDGER)
    except ValueError as error:
        raise UserError(f"study {folder.name!r} cannot be read: {error}") from error
    space = load_space(manifest.config)
    begun = [trial for trial in ledger.trials if trial.state != "waiting"]
    ranges = _searched(space, {name for trial in begun for name in trial.point}, manifest.config)
    conditions = space.only(ranges).conditions
    # A study that was begun before a field was conditional has it in points where it does nothing.
    started = [dataclasses.replace(trial, point=conditions.drop_idle(trial.point)) for trial in begun]
    cells, stages, damaged = read_evaluations(folder, started, manifest, space.defense)
    return Results(
        name=folder.name,
        folder=folder,
        manifest=manifest,
        space=space.name,
        defense=space.defense,
        ranges=ranges,
        goal=manifest.goal,
        trials=trial_table(started, manifest.goal, ranges),
        evaluations=evaluation_table(cells),
        stages=stage_table(stages),
        damaged=tuple(damaged),
        command=manifest.resume_command(out),
        points={trial.number: trial.point for trial in started},
        clean_fpr=gather_clean_fpr(read_clean_control(folder), started, cells),
    )


def _searched(space: SearchSpace, drawn: Collection[str], config: StudyConfig) -> Mapping[str, Range]:
    """The ranges of the fields that trials have, and of those that act in none of them so far."""
    searched = set(drawn)
    for name in space.conditions.conditional:
        if name not in config.set and all(one.field in searched for one in space.conditions.when[name]):
            searched.add(name)
    return space.only(searched).ranges


def _why_empty(results: Results) -> str:
    trials = results.trials
    failed = [str(reason) for reason in trials["reason"][trials["state"] == "fail"]]
    if failed:
        reason = failed[0].strip().splitlines()
        which = f"all {len(failed)} trials" if len(failed) > 1 else "its only trial"
        return f"{which} failed, {'the first ' if len(failed) > 1 else ''}with: {reason[-1] if reason else 'no reason'}"
    return "no trial was judged on any scenario"
