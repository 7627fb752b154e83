"""The FPR when nothing is poisoned, by trial: of the clean control, or of clean scenarios of the study's own."""

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
    for cell in cells:
        if cell["attack"] == CLEAN and cell[names.FPR] is not None:
            known.setdefault(cell["trial"], {})[cell["seed"]] = float(cell[names.FPR])
    return known
