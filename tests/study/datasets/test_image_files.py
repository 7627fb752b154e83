"""Pictures of others, wherever one is read: deep ones scaled or refused, photographs turned, usual ones unchanged."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from defenses.registry import UserError
from study.attacks.blended import picture_at, picture_identity
from study.attacks.support.reflections import content_hash, read_photographs
from study.datasets import DatasetSpec, load_dataset
from study.datasets.image_files import as_rgb, special_reading

SIDE = 32
RAMP = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)


def from_folder(path: Path) -> NDArray[np.uint8]:
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = path.parent / "set" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).write_bytes(path.read_bytes())
    return load_dataset(DatasetSpec(f"folder:{path.parent / 'set'}", image_size=SIDE)).train_images[0]


READERS: dict[str, Callable[[Path], NDArray[np.uint8]]] = {
    "folder": from_folder,
    "trigger": lambda path: picture_at(str(path), SIDE).astype(np.uint8),
    "photograph": lambda path: read_photographs([path], SIDE)[0],
}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Callable[[Path], NDArray[np.uint8]]:
    """Each place where a picture is read, as a function from a square file of 32 px to uint8 [32, 32, 3]."""
    return READERS[request.param]


def saved(path: Path, array: NDArray[np.generic]) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tiff", "ramp.pgm"])
def test_a_picture_of_16_bits_keeps_its_upper_ones(
    read: Callable[[Path], NDArray[np.uint8]], tmp_path: Path, name: str
) -> None:
    path = saved(tmp_path / name, RAMP)
    np.testing.assert_array_equal(read(path), np.repeat((RAMP >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "mode I"), (np.float32, "mode F")])
def test_levels_without_a_white_are_refused_with_the_mode(
    read: Callable[[Path], NDArray[np.uint8]], tmp_path: Path, dtype: type, mode: str
) -> None:
    path = saved(tmp_path / "deep.tiff", (RAMP / 65535).astype(dtype))
    with pytest.raises(UserError, match=rf"deep\.tiff.*\({mode}\).*8 or 16 bits"):
        read(path)


def test_a_negative_of_16_bits_is_read_as_a_picture() -> None:
    stream = io.BytesIO()
    Image.fromarray(RAMP >> 4).save(stream, "TIFF", tiffinfo={262: 0})
    content = bytearray(stream.getvalue())
    negative = np.asarray(as_rgb(Image.open(io.BytesIO(content))))[..., 0]
    np.testing.assert_array_equal(negative, 255 - (RAMP >> 12))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(
    read: Callable[[Path], NDArray[np.uint8]], tmp_path: Path, suffix: str, orientation: int
) -> None:
    upright = np.zeros((SIDE, SIDE, 3), np.uint8)
    upright[:16, :16], upright[:16, 16:], upright[16:, :16] = 250, 170, 90  # four quarters, all different
    # EXIF names the place of the file's first row and column: so the file is what these make of the scene.
    lying = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photograph.{suffix}"
    Image.fromarray(np.ascontiguousarray(lying)).save(path, exif=exif, **({} if suffix == "tiff" else {"quality": 100}))
    np.testing.assert_allclose(read(path).astype(int), upright, atol=6)  # JPEG


def test_damaged_exif_leaves_the_picture_as_it_lies(read: Callable[[Path], NDArray[np.uint8]], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((SIDE, SIDE, 3), 77, np.uint8)).save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\xff")
    assert (read(path) == 77).all()


MODES = ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr"]


@pytest.mark.parametrize("mode", MODES)
def test_usual_pictures_are_read_as_they_were(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    np.testing.assert_array_equal(np.asarray(as_rgb(picture)), np.asarray(picture.convert("RGB")))
    assert special_reading(picture) == ""


def test_what_was_read_otherwise_before_is_another_trigger_and_all_else_the_same(tmp_path: Path) -> None:
    from hashlib import sha256

    usual = saved(tmp_path / "usual.png", np.zeros((SIDE, SIDE), np.uint8))
    digest = sha256(usual.read_bytes())
    assert picture_identity(str(usual)) == digest.hexdigest()
    assert content_hash([usual]) == sha256(digest.digest()).hexdigest()
    deep = saved(tmp_path / "deep.png", RAMP)
    assert picture_identity(str(deep)) == f"{sha256(deep.read_bytes()).hexdigest()} 16 bits"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "lying.jpg", exif=exif)
    lying = sha256((tmp_path / "lying.jpg").read_bytes())
    assert picture_identity(str(tmp_path / "lying.jpg")) == f"{lying.hexdigest()} turned ROTATE_270"
    assert content_hash([tmp_path / "lying.jpg"]) != sha256(lying.digest()).hexdigest()
