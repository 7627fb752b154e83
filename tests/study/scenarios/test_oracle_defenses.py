"""Instruments know the ground truth, say so, and leave the keys of what they share with defenses as they are."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_images import CLASSES, make_images
from small_study import TINY_PIPD, save_npz, small_plan

from defenses import DEFENSES
from defenses.api import StageContext, SuspectDataset, silent
from defenses.methods.pipd.cleaning import PIPDCleaning
from defenses.methods.pipd.pipd import SELECTIVE_TRAINING
from defenses.models import build_model, load_model
from defenses.registry import UserError
from defenses.runner import RunContext, run_defense
from defenses.training.inference import predict_array, sample_losses
from study.attacks.badnets import BadNets
from study.datasets.images import Images
from study.scenarios.evaluation import evaluate_scenario
from study.scenarios.oracle_defenses import ORACLE_DEFENSES, check_defense, find_defense, make_defense
from study.scenarios.oracle_defenses.backdoor_class import ClassTotals
from study.scenarios.oracle_defenses.fault_ratio import draw_subset
from study.scenarios.poison import PoisonedDataset, poison

torch.set_num_threads(1)
PIPD = {"pre_isolation_epochs": 2, "pre_isolation_lr": 0.01, "batch_size": 32, "isolation_rate": 0.08}
MakeContext = Callable[..., RunContext]


@pytest.fixture(scope="module")
def poisoned() -> PoisonedDataset:
    return poison(make_images(), BadNets(), 0.2, 0, 0)


def keys(defense: str, config: dict[str, Any], poisoned: PoisonedDataset, context: RunContext) -> dict[str, str]:
    found = run_defense(make_defense(defense, config, poisoned), poisoned.suspect, context, "isolate")
    return {run.stage: run.key for run in found.stages}


def test_defenses_stay_free_of_instruments() -> None:
    assert not set(DEFENSES) & set(ORACLE_DEFENSES)
    for name in ORACLE_DEFENSES:
        assert find_defense(name).name == check_defense(name) == name
        assert find_defense(name).stages[0].name == "ground_truth"
    with pytest.raises(UserError, match="unknown defense 'pip'"):
        find_defense("pip")


@pytest.mark.parametrize(("ratio", "benign"), [(0.0, 0), (0.2, 2), (0.4, 4), (0.6, 6), (0.8, 8), (1.0, 10)])
def test_the_share_of_benign_samples_is_the_fault_ratio(ratio: float, benign: int) -> None:
    truth = np.arange(100) % 5 == 0  # 20 poisoned of 100
    subset = draw_subset(truth, 10, ratio, np.random.default_rng(0))
    assert subset.sum() == 10
    assert (subset & ~truth).sum() == benign


def test_ratios_are_nested_and_drawn_anew_for_each_seed() -> None:
    truth = np.arange(100) % 5 == 0
    low, high = (draw_subset(truth, 10, ratio, np.random.default_rng(0)) for ratio in (0.2, 0.6))
    assert (low & ~truth)[high & ~truth].sum() == 2
    assert not (high & truth & ~low).any()
    assert not np.array_equal(low, draw_subset(truth, 10, 0.2, np.random.default_rng(1)))


def test_too_little_poison_is_refused() -> None:
    with pytest.raises(UserError, match="P_p takes 8 poisoned and 2 benign samples, and there are 5 and 95"):
        draw_subset(np.arange(100) < 5, 10, 0.2, np.random.default_rng(0))


def test_the_fault_ratio_that_was_drawn_is_told(poisoned: PoisonedDataset, make_context: MakeContext) -> None:
    context = make_context()
    for ratio in (0.0, 0.4):
        defense = make_defense("pipd_fault_ratio", {**PIPD, "fault_ratio": ratio}, poisoned)
        result = run_defense(defense, poisoned.suspect, context, "isolate")
        assert list(result.series["isolate.fault_ratio"]) == [ratio]  # 10 of 128 samples, so it can be just that


def test_what_needs_no_truth_is_shared_with_pipd(poisoned: PoisonedDataset, make_context: MakeContext) -> None:
    context = make_context()
    own = keys("pipd", PIPD, poisoned, context)
    shared = keys("pipd_fault_ratio", PIPD, poisoned, context)
    assert shared["pre_isolation"] == own["pre_isolation"]
    assert shared["channel_activations"] == own["channel_activations"]
    assert shared["isolate"] != own["isolate"]


def test_the_mask_is_part_of_the_key(poisoned: PoisonedDataset, make_context: MakeContext) -> None:
    context, config = make_context(), {"epochs": 1, "batch_size": 32}
    found = keys("qt_backdoor_class", config, poisoned, context)
    changed = np.roll(poisoned.poison_mask, 1)
    other = keys("qt_backdoor_class", config, PoisonedDataset(**{**vars(poisoned), "poison_mask": changed}), context)
    assert found["backdoor_class_training"] != other["backdoor_class_training"]


def test_instruments_are_refused_where_nobody_knows_the_poison(
    poisoned: PoisonedDataset, images: Images, tmp_path: Path
) -> None:
    for change in ({"poison_known": False}, {"poison_mask": np.zeros(128, dtype=bool)}):
        with pytest.raises(UserError, match="pipd_fault_ratio must be given which samples are poisoned"):
            make_defense("pipd_fault_ratio", {}, PoisonedDataset(**{**vars(poisoned), **change}))
    dataset = save_npz(tmp_path / "data.npz", images)
    with pytest.raises(UserError, match="nobody knows for clean-0-s0"):
        small_plan(dataset, tmp_path, space="qt.backdoor_class", attacks=("badnets", "clean"))


def test_the_backdoor_has_the_class_behind_the_last(poisoned: PoisonedDataset, make_context: MakeContext) -> None:
    config = {"epochs": 12, "lr": 0.1, "batch_size": 32, "schedule": "one_cycle", "augment": False}
    result = run_defense(make_defense("qt_backdoor_class", config, poisoned), poisoned.suspect, make_context())
    assert result.model is not None
    told = predict_array(result.model, poisoned.suspect.images, torch.device("cpu"), "fp32")
    assert told.shape[1] == CLASSES + 1
    assert (told.argmax(axis=1)[poisoned.poison_mask] == CLASSES).mean() > 0.9
    assert (told.argmax(axis=1)[~poisoned.poison_mask] == CLASSES).mean() < 0.1
    series = {name.removeprefix("backdoor_class_training."): values for name, values in result.series.items()}
    classes = [*(f"class_{label}" for label in range(CLASSES)), "backdoor"]
    assert set(series) == {"loss", *(f"{what}/{name}" for what in ("loss", "accuracy") for name in classes)}
    assert all(len(values) == 12 for values in series.values())
    assert series["accuracy/backdoor"][-1] > 0.9
    # The mean over all samples is the mean of the classes' means, weighted by how many samples each has.
    counts = np.bincount(np.where(poisoned.poison_mask, CLASSES, poisoned.suspect.labels))
    weighted = sum(count * series[f"loss/{name}"][0] for count, name in zip(counts, classes, strict=True)) / 128
    assert weighted == pytest.approx(series["loss"][0], rel=1e-5)


def test_class_means_by_hand() -> None:
    labels = torch.tensor([0, 0, 2, 2, 2])  # nobody is left in class 1
    totals = ClassTotals(labels, 3)
    totals.add(labels[:3], torch.tensor([1.0, 3.0, 6.0]), torch.tensor([True, False, True]))
    totals.add(labels[3:], torch.tensor([0.0, 3.0]), torch.tensor([True, False]))
    totals.end_epoch(0)
    totals.add(labels, torch.zeros(5), torch.ones(5, dtype=torch.bool))
    totals.end_epoch(1)
    found = totals.series()
    assert found["loss/class_0"] == [2.0, 0.0]
    assert found["loss/backdoor"] == [3.0, 0.0]
    assert found["accuracy/class_0"] == [0.5, 1.0]
    assert found["accuracy/backdoor"] == pytest.approx([2 / 3, 1.0])
    assert "loss/class_1" not in found


def clean_by_unlearning(
    images: np.ndarray, flagged: np.ndarray, make_context: MakeContext, **changes: Any
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A new network before and after the stage."""
    context = make_context()
    suspect = SuspectDataset.of(images, make_images().train_labels, CLASSES)
    config = PIPDCleaning.config_type.from_mapping(
        {"cleaning": "unlearning", "finetuning_epochs": 0, "unlearning_epochs": 2, "batch_size": 8, **changes}
    )
    start = build_model(context.model, 3)
    stage = PIPDCleaning.stages[-1]
    params = SimpleNamespace(**{name: getattr(config, name) for name in stage.reads})
    told = StageContext("cleaning", suspect, context.model, context.device, "fp32", 5, silent)
    outputs = stage.run(told, {"weights": start.state_dict(), "flagged": flagged}, params)
    return start.eval(), load_model(context.model, outputs["weights"]).eval()


def test_unlearning_ascends_on_isolated_samples_alone(make_context: MakeContext) -> None:
    images = make_images().train_images
    flagged = np.arange(128) < 24
    before, after = clean_by_unlearning(images, flagged, make_context, unlearning_lr=0.01)
    shown, labels = torch.from_numpy(images), torch.from_numpy(make_images().train_labels)
    rise = sample_losses(after, shown, labels, "fp32") - sample_losses(before, shown, labels, "fp32")
    assert rise[flagged].mean() > 0
    # BatchNorm's statistics stay, and what was not isolated plays no part: any other images give the same network.
    for name, tensor in after.state_dict().items():
        if "running" in name:
            assert torch.equal(tensor, before.state_dict()[name])
    others = images.copy()
    others[~flagged] = np.random.default_rng(0).integers(0, 256, others[~flagged].shape)
    _, same = clean_by_unlearning(others, flagged, make_context, unlearning_lr=0.01)
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in after.state_dict().items())
    others = images.copy()
    others[flagged] = 255 - others[flagged]
    _, moved = clean_by_unlearning(others, flagged, make_context, unlearning_lr=0.01)
    assert not torch.equal(moved.state_dict()["network.conv1.weight"], after.state_dict()["network.conv1.weight"])


def test_nothing_isolated_leaves_the_model_as_it_is(make_context: MakeContext) -> None:
    before, after = clean_by_unlearning(make_images().train_images, np.zeros(128, dtype=bool), make_context)
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in after.state_dict().items())


def test_selective_cleaning_is_pipds_selective_training(make_context: MakeContext) -> None:
    context, images = make_context(), make_images()
    suspect = SuspectDataset.of(images.train_images, images.train_labels, CLASSES)
    config = PIPDCleaning.config_type.from_mapping({"batch_size": 32, "selective_epochs": 2})
    inputs = {"weights": build_model(context.model, 3).state_dict(), "flagged": np.arange(128) < 24}
    found = []
    for stage in (SELECTIVE_TRAINING, PIPDCleaning.stages[-1]):
        params = SimpleNamespace(**{name: getattr(config, name) for name in stage.reads})
        told = StageContext("of one name", suspect, context.model, context.device, "fp32", 5, silent)
        found.append(stage.run(told, inputs, params))
    assert found[0]["series"] == found[1]["series"]
    assert all(torch.equal(tensor, found[1]["weights"][name]) for name, tensor in found[0]["weights"].items())
    assert found[1]["snapshots"] == {}  # nobody asked for them


def test_snapshots_are_judged_from_the_start_to_the_final_model_and_once(images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", images)
    fields = {**TINY_PIPD, "selective_epochs": "3", "isolation_rate": "0.05"}
    plan = small_plan(dataset, tmp_path, space="pipd.selective_vs_unlearning", poison_rates=(0.2,), set=fields)

    def run(**changes: Any) -> Any:
        return evaluate_scenario("pipd_cleaning", {**plan.base, **changes}, plan.scenarios[0], plan.environment)

    first = run()
    for metric in ("ca", "asr"):
        assert len(first.series[f"cleaning.{metric}"]) == 4  # before the first epoch, and after each of three
        assert first.series[f"cleaning.{metric}"][-1] == first.metrics[metric]
    again = run()
    assert again.series == first.series
    assert {run.stage: run.hit for run in again.stages}["judged_snapshots"]
    without = run(snapshots=False)
    assert "cleaning.ca" not in without.series
    assert "judged_snapshots" not in {run.stage for run in without.stages}
