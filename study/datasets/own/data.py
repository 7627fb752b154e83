"""What is known of a person's own dataset once it is read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OwnSpec:
    """Which data, and how they are read.

    Attributes:
        path: a folder or a file; what it holds is found out by looking.
        image_size: px that images are brought to; None takes one that suits the data.
        image_column, label_column: of tables; None finds them by their types and names.
    """

    path: Path
    image_size: int | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Split:
    """Samples in the order of the input.

    Attributes:
        images: uint8 [N, S, S, 3]; a memory map of the store's files, never written to.
        labels: int64 [N], in [0, K).
        ids: N names that are stable and differ: a path relative to the input, or a row or member of a file in it.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """A sample or file that is not used.

    Attributes:
        id: as in `Split.ids`; a path for what is no sample.
        reason: in words, for people.
        split: ``train`` or ``test``; empty for what belongs to neither.
    """

    id: str
    reason: str
    split: str = ""


@dataclass(frozen=True)
class OwnData:
    """A dataset that was read.

    Attributes:
        spec: what was asked for, with the path absolute and every None replaced by what was found out.
        format: a short name, such as ``image folder``.
        train: what is looked through.
        test: None where the input has no test set; never cleaned.
        classes: K names.
        sizes: smallest and largest height and width in px before images were brought to one size: (h, w), (h, w).
        notes: what was converted, in sentences with counts.
        left_out: what is not used, and why.
        fingerprint: sha256 of the images and labels of both splits.
        stamp: sha256 of the names, sizes and times of last change of the files that were read: what is written of the
            input later is refused where they changed.
        image_keys: of the images of both splits in the store.
    """

    spec: OwnSpec
    format: str
    train: Split
    test: Split | None
    classes: tuple[str, ...]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    fingerprint: str
    stamp: str = ""
    image_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnSummary:
    """What a look at a dataset tells, before its images are decoded.

    Attributes:
        spec: as in `OwnData`: the image size is the one that `read_own` takes.
        format, classes, notes, left_out: as in `OwnData`, as far as they are known by names, labels and headers.
        train_counts: of each class.
        test_counts: of each class; None without a test set.
        sizes: smallest and largest height and width in px, of the headers of some images.
    """

    spec: OwnSpec
    format: str
    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...] | None
    sizes: tuple[tuple[int, int], tuple[int, int]]
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
