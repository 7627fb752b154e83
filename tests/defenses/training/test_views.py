"""Views: parts, colours and blur against other libraries' and by hand; what is drawn follows from the generator."""

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from defenses.training.views import Views, gaussian_blur, luminance, resample, turn_hue

torch.set_num_threads(1)
PARTS = Views(flip=0.0, jitter=0.0, grey=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colourful(n: int = 6, side: int = 16) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float()


def drawn(views: Views, images: Tensor, seed: int = 0) -> Tensor:
    return views.draw(images, torch.arange(len(images)), generator(seed))


def test_views_are_those_of_the_generator_and_images_stay() -> None:
    images = colourful()
    before, state = images.clone(), torch.get_rng_state()
    views = Views(blur=0.5, bicubic=True)
    first = drawn(views, images)
    assert (first.shape, first.dtype) == ((6, 3, 16, 16), torch.float32)
    assert first.min() >= 0
    assert first.max() <= 255
    assert torch.equal(first, drawn(views, images))
    assert not torch.equal(first, drawn(views, images, 1))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_positions_choose_and_each_view_is_drawn_apart() -> None:
    images = colourful()
    straight = resample(planes(images), torch.eye(2, 3).expand(6, 2, 3), "bilinear", "border")
    torch.testing.assert_close(straight, planes(images), atol=1e-2, rtol=0)
    mirrored = resample(planes(images), torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(6, 2, 3), "bicubic", "border")
    torch.testing.assert_close(mirrored, planes(images).flip(3), atol=1e-2, rtol=0)
    index = torch.tensor([2, 2, 5])
    views = PARTS.draw(images, index, generator())
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views, PARTS.draw(images[index], torch.arange(3), generator()))


def test_a_part_shows_at_least_its_share_of_the_area() -> None:
    """On an image whose levels are its columns and rows, a view's spread is the part's width and height."""
    side, n = 64, 400
    ramp = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([ramp.expand(side, side), ramp.unsqueeze(1).expand(side, side), torch.zeros(side, side)], 2)
    images = image.to(torch.uint8).expand(n, side, side, 3)
    views = drawn(Views(0.2, flip=0.5, jitter=0.0, grey=0.0), images)
    # From the first pixel's centre to the last one's, which are `side - 1` of `side` steps.
    width = (views[:, 0, 32, 48] - views[:, 0, 32, 16]).abs() * 2 / side
    height = (views[:, 1, 48, 32] - views[:, 1, 16, 32]).abs() * 2 / side
    area, ratio = width * height, width / height
    assert area.min() >= 0.19
    assert area.max() <= 1.001
    assert 0.45 < area.mean() < 0.62  # 0.6, less what is cut off long sides
    assert ratio.min() >= 0.74
    assert ratio.max() <= 1.35
    mirrored = (views[:, 0, 32, 48] < views[:, 0, 32, 16]).float().mean()
    assert 0.4 < mirrored < 0.6


def test_hue_is_turned_as_in_the_standard_library() -> None:
    images, turns = planes(colourful(4, 3)), torch.tensor([0.0, 0.1, -0.1, 0.5]).view(4, 1, 1, 1)
    turned = turn_hue(images, turns)
    for image, turn, new in zip(images, turns.flatten().tolist(), turned, strict=True):
        for pixel, got in zip(image.flatten(1).T, new.flatten(1).T, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255).tolist())
            expected = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
            assert got.tolist() == pytest.approx([255 * level for level in expected], abs=0.01)
    grey = torch.full((1, 3, 2, 2), 90.0)
    torch.testing.assert_close(turn_hue(grey, torch.full((1, 1, 1, 1), 0.3)), grey)


def test_blur_is_a_gaussian_of_each_images_own_width() -> None:
    images, sigma = planes(colourful(2, 32)), torch.tensor([0.7, 2.0]).view(2, 1, 1, 1)
    blurred = gaussian_blur(images, sigma)
    for image, width, new in zip(images, sigma.flatten().tolist(), blurred, strict=True):
        expected = ndimage.gaussian_filter(image.numpy(), (0, width, width), truncate=8)
        inside = slice(10, 22)
        assert new[:, inside, inside].numpy() == pytest.approx(expected[:, inside, inside], abs=0.02)
    flat = torch.full((1, 3, 8, 8), 77.0)
    torch.testing.assert_close(gaussian_blur(flat, torch.full((1, 1, 1, 1), 1.5)), flat)


def test_shares_of_views_are_grey_coloured_and_blurred() -> None:
    images = colourful(1, 8).expand(600, 8, 8, 3)

    def changed(**how: float) -> float:
        views = drawn(dataclasses.replace(PARTS, **how), images)
        return float(((views - drawn(PARTS, images)).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean())

    assert changed(jitter=0.8) == pytest.approx(0.8, abs=0.05)
    assert changed(grey=0.2) == pytest.approx(0.2, abs=0.05)
    assert changed(blur=0.5) == pytest.approx(0.5, abs=0.06)
    grey = drawn(Views(grey=1.0), colourful())
    assert torch.equal(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(luminance(torch.full((1, 3, 2, 2), 50.0)), torch.full((1, 1, 2, 2), 50.0))
