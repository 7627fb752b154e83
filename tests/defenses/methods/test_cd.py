"""Cognitive distillation: masks of answers that are known, its norms and flags, and what a kill leaves."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import PLAIN_TRAINING, SPEC, idle_field, mislabelled, run_with
from interrupted import digests, run_through_kills
from planted_features import run_stage
from torch import Tensor, nn

from defenses.api import Progress, silent, stage_params
from defenses.methods import cd
from defenses.methods.cd import COGNITIVE_MASKS, CDConfig, CognitiveDistillation
from defenses.models import ModelSpec, build_model
from defenses.models.resnet import ResNet
from defenses.registry import UserError
from defenses.runner import RunContext, run_defense
from defenses.shared_stages import cpu_weights
from defenses.storage.store import Store
from defenses.training.input_masks import MaskRecipe, find_masks, total_variation

RECIPE = MaskRecipe(alpha=0.01, beta=1.0, lr=0.1, steps=100)
START = (1 + np.tanh(1)) / 2


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pixels(n: int = 4, side: int = 8) -> Tensor:
    return torch.rand((n, 3, side, side), generator=generator()) * 255


def reads_a_patch(images: Tensor) -> Tensor:
    """Two answers of a linear network that sees the 3 x 3 pixels in the middle, and nothing else."""
    patch = images[:, :, 3:6, 3:6] / 25
    return torch.stack([patch[:, 0].sum(dim=(1, 2)), (patch[:, 1] - patch[:, 2]).sum(dim=(1, 2))], dim=1)


# Masks


def test_total_variation_by_hand() -> None:
    masks = torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 0.5, 1.0]]], [[[1.0] * 3] * 2]])
    # Rows: 0, 0.25, 0; columns: 1, 0 and 0.25, 0.25; over 6 pixels.
    assert total_variation(masks).tolist() == pytest.approx([(0.25 + 1.5) / 6, 0.0])


def test_the_first_step_by_hand() -> None:
    """Answers that never change: only the norm is left, and Adam's first step is its rate."""
    recipe = dataclasses.replace(RECIPE, steps=1)
    masks, norms = find_masks(lambda images: images[:, 0, :1, 0] * 0, torch.zeros(4, 1), pixels(), recipe, generator())
    assert masks.numpy() == pytest.approx((1 + np.tanh(1 - 0.1)) / 2)
    assert norms.tolist() == pytest.approx([64 * START])


def test_what_is_hidden_shows_one_colour_an_image_anew_in_each_step() -> None:
    seen: list[Tensor] = []

    def answers(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return images.flatten(start_dim=1) * 0

    images = pixels()
    find_masks(answers, torch.zeros(4, 192), images, dataclasses.replace(RECIPE, lr=1e-4, steps=2), generator())
    colours = [(shown - START * images) / (1 - START) for shown in seen]  # x' = m x + (1 - m) c
    for colour in colours:
        assert colour.std(dim=(2, 3)).max() < 1
        assert colour.mean(dim=(2, 3)).flatten().unique().numel() == 4 * 3
        assert colour.mean(dim=(2, 3)).min() >= 0
        assert colour.mean(dim=(2, 3)).max() <= 256
    assert (colours[0] - colours[1]).abs().mean() > 10


def test_a_mask_keeps_the_patch_that_is_read() -> None:
    images = pixels()
    masks, norms = find_masks(reads_a_patch, reads_a_patch(images), images, RECIPE, generator())
    patch = masks[:, :, 3:6, 3:6].sum(dim=(1, 2, 3))
    assert (patch / masks.sum(dim=(1, 2, 3))).min() > 0.5, "9 of 64 pixels have most of the mask"
    assert masks[:, :, 3:6, 3:6].mean() > 0.5
    assert norms[-1] < norms[0] / 3


def test_a_larger_alpha_lowers_the_norm() -> None:
    images = pixels()
    norm = [
        find_masks(reads_a_patch, reads_a_patch(images), images, dataclasses.replace(RECIPE, alpha=alpha), generator())[
            0
        ]
        .sum(dim=(1, 2, 3))
        .mean()
        for alpha in (0.01, 0.1)
    ]
    assert norm[1] < norm[0]


def test_other_images_of_a_batch_do_not_count() -> None:
    """The loss is a sum: the published code's mean makes a gradient smaller, which Adam's epsilon then notices."""
    images = pixels(1).expand(3, -1, -1, -1)
    weak = dataclasses.replace(RECIPE, alpha=1e-8, beta=0.0, steps=3)

    def answers(images: Tensor) -> Tensor:
        return images[:, 0, :1, 0] * 0

    alone, _ = find_masks(answers, torch.zeros(1, 1), images[:1], weak, generator())
    among, _ = find_masks(answers, torch.zeros(3, 1), images, weak, generator())
    assert torch.equal(among, alone.expand(3, -1, -1, -1))


# Stages


def inputs(model: nn.Module | None = None) -> dict[str, Any]:
    return {"weights": cpu_weights(model or build_model(ModelSpec("resnet18", 4, (1, 1), 4, 16), 1))}


def masks_of_16(**fields: Any) -> Any:
    data = mislabelled()
    given = {"mask_steps": 2, **fields}
    return run_stage(CognitiveDistillation, "cognitive_masks", inputs(), data.labels[:16], data.images[:16], **given)


@pytest.mark.parametrize("masked_inputs", ["normalised", "raw"])
def test_masked_images_are_normalised_as_the_others_are(masked_inputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[float, float]] = []
    forward = ResNet.forward

    def watched(self: ResNet, images: Tensor) -> Tensor:
        shown.append((images.detach().min().item(), images.detach().max().item()))
        return forward(self, images)

    monkeypatch.setattr(ResNet, "forward", watched)
    masks_of_16(masked_inputs=masked_inputs)
    assert len(shown) == 3
    assert shown[0][0] < -1.9, "the answers that are wanted are those of normalised images"
    assert all((low >= 0 and high <= 1) if masked_inputs == "raw" else low < -1 for low, high in shown[1:])


def test_features_are_kept_instead_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []
    find = cd.find_masks

    def watched(answers: Any, kept: Tensor, *rest: Any) -> Any:
        wanted.append(tuple(kept.shape))
        return find(answers, kept, *rest)

    monkeypatch.setattr(cd, "find_masks", watched)
    for variant in ("logits", "features"):
        masks_of_16(variant=variant)
    assert wanted == [(16, 4), (16, 8, 8, 8)]


def test_no_weight_is_moved_or_gets_a_gradient() -> None:
    given = inputs()
    before = {name: tensor.clone() for name, tensor in given["weights"].items()}
    data = mislabelled()
    run_stage(CognitiveDistillation, "cognitive_masks", given, data.labels[:8], data.images[:8], mask_steps=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in given["weights"].items())


def test_norms_and_curve() -> None:
    done = masks_of_16(mask_steps=5)
    assert (done["norms"].shape, done["norms"].dtype) == ((16,), np.float64)
    curve = done["series"]["mask_norm"]
    assert len(curve) == 5
    assert curve[0] == pytest.approx(256 * START)
    assert done["norms"].mean() < curve[-1]


def flags(norms: list[float], reference: list[float], **fields: Any) -> Any:
    given = {"norms": np.array(norms), "reference": np.array(reference)}
    return run_stage(CognitiveDistillation, "cognitive_distillation", given, np.arange(len(norms)) % 2, **fields)


def test_scores_and_flags_by_hand() -> None:
    norms = [10.0, 40.0, 50.0, 60.0, 90.0]  # mean 50, standard deviation 26.1
    done = flags(norms, [])
    assert done["scores"].tolist() == pytest.approx([1.0, 0.625, 0.5, 0.375, 0.0])
    assert done["flagged"].tolist() == [True, False, False, False, False]
    assert flags(norms, [], threshold=0.3)["flagged"].tolist() == [True, True, False, False, False]
    assert not flags(norms, [], threshold=2.0)["flagged"].any()
    # Of clean images: mean 65, standard deviation 5.
    assert flags(norms, [60.0, 70.0])["flagged"].tolist() == [True, True, True, True, False]


def test_equal_norms_flag_nobody() -> None:
    done = flags([7.0] * 4, [])
    assert not done["flagged"].any()
    assert np.isfinite(done["scores"]).all()


def test_one_clean_image_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match=r"^clean_images must be 0 or at least 2, .* got 1: choose either$"):
        CDConfig(clean_images=1)


def test_what_masks_cost() -> None:
    params = cd.Params(**stage_params(COGNITIVE_MASKS, CDConfig()))
    assert COGNITIVE_MASKS.cost is not None
    assert COGNITIVE_MASKS.cost(params, 50_000) == 67
    reference = cd.REFERENCE_MASKS.cost
    assert reference is not None
    for count, cost in ((0, 0), (500, 0.67)):
        fields = stage_params(cd.REFERENCE_MASKS, CDConfig(clean_images=count))
        assert reference(cd.Params(**fields), 50_000) == pytest.approx(cost)


# The whole

TINY = {"epochs": 2, "lr": 0.05, "batch_size": 32, "augment": False, "schedule": "one_cycle", "mask_steps": 4}
ENDS: dict[str, tuple[Any, Any]] = {
    "variant": ("logits", "features"),
    "alpha": (0.0, 10.0),
    "beta": (0.0, 1e4),
    "mask_lr": (1e-4, 10.0),
    "mask_steps": (1, 5),
    "masked_inputs": ("normalised", "raw"),
    "threshold": (-10.0, 10.0),
    "clean_images": (0, 16),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_every_field_has_ends() -> None:
    assert set(ENDS) | PLAIN_TRAINING == {field.name for field in dataclasses.fields(CDConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    assert idle_field(CognitiveDistillation, TINY, field, ENDS[field], store) == ""


def test_masks_of_the_training_set_are_shared_whatever_they_are_compared_with(store: Path) -> None:
    plain, against_clean = (run_with(CognitiveDistillation, {**TINY, "clean_images": n}, store) for n in (0, 16))
    assert against_clean["cognitive_masks"].run.key == plain["cognitive_masks"].run.key
    assert against_clean["cognitive_masks"].run.hit
    assert len(against_clean["reference_masks"].load("norms")) == 16
    assert len(plain["reference_masks"].load("norms")) == 0


def test_a_search_goes_on_from_the_last_chunk_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cd, "CHUNK_PIXELS", 20 * 16 * 16)
    defense, data = CognitiveDistillation(CDConfig.from_mapping(TINY)), mislabelled()

    def run(folder: str, progress: Progress) -> Store:
        store = Store(tmp_path / folder, checkpoint_seconds=0)
        context = RunContext(store, SPEC, 5, torch.device("cpu"), "fp32", progress)
        run_defense(defense, data, context, until="isolate")
        return store

    whole = run("whole", silent)
    told = run_through_kills(lambda progress: run("killed", progress))
    assert digests(Store(tmp_path / "killed")) == digests(whole)
    steps = [step for stage, step in told if stage == "cognitive_masks"]
    assert steps == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
