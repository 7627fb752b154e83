"""The clean reserve: test images that are set aside for the defenses that need clean ones, and judge nothing."""

import numpy as np
from numpy.typing import NDArray

from defenses.class_features import round_by_round
from defenses.registry import UserError
from defenses.seeds import derive_seed

Positions = NDArray[np.int64]


def split_reserve(labels: NDArray[np.int64], size: int, num_classes: int, name: str) -> tuple[Positions, Positions]:
    """Which test images are the reserve, and which are left to judge by.

    As many of each class as there are, drawn once for a dataset: a smaller reserve is the beginning of a larger one.

    Args:
        labels: int64 [N], of all test images.
        size: of the reserve.
        name: of the dataset, for a message.

    Returns:
        int64 [size], the first of each class first, and int64 [N - size], sorted.

    Raises:
        UserError: a class would be left without a test image.
    """
    rng = np.random.default_rng(derive_seed("clean reserve"))
    order = rng.permutation(len(labels))
    chosen = order[round_by_round(labels[order])][:size]
    counts = np.bincount(labels, minlength=num_classes)
    left = counts - np.bincount(labels[chosen], minlength=num_classes)
    if size > len(labels) or (left[counts > 0] == 0).any():
        fewest = int(counts[counts > 0].min())
        raise UserError(
            f"a clean reserve of {size} images is taken out of the {len(labels)} test images of {name}, and a class "
            f"with {fewest} of them would keep none to judge by: use at most {(fewest - 1) * int((counts > 0).sum())} "
            "(--clean-reserve, or the defense's clean_images)"
        )
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)
