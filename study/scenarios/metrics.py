"""Every metric, defined once, in numpy. Rates lie in [0, 1]; what is undefined is None, never 0 or -1.

Positive means poisoned. Flags and scores are judged on the training set, models on the test set.
"""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def tpr(flagged: Mask, poison: Mask) -> float | None:
    """Share of the poisoned samples that are flagged; None without poison (PIPD, B.5; QT calls it BQR).

    Args:
        flagged, poison: bool [N].
    """
    return float(flagged[poison].mean()) if poison.any() else None


def fpr(flagged: Mask, poison: Mask) -> float | None:
    """Share of the benign samples that are flagged; None without benign ones (QT calls it CQR). Covers are benign.

    Args:
        flagged, poison: bool [N].
    """
    return float(flagged[~poison].mean()) if not poison.all() else None


def fpr_covers_excluded(flagged: Mask, poison: Mask, covers: Mask) -> float | None:
    """As `fpr`, over the samples without any trigger.

    Covers count for nothing. Counting them as poison, as BackdoorBench does, gives the same rate (they are then no
    negatives) and `tpr_covers_poison` with it.

    Args:
        flagged, poison, covers: bool [N].
    """
    return fpr(flagged[~covers], poison[~covers])


def tpr_covers_poison(flagged: Mask, poison: Mask, covers: Mask) -> float | None:
    """As `tpr`, with covers counted as poison.

    Args:
        flagged, poison, covers: bool [N].
    """
    return tpr(flagged, poison | covers)


def auroc(scores: NDArray[np.float64] | None, poison: Mask) -> float | None:
    """Area under the ROC curve, ties at half; None without scores or with one class only (QT, Table 1).

    Args:
        scores: float64 [N], or None.
        poison: bool [N].
    """
    if scores is None or not poison.any() or poison.all():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(poison, scores))


def ca(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> float | None:
    """Clean accuracy: share of clean test images whose predicted output is their label.

    A prediction in the quarantine half (>= K) is wrong, as in QT's code.

    Args:
        predictions, labels: int64 [n].
    """
    return float((predictions == labels).mean()) if len(labels) else None


def ca_folded(logits: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> float | None:
    """Clean accuracy over the first K outputs alone: what a deployed QT model without its quarantine half reaches.

    Args:
        logits: float32 [n, outputs].
        labels: int64 [n].
    """
    return ca(logits[:, :num_classes].argmax(axis=1), labels)


def asr(predictions: NDArray[np.int64], wanted: NDArray[np.int64]) -> float | None:
    """Attack success rate: share of triggered test images that get the attacker's label; None without any.

    Test images that already have the attacker's label are not in the triggered set (`study.scenarios.poison`): a
    perfectly clean model would score on them.

    Args:
        predictions, wanted: int64 [n].
    """
    return float((predictions == wanted).mean()) if len(wanted) else None


def quarantined(predictions: NDArray[np.int64], num_classes: int) -> float | None:
    """Share of clean test images predicted to be in quarantine; 0 for a model without quarantine classes.

    Args:
        predictions: int64 [n].
    """
    return float((predictions >= num_classes).mean()) if len(predictions) else None
