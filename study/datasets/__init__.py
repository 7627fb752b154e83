"""Image datasets, all uint8: ``digits``, ``cifar10``, ``cifar100``, ``npz:FILE``, ``folder:DIR``, ``own:PATH``."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.registry import Registry, UserError
from defenses.seeds import derive_seed
from study.cli.paths import expand_home
from study.datasets.images import Images, Rows, Source, class_text
from study.datasets.reserve import split_reserve

log = logging.getLogger(__name__)
_WITH_PATH = ("npz", "folder", "own")
_SHOWN = 5  # classes that a message names
Loader = Callable[["DatasetSpec"], Source]

DATASETS: Registry[Loader] = Registry(
    "dataset",
    {
        "digits": (
            "study.datasets.digits:load",
            "1,797 handwritten digits of scikit-learn at 32 px; needs no download",
        ),
        "cifar10": ("study.datasets.cifar:load_cifar10", "CIFAR-10, 50,000 + 10,000 images at 32 px (--download)"),
        "cifar100": ("study.datasets.cifar:load_cifar100", "CIFAR-100, 50,000 + 10,000 images at 32 px (--download)"),
        "npz": ("study.datasets.npz:load", "npz:FILE with train_images, train_labels, test_images, test_labels"),
        "folder": ("study.datasets.folder:load", "folder:DIR with train/CLASS/ and test/CLASS/ of image files"),
        "own": (
            "study.datasets.own.dataset:load",
            "own:PATH, your own data in any format of study/datasets/own, with or without test images",
        ),
    },
)


@dataclass(frozen=True)
class DatasetSpec:
    """Which images to use.

    Attributes:
        name: ``digits``, ``cifar10``, ``cifar100``, ``npz:FILE``, ``folder:DIR`` or ``own:PATH``.
        train_size, test_size: class-balanced subsets; None for all.
        at_most: splits (``train``, ``test``) whose size nobody asked for: data that cannot give it are taken whole.
        reserve: test images that are set aside for the defense before the test subset is taken.
        store: the artifact store, where images that may not fit into memory are kept as files; None keeps them in
            memory.
        image_size: side in px that the images of ``folder:`` and ``own:`` are resized to; ignored elsewhere.
        data_dir: where downloads lie.
        download: fetch what is missing; never done unasked.
    """

    name: str = "digits"
    train_size: int | None = None
    test_size: int | None = None
    image_size: int = 32
    data_dir: Path = Path(".data")
    download: bool = False
    at_most: tuple[str, ...] = ()
    reserve: int = 0
    store: Path | str | None = None

    @property
    def kind(self) -> str:
        """The part of the name before the colon."""
        return self.name.partition(":")[0]

    @property
    def path(self) -> Path:
        """The part of the name after the colon."""
        return expand_home(Path(self.name.partition(":")[2]))


def load_dataset(spec: DatasetSpec) -> Images:
    """The images of a spec, checked and cut to size.

    Raises:
        UserError: unknown name, a path missing or where none belongs, missing or malformed files, or a subset larger
            than the data.
    """
    kind = DATASETS.check(spec.kind)
    if kind in _WITH_PATH and not spec.name.partition(":")[2]:
        raise UserError(f"dataset {kind!r} needs a path: write --dataset {kind}:PATH")
    if kind not in _WITH_PATH and spec.name != kind:
        raise UserError(f"dataset {kind!r} takes nothing after its name, got {spec.name!r}: write --dataset {kind}")
    try:
        loaded = DATASETS[kind](spec)
        num_classes = len(loaded.classes)
        _check_classes(spec.name, loaded)
        train = _subset(spec, loaded.train_labels, spec.train_size, num_classes, "train")
        if not spec.reserve:
            return loaded.chosen(
                train, _subset(spec, loaded.test_labels, spec.test_size, num_classes, "test"), apart=None
            )
        apart, left = split_reserve(loaded.test_labels, spec.reserve, num_classes, spec.name)
        test = left[_subset(spec, loaded.test_labels[left], spec.test_size, num_classes, "test")]
        return loaded.chosen(train, test, apart)
    except MemoryError as error:
        raise UserError(
            f"{spec.name} must fit into memory, and does not: use a smaller set or smaller images, or folder:DIR, "
            "whose images stay on disk"
        ) from error


def _check_classes(name: str, loaded: Source) -> None:
    """Refuses data with a single class, and tells of classes without images: their numbers may be shifted by one.

    Raises:
        UserError: fewer than two classes have training images.
    """
    num_classes = len(loaded.classes)
    counts = {
        "training": np.bincount(loaded.train_labels, minlength=num_classes),
        "test": np.bincount(loaded.test_labels, minlength=num_classes),
    }
    filled = np.flatnonzero(counts["training"])
    if len(filled) < 2:
        only = ", ".join(class_text(loaded.classes, label) for label in filled.tolist())
        raise UserError(f"{name} must have training images of at least 2 classes, got those of class {only} alone")
    for split, count in counts.items():
        empty = np.flatnonzero(count == 0).tolist()
        if empty:
            log.warning(
                "%s: %d of %d classes have no %s images: %s%s",
                name,
                len(empty),
                num_classes,
                split,
                listed([class_text(loaded.classes, label) for label in empty]),
                "; labels count from 0, without gaps" if split == "training" else "",
            )


def listed(texts: Sequence[str]) -> str:
    """A few of them, and how many more there are."""
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return ", ".join([*texts[:_SHOWN], *more])


def _subset(spec: DatasetSpec, labels: NDArray[np.int64], size: int | None, num_classes: int, split: str) -> Rows:
    """As `balanced_subset`; all, and a warning, where a size that nobody asked for cannot be given."""
    try:
        return balanced_subset(labels, size, num_classes, split)
    except UserError:
        if split not in spec.at_most:
            raise
    if size is not None and size < len(labels):
        log.warning(
            "%s: it has not the preset's %d %s images, as many of each class: all %d are taken; --%s-size for fewer",
            spec.name,
            size,
            split,
            len(labels),
            split,
        )
    return slice(None)


def balanced_subset(labels: NDArray[np.int64], size: int | None, num_classes: int, split: str) -> Rows:
    """Indices of a class-balanced subset, in the order of the data; the same for the same labels and size.

    Classes get equally many images, the first ones one more where the size does not divide; a class that has too few
    is an error, since a lopsided subset would change what a defense sees.

    Args:
        labels: int64 [N].
        size: of the subset; None takes all.

    Returns:
        int64 [size], or a slice that takes all.

    Raises:
        UserError: a size below the number of classes or above N, or a class that has too few images.
    """
    if size is None or size == len(labels):
        return slice(None)
    if not num_classes <= size <= len(labels):
        raise UserError(
            f"--{split}-size must lie between the number of classes, {num_classes}, and the number of {split} images, "
            f"{len(labels)}, got {size}"
        )
    rng = np.random.default_rng(derive_seed("subset", split))
    fewest = int(np.bincount(labels, minlength=num_classes).min())
    way_out = f"choose at most {fewest * num_classes}" if fewest else f"leave --{split}-size out"
    chosen = []
    for label in range(num_classes):
        wanted = size // num_classes + (label < size % num_classes)
        of_class = np.flatnonzero(labels == label)
        if len(of_class) < wanted:
            raise UserError(
                f"a class-balanced --{split}-size of {size} needs {wanted} images of class {label}, "
                f"which has {len(of_class)}: {way_out}"
            )
        chosen.append(rng.permutation(of_class)[:wanted])
    return np.sort(np.concatenate(chosen))
