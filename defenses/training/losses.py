"""Losses that are not in torch."""

import torch
from torch import Tensor
from torch.nn import functional


def local_gradient_ascent(logits: Tensor, labels: Tensor, gamma: float, granularity: str) -> Tensor:
    """LGA, Eq. 2 of PIPD after ABL (Li et al., NeurIPS 2021): sign(loss - gamma) * loss.

    Args:
        logits: [n, K].
        labels: int64 [n].
        gamma: the loss that clean samples are held at, >= 0.
        granularity: ``batch`` takes the sign of the batch's mean loss, as every public implementation of ABL does;
            ``sample`` takes it of each sample, which is how the equation reads.
    """
    losses = functional.cross_entropy(logits, labels, reduction="none")
    if granularity == "batch":
        losses = losses.mean()
    return (torch.sign(losses.detach() - gamma) * losses).mean()


def soft_cross_entropy(
    logits: Tensor, labels: Tensor, epsilon: Tensor, num_classes: int, on_label: Tensor | None = None
) -> Tensor:
    """Cross-entropy against quarantine labels, Eq. 3 of QT: 1 - epsilon on y, epsilon on y + K.

    Only two of the 2K entries of a label are not 0, so no dense label matrix is made.

    Args:
        logits: [n, 2K].
        labels: int64 [n], in [0, K).
        epsilon: float [n], in [0, 1].
        num_classes: K.
        on_label: float [n], the share of y where it is not 1 - epsilon.
    """
    log_p = functional.log_softmax(logits, dim=1)
    on_class = log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
    on_quarantine = log_p.gather(1, (labels + num_classes).unsqueeze(1)).squeeze(1)
    share = 1 - epsilon if on_label is None else on_label
    return -(share * on_class + epsilon * on_quarantine).mean()


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, ce_weight: float, rce_weight: float) -> Tensor:
    """SCE (Wang et al., ICCV 2019) of each sample, float [n]: cross-entropy and, reversed, that of the label.

    Probabilities are at least 1e-7 and labels at least 1e-4, so that the second term is 9.21 times the probability that
    is not on the label: no sample weighs more than that, however wrong its label seems.

    Args:
        logits: [n, K].
        labels: int64 [n].
        ce_weight, rce_weight: of the two terms; 0.1 and 1 in DBD's code.
    """
    probabilities = functional.softmax(logits, dim=1).clamp(1e-7, 1.0)
    certain = functional.one_hot(labels, logits.shape[1]).to(logits.dtype).clamp(1e-4, 1.0)
    reverse = -(probabilities * certain.log()).sum(dim=1)
    return ce_weight * functional.cross_entropy(logits, labels, reduction="none") + rce_weight * reverse
