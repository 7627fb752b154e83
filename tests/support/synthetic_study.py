"""Studies on disk whose truth is known: real records, a real ledger file and settings, but nothing was trained."""

import datetime
import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from optuna.distributions import BaseDistribution, distribution_to_json
from scipy.stats import qmc
from small_study import empty_ledger, scenario_record

from defenses.methods.pipd.pipd import PIPDConfig
from search_spaces import SEARCH_SPACES
from search_spaces.pipd import PIPD_SPACE
from search_spaces.space import Choice, Float, Int, Range
from study.config.config import StudyConfig, resolve
from study.ledger.records import write_record

Truth = Callable[[Mapping[str, Any], str, float, int], dict[str, float | None] | None]
"""Point, attack, rate, seed -> metrics; None where the attack fails."""


def draw(ranges: Mapping[str, Range], count: int, seed: int = 0, even: bool = True) -> "pandas.DataFrame":
    """Points drawn as Optuna draws them: evenly, in log where a range says so; from a Sobol' sequence or at random."""
    if even:
        sobol = qmc.Sobol(len(ranges), seed=seed).random_base2(max(1, math.ceil(math.log2(max(2, count)))))
        unit = sobol[:count]
    else:
        unit = np.random.default_rng(seed).random((count, len(ranges)))
    return pandas.DataFrame(
        {name: [_value(found, u) for u in unit[:, at]] for at, (name, found) in enumerate(ranges.items())}
    )


def _value(found: Range, u: float) -> Any:
    if isinstance(found, Choice):
        return found.options[min(int(u * len(found.options)), len(found.options) - 1)]
    half = 0.5 if isinstance(found, Int) else 0.0
    low, high = found.low - half, found.high + half
    value = low * (high / low) ** u if found.log else low + u * (high - low)
    return min(max(round(value), found.low), found.high) if isinstance(found, Int) else value


def write_study(
    folder: Path,
    points: "pandas.DataFrame",
    truth: Truth,
    attacks: Sequence[str] = ("badnets", "blended_random"),
    seeds: Sequence[int] = (0,),
    sampler: str = "qmc",
    default: Mapping[str, Any] | None = None,
    states: Mapping[int, str] | None = None,
    bulk: int = 0,
    **options: Any,
) -> Path:
    """Writes a study of the space ``pipd``, or of another one by the option ``space``.

    Args:
        default: a point that comes first and is marked as the paper's.
        states: ledger states of trials that are not complete (``FAIL``); these have no records.
        bulk: epochs in the series of each record, to give files a real size.
    """
    given = {
        "space": "pipd",
        "name": folder.name,
        "out": folder.parent,
        "trials": max(1, len(points)),
        "attacks": list(attacks),
    }
    config = resolve(StudyConfig, {**given, "sampler": sampler, "seeds": list(seeds), **options})
    scenarios = [(f"{a}-0.1-s{s}", a, 0.1, s) for a in attacks for s in seeds]
    folder.mkdir(parents=True)
    known = {
        "identity": config.identity,
        "data": [],
        "settings": config.model_dump(mode="json"),
        "objective": config.objective or "overall_score",
        "scenarios": [name for name, *_ in scenarios],
        "parts": [{"name": n, "attack": a, "poison_rate": r, "seed": s} for n, a, r, s in scenarios],
        "code_version": "0",
    }
    (folder / "study.json").write_text(json.dumps(known))
    (folder / "study.db").write_bytes(empty_ledger("maximize"))
    drawn = [
        {str(name): value for name, value in row.items() if value is not None} for row in points.to_dict("records")
    ]
    rows = [*([dict(default)] if default else []), *drawn]
    values: list[float | None] = []
    for number, point in enumerate(rows):
        if (states or {}).get(number, "COMPLETE") != "COMPLETE":
            values.append(None)
            continue
        scores = []
        for name, attack, rate, seed in scenarios:
            metrics = truth(point, attack, rate, seed)
            record = _record(name, metrics, bulk)
            write_record(folder / "points" / f"k{number}" / f"{name}.json", record)
            if metrics and None not in (metrics.get(m) for m in ("tpr", "fpr", "ca", "asr")):
                scores.append((metrics["tpr"] - metrics["fpr"] + metrics["ca"] - metrics["asr"]) / 2)  # type: ignore[operator]
        values.append(float(np.mean(scores)) if scores else 0.0)
    _fill_ledger(folder / "study.db", rows, values, states or {}, bool(default), config.space)
    return folder


def _record(name: str, metrics: dict[str, float | None] | None, bulk: int) -> Any:
    undefended: dict[str, float | None] = {"ca_undefended": 0.99, "asr_undefended": 0.1 if metrics is None else 1.0}
    found: dict[str, float | None] = {"tpr": 0.0, "fpr": 0.0, "ca": 0.9, "asr": 0.0} if metrics is None else metrics
    changes: dict[str, Any] = {}
    if bulk:
        epochs = [round(math.exp(-at / 10), 17) for at in range(bulk)]
        stages = (
            "pre_isolation.loss",
            "pre_isolation.accuracy",
            "selective_training.loss",
            "isolate.tpr",
            "isolate.fpr",
        )
        changes["series"] = dict.fromkeys(stages, epochs)
        stage = {"key": "a" * 64, "hit": False, "wall_seconds": 0.123456, "built_seconds": 12.3456}
        changes["stages"] = [
            {"stage": text, **stage} for text in ("poison", "no_defense", *(s.split(".")[0] for s in stages))
        ]
    return scenario_record(name, {**found, **undefended}, attack_failed=metrics is None, **changes)


def _fill_ledger(
    path: Path,
    rows: list[dict[str, Any]],
    values: list[float | None],
    states: Mapping[int, str],
    default: bool,
    space: str,
) -> None:
    """Rows as Optuna's storage writes them; through Optuna a thousand trials take minutes."""
    ranges: dict[str, BaseDistribution] = SEARCH_SPACES[space].distributions()
    now = datetime.datetime(2026, 1, 1).isoformat(" ")
    with closing(sqlite3.connect(path)) as database, database:
        for number, (point, value) in enumerate(zip(rows, values, strict=True)):
            state, trial = states.get(number, "COMPLETE"), number + 1
            database.execute(
                "insert into trials (trial_id, number, study_id, state, datetime_start) values (?, ?, 1, ?, ?)",
                (trial, number, state, now),
            )
            for name, drawn in point.items():
                internal = ranges[name].to_internal_repr(drawn)
                database.execute(
                    "insert into trial_params (trial_id, param_name, param_value, distribution_json) "
                    "values (?, ?, ?, ?)",
                    (trial, name, internal, distribution_to_json(ranges[name])),
                )
            attributes = {"point_key": f"k{number}", **({"paper_default": True} if default and number == 0 else {})}
            database.executemany(
                "insert into trial_user_attributes (trial_id, key, value_json) values (?, ?, ?)",
                [(trial, name, json.dumps(attribute)) for name, attribute in attributes.items()],
            )
            if value is not None:
                database.execute(
                    "insert into trial_values (trial_id, objective, value, value_type) values (?, 0, ?, 'FINITE')",
                    (trial, value),
                )
            elif state == "FAIL":
                database.execute(
                    "insert into study_user_attributes (study_id, key, value_json) values (1, ?, ?)",
                    (f"reason/{number}", json.dumps("Traceback\nRuntimeError: it broke")),
                )


PAPER: dict[str, Any] = PIPD_SPACE.default(PIPDConfig())


def rates(tpr: float, fpr: float, ca: float = 0.95, asr: float = 0.0, auroc: float | None = None) -> dict[str, Any]:
    """Metrics of a scenario."""
    return {"tpr": tpr, "fpr": fpr, "auroc": auroc if auroc is not None else (tpr + 1 - fpr) / 2, "ca": ca, "asr": asr}


def unit(found: Range, value: Any) -> float:
    """Where a value lies in its range, in [0, 1]; in log where the range says so."""
    assert isinstance(found, Float)
    if found.log:
        return math.log(value / found.low) / math.log(found.high / found.low)
    return (value - found.low) / (found.high - found.low)
