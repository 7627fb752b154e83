"""Images that a small network learns in a few epochs."""

import numpy as np

from defenses.api import CleanReserve
from study.datasets.images import Images

CLASSES, SIZE = 4, 16


def make_images(train: int = 128, test: int = 64, classes: int = CLASSES, size: int = SIZE, seed: int = 0) -> Images:
    """Noisy images whose class is the row of a bright band: learned in a few epochs, class-balanced."""
    rng = np.random.default_rng(seed)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (np.arange(count) % classes).astype(np.int64)
        images = rng.integers(0, 80, (count, size, size, 3))
        height = max(1, size // classes)
        for label in range(classes):
            start = min(label * height, size - height)
            images[labels == label, start : start + height] += 120
        return images.astype(np.uint8), labels

    train_images, train_labels = split(train)
    test_images, test_labels = split(test)
    return Images.of(train_images, train_labels, test_images, test_labels, tuple(f"c{i}" for i in range(classes)))


def make_reserve(classes: int = CLASSES, size: int = SIZE) -> CleanReserve:
    """32 clean images like those of `make_images`, and none of them."""
    beside = make_images(8, 32, classes, size, seed=1000)
    return CleanReserve.of(beside.test_images, beside.test_labels, classes)
