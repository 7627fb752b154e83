"""What a defender sees of a result without any ground truth: candidates for choosing a configuration by.

None of them is from the papers. Each has a direction in which it should go with a good defense; whether it does is
measured (`study.report.sections.label_free`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from defenses.api import DefenseResult

Mask = NDArray[np.bool_]

SIGNALS: dict[str, tuple[int, str]] = {
    "cut_gap": (1, "lowest flagged score minus highest kept one, in standard deviations of all scores"),
    "cut_fit": (1, "share of the scores' variance that the cut explains (goodness of variance fit)"),
    "round_agreement": (1, "mean Jaccard overlap of the flags of successive rounds or epochs"),
    "loss_gap": (1, "mean loss of the kept minus that of the flagged, in standard deviations of all losses"),
    "class_focus": (1, "share of the flagged that has the label most flagged: 1 for an all-to-one attack"),
    "class_share": (-1, "largest flagged share of a class: 1 when a class is swallowed whole"),
    "final_loss": (-1, "training loss of the last epoch of the final model"),
}
"""Signal -> 1 where more of it should mean a better defense, -1 where less should; and what it is.

The flagged share is one too; it stands among the metrics, since it is told of every result.
"""


def class_focus(labels: NDArray[np.int64], flagged: Mask) -> float | None:
    """The signal of this name; None where nothing is flagged.

    Args:
        labels: int64 [N], as received.
        flagged: bool [N].
    """
    return float(np.bincount(labels[flagged]).max() / flagged.sum()) if flagged.any() else None


def signals(result: DefenseResult, labels: NDArray[np.int64], num_classes: int) -> dict[str, float | None]:
    """Every signal of a result; None where it is undefined (nothing flagged, all flagged, no scores, one round).

    Args:
        labels: int64 [N], as received.
        num_classes: K.
    """
    values: dict[str, float | None] = dict.fromkeys(SIGNALS)
    if result.train_loss:
        values["final_loss"] = float(result.train_loss[-1])
    flagged = result.flagged
    if flagged is None:
        return values
    counts = np.bincount(labels[flagged], minlength=num_classes)
    sizes = np.bincount(labels, minlength=num_classes)
    values["class_share"] = float((counts / np.maximum(sizes, 1)).max())
    values["class_focus"] = class_focus(labels, flagged)
    if flagged.any() and not flagged.all():
        if result.scores is not None:
            values["cut_gap"] = cut_gap(result.scores, flagged)
            values["cut_fit"] = cut_fit(result.scores, flagged)
        if result.sample_losses is not None:
            values["loss_gap"] = loss_gap(result.sample_losses, flagged)
    steps = [np.asarray(series) for series in result.flagged_series.values()]
    if steps and len(steps[-1]) > 1:
        values["round_agreement"] = round_agreement(steps[-1])
    return values


def cut_gap(scores: NDArray[np.float64], flagged: Mask) -> float | None:
    """How far the flagged lie above the kept, in standard deviations; negative where they overlap, None without spread.

    Args:
        scores: float64 [N].
        flagged: bool [N].
    """
    spread = float(scores.std())
    return float(scores[flagged].min() - scores[~flagged].max()) / spread if spread > 0 else None


def cut_fit(scores: NDArray[np.float64], flagged: Mask) -> float | None:
    """1 minus the variance inside the two sides over the variance of all, in [0, 1]; None without spread.

    Args:
        scores: float64 [N].
        flagged: bool [N].
    """
    whole = float(((scores - scores.mean()) ** 2).sum())
    within = sum(float(((side - side.mean()) ** 2).sum()) for side in (scores[flagged], scores[~flagged]))
    return 1.0 - within / whole if whole > 0 else None


def loss_gap(losses: NDArray[np.floating], flagged: Mask) -> float | None:
    """How much higher the losses of the kept are, in standard deviations of all losses; None without spread.

    Args:
        losses: float [N].
        flagged: bool [N].
    """
    wide = np.asarray(losses, dtype=np.float64)
    spread = float(wide.std())
    return float(wide[~flagged].mean() - wide[flagged].mean()) / spread if spread > 0 else None


def round_agreement(steps: Sequence[Mask] | Mask) -> float:
    """Mean over successive steps of the share that both flag of what either flags; two empty ones agree.

    Args:
        steps: bool [steps, N], at least two.
    """
    masks = np.asarray(steps)
    both = (masks[1:] & masks[:-1]).sum(axis=1)
    either = (masks[1:] | masks[:-1]).sum(axis=1)
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())
