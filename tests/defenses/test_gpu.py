"""What only a GPU can show: `pytest -m gpu`. Skipped where there is none."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import Killed, run_through_kills
from small_images import CLASSES, SIZE, make_images, make_reserve

from defenses import DEFENSES
from defenses.api import DefenseResult, Progress, silent
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense
from defenses.storage.store import Store
from defenses.training import streamed_images
from defenses.training.images import device_images, epoch_batches, to_device
from defenses.training.inference import chunks
from defenses.training.precision import best_precision
from defenses.training.streamed_images import StreamedImages, select
from study import evaluate
from study.attacks import parse_attack
from study.scenarios.metrics import auroc
from study.scenarios.poison import poison

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SETTINGS = {
    "no_defense": {"epochs": 2, "lr": 0.01, "batch_size": 32},
    "pipd": {"pre_isolation_epochs": 2, "pre_isolation_lr": 0.01, "batch_size": 32, "selective_epochs": 2},
    "ac": {"epochs": 2, "lr": 0.01, "batch_size": 32},
    "ss": {"epochs": 2, "lr": 0.01, "batch_size": 32},
    "scale_up": {"epochs": 2, "lr": 0.01, "batch_size": 32},
    "ibd_psc": {"epochs": 2, "lr": 0.01, "batch_size": 32, "clean_images": 32},
    "flare": {"epochs": 2, "lr": 0.01, "batch_size": 32},
    "cd": {"epochs": 2, "lr": 0.01, "batch_size": 32, "mask_steps": 2},
    # Below six epochs the model predicts some classes of nobody, which DBALFA refuses.
    "dbalfa": {
        "epochs": 6,
        "lr": 0.02,
        "batch_size": 32,
        "schedule": "constant",
        "augment": False,
        "clean_images": 32,
    },
    "abl": {
        "pre_isolation_epochs": 2,
        "pre_isolation_lr": 0.01,
        "batch_size": 32,
        "finetuning_epochs": 2,
        "finetuning_lr": 0.01,
        "unlearning_epochs": 2,
    },
    "none": {
        "epochs": 2,
        "lr": 0.01,
        "batch_size": 32,
        "strong_probability": 0.3,
        "weak_probability": 0.3,
        "finetuning_epochs": 2,
    },
    "dst": {
        "label_epochs": 2,
        "centre_epochs": 2,
        "first_batch_size": 32,
        "contrastive_epochs": 2,
        "contrastive_lr": 0.01,
        "contrastive_batch_size": 32,
        "head_epochs": 2,
        "head_lr": 0.1,
        "head_batch_size": 16,
    },
    "asd": {
        "clean_images": 8,
        "class_aware_epochs": 2,
        "class_agnostic_epochs": 2,
        "meta_split_epochs": 2,
        "growth": 2,
        "growth_period": 1,
        "iterations": 2,
        "batch_size": 16,
    },
    "dbd": {
        "contrastive_epochs": 2,
        "contrastive_lr": 0.01,
        "warm_up_epochs": 2,
        "semi_epochs": 2,
        "iterations": 2,
        "batch_size": 16,
    },
    "qt": {"pre_epochs": 2, "quarantine_epochs": 2, "batch_size": 32, "backdoor_free_epochs": 2},
}


def context(folder: Path, device: str, precision: str, step: str = "auto") -> RunContext:
    spec = ModelSpec("resnet18", 8, (1, 1, 1, 1), CLASSES, SIZE)
    return RunContext(Store(folder), spec, 0, torch.device(device), precision, reserve=make_reserve(), step=step)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_gpu_gives_what_the_cpu_gives(name: str, tmp_path: Path) -> None:
    """In float32 and over few steps, sums in another order move losses in the third digit at most."""
    suspect = poison(make_images(), parse_attack("badnets"), 0.1, 0, 7).suspect
    defense = DEFENSES[name](DEFENSES[name].config_type.from_mapping(SETTINGS[name]))
    series = {
        device: run_defense(defense, suspect, context(tmp_path / device, device, "fp32")).series
        for device in ("cpu", "cuda")
    }
    assert series["cpu"].keys() == series["cuda"].keys()
    first = next(key for key in series["cpu"] if key.endswith(".loss"))
    assert series["cuda"][first] == pytest.approx(series["cpu"][first], rel=0.05)


@pytest.mark.parametrize(
    ("name", "step", "precision"),
    [
        *((name, "captured", "fp32") for name in SETTINGS),
        *((name, "captured", "bf16") for name in ("no_defense", "pipd", "qt", "asd", "dst")),
        *((name, "compiled", "bf16") for name in ("no_defense", "pipd", "qt")),
    ],
)
def test_recorded_steps_give_what_eager_ones_give(
    name: str, step: str, precision: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was given up, and no stage took its steps otherwise; losses differ as sums of another order do."""
    suspect = poison(make_images(), parse_attack("badnets"), 0.1, 0, 7).suspect
    defense = DEFENSES[name](DEFENSES[name].config_type.from_mapping(SETTINGS[name]))
    eager, recorded = (
        run_defense(defense, suspect, context(tmp_path / how, "cuda", precision, how)) for how in ("eager", step)
    )
    assert not [message for message in caplog.messages if "its steps are taken" in message]
    assert {run.step for run in recorded.stages} - {None} == {step}
    close = 0.05 if precision == "fp32" else 0.15
    for series, values in recorded.series.items():
        if series.endswith(".loss"):
            assert values == pytest.approx(eager.series[series], rel=close, abs=close)


def test_recorded_steps_draw_the_numbers_that_eager_ones_draw(tmp_path: Path) -> None:
    """Flips, crops and batches are the same, and go on as they would: the generators end in one state."""
    suspect = poison(make_images(), parse_attack("badnets"), 0.1, 0, 7).suspect
    settings = {"epochs": 3, "lr": 1e-6, "batch_size": 32, "momentum": 0.0, "weight_decay": 0.0, "augment": True}
    defense = DEFENSES["no_defense"](DEFENSES["no_defense"].config_type.from_mapping(settings))
    # The network hardly moves, so that each epoch's loss is that of the views which it was shown.
    losses = [
        run_defense(defense, suspect, context(tmp_path / how, "cuda", "fp32", how)).series["standard_training.loss"]
        for how in ("eager", "captured")
    ]
    assert len(set(losses[0])) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stage_goes_on_on_a_gpu_and_starts_anew_elsewhere(name: str, tmp_path: Path) -> None:
    suspect = poison(make_images(), parse_attack("badnets"), 0.1, 0, 7).suspect
    defense = DEFENSES[name](DEFENSES[name].config_type.from_mapping(SETTINGS[name]))

    def run(folder: str, device: str, progress: Progress) -> DefenseResult:
        plain = context(tmp_path, device, "fp32")
        store = Store(tmp_path / folder, checkpoint_seconds=0)
        return run_defense(defense, suspect, dataclasses.replace(plain, store=store, progress=progress))

    whole = run("whole", "cuda", silent)
    told = run_through_kills(lambda progress: run("killed", "cuda", progress))
    assert set(Counter(step for step in told if step[0] != "isolate").values()) == {2}
    for series, values in run("killed", "cuda", silent).series.items():
        assert series.startswith("isolate") or values == pytest.approx(whole.series[series], rel=0.05, abs=0.05)
    first, seen = defense.stages[0].name, []

    def stop(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        seen.append((stage, step))
        if step == 2 and len(seen) == 2:
            raise Killed

    with pytest.raises(Killed):
        run("moved", "cuda", stop)
    run("moved", "cpu", stop)
    assert seen[:4] == [(first, 1), (first, 2), (first, 1), (first, 2)]


def test_a_gpu_trains_in_bf16_on_its_own(tmp_path: Path) -> None:
    assert best_precision(torch.device("cuda")) == "bf16"
    suspect = poison(make_images(train=256), parse_attack("badnets"), 0.1, 0, 2)
    settings = {
        "pre_isolation_epochs": 10,
        "pre_isolation_lr": 0.05,
        "pre_isolation_schedule": "one_cycle",
        "gamma": 0.2,
        "batch_size": 32,
        "isolation_rate": 0.02,
        "selective_epochs": 2,
    }
    defense = DEFENSES["pipd"](DEFENSES["pipd"].config_type.from_mapping(settings))
    result = run_defense(defense, suspect.suspect, context(tmp_path, "cuda", "bf16"))
    found = auroc(result.scores, suspect.poison_mask)
    assert found is not None
    assert found > 0.8


def test_images_stay_uint8_on_the_gpu() -> None:
    images = to_device(np.zeros((4, 8, 8, 3), dtype=np.uint8), torch.device("cuda"))
    assert images.dtype == torch.uint8
    assert images.is_cuda


def test_streamed_batches_are_the_resident_ones() -> None:
    device, images = torch.device("cuda"), make_images().train_images
    resident, streamed = device_images(images, device), StreamedImages(images, device)
    assert isinstance(resident, torch.Tensor)
    for epoch in range(20):
        order = torch.Generator(device).manual_seed(epoch)
        for index in epoch_batches(len(images), 32, order, device):
            busy = torch.ones(2048, 2048, device=device) @ torch.ones(2048, 2048, device=device)
            assert torch.equal(select(streamed, index), select(resident, index))
            del busy
    assert streamed.fetched_ahead == 20 * (len(images) // 32 - 1)
    assert all(torch.equal(left, right) for left, right in zip(chunks(resident), chunks(streamed), strict=True))
    room = streamed_images.free_bytes(device)
    assert room is not None
    assert 0 < room <= torch.cuda.get_device_properties(device).total_memory


@pytest.mark.parametrize("name", ["no_defense", "pipd", "cd"])
def test_a_defense_on_streamed_images_gives_what_it_gives(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect = poison(make_images(), parse_attack("badnets"), 0.1, 0, 7).suspect
    defense = DEFENSES[name](DEFENSES[name].config_type.from_mapping(SETTINGS[name]))
    resident = run_defense(defense, suspect, context(tmp_path / "resident", "cuda", "fp32"))
    monkeypatch.setattr(streamed_images, "fits", lambda size, device: False)
    streamed = run_defense(defense, suspect, context(tmp_path / "streamed", "cuda", "fp32"))
    assert list(streamed.train_loss) == pytest.approx(list(resident.train_loss), rel=1e-3)  # a captured step may round


def test_evaluate_runs_on_the_gpu(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ["--device", "cuda", "--until", "isolate", "--set", "pre_isolation_epochs=2"]
    code = evaluate.main([*options, "--json", str(target), "--out", str(tmp_path / "runs")])
    assert code == 0
    assert "NVIDIA" in json.loads(target.read_text())["environment"]["device"]
