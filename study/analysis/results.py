"""A study as it lies on disk, as tables: its trials, what each gave on each scenario, and what that cost."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from search_spaces.space import Range
from study.config.config import SPACE_FILLING
from study.config.objectives import Goal, direction, parse_objectives, scores
from study.ledger.records import ScenarioRecord, read_scenario
from study.ledger.snapshot import SnapshotTrial, read_ledger
from study.ledger.study_folder import LEDGER, POINTS, child_studies, find_study, read_settings, resume_command
from tracking import names

if TYPE_CHECKING:
    import pandas

_NAME = re.compile(r"(.*)-([0-9.]+(?:e-?[0-9]+)?)-s(-?[0-9]+)")


@dataclass(frozen=True)
class Results:
    """All that a study tells. Read once; nothing in it is changed.

    Attributes:
        settings: the study's options, as `study.config.config.StudyConfig` names them.
        ranges: the searched fields, in the space's order.
        trials: a row a trial that was started, by its number: the searched fields, ``key``, ``state`` (complete,
            pruned, fail, running), ``paper_default`` (bool), ``value`` (the objective, the first of several) and
            ``reason`` of a failure.
        cells: a row a trial and scenario that was judged: ``trial``, ``scenario``, ``attack``, ``poison_rate``,
            ``seed``, ``stratum`` (the scenario without its seed), ``attack_failed``, every metric of
            `tracking.names.METRICS`, the three scores, signals (``signal/...``), ``built_seconds`` (the stages' cost
            when they were built) and ``wall_seconds`` (what this cell spent). Undefined metrics are NaN.
        stages: a row a stage of a cell: ``trial``, ``scenario``, ``stage``, ``key``, ``hit``, ``wall_seconds``,
            ``built_seconds``.
        damaged: files that could not be read; what they held is left out.
        command: what makes the study, or goes on with it; empty where no command of this version can.
        given_points: its points were chosen elsewhere, and lie nowhere in particular.
        judged: of a hold-out study, what the chosen settings reached on seeds that the search never saw.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    space: str
    defense: str
    ranges: Mapping[str, Range]
    goal: Goal
    trials: "pandas.DataFrame"
    evaluations: "pandas.DataFrame"
    stages: "pandas.DataFrame"
    damaged: tuple[str, ...] = ()
    command: str = ""
    given_points: bool = False
    holdout_results: "Results | None" = None

    @functools.cached_property
    def complete(self) -> "pandas.DataFrame":
        """The trials with a readable result on every scenario: a mean over fewer would not compare."""
        judged = self.evaluations.groupby("trial").size().reindex(self.trials.index, fill_value=0)
        return self.trials[(self.trials["state"] == "complete") & (judged == len(self.scenarios))]

    @functools.cached_property
    def compared(self) -> "pandas.DataFrame":
        """The cells of complete trials on scenarios whose attack works: all that counts for or against a defense."""
        whole = self.evaluations["trial"].isin(self.complete.index)
        return self.evaluations[whole & ~self.evaluations["attack_failed"]]

    @functools.cached_property
    def space_filling_trials(self) -> "pandas.DataFrame":
        """The complete trials that lie evenly over the space: what sensitivity may be computed on.

        Empty for a sampler that searches. The paper's default, which no sampler drew, is left out.
        """
        found = self.complete
        filling = self.settings["sampler"] in SPACE_FILLING and not self.given_points
        return found[~found["paper_default"]] if filling else found.iloc[:0]

    @functools.cached_property
    def scenarios(self) -> "pandas.DataFrame":
        """A row a scenario: its parts, whether the attack failed, CA and ASR undefended."""
        of_attack = ["attack", "poison_rate", "seed", "stratum", "attack_failed"]
        return self.evaluations.groupby("scenario", sort=False)[
            [*of_attack, names.CA_UNDEFENDED, names.ASR_UNDEFENDED]
        ].first()

    @property
    def default(self) -> int | None:
        """The complete trial of the paper's default; None where there is none."""
        found = self.complete.index[self.complete["paper_default"]]
        return int(found[0]) if len(found) else None

    @property
    def best(self) -> int | None:
        """The complete trial with the best value (of the first objective), of equals the first; None without values."""
        found = self.complete["value"].dropna()
        if found.empty:
            return None
        lowest = direction(self.goal.objectives[0]) == "minimize"
        return int(str(found.idxmin() if lowest else found.idxmax()))

    @property
    def seeds(self) -> list[int]:
        """Of the scenarios."""
        return sorted(int(seed) for seed in self.scenarios["seed"].unique())

    def series(self, trial: int, scenario: str) -> dict[str, list[float]]:
        """Per-epoch or per-round values of a cell, by ``stage.name``; read from disk each time."""
        key = str(self.trials.loc[trial, "key"])
        record = read_scenario(self.folder / POINTS / key / f"{scenario}.json")
        return record.series if record is not None else {}


def read_results(out: Path, name: str) -> Results:
    """Reads a study; of one that holds out, its search, with what was judged beside it.

    Args:
        out: the folder of all studies.

    Raises:
        UserError: no such study, one that cannot be read, one in which nothing was judged yet, or one whose scenarios
            are studies of their own.
    """
    folder = find_study(out, name)
    known = _load_settings(folder)
    parts = [part.name for part in child_studies(folder, known)]
    if known["settings"].get("holdout"):
        search = _read(out, parts[0])
        try:
            judged = _read(out, parts[1])
        except UserError:  # it was stopped before: the search alone has something to tell
            judged = None
        return dataclasses.replace(
            search, name=name, settings=known["settings"], command=resume_command(known, out), holdout_results=judged
        )
    if parts:
        raise UserError(f"study {name!r} searched each scenario in a study of its own: name one of {', '.join(parts)}")
    return _read(out, name)


def _load_settings(folder: Path) -> dict[str, Any]:
    try:
        return read_settings(folder)
    except ValueError as error:
        raise UserError(f"study {folder.name!r} cannot be read: {error}") from error


def _read(out: Path, name: str) -> Results:
    folder = find_study(out, name)
    known = _load_settings(folder)
    try:
        ledger = read_ledger(folder / LEDGER)
    except ValueError as error:
        raise UserError(f"study {name!r} cannot be read: {error}") from error
    settings = known["settings"]
    space = SEARCH_SPACES.find(settings["space"])
    parts = {part["name"]: part for part in known.get("parts", ())}
    started = [trial for trial in ledger.trials if trial.state != "waiting"]
    cells, stages, damaged = _read_cells(folder, started, parts)
    if not cells:
        raise UserError(
            f"study {name!r} has no result yet, so there is nothing to tell: {_why_empty(started)} "
            f"(python -m study.status {name} shows where it stands)"
        )
    searched = {field for trial in started for field in trial.point}
    objectives = parse_objectives(known["objective"].removeprefix("worst "))
    return Results(
        name=name,
        folder=folder,
        settings=settings,
        space=space.name,
        defense=space.defense,
        ranges={field: found for field, found in space.ranges.items() if field in searched},
        goal=Goal(objectives, settings.get("aggregate", "mean")),
        trials=_trials(started),
        evaluations=_frame(cells),
        stages=_frame(stages),
        damaged=tuple(damaged),
        command=resume_command(known, out),
        given_points=bool(known.get("given_points")),
    )


def _why_empty(trials: list[SnapshotTrial]) -> str:
    failed = [trial for trial in trials if trial.state == "fail" and trial.finished]
    if failed:
        reason = failed[0].reason.strip().splitlines()
        return f"all {len(failed)} trials failed, the first with: {reason[-1] if reason else 'no reason'}"
    return "no trial was judged on any scenario"


def _trials(trials: list[SnapshotTrial]) -> "pandas.DataFrame":
    import pandas

    rows = [
        {
            **trial.point,
            "number": trial.number,
            "key": trial.key,
            "state": trial.state,
            "paper_default": trial.paper_default,
            "value": trial.values[0] if trial.values else None,
            "reason": trial.reason,
        }
        for trial in trials
    ]
    frame = pandas.DataFrame(rows).set_index("number")
    return frame.astype({"paper_default": bool, "value": float})


def _read_cells(
    folder: Path, trials: list[SnapshotTrial], parts: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Rows of cells and of their stages, and the files that cannot be read."""
    cells: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    damaged: list[str] = []
    for trial in trials:
        for path in sorted((folder / POINTS / trial.key).glob("*.json")) if trial.key else ():
            if path.name == "result.json":
                continue
            record = read_scenario(path)
            if record is None:
                damaged.append(str(path))
                continue
            cells.append(_cell(trial.number, record, parts.get(record.scenario, {})))
            stages += [{"trial": trial.number, "scenario": record.scenario, **stage} for stage in record.stages]
    return cells, stages, damaged


def _cell(trial: int, record: ScenarioRecord, part: Mapping[str, Any]) -> dict[str, Any]:
    attack, rate, seed = _parse_scenario_name(record.scenario, part)
    return {
        "trial": trial,
        "scenario": record.scenario,
        "attack": attack,
        "poison_rate": rate,
        "seed": seed,
        "stratum": record.scenario.rpartition("-s")[0],
        "attack_failed": record.attack_failed,
        **dict.fromkeys(names.METRICS),
        **scores(record.metrics),
        "built_seconds": sum(stage["built_seconds"] for stage in record.stages),
        "wall_seconds": record.wall_seconds,
    }


def _parse_scenario_name(name: str, part: Mapping[str, Any]) -> tuple[str, float, int]:
    """Attack, rate and seed of a scenario; from its name where the study is too old to tell them."""
    found = _NAME.fullmatch(name)
    attack, rate, seed = found.groups() if found else (name, "nan", "0")
    return str(part.get("attack", attack)), float(part.get("poison_rate", rate)), int(part.get("seed", seed))


def _frame(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
    import pandas

    frame = pandas.DataFrame(rows)
    numeric = [name for name in frame.columns if name in names.METRICS or name.endswith(("_score", "_seconds"))]
    return frame.astype(dict.fromkeys(numeric, float))
