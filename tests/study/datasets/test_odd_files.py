"""Any odd content of an npz file or a folder loads, or is refused by a `UserError`; nothing in it is executed."""

import io
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from small_images import make_images

from defenses.registry import UserError
from study.attacks import parse_attack
from study.datasets import DatasetSpec, load_dataset
from study.datasets.images import Images
from study.datasets.npz import KEYS

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's and numpy's, of what is odd; a user sees a line of each
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GOOD = {name: getattr(make_images(train=12, test=8, size=8), name) for name in KEYS}
OPTIONAL = (
    "classes",
    "poison_mask",
    "cover_mask",
    "original_labels",
    "test_triggered_images",
    "test_triggered_labels",
    "test_triggered_original_labels",
)


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.mark), "w")


def check(load: Callable[[], Images], mark: Path) -> None:
    """Loads what is whole, or refuses it; never another exception, and the trap stays shut."""
    try:
        loaded = load()
    except UserError as error:
        assert str(error)  # noqa: PT017
    else:
        assert loaded.train_images.dtype == np.uint8
        assert loaded.num_classes <= len(loaded.train_labels)
        assert loaded.train_labels.max() < loaded.num_classes
    assert not mark.exists()


def load_npz(path: Path, attack: bool) -> Images:
    """Reads it as a dataset, and as a given set if asked for."""
    images = load_dataset(DatasetSpec(f"npz:{path}"))
    if attack:
        parse_attack(f"given:file={path}").check(images)
    return images


DTYPES = st.one_of(
    st.sampled_from([np.dtype(text) for text in ("u1", "i8", "u8", "f4", "c8", "?", "U3", "S2", "M8[s]", ">i2")]),
    hnp.array_dtypes(max_size=2),
)
SHAPES = st.one_of(
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12),
    st.sampled_from([(12,), (12, 1), (8,), (12, 8, 8), (12, 8, 8, 1), (12, 8, 8, 3), (8, 8, 8, 3), (0, 8, 8, 3)]),
)
LABELS = st.sampled_from([np.int64, np.uint8, np.uint64]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.sampled_from([8, 12]), elements=hnp.from_dtype(np.dtype(dtype)))
)


@QUICK
@given(
    changes=st.dictionaries(
        st.sampled_from([*KEYS, *OPTIONAL]), st.one_of(hnp.arrays(DTYPES, SHAPES), LABELS), min_size=1, max_size=3
    ),
    attack=st.booleans(),
)
def test_npz_of_any_arrays(changes: dict[str, np.ndarray], attack: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "odd.npz"
        np.savez(path, **{**GOOD, **changes})  # type: ignore[arg-type]
        check(lambda: load_npz(path, attack), Path(folder) / "mark")


@st.composite
def members(draw: st.DrawFn) -> tuple[str, bytes, int]:
    """A member of a zip under the name of an array, whatever its bytes."""
    array = io.BytesIO()
    np.save(array, GOOD["train_labels"])
    content = bytearray(array.getvalue())
    kind = draw(st.sampled_from(["noise", "cut", "flipped", "header", "trap"]))
    if kind == "noise":
        content = bytearray(draw(st.binary(max_size=60)))
    elif kind == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif kind == "flipped":
        content[draw(st.integers(0, 127))] ^= draw(st.integers(1, 255))
    elif kind == "header":
        text = draw(st.text(max_size=60).filter(lambda text: "\0" not in text)).encode()
        content = bytearray(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    else:
        content = bytearray(b"trap")
    name = draw(st.sampled_from([*KEYS, "classes", "poison_mask"])) + draw(st.sampled_from([".npy", ""]))
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    return name, bytes(content), draw(st.sampled_from(methods))


@QUICK
@given(
    odd=st.lists(members(), min_size=1, max_size=3),
    cut=st.one_of(st.none(), st.integers(1, 200)),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=3),
)
def test_npz_of_any_bytes(odd: list[tuple[str, bytes, int]], cut: int | None, flips: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, mark = Path(folder) / "odd.npz", Path(folder) / "mark"
        trap = io.BytesIO()
        np.save(trap, np.array([Trap(mark)], dtype=object), allow_pickle=True)
        with zipfile.ZipFile(path, "w") as file:
            for name, array in GOOD.items():
                if name not in {key.removesuffix(".npy") for key, _, _ in odd}:
                    stream = io.BytesIO()
                    np.save(stream, array)
                    file.writestr(f"{name}.npy", stream.getvalue())
            for name, content, method in {name: (name, *rest) for name, *rest in odd}.values():
                file.writestr(name, trap.getvalue() if content == b"trap" else content, method)
        content = bytearray(path.read_bytes())
        for position, bits in flips:
            content[position % len(content)] ^= bits
        path.write_bytes(content[:-cut] if cut else content)
        check(lambda: load_npz(path, True), mark)


def test_a_pickle_alone_stays_shut(tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    check(lambda: load_npz(path, False), tmp_path / "mark")


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A picture of any kind, whole or damaged, or no picture."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=100))
    mode, kind = draw(
        st.sampled_from(
            [(mode, kind) for kind in ("PNG", "TIFF", "JPEG", "GIF", "WEBP", "BMP", "PPM") for mode in ("L", "RGB")]
            + [("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG")]
            + [("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF"), ("I", "PPM"), ("LAB", "TIFF"), ("CMYK", "TIFF")]
            + [("RGB", "EPS"), ("RGB", "ICO"), ("RGB", "PCX")]
        )
    )
    size = draw(st.sampled_from([(9, 9), (1, 1), (30, 7)]))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = draw(st.sampled_from([1, 6, 9, 0]))
    options: dict[str, Any] = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") and mode != "I;16" else {}
    Image.new(mode, size).save(stream, kind, **options)
    content = bytearray(stream.getvalue())
    for position in draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[position] ^= draw(st.integers(1, 255))
    return bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])


NAMES = st.one_of(
    st.sampled_from(["1.png", "2.jpg", "3.TIFF", ".hidden.png", "4.gif", "5", "deeper/1.png", ".deeper/1.png"]),
    st.text("aé .\n<", min_size=1, max_size=5).filter(lambda name: name.strip(".")).map(lambda name: f"{name}.png"),
)


@QUICK
@given(
    tree=st.dictionaries(
        st.tuples(st.sampled_from(["train", "test"]), st.sampled_from(["a", "b", ".c", "10", ""]), NAMES),
        files(),
        max_size=6,
    ),
    whole=st.booleans(),
)
def test_folders_of_any_files(tree: dict[tuple[str, str, str], bytes], whole: bool) -> None:
    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        for split in ("train", "test") if whole else ():
            for name in "ab":
                (root / split / name).mkdir(parents=True)
                Image.new("L", (9, 9)).save(root / split / name / "whole.png")
        for (split, name, file), content in tree.items():
            path = root / split / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        check(lambda: load_dataset(DatasetSpec(f"folder:{root}", image_size=8)), root / "mark")
