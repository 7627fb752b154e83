"""The inverted trojan: the mark excites its neurons, lies where the square lies, and is the same in train and test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_images import make_images

from defenses.registry import UserError
from defenses.storage.store import Store
from study.attacks import parse_attack
from study.attacks.api import TEST, TRAIN, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.surrogate import surrogate
from study.attacks.trojan_inversion import Place, TrojanInversion
from study.datasets.images import Images

TINY = (
    ":surrogate_width=8:surrogate_blocks=1,1,1:surrogate_epochs=8:surrogate_augment=false:surrogate_schedule=one_cycle"
    ":surrogate_batch_size=16:probe_steps=30:inversion_steps=60"
)


def made(options: str = "") -> TrojanInversion:
    attack = parse_attack("trojan_inversion" + TINY + options)
    assert isinstance(attack, TrojanInversion)
    return attack


@pytest.fixture(scope="module")
def state(images: Images) -> State:
    return made().fit(images, FitContext(0))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_mark_raises_the_activation_five_times(images: Images, seed: int) -> None:
    assert made().fit(images, FitContext(seed))["ratio"] >= 5


def test_the_ratio_is_that_of_the_stored_mark(images: Images, tmp_path: Path) -> None:
    attack, context = made(), FitContext(0, store=Store(tmp_path))
    state = attack.fit(images, context)
    run = context.runs[1]
    artifact = context.store.find(run.stage, run.key) if context.store else None
    assert artifact is not None
    network = surrogate(images, attack.config, context)
    black = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    shown = torch.from_numpy(attack.apply(black, np.arange(1), state, TRAIN)).permute(0, 3, 1, 2)
    seen: list[torch.Tensor] = []
    network.network.linear.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    network(shown)
    mean = float(seen[0][0, torch.from_numpy(np.array(artifact.load("neurons")))].mean())
    found = artifact.load("activation")
    assert mean == pytest.approx(found["found"], rel=1e-4)
    assert found["ratio"] == pytest.approx(found["found"] / max(found["start"], 1e-6))


def test_a_second_fit_reads_the_mark(images: Images, state: State, tmp_path: Path) -> None:
    first, second = (FitContext(0, store=Store(tmp_path)) for _ in range(2))
    one, two = (made().fit(images, context) for context in (first, second))
    assert [run.hit for run in second.runs] == [True, True]
    for other in (one, two):
        np.testing.assert_array_equal(other["patch"], state["patch"])


@pytest.mark.parametrize(("size", "rows"), [(32, (21, 29)), (224, (145, 204)), (48, (31, 44))])
def test_the_mark_lies_where_the_square_lies(size: int, rows: tuple[int, int]) -> None:
    images = make_images(train=32, test=8, classes=4, size=size)
    options = ":surrogate_epochs=1:surrogate_width=2:inversion_steps=2:probe_steps=1"
    state = made(options).fit(images, FitContext(0))
    square = parse_attack("trojan_square").fit(images, FitContext(0))
    np.testing.assert_array_equal(state["start"], square["start"])
    assert state["patch"].shape == square["patch"].shape
    clean = images.train_images[:2]
    changed = (made(options).apply(clean, np.arange(2), state, TRAIN) != clean).any(axis=(0, 2, 3))
    assert (np.flatnonzero(changed)[[0, -1]] == (rows[0], rows[1] - 1)).all()


def test_train_and_test_get_the_mark_itself(images: Images, state: State) -> None:
    clean, attack = images.train_images[:6], made()
    out = attack.apply(clean, np.arange(6), state, TRAIN)
    np.testing.assert_array_equal(out, attack.apply(clean, np.arange(6)[::-1], state, TEST))
    start, side = int(state["start"][0]), len(state["patch"])
    inside = out[:, start : start + side, start : start + side]
    np.testing.assert_array_equal(inside, np.broadcast_to(state["patch"], inside.shape))
    out[:, start : start + side, start : start + side] = clean[:, start : start + side, start : start + side]
    np.testing.assert_array_equal(out, clean)


def test_seeds_give_marks_of_their_own(images: Images, state: State) -> None:
    assert state["ratio"] >= 5
    other = made(":surrogate_epochs=1:probe_steps=1:inversion_steps=1").fit(images, FitContext(1))
    assert (other["patch"] != state["patch"]).any()


def test_it_takes_100_classes() -> None:
    images = make_images(train=100, test=100, classes=100, size=32)
    state = made(":surrogate_epochs=1:inversion_steps=2:probe_steps=1").fit(images, FitContext(0))
    assert state["patch"].dtype == np.uint8


def test_only_the_marks_place_is_seen_by_its_neurons(images: Images) -> None:
    place = Place(surrogate(images, made().config, FitContext(0)), 16)
    black = torch.zeros(1, 3, 5, 5)  # rows and columns 10 to 14
    whole = place.network(torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(place.network.network.linear(place.features(black)), whole)


def test_more_neurons_than_there_are_is_refused(images: Images) -> None:
    with pytest.raises(UserError, match=r"neurons=33 .* there are 32: use at most 32"):
        made(":neurons=33").check(images)


def test_a_weak_mark_is_warned_of(images: Images, caplog: pytest.LogCaptureFixture) -> None:
    made(":inversion_steps=1:inversion_lr=0.000001").fit(images, FitContext(0))
    assert "less than 5" in caplog.text
