"""Every stage that trains gives bit for bit the same when its steps are recorded and replayed, kills included.

What a GPU's recorder does is played on the CPU by `recorded_operations`, which keeps to its rules: Python runs once.
"""

import logging
from pathlib import Path

import pytest
import torch
from field_effects import mislabelled
from interrupted import digests, run_through_kills
from recorded_operations import record_operations
from small_images import CLASSES, SIZE, make_images, make_reserve
from training_rows import DEFENSE_ROWS

from defenses import DEFENSES
from defenses.api import DefenseResult, Progress, silent
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense
from defenses.storage.store import Store
from defenses.training import captured_step
from study.attacks import parse_attack
from study.attacks.support.fitting import FitContext
from study.scenarios.oracle_defenses import make_defense
from study.scenarios.poison import poison

torch.set_num_threads(1)

# The other rows train by the stages of `ac` and `pipd`.
ROWS = ("pipd", "abl", "none, two rounds", "qt", "qt, cumulative, frozen", "ac")
ROWS += ("dst", "asd", "dbd")


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(captured_step.RECORDERS, "cpu", record_operations)


def run(row: str, folder: Path, step: str, progress: Progress = silent) -> DefenseResult:
    name, settings = DEFENSE_ROWS[row]
    spec, store = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE), Store(folder, checkpoint_seconds=0)
    context = RunContext(store, spec, 5, torch.device("cpu"), "fp32", progress, make_reserve(), step)
    return run_defense(DEFENSES[name](DEFENSES[name].config_type(**settings)), mislabelled(), context)


@pytest.mark.parametrize("row", ROWS)
def test_a_captured_training_gives_what_an_eager_one_gives(
    row: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        eager, captured = run(row, tmp_path / "eager", "eager"), run(row, tmp_path / "captured", "captured")
    assert caplog.messages == []
    assert digests(Store(tmp_path / "captured")) == digests(Store(tmp_path / "eager"))
    taken = {stage.stage: stage.step for stage in captured.stages if stage.step is not None}
    assert taken.keys() == {stage.stage for stage in eager.stages if stage.step is not None}
    # DBD's warm-up trains a linear layer by its own loop.
    assert set(taken.values()) == {"captured"}


def test_a_captured_training_that_is_killed_after_every_epoch_ends_the_same(tmp_path: Path) -> None:
    run("pipd_cleaning, selective", tmp_path / "whole", "captured")
    run_through_kills(lambda progress: run("pipd_cleaning, selective", tmp_path / "killed", "captured", progress))
    assert digests(Store(tmp_path / "killed")) == digests(Store(tmp_path / "whole"))


def test_an_attack_that_trains_a_network_does_so_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "surrogate_width=4:surrogate_blocks=1,1:surrogate_epochs=2:surrogate_batch_size=32"
    attack = parse_attack(f"label_consistent:{options}:surrogate_adversarial_steps=1:steps=2:surrogate_augment=true")
    for folder, smallest in (("eager", 1000), ("captured", 1)):
        monkeypatch.setattr(captured_step, "CAPTURE_FROM", smallest)
        attack.fit(make_images(96, 8), FitContext(5, 1, store=Store(tmp_path / folder), progress=silent))
    assert digests(Store(tmp_path / "captured")) == digests(Store(tmp_path / "eager"))


def test_sums_over_an_epoch_count_each_step_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """QT's Fig. 2 adds up losses of classes while it trains, and a step that is tried both ways is one step."""
    images = make_images(96, 8)
    poisoned = poison(images, parse_attack("badnets"), 0.1, 0, 7)
    config = {"epochs": 2, "batch_size": 32, "lr": 0.01}
    series = {}
    for step in ("eager", "captured"):
        spec = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE)
        context = RunContext(Store(tmp_path / step), spec, 5, torch.device("cpu"), "fp32", step=step)
        result = run_defense(make_defense("qt_backdoor_class", config, poisoned), poisoned.suspect, context)
        assert [stage.step for stage in result.stages if stage.step] == [step]
        series[step] = result.series
    assert series["captured"] == series["eager"]
    assert caplog.messages == []
