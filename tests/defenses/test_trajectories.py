"""A training read at several epochs: what each read gives, what they share, and what is still found of before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import mislabelled
from interrupted import Killed, digests
from small_images import CLASSES, SIZE, make_reserve

from defenses import DEFENSES
from defenses.api import Progress, silent
from defenses.methods.pipd.pipd import PIPDConfig
from defenses.models import ModelSpec
from defenses.registry import UserError
from defenses.runner import RunContext, StageOutputs, run_stages, stage_identity, stage_key
from defenses.shared_stages import PRE_ISOLATION
from defenses.storage.store import Store
from defenses.storage.trajectory import GRID, KeptStates

torch.set_num_threads(1)
SPEC = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE)
PIPD = {"pre_isolation_epochs": 6, "pre_isolation_lr": 0.05, "pre_isolation_augment": True, "batch_size": 32}
# Stage, the fields of its training, and how it is read early.
ROWS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "pipd": ("pipd", "pre_isolation", PIPD | {"pre_isolation_schedule": "one_cycle"}, "read_epoch"),
    "ac": ("ac", "standard_training", {"epochs": 6, "batch_size": 32, "schedule": "cosine"}, "read_epoch"),
    "qt, before": ("qt", "pre_quarantine", {"pre_epochs": 6, "batch_size": 32}, "pre_read_epoch"),
    "qt": (
        "qt",
        "quarantine_training",
        {"pre_epochs": 2, "quarantine_epochs": 6, "batch_size": 32, "release_epochs": (2,), "release_threshold": 0.1},
        "quarantine_read_epoch",
    ),
    # Two phases, of 3 epochs each: the budget runs a half of what is declared.
    "dst": (
        "dst",
        "distinguishing",
        {"label_epochs": 6, "centre_epochs": 6, "budget_fraction": 0.5, "first_batch_size": 32},
        "read_epoch",
    ),
    "dbd": (
        "dbd",
        "contrastive_pretraining",
        {"contrastive_epochs": 12, "budget_fraction": 0.5, "contrastive_batch_size": 48, "contrastive_lr": 0.01},
        "contrastive_read_epoch",
    ),
}


def run(
    folder: Path, name: str, stage: str, fields: Mapping[str, Any], progress: Progress = silent, keep: str = "grid"
) -> dict[str, StageOutputs]:
    store, kept = Store(folder, checkpoint_seconds=0), KeptStates(keep)
    context = RunContext(store, SPEC, 5, torch.device("cpu"), "fp32", progress, make_reserve(), kept=kept)
    defense = DEFENSES[name](DEFENSES[name].config_type.from_mapping(fields))
    return run_stages(defense, mislabelled(), context, stop_at=stage)


class Count:
    """Counts the epochs that a stage trains; it may be killed after one."""

    def __init__(self, stage: str, kill_at: int | None = None) -> None:
        self.stage, self.kill_at, self.epochs = stage, kill_at, []

    def __call__(self, stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        if stage == self.stage:
            self.epochs.append(step)
            if step == self.kill_at:
                raise Killed


def weights(outputs: StageOutputs) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = outputs.load("weights")
    return loaded


@pytest.mark.parametrize("row", ROWS)
def test_a_read_is_the_training_stopped_there_and_each_epoch_is_trained_once(row: str, tmp_path: Path) -> None:
    name, stage, fields, read = ROWS[row]
    reads = {}
    count = Count(stage)
    for epoch in (2, 5, 6):
        reads[epoch] = run(tmp_path / "shared", name, stage, fields | {read: epoch}, count)[stage]
    assert count.epochs == [1, 2, 3, 4, 5, 6]
    for epoch in (2, 5, 6):
        alone = run(tmp_path / str(epoch), name, stage, fields | {read: epoch})[stage]
        assert alone.run.key == reads[epoch].run.key
        assert alone.digests == reads[epoch].digests
    whole = run(tmp_path / "whole", name, stage, fields)[stage]
    assert (whole.run.key, whole.digests) == (reads[6].run.key, reads[6].digests)
    assert len({reads[epoch].digests["weights"] for epoch in reads}) == 3
    assert [len(reads[epoch].load("series")["loss"]) for epoch in reads] == [2, 5, 6]


def test_an_earlier_read_goes_on_from_the_grid(tmp_path: Path) -> None:
    name, stage, fields, read = ROWS["pipd"]
    run(tmp_path / "shared", name, stage, fields | {read: 6})
    count = Count(stage)
    found = run(tmp_path / "shared", name, stage, fields | {read: 5}, count)[stage]
    assert count.epochs == [5]  # from epoch 4, which lies on the grid
    ready = run(tmp_path / "shared", name, stage, fields | {read: 4}, count)[stage]
    assert count.epochs == [5]
    assert found.run.spent_epochs == pytest.approx(found.run.epoch_equivalents / 5), "one of five epochs"
    assert (ready.run.hit, ready.run.spent_epochs) == (False, 0.0)
    assert run(tmp_path / "shared", name, stage, fields | {read: 5})[stage].run.spent_epochs == 0.0
    assert found.digests == run(tmp_path / "alone", name, stage, fields | {read: 5})[stage].digests


@pytest.mark.parametrize(
    ("keep", "kept", "again"),
    [("all", {1, 2, 3, 4, 5, 6}, []), ("none", set(), [1, 2, 3, 4, 5]), ("2,5", {2, 5, 6}, [])],
)
def test_what_is_kept_is_a_setting(keep: str, kept: set[int], again: list[int], tmp_path: Path) -> None:
    """A read gives the same whatever was kept of an earlier one, under the same key."""
    name, stage, fields, read = ROWS["pipd"]
    run(tmp_path / "shared", name, stage, fields | {read: 6}, keep=keep)
    assert states(tmp_path / "shared") == kept
    count = Count(stage)
    found = run(tmp_path / "shared", name, stage, fields | {read: 5}, count, keep)[stage]
    assert count.epochs == again
    alone = run(tmp_path / "alone", name, stage, fields | {read: 5})[stage]
    assert (found.run.key, found.digests) == (alone.run.key, alone.digests)


def test_a_kill_loses_nothing_where_no_state_stays(tmp_path: Path) -> None:
    name, stage, fields, read = ROWS["pipd"]
    with pytest.raises(Killed):
        run(tmp_path / "killed", name, stage, fields | {read: 5}, Count(stage, 4), "none")
    assert states(tmp_path / "killed") == {3}, "which the next run goes on from"
    count = Count(stage)
    run(tmp_path / "killed", name, stage, fields | {read: 5}, count, "none")
    assert count.epochs == [4, 5]
    assert states(tmp_path / "killed") == {3}, "who kept it is not known: it may be another study's"


def states(folder: Path) -> set[int]:
    """Epochs whose state lies in a store."""
    return {int(file.stem.removeprefix("epoch-")) for file in folder.rglob("epoch-*.json")}


def test_a_kill_in_the_middle_loses_no_epoch(tmp_path: Path) -> None:
    name, stage, fields, read = ROWS["qt"]
    for stop in (1, 3, 5):
        with pytest.raises(Killed):
            run(tmp_path / "killed", name, stage, fields | {read: 6}, Count(stage, stop))
    count = Count(stage)
    ended = run(tmp_path / "killed", name, stage, fields | {read: 6}, count)[stage]
    assert count.epochs == [5, 6]  # told of before the state of the fifth was kept
    assert ended.digests == run(tmp_path / "whole", name, stage, fields)[stage].digests


def test_without_an_end_a_training_is_the_beginning_of_a_longer_one(tmp_path: Path) -> None:
    """ABL's constant rate: its isolation epoch is a read epoch."""
    name, stage, fields, read = "abl", "pre_isolation", {"pre_isolation_epochs": 6, "batch_size": 32}, "read_epoch"
    short = run(tmp_path / "one", name, stage, fields | {"pre_isolation_epochs": 3})[stage]
    early = run(tmp_path / "two", name, stage, fields | {read: 3})[stage]
    assert (early.run.key, early.digests) == (short.run.key, short.digests)
    count = Count(stage)
    run(tmp_path / "two", name, stage, fields | {"pre_isolation_epochs": 5, read: 5}, count)
    assert count.epochs == [4, 5]  # the same training, however long it was to be


def test_what_was_stored_before_is_still_found(tmp_path: Path) -> None:
    config = PIPDConfig(**PIPD)
    context = RunContext(Store(tmp_path), SPEC, 5, torch.device("cpu"), "fp32")
    identity = stage_identity(PRE_ISOLATION, config, "0" * 64, context, {})
    assert "read_epoch" not in identity["params"]
    at_end = stage_identity(PRE_ISOLATION, PIPDConfig(**PIPD, read_epoch=6), "0" * 64, context, {})
    early = stage_identity(PRE_ISOLATION, PIPDConfig(**PIPD, read_epoch=5), "0" * 64, context, {})
    assert stage_key(at_end) == stage_key(identity) != stage_key(early)


@pytest.mark.parametrize("row", ["dst", "dbd"])
def test_a_training_of_which_a_budget_runs_a_part_keeps_its_key_but_where_it_is_read_early(
    row: str, tmp_path: Path
) -> None:
    """A constant rate makes no shorter training of it: no field says how many epochs were run."""
    name, stage_name, fields, read = ROWS[row]
    stage = next(stage for stage in DEFENSES[name].stages if stage.name == stage_name)
    context = RunContext(Store(tmp_path), SPEC, 5, torch.device("cpu"), "fp32")

    def identity(**own: Any) -> Mapping[str, Any]:
        config = DEFENSES[name].config_type.from_mapping(fields | own)
        return stage_identity(stage, config, "0" * 64, context, {})

    assert identity()["params"].keys() == set(stage.reads) - {read}
    assert identity(**{read: 6}) == identity()
    assert identity(**{read: 5})["params"] == identity()["params"] | {read: 5}


def test_a_damaged_state_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, stage, fields, read = ROWS["pipd"]
    run(tmp_path, name, stage, fields | {read: 4})
    (state,) = tmp_path.rglob("epoch-4-*.safetensors")
    state.write_bytes(b"not a state")
    count = Count(stage)
    run(tmp_path, name, stage, fields | {read: 5}, count)
    assert count.epochs == [4, 5]
    assert any("epoch-4" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("pipd", {"pre_isolation_epochs": 5, "read_epoch": 6}),
        ("abl", {"pre_isolation_epochs": 5, "read_epoch": 6}),
        ("ss", {"epochs": 5, "read_epoch": 6}),
        ("qt", {"pre_epochs": 5, "pre_read_epoch": 6}),
        ("qt", {"quarantine_epochs": 5, "quarantine_read_epoch": 6}),
    ],
)
def test_nothing_is_read_after_the_last_epoch(name: str, fields: dict[str, int]) -> None:
    epochs, read = fields
    with pytest.raises(UserError, match=f"{read} must be at most {epochs} = 5, got 6: read it earlier"):
        DEFENSES[name].config_type.from_mapping(fields)


@pytest.mark.parametrize("row", ["dst", "dbd"])
def test_nothing_is_read_after_the_last_epoch_that_a_budget_runs(row: str) -> None:
    name, _, fields, read = ROWS[row]
    config_type = DEFENSES[name].config_type
    assert getattr(config_type.from_mapping(fields | {read: 6}), read) == 6
    with pytest.raises(UserError, match=rf"^{read} must be at most .* x budget_fraction = 6, got 7: read it earlier"):
        config_type.from_mapping(fields | {read: 7})


def test_the_grid_is_geometric_and_holds_the_early_epochs() -> None:
    assert GRID[:9] == (1, 2, 3, 4, 6, 8, 12, 16, 24)
    steps = np.array(GRID[2:]) / np.array(GRID[1:-1])
    assert steps.max() <= 1.5
    assert len([epoch for epoch in GRID if epoch <= 200]) == 15


def test_entries_are_as_many_as_reads(tmp_path: Path) -> None:
    name, stage, fields, read = ROWS["pipd"]
    for epoch in (2, 6):
        run(tmp_path, name, stage, fields | {read: epoch})
    assert len([entry for entry in digests(Store(tmp_path)) if stage in str(entry)]) == 2
