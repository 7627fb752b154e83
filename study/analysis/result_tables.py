"""The tables of `study.analysis.results`: rows of trials, of what each gave on each scenario, and of stages."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.space import Choice, Range
from study.config.objectives import Goal, scores
from study.ledger.manifest import Manifest, ScenarioParts
from study.ledger.method_cost import MethodCost, method_cost
from study.ledger.records import ScenarioRecord, early_paths, read_scenario, scenario_paths
from study.ledger.snapshot import SnapshotTrial
from study.ledger.study_folder import POINTS
from study.scenarios.oracle_defenses import find_defense
from tracking import names

if TYPE_CHECKING:
    import pandas

_STAGE = (
    *("trial", "scenario", "stage", "key", "hit", "wall_seconds", "built_seconds", "epoch_equivalents"),
    *("training", "early"),
)
COSTS = tuple(f"defense_{field.name}" for field in fields(MethodCost))
"""Columns of evaluations: epoch-equivalents and seconds of the defense's own stages, built and spent."""
_NAME = re.compile(r"(.*)-([0-9.]+(?:e-?[0-9]+)?)-s(-?[0-9]+)(?:-r([0-9]+))?")
_EVALUATION = (
    *("trial", "scenario", "attack", "poison_rate", "seed", "repeat", "stratum", "poisoning"),
    *("attack_failed", "computed_on"),
    *names.METRICS,
    *scores({}),
    *("built_seconds", "wall_seconds"),
    *COSTS,
)
"""Columns of evaluations; signals come with the rows."""


INTERRUPTED = "interrupted"
"""The state of a trial during which the study was stopped."""


def trial_table(
    trials: list[SnapshotTrial], goal: Goal, searched: Mapping[str, Range] | None = None
) -> "pandas.DataFrame":
    """`Results.trials` of the trials that were started.

    Args:
        searched: fields that have a column even where they act in no trial, with their ranges.
    """
    import pandas

    labels = goal.labels if len(goal.objectives) > 1 else ()
    rows = [
        {
            **dict.fromkeys(searched or ()),
            **trial.point,
            "number": trial.number,
            "key": trial.key,
            "state": INTERRUPTED if trial.interrupted else trial.state,
            "paper_default": trial.paper_default,
            "calibrated": trial.calibrated,
            "value": trial.values[0] if trial.values else None,
            "reason": trial.reason,
            **dict(zip(labels, trial.values or (None,) * len(labels), strict=False)),  # none for one objective
        }
        for trial in trials
    ]
    columns = ("number", "key", "state", "paper_default", "calibrated", "value", "reason", *labels)
    frame = (pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=columns)).set_index("number")
    for name, own_range in (searched or {}).items():
        own = [trial.point.get(name) for trial in trials]
        options = {type(value) for value in own_range.options} if isinstance(own_range, Choice) else set()
        # Of whole numbers with gaps, or beside real ones, pandas would make real ones, and of None no number.
        if None in own or len(options) > 1:
            frame[name] = pandas.Series(own, frame.index, dtype=object)
    return frame.astype({"paper_default": bool, "calibrated": bool, **dict.fromkeys(("value", *labels), float)})


def read_evaluations(
    folder: Path, trials: list[SnapshotTrial], manifest: Manifest, defense: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Rows of cells and of their stages, and the files that cannot be read."""
    cells: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    damaged: list[str] = []
    others = {trial.key for trial in trials if not trial.interrupted}
    for trial in trials:
        if trial.interrupted and trial.key in others:  # whose files are the same
            continue
        point = folder / POINTS / trial.key
        early = _read_all(early_paths(point) if trial.key else (), damaged)
        stages += [_stage(trial.number, one.scenario, stage, early=True) for one in early for stage in one.stages]
        for record in _read_all(scenario_paths(point) if trial.key else (), damaged):
            said = all("of_defense" in stage for stage in record.stages)
            before = [one for one in early if one.scenario == record.scenario]
            own = () if said else _own_stages(defense)
            cost = method_cost(record.stages, own, [stage for one in before for stage in one.stages])
            cell = _evaluation(trial.number, record, manifest.scenario_parts(record.scenario), cost)
            cells.append(cell | {"wall_seconds": record.wall_seconds + sum(one.wall_seconds for one in before)})
            stages += [_stage(trial.number, record.scenario, stage) for stage in record.stages]
    return cells, stages, damaged


def _read_all(paths: Iterable[Path], damaged: list[str]) -> list[ScenarioRecord]:
    """The records that can be read; the names of the other files are added to those that are damaged."""
    records = {path: read_scenario(path) for path in paths}
    damaged += [str(path) for path, record in records.items() if record is None]
    return [record for record in records.values() if record is not None]


def evaluation_table(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
    """`Results.evaluations` of the rows that `read_evaluations` gives."""
    return _frame(rows, _EVALUATION)


def stage_table(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
    """`Results.stages` of the rows that `read_evaluations` gives."""
    return _frame(rows, _STAGE)


@functools.cache
def _own_stages(defense: str) -> frozenset[str]:
    """Names of a defense's stages, for records that do not say which are its own. Loads torch."""
    return frozenset(stage.name for stage in find_defense(defense).stages)


def _stage(trial: int, scenario: str, stage: Mapping[str, Any], early: bool = False) -> dict[str, Any]:
    """A row of stages; `early` where a trial was compared with others at an epoch before its own."""
    training = stage.get("training") or stage["key"]
    known = {"trial": trial, "scenario": scenario, "epoch_equivalents": None, **stage}
    return {**known, "training": training, "early": early}


def _evaluation(trial: int, record: ScenarioRecord, known: ScenarioParts | None, cost: MethodCost) -> dict[str, Any]:
    parts = known or _parse_scenario_name(record.scenario)
    return {
        "trial": trial,
        "scenario": record.scenario,
        "attack": parts.attack,
        "poison_rate": parts.poison_rate,
        "seed": parts.seed,
        "repeat": parts.repeat,
        "stratum": record.scenario.rpartition("-s")[0],
        "poisoning": record.scenario.removesuffix(f"-r{parts.repeat}") if parts.repeat else record.scenario,
        "attack_failed": record.attack_failed,
        "computed_on": str(record.meta.get(names.COMPUTED_ON, "")),
        **dict.fromkeys(names.METRICS),
        **scores(record.metrics),
        "built_seconds": record.built_seconds,
        "wall_seconds": record.wall_seconds,
        **{f"defense_{name}": value for name, value in asdict(cost).items()},
    }


def _parse_scenario_name(name: str) -> ScenarioParts:
    """The parts of a scenario of a study that is too old to tell them."""
    match = _NAME.fullmatch(name)
    attack, rate, seed, repeat = match.groups(default="0") if match else (name, "nan", "0", "0")
    return ScenarioParts(name, attack, float(rate), int(seed), repeat=int(repeat))


def _frame(rows: list[dict[str, Any]], columns: Sequence[str]) -> "pandas.DataFrame":
    """A table of the rows; one without rows has the columns."""
    import pandas

    frame = pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=list(columns))
    numeric = [
        name
        for name in frame.columns
        if name in names.METRICS or name.endswith(("_score", "_seconds", "_epochs", "_equivalents"))
    ]
    return frame.astype(dict.fromkeys(numeric, float))
