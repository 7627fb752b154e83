"""What a study's trials flag of the same data unpoisoned: a small file in its folder, written after each run.

The trials are known by their keys, so that a study whose best trial changes adds to it and takes nothing away.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from defenses.storage.atomic_files import write_atomic
from study.ledger.study_folder import CLEAN_CONTROL

Shares = dict[int, float]
"""Seed -> the flagged share of the training set, in [0, 1]: the FPR when nothing is poisoned."""


def read_clean_control(folder: Path) -> dict[str, Shares]:
    """Key of a trial -> what it flagged; empty where nothing ran yet, or where the file is damaged.

    Args:
        folder: the study's.
    """
    try:
        content = json.loads((folder / CLEAN_CONTROL).read_text(encoding="utf-8"))
        known = {str(key): _shares(trial["flagged_share"]) for key, trial in content["trials"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return known


def _shares(content: Mapping[str, Any]) -> Shares:
    shares = {int(seed): float(share) for seed, share in content.items()}
    if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares.values()):
        raise ValueError("a share lies in [0, 1]")
    return shares


def keep_clean_control(folder: Path, key: str, seed: int, share: float) -> Shares:
    """Adds what a trial flagged with a seed; gives all that is known of the trial."""
    known = read_clean_control(folder)
    known[key] = {**known.get(key, {}), seed: share}
    trials = {of: {"flagged_share": {str(s): value for s, value in shares.items()}} for of, shares in known.items()}
    write_atomic(folder / CLEAN_CONTROL, json.dumps({"trials": trials}, indent=1) + "\n")
    return known[key]
