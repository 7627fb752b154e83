"""One configuration on one scenario, judged: which metrics there are, what is stored, and who sees what."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import save_npz

from defenses.api import DefenseResult, StageContext, SuspectDataset
from defenses.registry import UserError
from defenses.runner import RunContext
from defenses.signals import SIGNALS
from defenses.storage.checkpoint import Checkpoint
from study.datasets import DatasetSpec
from study.datasets.images import Images
from study.scenarios import evaluation
from study.scenarios.evaluation import EvaluationContext, EvaluationResult, evaluate_scenario, judge, prepare
from study.scenarios.scenario import Scenario
from tracking import names

BADNETS, CLEAN = Scenario("badnets", 0.125, 0, 0), Scenario("clean", 0.0, 0, 0)
PIPD = {"pre_isolation_epochs": 2, "pre_isolation_lr": 0.01, "selective_epochs": 1, "batch_size": 32}
QT = {"pre_epochs": 1, "quarantine_epochs": 2, "backdoor_free_epochs": 1, "batch_size": 32}
NO_DEFENSE = {"epochs": 2, "lr": 0.05, "batch_size": 32, "schedule": "one_cycle", "augment": False}

FLAGS = {"tpr", "fpr", "auroc", "auroc_flags", "flagged_share"}
MODEL = {"ca", "asr"}
SIGNALS_TOLD = {names.signal(name) for name in SIGNALS}
UNDEFENDED = {"ca_undefended", "asr_undefended"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, images: Images) -> EvaluationContext:
    """Small images and a store that the tests of this file share: none of them minds what is there already."""
    folder = tmp_path_factory.mktemp("cell")
    return EvaluationContext(
        dataset=DatasetSpec(save_npz(folder / "data.npz", images)),
        store=folder / "store",
        model="resnet18",
        width=4,
        blocks=(1, 1),
        precision="fp32",
        device="cpu",
        undefended=NO_DEFENSE,
        asr_floor=0.0,
    )


def stages_of(result: EvaluationResult) -> list[str]:
    return [stage.stage for stage in result.stages]


@pytest.mark.parametrize(
    ("defense", "config", "until", "metrics", "stages"),
    [
        ("no_defense", NO_DEFENSE, None, MODEL, []),  # what it trains is the undefended model
        ("pipd", PIPD, "isolate", FLAGS, ["pre_isolation", "channel_activations", "isolate"]),
        (
            "pipd",
            PIPD,
            None,
            FLAGS | MODEL,
            ["pre_isolation", "channel_activations", "isolate", "selective_training"],
        ),
        (
            "qt",
            QT,
            None,
            FLAGS | MODEL | {"ca_folded", "clean_quarantined"},
            ["pre_quarantine", "quarantine_training", "backdoor_free_training"],
        ),
    ],
)
def test_each_defense_has_its_metrics(
    defense: str,
    config: dict[str, Any],
    until: str | None,
    metrics: set[str],
    stages: list[str],
    environment: EvaluationContext,
) -> None:
    result = evaluate_scenario(defense, config, BADNETS, environment, until)
    assert set(result.metrics) == metrics | UNDEFENDED | SIGNALS_TOLD
    assert set(result.metrics) <= set(names.METRICS) | SIGNALS_TOLD
    rates = {name: value for name, value in result.metrics.items() if name not in SIGNALS_TOLD}
    assert all(value is not None and 0 <= value <= 1 for value in rates.values()), rates
    assert stages_of(result) == ["poison", "standard_training", "undefended", *stages]
    assert (result.meta["n_train"], result.meta["n_poison"]) == (128, 16)
    assert result.labels is not None
    assert result.poison_mask is not None
    assert int(result.poison_mask.sum()) == 16
    assert (result.labels[result.poison_mask] == 0).all()
    if "tpr" in metrics:
        flagged, poison = result.flagged, result.poison_mask
        assert flagged is not None
        assert result.metrics["tpr"] == flagged[poison].sum() / 16
        assert result.metrics["fpr"] == flagged[~poison].sum() / 112
        assert result.metrics["flagged_share"] == flagged.sum() / 128


def test_the_flags_are_followed_round_by_round(environment: EvaluationContext) -> None:
    result = evaluate_scenario("pipd", PIPD, BADNETS, environment, "isolate")
    assert len(result.series["pre_isolation.loss"]) == 2
    rounds = len(result.series["isolate.flagged_share"])
    assert len(result.series["isolate.tpr"]) == len(result.series["isolate.fpr"]) == rounds
    assert result.series["isolate.tpr"][-1] == result.metrics["tpr"]
    assert result.series["isolate.fpr"][-1] == result.metrics["fpr"]


@pytest.mark.parametrize(("defense", "config"), [("pipd", PIPD), ("qt", QT), ("no_defense", NO_DEFENSE)])
def test_without_poison_what_is_undefined_is_none(
    defense: str, config: dict[str, Any], environment: EvaluationContext
) -> None:
    result = evaluate_scenario(defense, config, CLEAN, environment)
    undefined = {name for name, value in result.metrics.items() if value is None} - SIGNALS_TOLD
    without_flags = {"asr", "asr_undefended"}
    assert undefined == (without_flags if defense == "no_defense" else without_flags | {"tpr", "auroc", "auroc_flags"})
    assert not result.attack_failed, "there is no attack that could fail"
    assert all(values == [] for name, values in result.series.items() if name.endswith(".tpr"))
    assert result.poison_mask is not None
    assert not result.poison_mask.any()


def test_undefended_training_is_judged_once(environment: EvaluationContext, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = dataclasses.replace(environment, store=environment.store.with_name("fresh"))
    judged: list[DefenseResult] = []

    def counting(result: DefenseResult, *arguments: Any) -> dict[str, float | None]:
        judged.append(result)
        return judge(result, *arguments)

    monkeypatch.setattr(evaluation, "judge", counting)
    first = evaluate_scenario("pipd", PIPD, BADNETS, fresh, "isolate")
    assert len(judged) == 2  # undefended, then the defense
    assert [stage.hit for stage in first.stages] == [False] * 6
    second = evaluate_scenario("pipd", PIPD, BADNETS, fresh, "isolate")
    assert len(judged) == 3
    # The isolation is cheaper to run than to store.
    assert {stage.stage: stage.hit for stage in second.stages} == {
        "poison": True,
        "standard_training": True,
        "undefended": True,
        "pre_isolation": True,
        "channel_activations": True,
        "isolate": False,
    }
    assert second.metrics == first.metrics
    assert [stage.key for stage in second.stages] == [stage.key for stage in first.stages]
    costs, kept = ([stage.built_seconds for stage in result.stages[:5]] for result in (first, second))
    assert kept == costs, "what it cost to build is kept"
    assert min(costs) > 0


def test_a_result_can_be_repeated(environment: EvaluationContext) -> None:
    results = []
    for name in ("one", "two"):
        place = dataclasses.replace(environment, store=environment.store.with_name(name))
        results.append(evaluate_scenario("pipd", PIPD, BADNETS, place, "isolate"))
    first, second = results
    assert first.metrics == second.metrics
    assert np.array_equal(first.scores, second.scores)  # type: ignore[arg-type]
    assert np.array_equal(first.flagged, second.flagged)  # type: ignore[arg-type]
    assert [stage.key for stage in first.stages] == [stage.key for stage in second.stages]


def test_another_seed_is_another_scenario(environment: EvaluationContext) -> None:
    masks = [prepare(dataclasses.replace(BADNETS, seed=seed), environment)[0].poison_mask for seed in (0, 1)]
    assert masks[0].sum() == masks[1].sum() == 16
    assert not np.array_equal(*masks)


@pytest.mark.parametrize(("floor", "failed"), [(0.0, False), ("asr", False), ("above", True), (1.0, True)])
def test_an_attack_below_the_floor_has_failed(floor: float | str, failed: bool, environment: EvaluationContext) -> None:
    reached = evaluate_scenario("no_defense", NO_DEFENSE, BADNETS, environment).metrics["asr_undefended"]
    assert reached is not None
    assert reached < 1, "two epochs must not be enough, or this test says nothing"
    levels = {"asr": reached, "above": reached + 1e-9}
    strict = dataclasses.replace(environment, asr_floor=levels.get(str(floor), floor))
    assert evaluate_scenario("no_defense", NO_DEFENSE, BADNETS, strict).attack_failed is failed


def test_no_stage_is_listed_twice(environment: EvaluationContext) -> None:
    result = evaluate_scenario("no_defense", NO_DEFENSE, BADNETS, environment)
    assert len({stage.key for stage in result.stages}) == len(result.stages)


def test_an_unknown_defense_or_field_is_refused(environment: EvaluationContext) -> None:
    with pytest.raises(UserError, match="did you mean 'pipd'"):
        evaluate_scenario("pipdd", {}, BADNETS, environment)
    with pytest.raises(UserError, match="did you mean 'rounds'"):
        evaluate_scenario("pipd", {"round": 1}, BADNETS, environment)


# Names of what only the study knows.
SECRETS = {"poison_mask", "cover_mask", "original_labels", "test_images", "test_labels", "triggered_images", "meta"}


def reachable(thing: object, depth: int = 4) -> set[str]:
    """Names of all attributes that can be reached from an object through attributes and mappings."""
    if depth == 0 or isinstance(thing, (np.ndarray, torch.Tensor, str, int, float, type(None), type)):
        return set()
    values = dict(thing) if isinstance(thing, Mapping) else dict(getattr(thing, "__dict__", {}))
    found = {str(name) for name in values}
    return found.union(*(reachable(value, depth - 1) for value in values.values()))


def test_a_defense_is_handed_nothing_but_what_it_may_see(
    environment: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {field.name for field in dataclasses.fields(SuspectDataset)} == {
        "images",
        "labels",
        "num_classes",
        "fingerprint",
    }
    seen: list[object] = []
    original: Callable[..., DefenseResult] = evaluation.run_defense

    def spying(defense: Any, dataset: SuspectDataset, context: RunContext, until: str | None) -> DefenseResult:
        assert type(dataset) is SuspectDataset, "not a subclass that knows more"
        seen.extend([defense.config, dataset, dataclasses.replace(context, store=None)])  # type: ignore[arg-type]
        return original(defense, dataset, context, until)

    monkeypatch.setattr(evaluation, "run_defense", spying)
    evaluate_scenario("pipd", PIPD, BADNETS, environment, "isolate")
    assert len(seen) == 3
    for thing in seen:
        assert not reachable(thing) & SECRETS
    # The walk is able to find them: in what the study itself holds they are there.
    poisoned, _, _ = prepare(BADNETS, environment)
    assert reachable(poisoned) >= SECRETS
    # What a stage is handed is the same dataset, and nothing besides.
    assert {field.name for field in dataclasses.fields(StageContext)} == {
        "stage",
        "dataset",
        "model",
        "device",
        "precision",
        "seed",
        "progress",
        "checkpoint",
        "clean",
        "step",
        "how",
    }
    # Checkpoints lie in the store, beside what is secret: a stage can only loop over its epochs with one.
    assert {name for name in dir(Checkpoint(Path("folder"))) if not name.startswith("_")} == {
        "epochs",
        "earlier_epochs",
        "earlier_seconds",
        "waited_seconds",
        "written",
    }


def test_poisoned_data_do_not_change_the_clean_ones(environment: EvaluationContext, images: Images) -> None:
    poisoned, _, _ = prepare(BADNETS, environment)
    assert np.array_equal(evaluation.cached_images(environment.dataset).train_images, images.train_images)
    changed = (poisoned.suspect.images != images.train_images).any(axis=(1, 2, 3))
    assert not (changed & ~poisoned.poison_mask).any()
    assert changed.any()


def test_progress_is_told(environment: EvaluationContext, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    place = dataclasses.replace(environment, store=tmp_path / "store")

    def progress(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        told.append((stage, step, steps))

    evaluate_scenario("no_defense", NO_DEFENSE, BADNETS, place, progress=progress)
    assert told == [("standard_training", 1, 2), ("standard_training", 2, 2)]
