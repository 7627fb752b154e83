"""A finished study with given results, written as a driver leaves it: for commands that read studies."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from small_study import empty_ledger, scenario_record

from search_spaces import SEARCH_SPACES
from study.config.config import StudyConfig, resolve
from study.ledger.clean_control import keep_clean_control
from study.ledger.ledger import Ledger
from study.ledger.pruning import Stopped
from study.ledger.records import write_record

Metrics = Mapping[str, float | None]
Run = tuple[Any, ...]
"""Attack, rate and seed, and which repeat where it is not the first."""
UNDEFENDED = {"ca_undefended": 0.95, "asr_undefended": 1.0}


def scenario_name(attack: str, rate: float, seed: int, repeat: int = 0) -> str:
    return f"{attack}-{rate:g}-s{seed}{f'-r{repeat}' if repeat else ''}"


def key_of(point: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(point.items())).encode()).hexdigest()[:32]


def write_study(
    folder: Path,
    trials: Sequence[tuple[float | None, Mapping[Run, Metrics]]],
    space: str = "pipd",
    failed: Sequence[Run] = (),
    fingerprint: str = "f" * 64,
    clean_fingerprint: str = "",
    points: Mapping[int, Mapping[str, Any]] | None = None,
    default: bool = True,
    pruned: Sequence[int] = (),
    clean_fpr: Mapping[int, Mapping[int, float]] | None = None,
    epochs: float | None = None,
    **options: Any,
) -> Path:
    """Trials, each with its objective (None: it failed) and its metrics by run.

    Args:
        failed: scenarios whose attack does not work undefended.
        clean_fingerprint: of the data before they were poisoned, test images included; left out where it is empty.
        points: trial -> fields of its point, where they matter; the rest is drawn.
        default: whether the first trial is the paper's default.
        pruned: trials that a pruner stopped.
        clean_fpr: trial -> seed -> what it flags when nothing is poisoned.
        epochs: epoch-equivalents of each defense's stage, of which the trial built one of two.
    """
    config = resolve(StudyConfig, {"name": folder.name, "out": folder.parent, "space": space, **options})
    cells = dict.fromkeys(cell for _, found in trials for cell in found)
    known = {
        "identity": config.identity,
        "data": [],
        "settings": config.model_dump(mode="json"),
        "objective": config.objective or "overall_score",
        "scenarios": [scenario_name(*cell) for cell in cells],
        "parts": [
            {"name": scenario_name(*cell), **dict(zip(("attack", "poison_rate", "seed", "repeat"), cell, strict=False))}
            for cell in cells
        ],
        "code_version": "0",
    }
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(known))
    (folder / "study.db").write_bytes(empty_ledger("minimize" if known["objective"] in ("asr", "fpr") else "maximize"))
    direction: Any = "minimize" if known["objective"] in ("asr", "fpr") else "maximize"
    searched = SEARCH_SPACES[space]
    ledger = Ledger(folder / "study.db", "toy", searched, direction, "random", 0, 12, key_of)
    for number, (value, found) in enumerate(trials):
        point = (points or {}).get(number)
        if number == 0 and default:
            ledger.enqueue_default({**searched.default(_default_config(space)), **(point or {})})
        elif point is not None:
            ledger._study.enqueue_trial(dict(point))
        asked, _, key = ledger.ask()
        assert asked == number
        reason = "" if value is not None else "broken"
        ledger.tell(number, Stopped(()) if number in pruned else (value, reason))
        for cell, metrics in found.items():
            record = scenario_record(
                scenario_name(*cell),
                {**UNDEFENDED, **metrics},
                attack_failed=cell in failed,
                meta={"n_train": 128, "n_poison": 12, "fingerprint": fingerprint}
                | ({"clean_fingerprint": clean_fingerprint} if clean_fingerprint else {}),
                **({} if epochs is None else {"stages": _stages(epochs)}),
            )
            write_record(folder / "points" / key / f"{record.scenario}.json", record)
        for seed, share in (clean_fpr or {}).get(number, {}).items():
            keep_clean_control(folder, key, seed, share)
    return folder


def _stages(epochs: float) -> list[dict[str, Any]]:
    """The data, the undefended model, and two stages of the defense, one of them found in the store."""
    rows = (
        ("poison", True, 1.5, None, False),
        ("standard_training", True, 40.0, 20.0, False),
        ("pre_isolation", True, 120.0, epochs, True),
        ("selective_training", False, 25.0, epochs, True),
    )
    return [
        {
            "stage": stage,
            "key": 64 * stage[0],
            "hit": hit,
            "wall_seconds": 0.1 if hit else seconds,
            "built_seconds": seconds,
            "epoch_equivalents": cost,
            "of_defense": own,
        }
        for stage, hit, seconds, cost, own in rows
    ]


def _default_config(space: str) -> Any:
    from defenses import DEFENSES

    return DEFENSES[SEARCH_SPACES[space].defense].config_type()
