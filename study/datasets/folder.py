"""Folders of image files, one folder a class (torchvision's ImageFolder), resized once into memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets import DatasetSpec
from study.datasets.image_files import open_picture
from study.datasets.images import Images


def load(spec: DatasetSpec) -> Images:
    """``folder:DIR`` with ``train/CLASS/*`` and ``test/CLASS/*``; every image becomes image_size x image_size RGB.

    Raises:
        UserError: a folder is missing or empty, a picture cannot be read, or train and test have different classes.
    """
    train_images, train_labels, classes = _split(spec.path / "train", spec.image_size)
    test_images, test_labels, test_classes = _split(spec.path / "test", spec.image_size)
    if classes != test_classes:
        only = sorted(set(classes) ^ set(test_classes))
        raise UserError(f"train/ and test/ of {spec.path} must have the same classes; only one of them has {only}")
    return Images.of(train_images, train_labels, test_images, test_labels, classes)


def _split(folder: Path, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    from PIL import Image
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise UserError(f"there must be a folder {folder.resolve()} with one folder a class: check the path")
    try:
        listing = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder} must hold one folder of images a class: {error}") from error
    images = np.empty((len(listing.samples), size, size, 3), dtype=np.uint8)

    def read(item: tuple[int, tuple[str, int]]) -> None:
        position, (path, _) = item
        with open_picture(path, f"{path} must be a readable image", "; remove or mend it") as image:
            images[position] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        list(pool.map(read, enumerate(listing.samples)))
    return images, np.array(listing.targets, dtype=np.int64), tuple(listing.classes)
