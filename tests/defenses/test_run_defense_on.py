"""A defense by name on arrays: the stages of a study's trial, and a reason for every input that cannot be run on."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import ROOT
from small_images import CLASSES, SIZE, make_images

import defenses
from defenses import DEFENSES, run_defense_on
from defenses.api import DefenseResult
from defenses.registry import UserError
from study.attacks import parse_attack
from study.scenarios.poison import PoisonedDataset, poison
from study.scenarios.scenario import Scenario, model_spec, stage_seed

TINY: dict[str, dict[str, Any]] = {
    "no_defense": {"epochs": 1, "lr": 0.01},
    "pipd": {"pre_isolation_epochs": 2, "pre_isolation_lr": 0.01, "selective_epochs": 1, "rounds": 3},
    "ac": {"epochs": 1, "lr": 0.01},
    "ss": {"epochs": 1, "lr": 0.01},
    "scale_up": {"epochs": 1, "lr": 0.01},
    "ibd_psc": {"epochs": 1, "lr": 0.01, "clean_images": 0},
    "flare": {"epochs": 1, "lr": 0.01},
    "cd": {"epochs": 1, "lr": 0.01, "mask_steps": 2},
    "qt": {"pre_epochs": 1, "quarantine_epochs": 1, "dynamic_epochs": 1, "backdoor_free_epochs": 1},
}
NETWORK: dict[str, Any] = {"width": 4, "blocks": (1, 1), "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def poisoned() -> PoisonedDataset:
    return poison(make_images(), parse_attack("badnets"), 0.1, 0, 7)


def run(poisoned: PoisonedDataset, defense: str = "pipd", **changes: Any) -> DefenseResult:
    suspect = poisoned.suspect
    given = {**TINY[defense], "batch_size": 32, **NETWORK, **changes}
    return run_defense_on(defense, suspect.images, suspect.labels, CLASSES, **given)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, defenses; sys.exit(str({'torch', 'numpy', 'ray', 'mlflow'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "set()"


def test_running_a_defense_loads_neither_ray_nor_mlflow() -> None:
    ours = "[m for m in sys.modules if m.split('.')[0] in ('ray', 'mlflow', 'optuna', 'study', 'tracking')]"
    code = f"import sys; from defenses import run_defense_on; sys.exit(str({ours}))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"


def test_the_package_offers_nothing_else() -> None:
    with pytest.raises(AttributeError, match="module 'defenses' has no attribute 'run_defence_on'"):
        defenses.run_defence_on  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("defense", TINY)
def test_a_result_has_flags_scores_and_a_model(poisoned: PoisonedDataset, defense: str) -> None:
    result = run(poisoned, defense)
    n = len(poisoned.suspect.labels)
    for array, dtype in ((result.scores, np.float64), (result.flagged, np.bool_)):
        assert (array is None) == (DEFENSES[defense].flagged is None)
        if array is not None:
            assert (array.shape, array.dtype) == ((n,), dtype)
            assert array.flags.writeable, "a copy, and no map of a file"
    assert result.model is not None
    assert not result.model.training
    with torch.inference_mode():
        logits = result.model(torch.from_numpy(poisoned.suspect.images[:5].transpose(0, 3, 1, 2).copy()))
    assert logits.shape == (5, DEFENSES[defense].outputs(CLASSES))


def test_pipd_finds_badnets(poisoned: PoisonedDataset) -> None:
    result = run(poisoned, width=8, pre_isolation_epochs=8, until="isolate")
    assert result.model is None
    assert result.scores is not None
    assert result.scores[poisoned.poison_mask].mean() > result.scores[~poisoned.poison_mask].mean()


def test_the_same_seed_gives_the_same_result_and_another_one_does_not(poisoned: PoisonedDataset) -> None:
    first, again, other = (run(poisoned, until="isolate", seed=seed).scores for seed in (0, 0, 1))
    assert np.array_equal(first, again)  # type: ignore[arg-type]
    assert not np.array_equal(first, other)  # type: ignore[arg-type]


def test_a_store_keeps_what_was_built(poisoned: PoisonedDataset, tmp_path: Path) -> None:
    first = run(poisoned, store=tmp_path / "store", until="isolate")
    again = run(poisoned, store=str(tmp_path / "store"), until="isolate", beta=1.0)
    assert [stage.hit for stage in first.stages] == [False, False, False]
    assert [stage.hit for stage in again.stages] == [True, True, False]  # isolation is not cached


def test_its_stages_are_those_of_a_studys_trial(poisoned: PoisonedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = []
    monkeypatch.setattr("defenses.in_memory.run_defense", lambda *given: contexts.append(given) or empty())
    run(poisoned, seed=3)
    _, dataset, context, _ = contexts[0]
    scenario = Scenario("badnets", 0.1, 0, 3)
    assert dataset.fingerprint == poisoned.suspect.fingerprint
    assert context.seed == stage_seed(scenario)
    assert context.model == model_spec("resnet18", 4, (1, 1), make_images(), poisoned.suspect)


def empty() -> DefenseResult:
    return DefenseResult(None, None, None)


def test_a_field_of_a_defense_never_has_the_name_of_an_argument() -> None:
    arguments = set(inspect.signature(run_defense_on).parameters)
    for name in DEFENSES:
        assert not arguments & {field.name for field in dataclasses.fields(DEFENSES[name].config_type)}


IMAGES = np.zeros((6, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defense": "pidp"}, "unknown defense 'pidp': did you mean 'pipd'"),
        ({"bata": 2.0}, "PIPDConfig has no field 'bata': did you mean 'beta'"),
        ({"beta": -1.0}, r"beta must lie in \[0.0, inf\], got -1.0"),
        ({"model": "resnet19"}, "unknown model 'resnet19': did you mean 'resnet18'"),
        ({"until": "isolated"}, "until must be 'isolate' or None, got 'isolated'"),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda, got 'gpu'"),
        ({"precision": "fp16"}, "precision must be one of auto, bf16, fp32, got 'fp16'"),
        ({"images": IMAGES / 255}, r"images must be uint8 \[N, H, W, 3\], got float64 \[6, 16, 16, 3\]: scale floats"),
        ({"images": IMAGES[..., :1]}, r"images must be uint8 \[N, H, W, 3\], got uint8 \[6, 16, 16, 1\]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"got uint8 \[6, 3, 16, 16\].*move channels last"),
        ({"images": IMAGES[:, :8]}, r"images must be square with sides of at least 8 px, got \(8, 16\)"),
        ({"images": IMAGES[:, :4, :4]}, r"images must be square with sides of at least 8 px, got \(4, 4\)"),
        ({"labels": LABELS + 0.5}, r"labels must be whole numbers \[N\], got float64 \[6\]"),
        ({"labels": LABELS[:, None]}, r"labels must be whole numbers \[N\], got int64 \[6, 1\]"),
        ({"labels": LABELS[:5]}, "images and labels must be equally many, got 6 and 5"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "there must be images, got none"),
        ({"num_classes": 3}, r"labels must lie in \[0, 3\) with at least 2 classes, got 0 to 3"),
        ({"labels": LABELS - 1}, r"labels must lie in \[0, 4\) with at least 2 classes, got -1 to 2"),
    ],
)
def test_input_that_cannot_be_run_on_is_refused(changes: dict[str, Any], message: str) -> None:
    given = {"defense": "pipd", "images": IMAGES, "labels": LABELS, "num_classes": CLASSES, **changes}
    with pytest.raises(UserError, match=message):
        run_defense_on(**given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="device 'cuda' needs a GPU that torch can use, and there is none"):
        run_defense_on("pipd", IMAGES, LABELS, CLASSES, device="cuda")


def test_labels_of_any_whole_type_are_taken(poisoned: PoisonedDataset) -> None:
    suspect = poisoned.suspect
    given = {**TINY["pipd"], "batch_size": 32, **NETWORK, "until": "isolate"}
    wide, narrow = (
        run_defense_on("pipd", suspect.images, suspect.labels.astype(dtype), CLASSES, **given).scores
        for dtype in (np.int64, np.uint8)
    )
    assert np.array_equal(wide, narrow)  # type: ignore[arg-type]
