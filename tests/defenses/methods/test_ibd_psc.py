"""IBD-PSC: values by hand, hooks against edited weights, where it starts, and its two ways to choose that."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import PLAIN_TRAINING, idle_field, run_with
from planted_features import run_stage
from small_images import make_images
from torch import Tensor, nn

from defenses import DEFENSES
from defenses.api import Outputs, Params
from defenses.methods import ibd_psc
from defenses.methods.ibd_psc import IBDPSC, PSC, PSC_CURVE, IBDPSCConfig, choose_start, consistency
from defenses.models import ModelSpec, Normalised, build_model
from defenses.models.amplification import amplified, batch_norms
from defenses.shared_stages import cpu_weights
from defenses.training.inference import predict_logits
from study.scenarios.metrics import auroc

torch.set_num_threads(1)
N, CLASSES = 128, 4
IMAGES = make_images().train_images
LABELS = make_images().train_labels


def network(name: str = "resnet18", blocks: tuple[int, ...] = (1, 1)) -> Normalised:
    """A network with statistics of its own, which predicts every class; in eval mode."""
    model = build_model(ModelSpec(name, 4, blocks, CLASSES, 16), 1)
    generator = torch.Generator().manual_seed(1)
    for module in batch_norms(model):
        for tensor in (module.weight, module.bias, module.running_mean):
            assert tensor is not None
            tensor.data.normal_(0.3, 0.3, generator=generator)
    model.network.linear.bias.data -= predict_logits(model, torch.from_numpy(IMAGES), "fp32").mean(dim=0)
    return model.eval()


def pixels() -> Tensor:
    return torch.from_numpy(IMAGES)


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 20), ("preact_resnet18", 17)])
def test_layers_are_counted_as_the_network_lists_them(name: str, layers: int) -> None:
    model = build_model(ModelSpec(name, 2, (2, 2, 2, 2), CLASSES, 16), 0)
    assert len(batch_norms(model)) == layers
    names = [place for place, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if name == "resnet18":
        assert names[-5:] == [f"network.layer4.{end}" for end in ("0.bn1", "0.bn2", "0.shortcut.1", "1.bn1", "1.bn2")]
    else:
        assert names[-1] == "network.bn_last"


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
@pytest.mark.parametrize("last", [1, 3, 7])
def test_hooks_do_what_edited_weights_do(name: str, last: int) -> None:
    model, edited = network(name), network(name)
    layers = batch_norms(edited)
    last = min(last, len(layers))
    for module in layers[-last:]:
        module.weight.data *= 1.5
        module.bias.data *= 1.5
    with amplified(model, last, 1.5):
        hooked = predict_logits(model, pixels(), "fp32")
    torch.testing.assert_close(hooked, predict_logits(edited, pixels(), "fp32"), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(hooked, predict_logits(model, pixels(), "fp32")), "the hooks are gone afterwards"
    assert not any(module._forward_hooks for module in model.modules())


class OneLayer(nn.Module):
    """One BatchNorm layer that changes nothing, and a head that takes two of its channels for logits."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=0.0)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.norm(images.float())[:, :2, 0, 0]
        return logits


def test_psc_by_hand() -> None:
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    images[0, :, :, 0] = images[1, :, :, 1] = 1  # logits (1, 0) and (0, 1)
    model: Any = OneLayer().eval()
    by_hand = 1 / (1 + np.exp(-1.5))  # 0.8176
    assert by_hand == pytest.approx(0.8176, abs=5e-5)
    assert consistency(model, images, range(1, 2), 1.5, "fp32") == pytest.approx([by_hand, by_hand])
    plain = consistency(model, images, range(1, 2), 1.0, "fp32")
    assert plain == pytest.approx([1 / (1 + np.exp(-1))] * 2), "times one it is the probability of the prediction"


def test_psc_is_the_mean_over_the_networks() -> None:
    model = network()
    alone = [consistency(model, pixels(), range(k, k + 1), 1.5, "fp32") for k in (2, 3, 4)]
    assert consistency(model, pixels(), range(2, 5), 1.5, "fp32") == pytest.approx(np.mean(alone, axis=0))
    predicted = predict_logits(model, pixels(), "fp32").double().softmax(dim=1).max(dim=1).values.numpy()
    assert consistency(model, pixels(), range(1, 4), 1.0, "fp32") == pytest.approx(predicted, abs=1e-6)


# Where it starts


def start(model: Any, wanted: Tensor | None = None, **fields: float) -> ibd_psc.Start:
    given = SimpleNamespace(**{"amplification": 1.5, "error_floor": 0.6, **fields})
    wanted = predict_logits(model, pixels(), "fp32").argmax(dim=1) if wanted is None else wanted
    return choose_start(model, pixels(), wanted, given, "fp32")


def test_it_starts_at_the_first_network_that_errs_enough() -> None:
    model = network(blocks=(1, 1, 1))
    every = []
    wanted = predict_logits(model, pixels(), "fp32").argmax(dim=1)
    for last in range(1, len(batch_norms(model)) + 1):
        with amplified(model, last, 3.0):
            every.append(float((predict_logits(model, pixels(), "fp32").argmax(dim=1) != wanted).float().mean()))
    floor = min(max(every), 0.68) - 0.01  # of four classes nine tenths of 0.75 count as enough
    first = next(k for k, error in enumerate(every, start=1) if error > floor)
    chosen = start(model, amplification=3.0, error_floor=floor)
    assert (chosen.layers, chosen.factor) == (first, 3.0)
    assert chosen.errors == pytest.approx(every[:first])


def test_all_layers_may_be_what_it_takes_and_larger_factors_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The references leave the last layer out, and have no start where the error stays low."""
    errors = {1.5: [0.0, 0.1, 0.2], 2.0: [0.0, 0.2, 0.4], 3.0: [0.1, 0.3, 0.7]}
    asked: list[tuple[float, int]] = []
    right = torch.arange(N) % 10

    def said(model: Any, images: Tensor, precision: str) -> Tensor:
        factor, last = asked[-1]
        wrong = torch.arange(len(images)) < round(errors.get(factor, [0.0] * 3)[last - 1] * len(images))
        return nn.functional.one_hot((right + wrong) % 10, 10).float()

    class Noted:
        def __init__(self, _model: Any, last: int, factor: float) -> None:
            asked.append((factor, last))

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_error: object) -> None:
            pass

    monkeypatch.setattr(ibd_psc, "predict_logits", said)
    monkeypatch.setattr(ibd_psc, "amplified", Noted)
    monkeypatch.setattr(ibd_psc, "batch_norms", lambda _model: [None] * 3)
    assert start(None, right) == ibd_psc.Start(3, 3.0, pytest.approx([0.1, 0.3, 0.7], abs=0.01))
    assert start(None, right, error_floor=0.15) == ibd_psc.Start(3, 1.5, pytest.approx([0.0, 0.1, 0.2], abs=0.01))
    asked.clear()
    never = start(None, right, error_floor=0.9)
    assert (never.layers, never.factor) == (3, 8.0)
    assert sorted({factor for factor, _ in asked}) == [1.5, 2.0, 3.0, 5.0, 8.0]
    asked.clear()
    assert start(None, right, error_floor=0.9, amplification=4.0).factor == 8.0
    assert sorted({factor for factor, _ in asked}) == [4.0, 5.0, 8.0], "none below the field's own"


@pytest.mark.parametrize(("classes", "floor"), [(2, 0.6), (10, 0.9)])
def test_a_network_that_says_one_class_of_everything_errs_enough(classes: int, floor: float) -> None:
    """Of two classes it errs on half: more than 0.6 is never reached, and every factor would be passed over."""
    model = network(blocks=(1, 1, 1))
    model.network.linear = nn.Linear(model.network.linear.in_features, classes)
    model.network.linear.bias.data[0] = 1e6
    wanted = torch.arange(N) % classes
    chosen = start(model, wanted, error_floor=floor)
    assert (chosen.layers, chosen.factor) == (1, 1.5)


def stage_outputs(name: str, inputs: Outputs, labels: Any = LABELS, **fields: Any) -> Outputs:
    return run_stage(IBDPSC, name, inputs, labels, IMAGES, **fields)


def untrained() -> Outputs:
    return {"weights": cpu_weights(network())}


def test_where_layers_end_fewer_networks_are_averaged() -> None:
    given = {**untrained(), "factor": 1.5}
    last = len(batch_norms(network()))
    ends = [stage_outputs("psc", {**given, "layers": last}, networks=n)["psc"] for n in (1, 8)]
    assert np.array_equal(*ends), "there is one network with all layers amplified"
    two = [stage_outputs("psc", {**given, "layers": last - 1}, networks=n)["psc"] for n in (2, 8)]
    assert np.array_equal(*two)
    assert not np.array_equal(two[0], ends[0])


def test_without_clean_images_no_label_matters() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        stage_outputs("psc_curve", untrained(), labels, clean_images=0, amplification=3.0)
        for labels in (LABELS, rng.permutation(LABELS))
    )
    assert one["errors"].tolist() == other["errors"].tolist()
    assert (one["layers"], one["factor"]) == (other["layers"], other["factor"])
    with_labels = stage_outputs("psc_curve", untrained(), clean_images=32, amplification=3.0)
    assert with_labels["errors"].tolist() != one["errors"].tolist()


def test_samples_are_flagged_above_the_threshold_whatever_their_label() -> None:
    psc = np.linspace(0, 1, N)
    assert stage_outputs("ibd_psc", {"psc": psc})["flagged"].sum() == (psc > 0.9).sum()
    assert not stage_outputs("ibd_psc", {"psc": psc}, threshold=1.0)["flagged"].any()
    rng = np.random.default_rng(0)
    permuted = [auroc(psc, rng.permutation(N) < 20) for _ in range(50)]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.03)


# Stages

TINY = {
    "epochs": 4,
    "lr": 0.1,
    "batch_size": 32,
    "augment": False,
    "schedule": "one_cycle",
    "clean_images": 32,
    "threshold": 0.5,
}
ENDS: dict[str, tuple[Any, Any]] = {
    "clean_images": (0, 32),
    "amplification": (1.2, 3.0),
    "networks": (1, 8),
    "error_floor": (0.0, 0.9),
    "threshold": (0.0, 1.0),
}
# After three epochs this network says one thing of everything: right of a quarter, and hardly something else amplified.
ELSEWHERE: dict[str, dict[str, Any]] = {"clean_images": {"epochs": 3}, "networks": {"error_floor": 0.3}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_every_field_has_ends() -> None:
    assert set(ENDS) | PLAIN_TRAINING == {field.name for field in dataclasses.fields(IBDPSCConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    assert idle_field(IBDPSC, {**TINY, **ELSEWHERE.get(field, {})}, field, ENDS[field], store) == ""


def test_the_undefended_model_is_shared_and_equal_starts_share_the_networks(store: Path) -> None:
    own = [field.name for field in dataclasses.fields(DEFENSES["no_defense"].config_type)]
    undefended = run_with(DEFENSES["no_defense"], {name: TINY[name] for name in TINY if name in own}, store)
    first, second = (run_with(IBDPSC, {**TINY, "error_floor": floor}, store) for floor in (0.98, 0.99))
    assert first["standard_training"].run.key == undefended["standard_training"].run.key
    assert first["psc_curve"].run.key != second["psc_curve"].run.key
    assert first["psc"].run.key == second["psc"].run.key
    assert PSC_CURVE.cost is not None
    assert PSC_CURVE.cost(Params(clean_images=100), 50_000) < 0.02
    assert PSC.cost is not None
    assert PSC.cost(Params(networks=5), 50_000) == 2.0
