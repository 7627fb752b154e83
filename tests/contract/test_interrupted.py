"""Every stage that trains ends bit for bit the same when it is killed after each of its epochs and goes on."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from field_effects import mislabelled
from interrupted import checkpoint_files, digests, run_through_kills
from small_images import CLASSES, SIZE, make_images, make_reserve
from training_rows import DEFENSE_ROWS

from defenses import DEFENSES
from defenses.api import Progress, silent
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense
from defenses.storage.store import Store
from study.attacks import ATTACKS, parse_attack
from study.attacks.support.fitting import FitContext

torch.set_num_threads(1)

SURROGATE = "surrogate_width=4:surrogate_blocks=1,1:surrogate_epochs=3:surrogate_batch_size=32:surrogate_augment=true"
ATTACK_ROWS = {
    "dynamic": "widths=4,8:batch_size=32:mask_epochs=4:mask_milestones=2:joint_epochs=4:classifier_width=4"
    ":classifier_blocks=1,1:pattern_milestones=1,3:classifier_milestones=2",
    "issba": "width=4:steps=30:ramp_steps=5:hold_steps=1:batch_size=16:bit_accuracy=0.45",
    "label_consistent": f"{SURROGATE}:surrogate_adversarial_steps=1:steps=2",
    "trojan_inversion": f"{SURROGATE}:inversion_steps=3:probe_steps=2:candidates=4",
}


def test_every_defense_and_every_attack_that_trains_has_a_row() -> None:
    assert {defense for defense, _ in DEFENSE_ROWS.values()} == set(DEFENSES)
    assert set(ATTACK_ROWS) == {name for name in ATTACKS if ATTACKS[name].trained}


@pytest.mark.parametrize("row", DEFENSE_ROWS)
def test_a_defense_killed_after_every_epoch_ends_the_same(row: str, tmp_path: Path) -> None:
    name, settings = DEFENSE_ROWS[row]
    defense = DEFENSES[name](DEFENSES[name].config_type(**settings))
    spec, data = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE), mislabelled()

    def run(folder: str, progress: Progress) -> Store:
        store = Store(tmp_path / folder, checkpoint_seconds=0)
        run_defense(defense, data, RunContext(store, spec, 5, torch.device("cpu"), "fp32", progress, make_reserve()))
        return store

    whole = run("whole", silent)
    told = run_through_kills(lambda progress: run("killed", progress))
    killed = Store(tmp_path / "killed")
    assert digests(killed) == digests(whole)
    trained = {stage.name for stage in defense.stages if stage.cached and "series" in stage.outputs}
    epochs = Counter((stage, step) for stage, step in told if stage in trained)
    assert {stage for stage, _ in epochs} == trained
    assert set(epochs.values()) == {2}  # killed, and once more from the epoch before: never from the start
    assert max(step for _, step in epochs) >= 4
    assert checkpoint_files(tmp_path) == []


@pytest.mark.parametrize("name", ATTACK_ROWS)
def test_an_attacks_training_killed_after_every_epoch_ends_the_same(name: str, tmp_path: Path) -> None:
    attack, images = parse_attack(f"{name}:{ATTACK_ROWS[name]}"), make_images(96, 8)

    def run(folder: str, progress: Progress) -> Store:
        store = Store(tmp_path / folder, checkpoint_seconds=0)
        attack.fit(images, FitContext(5, 1, store=store, progress=progress))
        return store

    whole = run("whole", silent)
    told = run_through_kills(lambda progress: run("killed", progress))
    assert digests(Store(tmp_path / "killed")) == digests(whole)
    assert set(Counter(told).values()) == {2}
    assert max(step for _, step in told) >= 3
    assert checkpoint_files(tmp_path) == []
