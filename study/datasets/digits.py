"""The handwritten digits that come with scikit-learn (UCI optdigits): real, embedded, no download."""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.seeds import derive_seed
from study.datasets import DatasetSpec
from study.datasets.images import Images

SCALE = 4  # 8 px to 32 px, each pixel a 4x4 square
TEST_SHARE = 0.2


def load(spec: DatasetSpec) -> Images:
    """1,437 training and 360 test images, uint8 [N, 32, 32, 3], split class by class with a fixed seed."""
    values, labels = _read()
    grey = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = grey.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    images = np.repeat(large[..., None], 3, axis=3)
    test = stratified_test(labels, TEST_SHARE, derive_seed("digits") % 2**32)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Images.of(images[train], labels[train], images[test], labels[test], tuple("0123456789"))


def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values in [0, 16], float64 [N, 64], and labels, int64 [N].

    They are read from scikit-learn's file: to import scikit-learn takes as long as all else that a dry run does.
    """
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if file is None or not file.is_file():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return np.asarray(digits.data, dtype=np.float64), digits.target.astype(np.int64)
    table = np.loadtxt(file, delimiter=",", encoding="ascii")
    return table[:, :-1], table[:, -1].astype(np.int64)


def stratified_test(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """The test part of scikit-learn's ``train_test_split(stratify=labels, random_state=seed)``, sorted: int64 [n].

    Args:
        labels: int64 [N], each from 0 to their greatest there at least twice.
        share: of the test part.
    """
    rng = np.random.RandomState(seed)
    counts = np.bincount(labels)
    of_class = np.split(np.argsort(labels, kind="mergesort"), np.cumsum(counts)[:-1])
    n_test = int(np.ceil(share * len(labels)))
    trained = _spread(counts, len(labels) - n_test, rng)
    tested = _spread(counts - trained, n_test, rng)
    chosen = []
    for indices, first, more in zip(of_class, trained, tested, strict=True):
        drawn = indices[rng.permutation(len(indices))]
        chosen.append(drawn[first : first + more])
    return np.sort(np.concatenate(chosen))


def _spread(counts: NDArray[np.int64], total: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """So many of each class that they are `total` together, in proportion to `counts`; chance decides among equals."""
    exact = counts / counts.sum() * total
    whole = np.floor(exact)
    left = int(total - whole.sum())
    over = exact - whole
    for value in np.sort(np.unique(over))[::-1] if left else ():
        (places,) = np.where(over == value)
        more = min(len(places), left)
        whole[rng.choice(places, size=more, replace=False)] += 1
        left -= more
        if left == 0:
            break
    spread: NDArray[np.int64] = whole.astype(np.int64)
    return spread
