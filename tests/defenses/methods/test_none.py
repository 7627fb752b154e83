"""NONE's parts re-derived: class by class, a planted channel, what a reset touches, and bad input."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import idle_field, run_with
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses import DEFENSES
from defenses.methods.none import NONE, Detection, NONEConfig, detect, discrepancies
from defenses.methods.pipd.isolation import choose_channels
from defenses.models import ModelSpec, Normalised, build_model
from defenses.models.channel_reset import reset_channels
from defenses.models.taps import tap_names
from defenses.registry import UserError
from study.cli.yaml_file import load_plain_yaml
from study.config.config import StudyConfig, resolve
from study.planning.plan import make_plan
from study.scenarios.metrics import auroc

torch.set_num_threads(1)
HOW = Detection(0.1, 0.9, 3.0, 1, 0.0)
N, K, TAPS = 1200, 4, [20, 40]
PLANTED = 31


def made_up(shift: float = 16.0) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Activations [N, 60] and logits [N, K] of a model that predicts class 0 for 60 images that fire channel 31."""
    rng = np.random.default_rng(2)
    predicted, poison = np.arange(N) % K, np.zeros(N, dtype=bool)
    poison[np.flatnonzero(predicted == 0)[:60]] = True
    activations = rng.normal(size=(N, sum(TAPS))).astype(np.float32)
    activations[poison, PLANTED] += shift
    logits = rng.normal(size=(N, K)).astype(np.float32) * 0.2
    logits[np.arange(N), predicted] += rng.uniform(2.0, 8.0, N).astype(np.float32)  # some are surely of it, some not
    return activations, logits, poison


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()


@pytest.mark.parametrize("weak", [0.02, 0.1, 0.3])
def test_discrepancies_are_those_of_a_loop_over_channels_and_classes(weak: float) -> None:
    activations, logits, _ = made_up()
    p = softmax(logits)
    expected = np.full(activations.shape[1], -np.inf)
    for label in range(K):
        above, below = activations[p[:, label] > 0.9].astype(float), activations[p[:, label] < weak].astype(float)
        for channel in range(activations.shape[1]):
            beyond = above[:, channel].max() - (below[:, channel].mean() + 3 * below[:, channel].std())
            expected[channel] = max(expected[channel], beyond)
    largest, compared = discrepancies(activations, p, dataclasses.replace(HOW, weak_probability=weak))
    np.testing.assert_allclose(largest, expected, rtol=1e-5, atol=1e-5)
    assert compared.tolist() == [0, 1, 2, 3]


def test_the_planted_channel_ranks_first_and_the_break_recovers_who_fires_it() -> None:
    activations, logits, poison = made_up()
    largest, _ = discrepancies(activations, softmax(logits), HOW)
    assert int(np.argmax(largest)) == PLANTED
    detected = detect(activations, TAPS, logits, HOW)
    reset = choose_channels(detected.discrepancy, TAPS, 0.03)
    assert PLANTED in reset
    assert len(reset) == 1 + 2  # 3 % of 20 and of 40, rounded up
    assert np.array_equal(detected.flagged, poison)
    assert detected.values["flagged_share"] == 60 / N
    found_by_chance = np.random.default_rng(0)
    permuted = [auroc(detected.scores, found_by_chance.permutation(poison)) for _ in range(20)]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.03)
    assert auroc(detected.scores, poison) == 1.0


def test_clean_samples_are_flagged_too_unless_a_gap_is_asked_for() -> None:
    activations, logits, poison = made_up(shift=0.0)
    plain = detect(activations, TAPS, logits, HOW)
    assert 0.2 < plain.flagged.mean() < 0.8  # the break always splits
    assert auroc(plain.scores, poison) == pytest.approx(0.5, abs=0.1)
    guarded = detect(activations, TAPS, logits, dataclasses.replace(HOW, minimum_gap=0.5))
    assert not guarded.flagged.any()
    assert np.array_equal(guarded.discrepancy, plain.discrepancy)
    planted, planted_logits, planted_poison = made_up()
    still = detect(planted, TAPS, planted_logits, dataclasses.replace(HOW, minimum_gap=0.5))
    assert np.array_equal(still.flagged, planted_poison)


def test_a_class_that_is_never_predicted_surely_is_left_out() -> None:
    activations, logits, poison = made_up()
    logits[:, 2] = np.minimum(logits[:, 2], 1.0)
    _, compared = discrepancies(activations, softmax(logits), HOW)
    assert compared.tolist() == [0, 1, 3]
    assert np.array_equal(detect(activations, TAPS, logits, HOW).flagged, poison)


def test_a_model_that_is_sure_of_nothing_is_refused_in_a_line() -> None:
    activations, logits, _ = made_up()
    with pytest.raises(UserError) as error:
        detect(activations, TAPS, logits * 0.01, HOW)
    assert "\n" not in str(error.value)
    assert "probability above 0.9" in str(error.value)
    assert f"none of {K} is one (highest probability 0.267 of {N} samples)" in str(error.value)


# Reset


def network(name: str, blocks: tuple[int, ...]) -> Normalised:
    model = build_model(ModelSpec(name, 4, blocks, K, 16), 0)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                assert tensor is not None
                tensor.data.normal_(0.5, 0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    logits: Tensor = model(torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 255)
    return logits


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_what_nothing_reads_can_be_reset_unseen(name: str) -> None:
    """Channels whose outgoing weights are zero: of first convolutions, and of the last block's sum."""
    model, last = network(name, (1, 1, 2)), "network.layer3.1"
    taps = [tap for tap in tap_names(model, "all_convolutions") if tap.endswith("conv1") or tap == f"{last}.conv2"]
    chosen = [[0, 2] for _ in taps]
    for tap in taps:
        block = model.get_submodule(tap.rpartition(".")[0])
        reader = block.get_submodule("conv2") if tap.endswith("conv1") else model.network.linear
        reader.weight.data[:, [0, 2]] = 0
    before = outputs(model)
    reset_channels(model, taps, chosen)
    torch.testing.assert_close(outputs(model), before)
    model.network.linear.weight.data[:, 1] += 1  # the control: what is read is missed
    before = outputs(model)
    reset_channels(model, [f"{last}.conv2"], [[1]])
    assert not torch.allclose(outputs(model), before)


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_each_tap_resets_its_own_channels_and_no_other(name: str) -> None:
    """In the last stage the published code resets those of earlier layers as well."""
    model = network(name, (1, 2))
    taps = tap_names(model, "convolutions")
    assert [tap.removeprefix("network.layer2.") for tap in taps] == [
        "0.conv1", "0.conv2", "0.shortcut", "1.conv1", "1.conv2"
    ]  # fmt: skip
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    chosen = [[0], [1], [2], [3], [4]]
    reset_channels(model, taps, chosen)
    basic = name == "resnet18"
    shortcut = ["0.shortcut.0", "0.shortcut.1"] if basic else ["0.shortcut"]
    rows = {"0.conv1": 0, "0.conv2": 1, "1.conv1": 3, "1.conv2": 4, **dict.fromkeys(shortcut, 2)}
    rows |= {"0.bn1": 0, "0.bn2": 1, "1.bn1": 3, "1.bn2": 4} if basic else {"0.bn2": 0, "1.bn2": 3}
    columns = {"0.conv2": 0, "1.conv1": 1, "1.conv2": 3}
    expected = {key: tensor.clone() for key, tensor in before.items()}
    for part, row in rows.items():
        for kind in ("weight", "bias"):
            if f"network.layer2.{part}.{kind}" in expected:
                expected[f"network.layer2.{part}.{kind}"][row] = 0
    for part, column in columns.items():
        expected[f"network.layer2.{part}.weight"][:, column] = 0
    expected["network.linear.weight"][:, 4] = 0
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


# Stages

TINY = {
    "epochs": 12,
    "lr": 0.1,
    "batch_size": 32,
    "augment": False,
    "schedule": "one_cycle",
    "strong_probability": 0.5,
    "weak_probability": 0.3,
    "detector_channels": 2,
    "reset_channels": 0.4,
    "finetuning_epochs": 2,
    "finetuning_lr": 0.01,
}
ENDS: dict[str, tuple[Any, Any]] = {
    "epochs": (10, 12),
    "read_epoch": (11, 12),
    "lr": (0.05, 0.1),
    "batch_size": (24, 32),
    "schedule": ("cosine", "one_cycle"),
    "momentum": (0.8, 0.9),
    "weight_decay": (0.0, 0.01),
    "augment": (False, True),
    "taps": ("convolutions", "all_convolutions"),
    "channel_statistic": ("max", "mean"),
    "weak_probability": (0.05, 0.5),
    "strong_probability": (0.5, 0.9),
    "beta": (0.0, 20.0),
    "detector_channels": (1, 1.0),
    "reset_channels": (1, 0.5),
    "minimum_gap": (0.0, 100.0),
    "rounds": (1, 2),
    "finetuning_epochs": (0, 2),
    "finetuning_lr": (1e-4, 0.1),
    "finetuning_schedule": ("constant", "one_cycle"),
    "finetuning_augment": (False, True),
    "finetuning_weight_decay": (0.0, 0.5),
}
# A model that saw crops, and one after a reset, are sure of less.
SURE: dict[str, dict[str, Any]] = {"augment": {"strong_probability": 0.3}, "rounds": {"strong_probability": 0.3}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_every_field_has_ends() -> None:
    assert set(ENDS) == {field.name for field in dataclasses.fields(NONEConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    assert idle_field(NONE, {**TINY, **SURE.get(field, {})}, field, ENDS[field], store) == ""


def test_the_undefended_model_is_shared_and_batch_statistics_rest(store: Path) -> None:
    plain = {name: TINY[name] for name in ("epochs", "lr", "batch_size", "augment", "schedule")}
    undefended = run_with(DEFENSES["no_defense"], plain, store)["standard_training"]
    done = run_with(NONE, TINY, store)
    assert done["standard_training"].run.key == undefended.run.key
    assert done["standard_training"].run.hit
    cleaned, first = done["none_cleaning"].load("weights"), undefended.load("weights")
    kept = [name for name in first if name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert kept
    assert all(torch.equal(cleaned[name], first[name]) for name in kept)


def test_what_was_flagged_before_stays_out_of_later_rounds(store: Path) -> None:
    one, two = (run_with(NONE, {**TINY, **SURE["rounds"], "rounds": rounds}, store) for rounds in (1, 2))
    first, second = two["none_cleaning"].load("series")["left_out_share"]
    assert first == one["none_isolation"].load("series")["flagged_share"][0]
    assert first < second < 1
    assert two["none_isolation"].digests == one["none_isolation"].digests  # scores and flags are the first round's


# Its name


def test_none_is_a_name_and_not_nothing(tmp_path: Path) -> None:
    assert DEFENSES.find("none") is NONE
    file = tmp_path / "study.yaml"
    file.write_text("space: none\nattacks: [badnets]\n")
    assert load_plain_yaml(file)["space"] == "none"
    config = resolve(StudyConfig, {"out": tmp_path}, file)
    plan = make_plan(config, "cpu", 0.0, "fp32")
    assert plan.defense is NONE
    builds = [build.stage for build in plan.builds[:4]]
    assert builds == ["poison", "standard_training", "channel_activations", "predictions"]
    assert [plan.builds[position].stage for position in plan.builds[2].needs] == ["poison", "standard_training"]


def test_an_undefended_model_of_its_own_is_built_as_well(tmp_path: Path) -> None:
    plan = make_plan(
        resolve(StudyConfig, {"out": tmp_path, "space": "none", "set": {"epochs": "3"}}), "cpu", 0.0, "fp32"
    )
    first = [
        build for build in plan.builds if build.scenario == plan.scenarios[0] and build.stage == "standard_training"
    ]
    assert [build.defense for build in first] == ["no_defense", "none"]
