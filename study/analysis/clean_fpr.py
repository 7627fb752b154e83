"""The FPR when nothing is poisoned, by trial: of the clean control, or of clean scenarios of the study's own."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from study.config.objectives import CLEAN
from study.ledger.snapshot import SnapshotTrial
from tracking import names


def gather_clean_fpr(
    controls: Mapping[str, Mapping[int, float]], trials: Sequence[SnapshotTrial], cells: Sequence[Mapping[str, Any]]
) -> dict[int, dict[int, float]]:
    """Number of a trial -> seed -> the flagged share of clean data.

    Args:
        controls: key of a trial -> seed -> the share.
        cells: a trial on a scenario each, as `Results.evaluations` has them.
    """
    known = {trial.number: dict(controls[trial.key]) for trial in trials if trial.key in controls}
    own: dict[tuple[int, int], list[float]] = {}
    for cell in cells:
        if cell["attack"] == CLEAN and cell[names.FPR] is not None:
            own.setdefault((cell["trial"], cell["seed"]), []).append(float(cell[names.FPR]))
    for (trial, seed), shares in own.items():  # of several repeats the mean
        known.setdefault(trial, {})[seed] = statistics.fmean(shares)
    return known
