"""Odd files in a folder of images are used, converted with a note, or listed with the reason; none is a traceback."""

import os
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from defenses.registry import UserError
from study.datasets.own.data import OwnData, OwnSpec
from study.datasets.own.reading import describe_own, read_own
from study.datasets.own.writing import write_subset

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def grey() -> bytes:
    return encoded(Image.fromarray(PIXELS[..., 0]))


def palette() -> bytes:
    return encoded(Image.fromarray(PIXELS).quantize(16))


def cmyk() -> bytes:
    return encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG")


def sixteen() -> bytes:
    return encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(PIXELS[:12]), "JPEG", exif=exif)


def alpha() -> bytes:
    return encoded(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])))


def animated() -> bytes:
    frames = [Image.fromarray(RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8)) for _ in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def lab() -> bytes:
    return encoded(Image.fromarray(PIXELS).convert("LAB"), "TIFF")


def bilevel() -> bytes:
    return encoded(Image.fromarray(PIXELS[..., 0] > 100))


CONVERTED: dict[Callable[[], bytes], str] = {
    grey: "1 image: greyscale",
    palette: "1 image: colours of a palette",
    cmyk: "1 image: CMYK",
    sixteen: "1 image: 16 bits",
    turned: "1 image: turned upright",
    alpha: "1 image: an alpha channel",
    animated: "1 image: several frames",
    lab: "1 image: another colour space",
    bilevel: "1 image: greyscale",
}


def truncated() -> bytes:
    return encoded(Image.fromarray(PIXELS))[:-400]


def empty() -> bytes:
    return b""


def text() -> bytes:
    return b"<html>404 not found</html>"


def bomb() -> bytes:
    """A few bytes that say they are an image of 40,000 x 40,000 px."""
    whole = encoded(Image.new("1", (16, 16)))
    header = whole[12:29].replace((16).to_bytes(4, "big") * 2, (40_000).to_bytes(4, "big") * 2)
    return whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]


def floats() -> bytes:
    return encoded(Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF")


def script() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"


REFUSED: dict[Callable[[], bytes], str] = {
    truncated: "cannot be decoded",
    empty: "the file is empty",
    text: "cannot be decoded",
    bomb: "pixels",
    floats: "floats",
    script: "cannot be decoded",
}


def make_folder(root: Path, **files: bytes) -> Path:
    """Two classes of three images, and further files in the first one."""
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(3):
            picture = Image.fromarray(RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            picture.save(root / label / f"{number}.png")
    for name, content in files.items():
        (root / "a" / name).write_bytes(content)
    return root


def read(root: Path) -> OwnData:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_own(OwnSpec(root), root.parent / "store")


def reasons(data: OwnData) -> dict[str, str]:
    return {one.id: one.reason for one in data.left_out}


@pytest.mark.parametrize("make", list(CONVERTED), ids=lambda make: make.__name__)
def test_it_is_converted_and_a_note_says_so(make: Callable[[], bytes], tmp_path: Path) -> None:
    data = read(make_folder(tmp_path / "data", **{"odd.png": make()}))
    assert "a/odd.png" in data.train.ids
    assert data.left_out == ()
    assert any(note.startswith(CONVERTED[make]) for note in data.notes), data.notes


@pytest.mark.parametrize("make", list(REFUSED), ids=lambda make: make.__name__)
def test_it_is_left_out_and_the_reason_is_listed(make: Callable[[], bytes], tmp_path: Path) -> None:
    data = read(make_folder(tmp_path / "data", **{"odd.png": make()}))
    assert len(data.train.ids) == 6
    assert REFUSED[make] in reasons(data)["a/odd.png"]
    assert "\n" not in reasons(data)["a/odd.png"]
    manifest = write_subset(data, np.ones(6, dtype=np.bool_), tmp_path / "cleaned", copy=False)
    assert not (tmp_path / "cleaned" / "a" / "odd.png").exists()
    assert "a/odd.png,train," in manifest.path.read_text(encoding="utf-8")
    assert read(tmp_path / "cleaned").left_out == ()


def test_an_image_lies_as_the_camera_was_held(tmp_path: Path) -> None:
    data = read(make_folder(tmp_path / "data", **{"odd.jpg": turned()}))
    assert data.sizes == ((24, 12), (24, 24))
    assert any(note.startswith("1 image: not square") for note in data.notes)


def test_what_is_no_image_is_listed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", **{".hidden.png": grey(), "notes.txt": b"x", "Thumbs.db": b"x"})
    (root / "readme.md").write_text("x")
    (root / "logs").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "a" / "deeper").mkdir()
    (root / "a" / "deeper" / "one.PNG").write_bytes(grey())
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "a" / "nowhere.png").symlink_to(root / "not there")
    os.mkfifo(root / "a" / "pipe.png")
    data = read(root)
    assert "a/deeper/one.PNG" in data.train.ids
    assert reasons(data) == {
        "__MACOSX": "hidden",
        "a/.hidden.png": "hidden",
        "a/Thumbs.db": "no image, by the ending of its name",
        "a/loop": "a link to a folder that it lies in",
        "a/notes.txt": "no image, by the ending of its name",
        "a/nowhere.png": "no file, or a link to none",
        "a/pipe.png": "no plain file",
        "logs": "a folder without an image",
        "readme.md": "it lies in no folder of a class",
    }


def test_names_may_hold_anything(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", **{'日本 \n,".png': grey()})
    (root / "żółw").mkdir()
    (root / "żółw" / "é.png").write_bytes(grey())
    raw = os.path.join(os.fsencode(root), b"a", b"\xff.png")
    with open(raw, "wb") as file:
        file.write(grey())
    data = read(root)
    assert {'a/日本 \n,".png', "żółw/é.png", "a/\\xff.png"} <= set(data.train.ids)
    assert data.classes == ("a", "b", "żółw")
    write_subset(data, np.ones(len(data.train.ids), dtype=np.bool_), tmp_path / "cleaned", copy=True)
    again = read(tmp_path / "cleaned")
    assert again.train.ids == data.train.ids
    assert again.fingerprint == data.fingerprint


def test_many_sizes_are_brought_to_one(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    for number, side in enumerate((9, 80, 200)):
        Image.fromarray(RNG.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8)).save(root / "b" / f"x{number}.png")
    data = read(root)
    assert data.train.images.shape == (9, 32, 32, 3)
    assert data.sizes == ((9, 18), (200, 400))
    assert data.notes[0] == (
        "Images of 9 x 18 to 200 x 400 px (height x width) are brought to 32 x 32 px, chosen from the data; "
        "--image-size sets another."
    )
    assert read_own(OwnSpec(root, 48), tmp_path / "store").train.images.shape == (9, 48, 48, 3)


def test_large_images_become_64_px(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (300, 200)).save(tmp_path / "data" / label / "1.jpg")
    assert describe_own(OwnSpec(tmp_path / "data")).spec.image_size == 64


def test_a_class_of_which_nothing_can_be_decoded_does_not_count(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    (root / "aa").mkdir()
    (root / "aa" / "1.png").write_bytes(b"x")
    data = read(root)
    assert data.classes == ("a", "b")
    assert data.train.labels.max() == 1
    assert any("without training images is not counted: aa" in note for note in data.notes)


def test_test_images_of_an_unknown_class_are_listed(tmp_path: Path) -> None:
    make_folder(tmp_path / "data" / "train")
    make_folder(tmp_path / "data" / "test")
    (tmp_path / "data" / "test" / "b").rename(tmp_path / "data" / "test" / "c")
    data = read(tmp_path / "data")
    assert data.test is not None
    assert len(data.test.ids) == 3
    assert reasons(data)["test/c/0.png"] == "its class c has no training images"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: root / "nowhere", "there must be a folder or a file at"),
        (lambda root: (root / "x").mkdir() or root / "x", "must hold images, one folder a class"),
        (lambda root: make_folder(root / "test").parent, "add a folder train"),
        (lambda root: _only(root, "a"), "at least 2 classes, got those of class a alone"),
        (lambda root: _only(root, "a", "b"), "none of its 2 can"),
        (lambda root: _file(root, "a.zip"), "unpack it"),
        (lambda root: _file(root, "a.h5"), "save its arrays by numpy.savez"),
        (lambda root: _file(root, "a"), "is none of them: check the path"),
    ],
)
def test_what_cannot_be_read_is_one_line(make: Callable[[Path], Path], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as caught:
        read_own(OwnSpec(make(tmp_path)), tmp_path / "store")
    assert "\n" not in str(caught.value)


def _only(root: Path, *labels: str) -> Path:
    for label in labels:
        (root / "data" / label).mkdir(parents=True)
        (root / "data" / label / "1.png").write_bytes(grey() if len(labels) == 1 else b"no image")
    return root / "data"


def _file(root: Path, name: str) -> Path:
    (root / name).write_bytes(b"something")
    return root / name


@pytest.mark.parametrize("size", [-1, 0, 7, 1025])
def test_a_size_is_checked(size: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--image-size must lie between 8 and 1,024 px, got {size}"):
        read_own(OwnSpec(make_folder(tmp_path / "data"), size), tmp_path / "store")


def test_an_input_that_changed_is_not_written(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    data = read(root)
    (root / "a" / "0.png").write_bytes(grey())
    with pytest.raises(UserError, match="must not change while it is cleaned"):
        write_subset(data, np.ones(6, dtype=np.bool_), tmp_path / "cleaned", copy=False)


@pytest.mark.parametrize("place", ["data", "data/a", "data/new", "."])
def test_a_cleaned_set_lies_outside_of_the_input(place: str, tmp_path: Path) -> None:
    data = read(make_folder(tmp_path / "data"))
    with pytest.raises(UserError, match="must lie outside of the input"):
        write_subset(data, np.ones(6, dtype=np.bool_), tmp_path / place, copy=False)


def test_only_a_cleaned_set_is_replaced(tmp_path: Path) -> None:
    data = read(make_folder(tmp_path / "data"))
    kept = np.arange(6) > 0
    write_subset(data, np.ones(6, dtype=np.bool_), tmp_path / "cleaned", copy=False)
    manifest = write_subset(data, kept, tmp_path / "cleaned", copy=False)
    assert (manifest.kept, manifest.linked) == (5, 5)
    assert not (tmp_path / "cleaned" / "a" / "0.png").exists()
    assert os.path.samefile(tmp_path / "cleaned" / "a" / "1.png", tmp_path / "data" / "a" / "1.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="must be empty, or a cleaned set"):
        write_subset(data, kept, tmp_path / "other", copy=False)
    assert (tmp_path / "other" / "mine.txt").exists()


def test_a_second_test_set_stays_as_it_is(tmp_path: Path) -> None:
    for split in ("train", "test", "val"):
        make_folder(tmp_path / "data" / split)
    data = read(tmp_path / "data")
    assert data.notes == ("There is more than one test set: val/ is not used, and stays as it is.",)
    write_subset(data, np.arange(6) > 0, tmp_path / "cleaned", copy=False)
    assert len(list((tmp_path / "cleaned" / "val").rglob("*.png"))) == 6
    assert len(list((tmp_path / "cleaned" / "train").rglob("*.png"))) == 5


def test_images_that_a_table_does_not_name_are_listed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    rows = [f"{label}/{number}.png,{label}" for label in ("a", "b") for number in range(2)]
    (root / "metadata.csv").write_text("\n".join(["file_name,label", *rows, "a/9.png,a", "a/2.png,"]))
    data = read(root)
    assert len(data.train.ids) == 4
    assert reasons(data) == {
        "b/2.png": "metadata.csv does not name it",
        "metadata.csv:4": "there is no file 'a/9.png'",
        "a/2.png": "it has no label",
    }


def test_a_column_that_nothing_has_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    with pytest.raises(UserError, match=r"--label-column changes nothing with .* \(image folder\), got 'y'"):
        read_own(OwnSpec(root, label_column="y"), tmp_path / "store")


def test_a_folder_too_high_names_the_one_below(tmp_path: Path) -> None:
    make_folder(tmp_path / "data" / "set")
    with pytest.raises(UserError, match=f"at least 2 classes, got those of class set alone: name {tmp_path}/data/set"):
        describe_own(OwnSpec(tmp_path / "data"))


def test_a_test_set_of_which_nothing_can_be_decoded_is_none(tmp_path: Path) -> None:
    make_folder(tmp_path / "data" / "train")
    (tmp_path / "data" / "test" / "a").mkdir(parents=True)
    (tmp_path / "data" / "test" / "a" / "1.png").write_bytes(b"")
    data = read(tmp_path / "data")
    assert data.test is None
    assert reasons(data) == {"test/a/1.png": "the file is empty"}
    write_subset(data, np.ones(6, dtype=np.bool_), tmp_path / "cleaned", copy=False)
    assert read(tmp_path / "cleaned").fingerprint == data.fingerprint


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    (root / "b").rename(root / "train")
    assert read(root).classes == ("a", "train")
    assert read(root).test is None
