"""A study of PIPD as a driver leaves it, with metrics from a formula: what a report is tested on, and looked at."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from small_study import empty_ledger

from defenses.methods.pipd.pipd import PIPDConfig
from search_spaces.pipd import PIPD_SPACE
from study.config.config import StudyConfig, resolve
from study.config.objectives import aggregate
from study.ledger.ledger import Ledger
from study.ledger.records import ScenarioRecord, TrialRecord, write_record
from study.ledger.result_reader import NO_ATTACK

DEFAULT = PIPD_SPACE.default(PIPDConfig())
FAILED = "sig"
"""The attack that does not work undefended."""


def key_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def metrics_of(point: dict[str, Any], attack: str, rate: float, seed: int) -> dict[str, float | None]:
    """Smooth in the hyperparameters, a little different for each seed; blends need the mean of a channel."""
    wiggle = 0.01 * math.sin(7 * seed + 13 * rate + len(attack))
    off = abs(math.log(point["isolation_rate"] / 0.012)) * 0.15 + abs(point["beta"] - 3.2) * 0.04
    off += 0.1 / point["rounds"] + (0.25 if attack == "blended_random" and point["channel_statistic"] == "max" else 0)
    tpr = min(1.0, max(0.0, 1.02 - off * 0.8 + wiggle))
    tpr = min(1.0, tpr + 0.02 * (4 - point["beta"]) / 4)
    fpr = min(1.0, max(0.0, off * 0.1 + 0.15 * math.exp(-point["beta"]) + wiggle / 2))
    asr = min(1.0, max(0.0, 1.4 * (1 - tpr) + wiggle))
    ca = min(1.0, 0.99 - 0.3 * fpr - 0.01 * abs(math.log(point["ascent_weight"])) + wiggle / 2)
    undefended = 0.31 if attack == FAILED else 0.998
    return {
        "tpr": tpr,
        "fpr": fpr,
        "auroc": min(1.0, 0.5 + tpr / 2),
        "auroc_flags": (1 + tpr - fpr) / 2,
        "flagged_share": rate * tpr,
        "ca": ca,
        "asr": asr if attack != FAILED else 0.02,
        "ca_undefended": 0.995 + wiggle / 4,
        "asr_undefended": undefended,
    }


def record_of(number: int, point: dict[str, Any], attack: str, rate: float, seed: int) -> ScenarioRecord:
    """A scenario of a trial; trial 0 finds in the store what was built before the trials, as all do."""
    name = f"{attack}-{rate:g}-s{seed}"
    shared = (("poison", 1.5), ("standard_training", 40.0), ("pre_isolation", 120.0), ("channel_activations", 6.0))
    stages = [
        {"stage": stage, "key": key_of(stage, name), "hit": True, "wall_seconds": 0.05, "built_seconds": seconds}
        for stage, seconds in shared
    ]
    stages += [
        {"stage": stage, "key": key_of(stage, name, number), "hit": False, "wall_seconds": s, "built_seconds": s}
        for stage, s in (("isolate", 0.8), ("selective_training", 25.0))
    ]
    return ScenarioRecord(
        scenario=name,
        metrics=metrics_of(point, attack, rate, seed),
        series={"isolate.tpr": [0.5, 0.75]},
        stages=stages,
        meta={"n_train": 1437, "fingerprint": "f" * 64},
        attack_failed=attack == FAILED,
        wall_seconds=27.0,
    )


def write_study(
    folder: Path,
    trials: int = 40,
    attacks: tuple[str, ...] = ("badnets", "blended_random", FAILED),
    rates: tuple[float, ...] = (0.05, 0.1),
    seeds: tuple[int, ...] = (0, 1, 2),
    failed: tuple[int, ...] = (),
    **options: Any,
) -> Path:
    """A finished study; the trials in `failed` have no result."""
    given = {"name": folder.name, "out": folder.parent, "trials": trials, "attacks": attacks, "sampler": "qmc"}
    config = resolve(StudyConfig, {**given, "poison_rates": rates, "seeds": seeds, **options})
    cells = [(attack, rate, seed) for attack in attacks for rate in rates for seed in seeds]
    _write_settings(folder, config, cells)
    path = folder / "study.db"
    objectives = (config.objective or "overall_score").split(",")
    directions = tuple("minimize" if name in ("asr", "fpr") else "maximize" for name in objectives)
    path.write_bytes(empty_ledger(directions, config.study_name))  # type: ignore[arg-type]
    ledger = Ledger(path, config.study_name, PIPD_SPACE, directions, config.sampler, 0, trials, key_of)  # type: ignore[arg-type]
    ledger.enqueue_default(DEFAULT)
    for number in range(trials):
        _, point, key = ledger.ask()
        if number in failed:
            ledger.tell(number, (None, f"{cells[0][0]}: Traceback\n  a line\nRuntimeError: it broke"))
            continue
        records = [record_of(number, point, *cell) for cell in cells]
        for record in records:
            write_record(folder / "points" / key / f"{record.scenario}.json", record)
        names = [record.scenario for record in records]
        write_record(folder / "points" / key / "result.json", TrialRecord(key, point, names))
        together = aggregate(records).metrics
        values = [together.get(name) for name in objectives]
        reason = "" if together else NO_ATTACK
        ledger.tell(number, (values[0] if len(values) == 1 else tuple(values), reason))  # type: ignore[arg-type]
    return folder


def _write_settings(folder: Path, config: StudyConfig, cells: list[tuple[str, float, int]]) -> None:
    names = [f"{attack}-{rate:g}-s{seed}" for attack, rate, seed in cells]
    known = {
        "identity": config.identity,
        "data": [],
        "settings": config.model_dump(mode="json"),
        "objective": (config.objective or "overall_score").replace(",", ", "),
        "scenarios": names,
        "parts": [
            {"name": name, "attack": attack, "poison_rate": rate, "seed": seed, "target_label": 0}
            for name, (attack, rate, seed) in zip(names, cells, strict=True)
        ],
        "code_version": "0.1.0+000000000000",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(known))
