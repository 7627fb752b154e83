"""Contrastive losses against their sums written out, and the projection that stands in for the last layer."""

import math

import pytest
import torch
from small_images import CLASSES, SIZE
from torch import Tensor
from torch.nn import functional

from defenses.models import ModelSpec, build_model
from defenses.training.contrastive import (
    BASE_TEMPERATURE,
    PROJECTION,
    attraction,
    nt_xent,
    projecting,
    projection_head,
    supervised_contrastive,
)

torch.set_num_threads(1)


def projections(n: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first, second = functional.normalize(drawn, dim=2)
    return first, second


def by_hand(first: Tensor, second: Tensor, positives: list[list[int]], temperature: float) -> float:
    """The mean over anchors of -log of each positive's share, written out; anchors are the rows of `positives`."""
    views = torch.cat([first, second]).tolist()

    def share(i: int, j: int) -> float:
        def similarity(k: int) -> float:
            return math.exp(sum(a * b for a, b in zip(views[i], views[k], strict=True)) / temperature)

        return similarity(j) / sum(similarity(k) for k in range(len(views)) if k != i)

    losses = [-sum(math.log(share(i, j)) for j in own) / len(own) for i, own in enumerate(positives)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_its_sum_written_out(temperature: float) -> None:
    first, second = projections()
    expected = by_hand(first, second, [[5 + i] for i in range(5)], temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected)


def test_two_images_by_hand() -> None:
    """Views that agree and are square to the other image's: the other view has e of e + 2."""
    first = torch.eye(2)
    assert nt_xent(first, first, 1.0).item() == pytest.approx(math.log((math.e + 2) / math.e))


@pytest.mark.parametrize("mask_columns", [False, True])
def test_the_supervised_loss_is_its_sum_written_out(mask_columns: bool) -> None:
    first, second = projections()
    labels, trusted = torch.tensor([0, 0, 1, 0, 1]), torch.tensor([True, True, True, False, False])
    attracts = attraction(labels, trusted, mask_columns)
    own = [[0, 1], [0, 1], [2], [3], [4]] if mask_columns else [[0, 1, 3], [0, 1, 3], [2, 4], [3], [4]]
    assert [row.nonzero().flatten().tolist() for row in attracts] == own
    positives = [[j + 5 * view for view in (0, 1) for j in own[i % 5] if j + 5 * view != i] for i in range(10)]
    expected = by_hand(first, second, positives, 0.1) * 0.1 / BASE_TEMPERATURE
    assert supervised_contrastive(first, second, attracts, 0.1).item() == pytest.approx(expected)


def test_with_nothing_trusted_it_is_nt_xent_with_both_views_as_anchors() -> None:
    first, second = projections(8)
    nothing = attraction(torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.bool), False)
    both = (nt_xent(first, second, 0.1) + nt_xent(second, first, 0.1)) / 2
    torch.testing.assert_close(supervised_contrastive(first, second, nothing, 0.1), both * 0.1 / BASE_TEMPERATURE)


def test_gradients_are_finite_and_pull_views_together() -> None:
    first, second = projections()
    for loss in (
        lambda a: nt_xent(a, second, 0.5),
        lambda a: supervised_contrastive(a, second, torch.eye(5, dtype=torch.bool), 0.5),
    ):
        moved = first.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(moved), moved)
        assert torch.isfinite(gradient).all()
        # A step down the gradient brings each view nearer to its other one.
        after = functional.normalize(first - 0.1 * gradient)
        assert ((after * second).sum(1) > (first * second).sum(1)).all()


def test_the_projection_stands_in_for_the_last_layer_and_goes_again() -> None:
    model = build_model(ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE), 0)
    images, last = torch.zeros(3, 3, SIZE, SIZE), model.network.linear
    state = torch.get_rng_state()
    head = projection_head(last.in_features, True, 1)
    assert torch.equal(torch.get_rng_state(), state)
    with projecting(model, head):
        assert model(images).shape == (3, PROJECTION)
        assert {name for name, _ in model.named_parameters() if "linear" in name} == {
            f"network.linear.{name}" for name, _ in head.named_parameters()
        }
    assert model.network.linear is last
    assert model(images).shape == (3, CLASSES)
    with pytest.raises(ZeroDivisionError), projecting(model, head):
        raise ZeroDivisionError
    assert model.network.linear is last
    again = projection_head(last.in_features, True, 1)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(head.parameters()), next(projection_head(last.in_features, True, 2).parameters()))
