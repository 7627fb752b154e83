"""The handwritten digits that come with scikit-learn (UCI optdigits): real, embedded, no download."""

import numpy as np

from defenses.seeds import derive_seed
from study.datasets import DatasetSpec
from study.datasets.images import Images

SCALE = 4  # 8 px to 32 px, each pixel a 4x4 square
TEST_SHARE = 0.2


def load(spec: DatasetSpec) -> Images:
    """1,437 training and 360 test images, uint8 [N, 32, 32, 3], split class by class with a fixed seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = grey.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    images = np.repeat(large[..., None], 3, axis=3)
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=derive_seed("digits") % 2**32
    )
    train.sort()
    test.sort()
    return Images.of(images[train], labels[train], images[test], labels[test], tuple("0123456789"))
