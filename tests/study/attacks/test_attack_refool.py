"""Refool: the reflection against its formula and in its limits, its draws and its pictures (specs/attacks.md 2.8)."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_images import make_images

from defenses.registry import UserError
from study.attacks import parse_attack
from study.attacks.api import COVER, TEST, TRAIN, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.reflections import paint
from study.scenarios.poison import apply_in_chunks, poison

Pixels = NDArray[np.uint8]
GAMMA = 2.2


def fitted(text: str = "refool", size: int = 32, count: int = 64, seed: int = 0) -> State:
    return parse_attack(text).fit(make_images(count, count, 2, size), FitContext(seed))


def reflected(clean: Pixels, state: State, text: str = "refool", split: str = TRAIN, first: int = 0) -> Pixels:
    return parse_attack(text).apply(clean, np.arange(first, first + len(clean)), state, split)


def noise(count: int = 3, size: int = 32) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def flat(value: int, count: int = 64, size: int = 32) -> Pixels:
    return np.full((count, size, size, 3), value, dtype=np.uint8)


# --- the formula ------------------------------------------------------------------------------------------------------


def naive(image: Pixels, picture: Pixels, share: float, ghost: float, rows: int, columns: int) -> NDArray[np.float64]:
    """One image as the reference has it: pad, add, cut off both sides, enlarge; before rounding."""
    scene, behind = (image / 255) ** GAMMA, (picture / 255) ** GAMMA
    first = np.pad(behind, ((0, rows), (0, columns), (0, 0))) * ghost
    second = np.pad(behind, ((rows, 0), (columns, 0), (0, 0))) * (1 - ghost)
    cut = (first + second)[rows:-rows, columns:-columns].astype(np.float32)
    planes = [Image.fromarray(np.ascontiguousarray(cut[..., c])) for c in range(3)]
    size = (image.shape[1], image.shape[0])
    large = np.stack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes], axis=-1)
    return np.asarray(np.clip((share * large + (1 - share) * scene) ** (1 / GAMMA), 0, 1) * 255)


@pytest.mark.parametrize("size", [16, 32, 48])
@pytest.mark.parametrize("split", [TRAIN, TEST])
def test_images_are_the_references(size: int, split: str) -> None:
    clean, state = noise(16, size), fitted(size=size)
    out = reflected(clean, state, split=split)
    truncated = reflected(clean, state, "refool:quantise=truncate", split)
    for image, result, cut, draw in zip(clean, out, truncated, state[split], strict=False):
        picture, share, ghost, rows, columns = draw.tolist()
        expected = naive(image, state["pool"][picture], share, ghost, rows, columns)
        np.testing.assert_allclose(result, expected, atol=0.51)
        np.testing.assert_allclose(cut, expected - 0.5, atol=0.51)


@pytest.mark.parametrize("value", [1, 40, 128, 255])
def test_a_black_picture_dims_the_image(value: int) -> None:
    state = fitted()
    state["pool"] = np.zeros_like(state["pool"])
    out = reflected(flat(value), state)
    assert (out == out[:, :1, :1, :1]).all()
    expected = (1 - state[TRAIN]["reflection"]) ** (1 / GAMMA) * value
    np.testing.assert_allclose(out[:, 0, 0, 0], expected, atol=0.51)


@pytest.mark.parametrize("value", range(0, 256, 15))
def test_an_image_that_reflects_itself_stays_as_it_is(value: int) -> None:
    state = fitted()
    state["pool"] = np.full_like(state["pool"], value)
    np.testing.assert_array_equal(reflected(flat(value), state), flat(value))


@pytest.mark.parametrize(("image", "picture"), [(0, 0), (0, 255), (255, 0), (255, 255)])
def test_brightness_never_wraps(image: int, picture: int) -> None:
    state = fitted()
    state["pool"] = np.full_like(state["pool"], picture)
    out = reflected(flat(image), state)
    light = 0.45 if image < picture else 0.55 if image > picture else image / 255
    extreme = 255 * light ** (1 / GAMMA)  # the strongest reflection of all
    assert out.max() <= extreme + 0.51 if image < picture else out.min() >= extreme - 0.51


def test_a_spot_is_seen_twice_at_the_shift_that_was_drawn() -> None:
    text = "refool:shift_low=8:reflection_low=0.45"
    state = fitted(text)
    state["pool"] = np.zeros_like(state["pool"])
    state["pool"][:, 15:18, 15:18] = 255
    draws = state[TRAIN]
    assert set(draws["rows"].tolist()) == set(draws["columns"].tolist()) == {8}
    out = reflected(flat(0), state, text)[..., 0]
    # Where the copies overlap (24 px) they lie at 7-9 and 15-17; enlarged to 32 px, their centres are at 10.8 and 21.5.
    ghost = draws["ghost"].astype(float)
    for rows, columns, share in (
        (slice(16), slice(16), ghost),
        (slice(16, 32), slice(16, 32), 1 - ghost),
        (slice(16), slice(16, 32), 0 * ghost),
        (slice(16, 32), slice(16), 0 * ghost),
    ):
        brightest = out[:, rows, columns].max(axis=(1, 2))
        np.testing.assert_allclose(brightest, 255 * (0.45 * share) ** (1 / GAMMA), atol=0.51)
    assert (out[:, 11, 11] > 0).all()
    assert (out[:, 21:23, 21:23] > 0).all()


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "unit"), [(32, 1), (64, 2), (224, 7)])
def test_draws_lie_in_their_ranges_and_fill_them(size: int, unit: int) -> None:
    attack = parse_attack("refool:pool_size=5")
    small = make_images(4, 4, 2, size)
    draws = attack._draw(attack.rng(0, TRAIN), 4000, 5, size)  # type: ignore[attr-defined]
    assert set(attack.fit(small, FitContext(0))[TRAIN].tolist()) == set(draws[:4].tolist())  # more leave them alone
    assert set(draws["picture"].tolist()) == set(range(5))
    shifts = {(rows, columns) for rows, columns in draws[["rows", "columns"]].tolist()}
    assert shifts == {(unit * rows, unit * columns) for rows in range(3, 9) for columns in range(3, 9)}
    assert (draws["reflection"].min(), draws["reflection"].max()) == pytest.approx((0.05, 0.45), abs=0.001)
    assert draws["reflection"].mean() == pytest.approx(0.25, abs=0.01)
    brighter = draws["ghost"] >= 0.5
    assert brighter.mean() == pytest.approx(0.5, abs=0.03)
    assert (draws["ghost"][brighter].min(), draws["ghost"][brighter].max()) == pytest.approx((0.5, 0.75), abs=0.001)
    assert (draws["ghost"][~brighter].min(), draws["ghost"][~brighter].max()) == pytest.approx((0.25, 0.5), abs=0.001)


def test_at_16_px_shifts_are_halved() -> None:
    assert set(fitted(size=16)[TRAIN]["rows"].tolist()) == {2, 3, 4}


def test_test_images_have_their_own_draws_and_the_same_pictures() -> None:
    clean, state = noise(), fitted()
    assert (state[TRAIN] != state[TEST]).all()
    assert (reflected(clean, state) != reflected(clean, state, split=TEST)).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(reflected(clean, state), reflected(clean, state, split=COVER))
    state["pool"] = np.zeros_like(state["pool"])
    assert (reflected(clean, state, split=TEST) <= clean).all()  # black pictures reach test images too


def test_seeds_change_draws_and_pictures() -> None:
    first, same, other = fitted(seed=0), fitted(seed=0), fitted(seed=1)
    for name in ("pool", TRAIN, TEST):
        np.testing.assert_array_equal(first[name], same[name])
        assert (first[name] != other[name]).any()


@pytest.mark.parametrize("split", [TRAIN, TEST])
@pytest.mark.parametrize("size", [16, 32, 48])
def test_chunks_do_not_change_a_byte(size: int, split: str) -> None:
    clean, attack, state = noise(64, size), parse_attack("refool"), fitted(size=size)
    index = np.array([63, 0, *range(5, 60)])
    whole = apply_in_chunks(attack, clean, index, state, split)
    one_image = size * size * 3
    for chunk_bytes in (1, 2 * one_image, 7 * one_image + 1, 20 * one_image):
        np.testing.assert_array_equal(apply_in_chunks(attack, clean, index, state, split, chunk_bytes), whole)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 224])
def test_painted_pictures_look_alike_at_any_size(size: int) -> None:
    pictures = paint(np.random.default_rng(0), 24, size).astype(float)
    assert pictures.shape == (24, size, size, 3)
    assert pictures.mean() == pytest.approx(127, abs=10)
    assert 40 <= pictures.std() <= 60
    grey = pictures.mean(axis=3)
    assert np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1] > 0.75  # smooth, as photographs are
    assert np.corrcoef(pictures[..., 0].ravel(), pictures[..., 2].ravel())[0, 1] < 0.95  # in colour
    assert len({picture.tobytes() for picture in pictures}) == 24


def test_psnr() -> None:
    # 22.0 (13.2-35.6) on CIFAR-10, whose contrast is higher than that of the pictures that stand in for it here.
    clean, state = paint(np.random.default_rng(1), 400, 32), fitted(count=400)
    error = ((clean.astype(float) - reflected(clean, state)) ** 2).mean(axis=(1, 2, 3))
    psnr = 10 * np.log10(255**2 / error)
    assert psnr.mean() == pytest.approx(24.3, abs=0.5)
    assert np.percentile(psnr, 1) > 15
    assert np.percentile(psnr, 99) < 38


def save(folder: Path, name: str, colour: tuple[int, int, int]) -> None:
    Image.new("RGB", (40, 20), colour).save(folder / name)


def test_photographs_are_taken_by_name(tmp_path: Path) -> None:
    for name, colour in (("b.png", (9, 9, 9)), ("c.PNG", (250, 0, 0)), ("a.bmp", (1, 2, 3))):
        save(tmp_path, name, colour)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "d.png").mkdir()
    pool = fitted(f"refool:trigger_dir={tmp_path}", size=16)["pool"]
    assert pool.shape == (3, 16, 16, 3)
    assert (pool == np.array([[1, 2, 3], [9, 9, 9], [250, 0, 0]])[:, None, None, :]).all()
    state = fitted(f"refool:trigger_dir={tmp_path}:pool_size=2", size=16)
    assert len(state["pool"]) == 2
    assert set(state[TRAIN]["picture"].tolist()) == set(state[TEST]["picture"].tolist()) == {0, 1}


def test_photographs_are_cut_to_their_square_and_averaged_down(tmp_path: Path) -> None:
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, :16] = pixels[:, 48:] = (255, 0, 0)  # both sides are cut off
    pixels[:, 16:48:2] = (0, 200, 100)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "a.png")
    assert (fitted(f"refool:trigger_dir={tmp_path}", size=16)["pool"] == np.array([0, 100, 50])).all()


def test_identity_is_that_of_the_photographs_not_of_their_names(tmp_path: Path) -> None:
    def identity(folder: Path, options: str = "") -> object:
        return parse_attack(f"refool:trigger_dir={folder}{options}").identity()["trigger_dir"]

    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in ((first, ("a.png", "b.png")), (second, ("x.png", "y.png"))):
        folder.mkdir()
        for name, level in zip(names, (10, 20), strict=True):
            save(folder, name, (level,) * 3)
    original = identity(first)
    assert original == identity(second)
    assert original != identity(first, ":pool_size=1")
    save(second, "z.png", (30,) * 3)
    assert identity(second) != original
    assert identity(second, ":pool_size=2") == original  # the third is not used
    save(first, "b.png", (21,) * 3)
    assert identity(first) != original
    assert parse_attack("refool").identity()["trigger_dir"] == ""


def test_a_folder_that_cannot_be_used_is_refused_before_anything_starts(tmp_path: Path) -> None:
    images = make_images(8, 8)
    for name, message in (("none", "there is no such folder"), ("empty", "which has none: name another folder")):
        if name == "empty":
            (tmp_path / name).mkdir()
        attack = parse_attack(f"refool:trigger_dir={tmp_path / name}")
        for use in (lambda: attack.check(images), attack.identity, lambda: attack.fit(images, FitContext(0))):  # noqa: B023
            with pytest.raises(UserError, match=rf"^refool:trigger_dir must .*{message}"):
                use()


def test_a_photograph_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    images, attack = make_images(8, 8), parse_attack(f"refool:trigger_dir={tmp_path}")
    Image.fromarray(noise(1)[0]).save(tmp_path / "a.png")
    attack.check(images)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"must hold readable photographs, got '.*a\.png'"):
        attack.fit(images, FitContext(0))
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"must hold readable photographs, got '.*a\.png'"):
        attack.check(images)


# --- options and poisoned data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["reflection_low=0.5", "ghost_low=0.8", "shift_high=2"])
def test_a_range_that_ends_before_it_begins_is_refused(options: str) -> None:
    name = options.split("_")[0]
    with pytest.raises(UserError, match=rf"^refool:{name}_low must be at most {name}_high, got "):
        parse_attack(f"refool:{options}").check(make_images(8, 8))


@pytest.mark.parametrize("shift", [0, 15])
@pytest.mark.parametrize("size", [16, 48])
def test_the_shifts_that_the_options_allow_work_at_any_size(shift: int, size: int) -> None:
    text = f"refool:shift_low={shift}:shift_high={shift}"
    out = reflected(noise(4, size), fitted(text, size), text)
    assert out.shape == (4, size, size, 3)


@pytest.mark.parametrize(("classes", "size", "count"), [(100, 16, 300), (4, 224, 16)])
def test_any_number_of_classes_and_size(classes: int, size: int, count: int) -> None:
    images = make_images(count, count, classes, size)
    before = images.train_images.copy()
    data = poison(images, parse_attack("refool:pool_size=8"), 0.25, 1, seed=0)
    changed = (data.suspect.images != images.train_images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, data.poison_mask)
    assert data.poison_mask.sum() == count // 4
    assert data.cover_mask.sum() == 0
    assert (data.suspect.labels[data.poison_mask] == 1).all()
    assert len(data.triggered_images) == (images.test_labels != 1).sum()
    np.testing.assert_array_equal(images.train_images, before)
