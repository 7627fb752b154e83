"""Contrastive learning: a network whose last layer is a projection, and losses that pull an image's views together.

SimCLR's loss (Chen et al., ICML 2020) as DBD uses it, and that of supervised contrastive learning (Khosla et al.,
NeurIPS 2020) as D-ST uses it, where some images attract others of their class as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.models import Normalised
from defenses.seeds import SeedPart, derive_seed

PROJECTION = 128
"""Dimensions in which views are compared."""
BASE_TEMPERATURE = 0.07
"""The supervised loss is multiplied by its temperature over this one (published code of both papers)."""


def nt_xent(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss with one view of each image as its anchor (DBD): its other view against all other views.

    Args:
        anchors, others: float [n, D], the two views' projections, of length 1.
        temperature: > 0; similarities are divided by it.
    """
    n = len(anchors)
    logits = anchors @ torch.cat([anchors, others]).T / temperature
    itself = torch.eye(n, 2 * n, dtype=torch.bool, device=logits.device)
    targets = torch.arange(n, 2 * n, device=logits.device)
    return functional.cross_entropy(logits.masked_fill(itself, -torch.inf), targets)


def supervised_contrastive(first: Tensor, second: Tensor, attracts: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss: both views of each image are anchors, each with the views that it attracts.

    Args:
        first, second: float [n, D], the two views' projections, of length 1.
        attracts: bool [n, n]; row i holds the images whose views image i attracts, itself among them.
        temperature: > 0; similarities are divided by it.
    """
    views = torch.cat([first, second])
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    logits = (views @ views.T / temperature).masked_fill(itself, -torch.inf)
    positives = attracts.repeat(2, 2) & ~itself
    log_share = functional.log_softmax(logits, dim=1).masked_fill(~positives, 0.0)
    return -(temperature / BASE_TEMPERATURE) * (log_share.sum(dim=1) / positives.sum(dim=1)).mean()


def attraction(labels: Tensor, trusted: Tensor, mask_columns: bool) -> Tensor:
    """Which images attract which (D-ST): each itself, and trusted ones those of their label.

    Args:
        labels: int64 [n].
        trusted: bool [n], whose labels are taken for right.
        mask_columns: only trusted images are attracted; without it, as in the published code, a trusted image also
            attracts those of its label that are not.

    Returns:
        bool [n, n], for `supervised_contrastive`.
    """
    alike = (labels.unsqueeze(1) == labels) & trusted.unsqueeze(1)
    if mask_columns:
        alike &= trusted
    return alike | torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def projection_head(features: int, batch_norm: bool, *seed: SeedPart) -> nn.Module:
    """Two linear layers to `PROJECTION` dimensions, the same for the same seed; DBD has BatchNorm between them.

    Args:
        features: what the network's last layer is given, an image.
        batch_norm: normalises the hidden layer over the batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("projection", *seed))
        layers: list[nn.Module] = [nn.Linear(features, features)]
        layers += [nn.BatchNorm1d(features)] if batch_norm else []
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(features, PROJECTION))


@contextmanager
def projecting(model: Normalised, head: nn.Module) -> Iterator[None]:
    """Within the block the model gives projections; after it the classes of its own last layer, which never moved.

    Args:
        head: takes the place of the last layer; on the model's device.
    """
    last = model.network.linear
    model.network.add_module("linear", head)
    try:
        yield
    finally:
        model.network.add_module("linear", last)
