"""Streamed images are the resident ones bit for bit, whatever was fetched ahead."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from defenses.training import streamed_images
from defenses.training.images import device_images, epoch_batches, take, take_augmented
from defenses.training.inference import chunks
from defenses.training.streamed_images import RESIDENT_SHARE, StreamedImages, fits, free_bytes

CPU = torch.device("cpu")
N = 40


def pixels(count: int = N, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def streamed() -> StreamedImages:
    return StreamedImages(pixels(), CPU)


def test_an_epoch_is_fetched_ahead_but_for_its_first_batch(streamed: StreamedImages) -> None:
    batches = list(epoch_batches(N, 8, generator(), CPU))
    for index in batches:
        assert torch.equal(streamed.select(index), torch.from_numpy(pixels()[index]))
    assert streamed.fetched_ahead == len(batches) - 1


def test_an_epoch_of_a_subset_is_fetched_ahead_too(streamed: StreamedImages) -> None:
    kept = torch.arange(1, N, 2)
    for epoch in range(2):
        for index in epoch_batches(len(kept), 4, generator(epoch), CPU):
            assert torch.equal(streamed.select(index, kept), torch.from_numpy(pixels()[kept[index]]))
    assert streamed.fetched_ahead == 2 * (len(kept) // 4 - 1)


def test_a_joined_last_batch_is_whole(streamed: StreamedImages) -> None:
    sizes = []
    for index in epoch_batches(N, 13, generator(), CPU):  # 13, 13, and 14 with the one that would be alone
        assert torch.equal(streamed.select(index), torch.from_numpy(pixels()[index]))
        sizes.append(len(index))
    assert sizes == [13, 13, 14]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_positions_in_any_turn(data: st.DataObject) -> None:
    streamed, beside = StreamedImages(pixels(), CPU, pixels(5, 1)), pixels(5, 1)
    every = torch.from_numpy(np.concatenate([pixels(), beside]))
    orders = [torch.randperm(N + 5, generator=generator(seed)) for seed in range(2)]
    for _ in range(data.draw(st.integers(1, 12))):
        order = data.draw(st.sampled_from([*orders, torch.randperm(N, generator=generator(9))]))
        start = data.draw(st.integers(0, len(order)))
        index = order[start : start + data.draw(st.integers(0, 9))]
        if data.draw(st.booleans()):
            index = index[:: data.draw(st.integers(1, 2))]
        among = data.draw(st.sampled_from([None, torch.arange(N + 4, -1, -1)]))
        assert torch.equal(streamed.select(index, among), every[index if among is None else among[index]])


def test_positions_that_change_in_their_place_are_read_again(streamed: StreamedImages) -> None:
    index = torch.arange(8)
    streamed.select(index[:4])
    index.copy_(torch.arange(8).flip(0))
    assert torch.equal(streamed.select(index[:4]), torch.from_numpy(pixels()[[7, 6, 5, 4]]))
    with torch.inference_mode():  # whose changes are not counted
        other = torch.arange(8)
        streamed.select(other[:4])
        other += 1
        assert torch.equal(streamed.select(other[:4]), torch.from_numpy(pixels()[1:5]))


def test_orders_that_are_forgotten_are_not_mistaken_for_new_ones(streamed: StreamedImages) -> None:
    for seed in range(100):  # their memory is used again and again
        index = torch.randperm(N, generator=generator(seed))[:8]
        assert torch.equal(streamed.select(index), torch.from_numpy(pixels()[index]))


@pytest.mark.parametrize("among", [None, torch.tensor([3, 1, 39, 0])])
def test_batches_in_order_are_those_of_resident_images(
    among: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defenses.training.inference.CHUNK_PIXELS", 3 * 36)
    streamed = StreamedImages(pixels(), CPU)
    for left, right in zip(chunks(torch.from_numpy(pixels()), among), chunks(streamed, among), strict=True):
        assert torch.equal(left, right)
        assert left.stride() == right.stride()
    assert streamed.fetched_ahead == (13 if among is None else 1)


def test_augmentation_draws_the_same() -> None:
    index = torch.tensor([4, 0, 4, 17])
    views = [
        take_augmented(images, index, 2, generator(3))
        for images in (torch.from_numpy(pixels()), StreamedImages(pixels(), CPU))
    ]
    assert torch.equal(*views)
    assert torch.equal(take(StreamedImages(pixels(), CPU), index), take(torch.from_numpy(pixels()), index))


@pytest.mark.parametrize("position", [-1, N])
def test_positions_beyond_the_images_are_refused(position: int, streamed: StreamedImages) -> None:
    with pytest.raises(IndexError, match="must lie in"):
        streamed.select(torch.tensor([0, position]))


def test_guesses_that_nobody_asks_for_do_not_pile_up(streamed: StreamedImages) -> None:
    order = torch.randperm(N, generator=generator())
    for start in range(30):
        streamed.select(order[start : start + 3])
    assert len(streamed._waiting) <= 4


def test_images_stay_on_a_device_up_to_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(device_images(pixels(), CPU), torch.Tensor)  # on a CPU nothing is copied
    monkeypatch.setattr(streamed_images, "free_bytes", lambda device: int(pixels().nbytes / RESIDENT_SHARE))
    assert fits(pixels().nbytes, CPU)
    assert isinstance(device_images(pixels(), CPU), torch.Tensor)
    more = device_images(pixels(N + 1), CPU)
    assert isinstance(more, StreamedImages)
    assert torch.equal(more[0 : N + 1], torch.from_numpy(pixels(N + 1)))


@pytest.mark.parametrize(
    ("fraction", "expected"), [(1.0, 60), (0.5, 40), (0.25, 15)], ids=["all of it", "half", "less than others left"]
)
def test_what_is_free_is_the_devices_and_within_the_share(
    fraction: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 bytes others hold 30; this process has reserved 20 of which it uses 10."""
    known = {"mem_get_info": (50, 100), "memory_reserved": 20, "memory_allocated": 10}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda number: fraction)
    assert free_bytes(torch.device("cuda")) == expected
    assert free_bytes(CPU) is None


def test_no_stage_puts_all_images_on_its_device_by_itself() -> None:
    whole = re.compile(r"to_device\([a-z.]*\.(train_)?images, |\.(train_)?images\.(astype|copy)\(")
    root = Path(streamed_images.__file__).parents[2]
    folders = ("defenses", "study/attacks", "study/scenarios")
    for path in (path for folder in folders for path in root.glob(f"{folder}/**/*.py")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if whole.search(line)]
        assert [line for line in lines if "clean.images" not in line] == [], path.name  # clean images are a few
