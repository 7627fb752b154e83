"""`Results` made of a few numbers, without a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from search_spaces.space import Float, Range
from study.analysis.result_tables import stage_table
from study.analysis.results import Results
from study.config.objectives import Goal, scores
from study.ledger.manifest import Manifest, ScenarioParts
from study.ledger.selection import Candidate, over_scenarios
from tracking import names

BETA = Float(0.0, 6.0, "a range for tests, wide enough")


def small_results(
    cells: Sequence[Mapping[str, Any]],
    sampler: str = "qmc",
    objective: str = "isolation_score",
    ranges: Mapping[str, Range] | None = None,
    points: Sequence[Mapping[str, Any]] = (),
    how: Any = "mean",
    given_points: bool = False,
    **changes: Any,
) -> Results:
    """A study of the given cells: each names ``trial``, ``attack``, and metrics; trial 0 is the paper's default.

    Args:
        points: of the trials, by number; by default beta = the number.
    """
    rows = [_cell(**cell) for cell in cells]
    numbers = sorted({row["trial"] for row in rows})
    goal = Goal((objective,), how)
    found = points or [{"beta": float(number)} for number in numbers]
    trials = pandas.DataFrame(
        [
            {
                **point,
                "number": number,
                "key": f"k{number}",
                "state": "complete",
                "paper_default": number == 0,
                "calibrated": False,
                "value": _value([row for row in rows if row["trial"] == number], goal),
                "reason": "",
            }
            for number, point in zip(numbers, found, strict=True)
        ]
    ).set_index("number")
    settings = {"sampler": sampler, "preset": "smoke", "space": "pipd", "aggregate": how}
    told = {row["scenario"]: _parts(row) for row in rows}
    parts: dict[str, Any] = {
        "name": "small",
        "folder": Path("small"),
        "manifest": Manifest(
            "", (), settings, given_points=given_points, scenarios=tuple(told), parts=(*told.values(),)
        ),
        "space": "pipd",
        "defense": "pipd",
        "ranges": ranges or {"beta": BETA},
        "goal": goal,
        "trials": trials,
        "evaluations": pandas.DataFrame(rows),
        "stages": stage_table([]),
    }
    return Results(**{**parts, **changes})


def _parts(row: Mapping[str, Any]) -> ScenarioParts:
    """What a driver would have written of a scenario."""
    return ScenarioParts(row["scenario"], row["attack"], row["poison_rate"], row["seed"], repeat=row["repeat"])


def _value(rows: Sequence[Mapping[str, Any]], goal: Goal) -> float | None:
    """The objective of a trial, as a driver would have told it."""
    (objective,) = goal.objectives
    reached = {row["scenario"]: (row[objective],) for row in rows if not row["attack_failed"]}
    (value,) = over_scenarios(Candidate(0, "complete", scenarios=reached), goal.directions, goal.how).values or (None,)
    return value


def _cell(
    trial: int,
    attack: str,
    poison_rate: float = 0.1,
    seed: int = 0,
    repeat: int = 0,
    attack_failed: bool = False,
    **metrics: float,
) -> dict[str, Any]:
    known = {
        **dict.fromkeys(names.METRICS, float("nan")),
        **{name: float("nan") if value is None else value for name, value in scores(metrics).items()},
    }
    return {
        "trial": trial,
        "scenario": f"{attack}-{poison_rate:g}-s{seed}{f'-r{repeat}' * bool(repeat)}",
        "attack": attack,
        "poison_rate": poison_rate,
        "seed": seed,
        "repeat": repeat,
        "stratum": f"{attack}-{poison_rate:g}",
        "poisoning": f"{attack}-{poison_rate:g}-s{seed}",
        "attack_failed": attack_failed,
        **known,
        "built_seconds": 1.0,
        "wall_seconds": 0.5,
    }
