"""Adaptive-Blend and Adaptive-Patch: parts of a trigger in training, all of it at test, beside covers (section 2.9)."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_images import make_images
from test_attacks import cifar_like, mean_psnr

from defenses.registry import UserError
from study.attacks import parse_attack
from study.attacks.api import COVER, TEST, TRAIN, State, selection_order
from study.attacks.support.cartoon import draw_cartoon
from study.attacks.support.fitting import FitContext
from study.attacks.support.marks import draw_disc, draw_logo, overlay
from study.datasets.images import Images
from study.scenarios.poison import apply_in_chunks, poison

Pixels = NDArray[np.uint8]
ATTACKS = ("adaptive_blend", "adaptive_patch")
LOGO, DISC, CORNERS, SQUARE = range(4)


def of_pixels(pixels: Pixels) -> Images:
    labels = np.arange(len(pixels)) % 2
    return Images.of(pixels, labels, pixels, labels, ("a", "b"))


def fitted(text: str, pixels: Pixels, seed: int = 0) -> State:
    return parse_attack(text).fit(of_pixels(pixels), FitContext(seed=seed))


def triggered(text: str, pixels: Pixels, split: str = TRAIN, seed: int = 0) -> Pixels:
    return parse_attack(text).apply(pixels, np.arange(len(pixels)), fitted(text, pixels, seed), split)


def marked(pixels: Pixels, mark: int, text: str = "adaptive_patch") -> Pixels:
    state = {**fitted(text, pixels), "which": np.full(len(pixels), mark)}
    return parse_attack(text).apply(pixels, np.arange(len(pixels)), state, TRAIN)


def noise(count: int = 16, size: int = 32) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def flat(value: int, size: int = 32, count: int = 8) -> Pixels:
    return np.full((count, size, size, 3), value, dtype=np.uint8)


def changed(clean: Pixels, out: Pixels) -> NDArray[np.bool_]:
    """Pixels that differ, bool [n, H, W]."""
    return (clean != out).any(axis=3)


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 48, 64, 224])
@pytest.mark.parametrize("split", [TRAIN, COVER, TEST])
@pytest.mark.parametrize("text", ATTACKS)
def test_any_size_works_and_every_image_is_changed(text: str, split: str, size: int) -> None:
    clean = noise(4, size)
    before = clean.copy()
    out = triggered(text, clean, split)
    assert (out.shape, out.dtype) == (clean.shape, clean.dtype)
    assert changed(clean, out).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(clean, before)


@pytest.mark.parametrize("text", ATTACKS)
def test_train_and_test_triggers_differ_and_covers_are_made_like_poison(text: str) -> None:
    clean = noise()
    poisoned = triggered(text, clean, TRAIN)
    np.testing.assert_array_equal(triggered(text, clean, COVER), poisoned)
    assert (poisoned != triggered(text, clean, TEST)).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("split", [TRAIN, TEST])
@pytest.mark.parametrize("text", [*ATTACKS, "adaptive_blend:quantise=truncate", "adaptive_patch:quantise=truncate"])
def test_brightness_never_wraps(text: str, split: str) -> None:
    # The same trigger on all 256 grey levels: one level more gives an equal result or one brighter by a level.
    attack, state = parse_attack(text), fitted(text, flat(0))
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 32, 32, 3))
    for image in range(4):
        out = attack.apply(ramp, np.full(256, image), state, split)
        rise = np.diff(out.astype(int), axis=0)
        assert rise.min() >= 0
        assert rise.max() <= 1


@pytest.mark.parametrize("split", [TRAIN, COVER, TEST])
@pytest.mark.parametrize("text", ATTACKS)
def test_chunks_and_subsets_give_the_same_bytes(text: str, split: str) -> None:
    clean, attack = noise(40), parse_attack(text)
    state = fitted(text, clean)
    whole = attack.apply(clean, np.arange(40), state, split)
    some = np.array([3, 4, 17, 39])
    for chunk_bytes in (1, 3 * 32 * 32 * 3, 1 << 20):
        found = apply_in_chunks(attack, clean, some, state, split, chunk_bytes)
        np.testing.assert_array_equal(found, whole[some])


@pytest.mark.parametrize("text", ATTACKS)
def test_the_seed_decides_everything(text: str) -> None:
    clean = noise()
    np.testing.assert_array_equal(triggered(text, clean, seed=1), triggered(text, clean, seed=1))
    assert (triggered(text, clean, seed=1) != triggered(text, clean, seed=2)).any()


@pytest.mark.parametrize(("text", "ratio"), [("adaptive_blend", 1), ("adaptive_patch", 2)])
def test_covers_beside_poison_in_a_hundred_classes(text: str, ratio: int) -> None:
    images = make_images(train=1000, test=200, classes=100)
    found = poison(images, parse_attack(text), 0.05, 7, seed=0)
    assert (found.poison_mask.sum(), found.cover_mask.sum()) == (50, 50 * ratio)
    assert not (found.poison_mask & found.cover_mask).any()
    assert (found.suspect.labels[found.poison_mask] == 7).all()
    kept = ~found.poison_mask
    np.testing.assert_array_equal(found.suspect.labels[kept], images.train_labels[kept])
    touched = changed(images.train_images, np.asarray(found.suspect.images)).any(axis=(1, 2))
    np.testing.assert_array_equal(touched, found.poison_mask | found.cover_mask)
    assert (len(found.triggered_images), set(found.triggered_labels.tolist())) == (198, {7})


@pytest.mark.parametrize(
    ("text", "split", "expected"),
    [  # measured on CIFAR-10 by the specification with the toolbox's pictures; images here have its mean and spread
        ("adaptive_blend", TRAIN, 27.1),
        ("adaptive_blend", TEST, 21.6),
        ("adaptive_patch", TEST, 17.6),
    ],
)
def test_psnr_on_images_like_cifar(text: str, split: str, expected: float) -> None:
    clean = cifar_like()
    assert mean_psnr(clean, triggered(text, clean, split)) == pytest.approx(expected, abs=0.8)


def test_a_share_of_nothing_and_of_everything_is_exact() -> None:
    clean, trigger = noise(2), noise(1, 32)[0].astype(np.float32)
    share = np.zeros((32, 32, 1), dtype=np.float32)
    share[:, 16:] = 1
    for quantise in ("round", "truncate"):
        out = overlay(clean, trigger, share, quantise)
        np.testing.assert_array_equal(out[:, :, :16], clean[:, :, :16])
        np.testing.assert_array_equal(out[:, :, 16:], np.broadcast_to(trigger, clean.shape)[:, :, 16:])


# --- adaptive_blend ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 224])
def test_blend_changes_eight_of_sixteen_tiles(size: int) -> None:
    # Green 100 differs from every colour of the cartoon by enough to show at 0.15.
    clean = np.zeros((64, size, size, 3), dtype=np.uint8) + np.array([0, 100, 0], dtype=np.uint8)
    side = size // 4
    tiles = changed(clean, triggered("adaptive_blend", clean)).reshape(64, 4, side, 4, side)
    whole, some = tiles.all(axis=(2, 4)), tiles.any(axis=(2, 4))
    np.testing.assert_array_equal(whole, some)
    assert (whole.sum(axis=(1, 2)) == 8).all()
    assert (tiles.sum(axis=(1, 2, 3, 4)) == 8 * side**2).all()  # 512 px at 32


def test_blend_takes_every_tile_equally_often_and_images_differ() -> None:
    kept = fitted("adaptive_blend", np.zeros((4000, 16, 16, 3), dtype=np.uint8))["kept"]
    assert np.abs(kept.mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(4000)
    assert len(np.unique(kept.reshape(4000, 16), axis=0)) > 3000  # of 12,870 possible ones


def test_blend_is_exact_within_its_tiles() -> None:
    clean = noise(8)
    attack, state = parse_attack("adaptive_blend"), fitted("adaptive_blend", clean)
    kept = np.kron(state["kept"], np.ones((1, 8, 8), dtype=bool))[..., None]
    cartoon, values = draw_cartoon(32).astype(float), clean.astype(float)
    for split, alpha, where in ((TRAIN, 0.15, kept), (TEST, 0.2, np.ones_like(kept))):
        change = attack.apply(clean, np.arange(8), state, split) - values
        assert np.abs(change - where * alpha * (cartoon - values)).max() <= 0.5 + 1e-4
        assert np.abs(change).max() <= 255 * alpha
    # By hand: the cartoon is (250, 172, 205) in the corner; 100 + 0.2 * 150 = 130, 114.4 and 121.
    assert triggered("adaptive_blend", flat(100), TEST)[0, 0, 0].tolist() == [130, 114, 121]


def test_blend_without_dropped_tiles_at_equal_strength_is_the_test_trigger() -> None:
    clean, text = noise(), "adaptive_blend:dropped=0:alpha=0.2"
    np.testing.assert_array_equal(triggered(text, clean, TRAIN), triggered(text, clean, TEST))
    blended = parse_attack("blended_image")
    state = blended.fit(of_pixels(clean), FitContext(seed=0))
    plain = blended.apply(clean, np.arange(16), state, TEST)
    assert np.abs(plain.astype(int) - triggered(text, clean, TEST)).max() <= 1  # float32 ties alone


def test_blend_takes_a_picture_and_its_content_is_its_identity(tmp_path: Path) -> None:
    first, second, other = (tmp_path / f"{name}.png" for name in ("first", "second", "other"))
    for path, colour in ((first, (255, 0, 0)), (second, (255, 0, 0)), (other, (0, 0, 255))):
        Image.new("RGB", (48, 64), colour).save(path)
    out = triggered(f"adaptive_blend:image={first}", flat(100), TEST)
    assert (out == [131, 80, 80]).all()
    identities = [parse_attack(f"adaptive_blend:image={path}").identity() for path in (first, second, other)]
    assert identities[0] == identities[1] != identities[2]
    with pytest.raises(UserError, match="must be a readable picture"):
        parse_attack(f"adaptive_blend:image={tmp_path / 'none.png'}").identity()


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("adaptive_blend:tiles=5", 32, "must divide the image size of 32 px, got 5: use tiles=4"),
        ("adaptive_blend:tiles=5", 27, "must divide the image size of 27 px, got 5: use tiles=3"),
        ("adaptive_blend:dropped=16", 32, "must leave one of 16 tiles, got 16: use at most dropped=15"),
        ("adaptive_patch", 8, "at least 16 px, got 8: use adaptive_blend"),
    ],
)
def test_what_cannot_work_is_refused(text: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_attack(text).check(of_pixels(noise(2, size)))


@pytest.mark.parametrize("text", ["adaptive_blend:dropped=15", "adaptive_blend:tiles=1:dropped=0", "adaptive_patch"])
def test_what_can_work_is_not_refused(text: str) -> None:
    parse_attack(text).check(of_pixels(noise(2, 16)))


# --- adaptive_patch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "count"), [(0.05, 50), (0.051, 51), (0.103, 103)])
def test_marks_are_shared_evenly_among_poison_and_among_covers(rate: float, count: int) -> None:
    # Images sorted by class, as in a folder of folders: a mark must not go with a class.
    labels = np.repeat(np.arange(10), 100)
    pixels = np.zeros((1000, 16, 16, 3), dtype=np.uint8)
    images = Images.of(pixels, labels, pixels[:20], labels[:20], tuple("abcdefghij"))
    attack = parse_attack("adaptive_patch")
    found = poison(images, attack, rate, 0, seed=3)
    which = attack.fit(images, FitContext(seed=3))["which"]
    for mask, size in ((found.poison_mask, count), (found.cover_mask, 2 * count)):
        counts = np.bincount(which[mask], minlength=4)
        assert (counts.sum(), int(np.ptp(counts))) == (size, int(size % 4 > 0))
    # All 1,000: each class has each mark 25 times on average, with a standard deviation near 4.1.
    table = np.zeros((10, 4))
    np.add.at(table, (labels, which), 1)
    assert ((table - 25) ** 2 / 25).sum() < 52  # chi-squared, 27 degrees of freedom: beyond 52 one time in 400


def test_marks_go_round_the_order_of_selection() -> None:
    which = fitted("adaptive_patch", noise(10, 16), seed=5)["which"]
    assert which[selection_order(10, 5)].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("scale", [1, 7])
@pytest.mark.parametrize(
    ("mark", "first", "last", "pixels"),
    [  # rows and columns at 32 px
        (LOGO, (27, 27), (31, 31), 25),
        (DISC, (1, 18), (13, 30), 137),
        (CORNERS, (0, 0), (31, 31), 36),
        (SQUARE, (21, 21), (28, 28), 64),
    ],
)
def test_marks_lie_where_they_should(
    mark: int, first: tuple[int, int], last: tuple[int, int], pixels: int, scale: int
) -> None:
    dark, bright = flat(0, 32 * scale, 1), flat(255, 32 * scale, 1)
    touched = (changed(dark, marked(dark, mark)) | changed(bright, marked(bright, mark)))[0]
    rows, columns = np.nonzero(touched)
    # The square's place at 224 px is the original's, 145 to 203; the rest is seven times that at 32 px.
    low, high = (
        ((145, 145), (203, 203))
        if (mark, scale) == (SQUARE, 7)
        else (
            tuple(edge * scale for edge in first),
            tuple(edge * scale + scale - 1 for edge in last),
        )
    )
    assert ((rows.min(), columns.min()), (rows.max(), columns.max())) == (low, high)
    if mark == DISC:
        assert touched.sum() == pytest.approx(pixels * scale**2, rel=0.04)
    else:
        assert touched.sum() == (59**2 if (mark, scale) == (SQUARE, 7) else pixels * scale**2)


@pytest.mark.parametrize(("mark", "alpha"), [(LOGO, 0.5), (DISC, 0.2), (CORNERS, 0.5), (SQUARE, 0.3)])
def test_marks_have_their_strengths(mark: int, alpha: float) -> None:
    # From black to white, a pixel under a mark keeps 1 - alpha of the difference.
    dark, bright = (marked(flat(value, count=1), mark)[0].astype(int) for value in (0, 255))
    state = fitted("adaptive_patch", flat(0))
    under = state["marks"][mark].any(axis=2)
    assert np.abs((bright - dark)[under] - 255 * (1 - alpha)).max() <= 1
    assert set(np.unique(state["shares"][mark]).tolist()) == {0.0, float(np.float32(alpha))}


@pytest.mark.parametrize(
    ("mark", "expected", "tolerance"),
    [(LOGO, 30.6, 1.5), (DISC, 29.4, 1.0), (CORNERS, 25.5, 0.5), (SQUARE, 31.9, 1.5)],  # of the toolbox's marks
)
def test_psnr_of_marks(mark: int, expected: float, tolerance: float) -> None:
    clean = cifar_like()
    assert mean_psnr(clean, marked(clean, mark)) == pytest.approx(expected, abs=tolerance)


def test_corner_patches_are_their_own_mirror_image() -> None:
    grey = flat(100, count=1)
    out = marked(grey, CORNERS)
    np.testing.assert_array_equal(out, out[:, :, ::-1])
    np.testing.assert_array_equal(out, out[:, ::-1])  # both ways, as the toolbox's file
    grid = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]])
    np.testing.assert_array_equal(out[0, -3:, -3:, 0], 50 + (grid + 1) // 2)  # half of 100, half of 0 or 255


@pytest.mark.parametrize("scale", [1, 7])
def test_test_images_get_two_logos_under_four_corner_patches(scale: int) -> None:
    size = 32 * scale
    dark, bright = (triggered("adaptive_patch", flat(value, size), TEST)[0] for value in (0, 255))
    replaced = (dark == bright).all(axis=2)
    assert replaced.sum() == 68 * scale**2  # 2 * 25 + 36, of which 18 lie on the logos
    assert (dark[~replaced] == 0).all()
    assert (bright[~replaced] == 255).all()
    state = fitted("adaptive_patch", flat(0, size))
    corner, logo = 3 * scale, 5 * scale
    for columns in (slice(None, corner), slice(-corner, None)):
        for rows in (slice(None, corner), slice(-corner, None)):
            np.testing.assert_array_equal(dark[rows, columns], state["marks"][CORNERS][rows, columns])
    motif = state["marks"][LOGO][-logo:, -logo:]
    above = logo - corner  # rows of the logos that no corner patch covers
    np.testing.assert_array_equal(dark[-logo:-corner, -logo:], motif[:above])
    np.testing.assert_array_equal(dark[-logo:-corner, :logo], motif[:above])


def test_test_marks_can_be_faint() -> None:
    out = triggered("adaptive_patch:test_alpha=0.5", flat(100), TEST)
    assert out[0, 0, 0].tolist() == [178, 178, 178]  # 100 + (255 - 100) / 2, rounded half up
    assert out[0, 0, 1].tolist() == [50, 50, 50]


@pytest.mark.parametrize("scale", [1, 7])
def test_corner_patches_are_the_toolboxs(scale: int) -> None:
    # Row by row, its file badnet_patch4: white in the corner of the image, black towards the middle.
    upper = np.array([[1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]])
    lower = np.array([[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0], [1, 0, 1, 1, 0, 1]])
    marks = fitted("adaptive_patch", flat(0, 32 * scale))["marks"][CORNERS][..., 0]
    side = 3 * scale
    for rows, expected in ((slice(None, side), upper), (slice(-side, None), lower)):
        both = np.concatenate([marks[rows, :side], marks[rows, -side:]], axis=1)
        np.testing.assert_array_equal(both, 255 * np.kron(expected, np.ones((scale, scale))))


# --- drawings ---------------------------------------------------------------------------------------------------------


def test_logo_has_the_colours_of_the_specification() -> None:
    for seed in range(3):
        logo = draw_logo(32, np.random.default_rng(seed))
        assert logo.shape == (5, 5, 3)
        np.testing.assert_allclose(logo.mean(axis=(0, 1)), (180, 204, 244), atol=0.2)
    large = draw_logo(224, np.random.default_rng(2))
    np.testing.assert_array_equal(large[3::7, 3::7], logo)


@pytest.mark.parametrize("scale", [1, 7])
def test_disc_has_the_colours_of_the_specification(scale: int) -> None:
    disc, inside = draw_disc(32 * scale)
    box = disc[scale : 14 * scale, 18 * scale : 31 * scale]
    np.testing.assert_allclose(box.mean(axis=(0, 1)), (159, 94, 68), atol=7)
    assert (disc[inside[..., 0] == 0] == 0).all()
    red, green, blue = disc[inside[..., 0] == 1].T
    orange, globe = (red > 200) & (blue < 60), (blue > 200) & (red < 60)
    assert orange.mean() > 0.6
    assert globe.mean() > 0.15
    assert np.ptp(green[orange]) > 120
