"""Checkpoints of a loop: what is kept, when it is written, and what a damaged or a foreign one does."""

import errno
import json
import logging
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import checkpoint_files
from torch import Tensor, nn

from defenses.registry import UserError
from defenses.storage import checkpoint as module
from defenses.storage.checkpoint import Checkpoint
from defenses.storage.state_codec import TrainingState, build_state, pack, restore, unpack
from defenses.storage.store import Store

KEY = "0123abcd" * 8


class Counter:
    """A part of a stage's own making."""

    def __init__(self, at: int = 0) -> None:
        self.at = at

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "pair": (1, 2), "none": None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict["pair"] == (1, 2)
        assert state_dict["none"] is None
        self.at = state_dict["at"]


def parts() -> dict[str, Any]:
    """One of each kind, as a stage starts with them."""
    model = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.fill_(2)
    return {
        "model": model,
        "generator": torch.Generator().manual_seed(3),
        "tensor": torch.zeros(5),
        "list": [],
        "dict": {},
        "counter": Counter(),
    }


def work(live: dict[str, Any], epoch: int) -> None:
    """Changes every part."""
    drawn = torch.rand(5, generator=live["generator"])
    live["tensor"] += drawn
    live["list"].append(drawn)
    live["dict"][epoch] = float(drawn[0])
    live["counter"].at += 1
    live["model"].bias.requires_grad_(epoch % 2 == 0)
    with torch.no_grad():
        live["model"].weight.mul_(1.5)


def values(live: TrainingState) -> str:
    tensors: dict[str, Tensor] = {}
    tree = {name: pack(build_state(part), tensors) for name, part in live.items()}
    return json.dumps([tree, {name: tensor.tolist() for name, tensor in tensors.items()}])


def run(folder: Path | None, epochs: int, stop: int | None = None, seconds: float = 0) -> tuple[dict[str, Any], int]:
    """The parts after some epochs, stopped in the middle of one if told; and at which the loop began."""
    live, began = parts(), epochs
    for epoch in Checkpoint(folder, seconds).epochs(epochs, live):
        began = min(began, epoch)
        if epoch == stop:
            work({**live, "model": nn.Conv2d(3, 4, 3)}, epoch)  # half done, and lost
            break
        work(live, epoch)
    return live, began


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_loop_goes_on_where_it_was(tmp_path: Path, stop: int) -> None:
    whole, _ = run(None, 4)
    run(tmp_path, 4, stop)
    again, began = run(tmp_path, 4)
    assert began == stop
    assert values(again) == values(whole)
    assert values(again) != values(parts())


def test_a_loop_that_had_ended_runs_no_epoch_again(tmp_path: Path) -> None:
    whole, _ = run(tmp_path, 4)
    again, began = run(tmp_path, 4)
    assert began == 4
    assert values(again) == values(whole)


def test_loops_of_a_stage_are_kept_apart(tmp_path: Path) -> None:
    def stage(last: int) -> list[int]:
        kept, ran = Checkpoint(tmp_path, 0), []
        for count, stop in ((3, 9), (4, last)):
            counter = Counter()
            for epoch in kept.epochs(count, {"counter": counter}):
                if epoch == stop:
                    return ran
                assert counter.at == epoch
                counter.at += 1
                ran.append(10 * count + epoch)
        return ran

    assert stage(2) == [30, 31, 32, 40, 41]
    assert stage(9) == [42, 43]


def test_the_layout_of_tensors_is_kept() -> None:
    plain = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)
    for tensor in (plain, plain.to(memory_format=torch.channels_last), plain.permute(3, 1, 0, 2), plain[0, 0, 0, 0]):
        tensors: dict[str, Tensor] = {}
        back = unpack(json.loads(json.dumps(pack(tensor, tensors))), tensors)
        assert torch.equal(back, tensor)
        assert back.stride() == tensor.stride()
    assert tensors["0"].data_ptr() != plain.data_ptr()  # a copy: the live one changes while it is written


def test_what_cannot_be_kept_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="got set"):
        pack({"a": {1}}, {})


def test_an_optimiser_with_memory_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    def train(folder: Path | None, stop: int | None) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        adam = torch.optim.Adam(model.parameters(), 0.1, betas=(0.5, 0.9))
        draws = torch.Generator().manual_seed(1)
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [2, 4])
        live: TrainingState = {"model": model, "adam": adam, "draws": draws, "schedule": schedule}
        for epoch in Checkpoint(folder, 0).epochs(6, live):
            if epoch == stop:
                break
            adam.zero_grad()
            torch.autograd.backward(model(torch.rand(4, 3, 8, 8, generator=draws)).square().mean())
            adam.step()
            schedule.step()
        return torch.cat([value.flatten().double() for value in model.state_dict().values()])

    with torch.random.fork_rng():
        whole = train(None, None)
        for stop in (1, 3, 5):
            train(tmp_path, stop)
            assert torch.equal(train(tmp_path, None), whole)


# When they are written


def test_not_more_often_than_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    kept = []
    for epoch in Checkpoint(tmp_path, 1.0).epochs(6, {"list": [1]}):
        kept.append(_epochs(tmp_path))
        clock[0] += (0.4, 0.4, 0.4, 5.0, 0.9, 0.2)[epoch]
    assert [*kept, _epochs(tmp_path)] == [None, None, None, 3, 4, 4, 6]


def _epochs(folder: Path) -> int | None:
    path = folder / "checkpoint-1.json"
    return json.loads(path.read_text())["epochs"] if path.exists() else None


def test_one_file_of_each_kind_is_left(tmp_path: Path) -> None:
    run(tmp_path, 5, 4)
    names = checkpoint_files(tmp_path)
    assert len(names) == 2
    assert {name.partition(".")[2] for name in names} == {"json", "safetensors"}


def test_an_entry_that_is_written_has_none(store: Store) -> None:
    kept = Store(store.root, checkpoint_seconds=0)
    seen: list[str] = []

    def build() -> dict[str, Any]:
        for _ in kept.checkpoint("stage", KEY).epochs(2, parts()):
            pass
        (kept.folder("stage", KEY) / ".checkpoint-1.json.12345678").write_text("left by a kill")
        seen.extend(checkpoint_files(store.root))
        return {"x": 1}

    artifact, _ = kept.get_or_build("stage", KEY, build)
    assert len(seen) == 3
    assert checkpoint_files(store.root) == []
    assert artifact.load("x") == 1


def test_what_building_took_counts_what_was_not_run_again(store: Store) -> None:
    def build(stop: int) -> dict[str, Any]:
        for epoch in kept.checkpoint("stage", KEY).epochs(4, parts()):
            if epoch == stop:
                raise RuntimeError("killed")
            time.sleep(0.1)
        return {}

    for stop in (1, 3):
        kept = Store(store.root, checkpoint_seconds=0)
        with pytest.raises(RuntimeError, match="killed"):
            kept.get_or_build("stage", KEY, lambda stop=stop: build(stop))
    kept = Store(store.root, checkpoint_seconds=0)
    artifact, _ = kept.get_or_build("stage", KEY, lambda: build(9))
    assert artifact.built_seconds >= 0.4


@pytest.mark.parametrize(("error", "left"), [(UserError("diverged"), 0), (RuntimeError("out of memory"), 2)])
def test_a_verdict_keeps_nothing_and_an_accident_does(store: Store, error: Exception, left: int) -> None:
    kept = Store(store.root, checkpoint_seconds=0)

    def build() -> dict[str, Any]:
        for epoch in kept.checkpoint("stage", KEY).epochs(3, parts()):
            if epoch == 2:
                raise error
        return {}

    with pytest.raises(type(error)):
        kept.get_or_build("stage", KEY, build)
    assert len(checkpoint_files(store.root)) == left


def test_a_full_disk_is_a_user_error_and_the_last_one_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Store(store.root, checkpoint_seconds=0)
    whole, _ = run(None, 4)
    live, full = parts(), [True]

    def refuse(_path: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def build() -> dict[str, Any]:
        for epoch in kept.checkpoint("stage", KEY).epochs(4, live):
            work(live, epoch)
            if full and epoch == 2:
                monkeypatch.setattr(Path, "write_bytes", refuse)
        return {"x": 1}

    with pytest.raises(UserError, match="no room left") as error:
        kept.get_or_build("stage", KEY, build)
    assert str(store.root) in str(error.value)
    monkeypatch.undo()
    full.clear()
    assert len(checkpoint_files(store.root)) == 2
    live = parts()
    kept.get_or_build("stage", KEY, build)
    assert values(live) == values(whole)


# What is wrong with them


def test_every_flipped_or_missing_byte_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    whole, _ = run(None, 4)
    run(tmp_path, 4, 3)
    files = sorted(tmp_path.iterdir())
    good = {path: path.read_bytes() for path in files}
    draw = random.Random(0)
    for case in range(100):
        path = files[case % 2]
        data = bytearray(good[path])
        where = draw.randrange(len(data))
        if case % 10 < 8:
            data[where] ^= 1 << draw.randrange(8)
        else:
            del data[where:]
        path.write_bytes(data)
        caplog.clear()
        live = parts()
        began = next(iter(Checkpoint(tmp_path, 9e9).epochs(4, live)))
        assert began == 0, f"byte {where} of {path.name}"
        assert values(live) == values(parts())
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "starts anew" in caplog.text
        path.write_bytes(good[path])
    files[0].unlink()
    caplog.clear()
    again, began = run(tmp_path, 4)
    assert began == 0
    assert "starts anew" in caplog.text
    assert values(again) == values(whole)


def test_nothing_is_said_where_there_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(tmp_path, 2)[1] == 0
    assert caplog.records == []


FOREIGN: dict[str, dict[str, Any]] = {
    "another shape": {"tensor": torch.zeros(6)},
    "another type": {"tensor": torch.zeros(5, dtype=torch.int64)},
    "another network": {"model": nn.Conv2d(3, 5, 3)},
    "another kind": {"tensor": torch.Generator()},
    "a part less": {"counter": None},
    "a part more": {"new": Counter()},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_one_that_does_not_fit_leaves_everything_as_it_was(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, 4, 3)
    live = {name: part for name, part in {**parts(), **FOREIGN[what]}.items() if part is not None}
    before = values(live)
    assert next(iter(Checkpoint(tmp_path, 9e9).epochs(4, live))) == 0
    assert values(live) == before
    assert "does not fit" in caplog.text


def test_a_format_of_another_time_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMAT", 0)
    run(tmp_path, 4, 3)
    monkeypatch.undo()
    assert run(tmp_path, 4)[1] == 0


def test_networks_keep_which_weights_are_trained() -> None:
    model = nn.Conv2d(3, 4, 3)
    model.bias.requires_grad_(False)
    state = build_state(model)
    model.requires_grad_(True)
    restore(model, state)
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False]
