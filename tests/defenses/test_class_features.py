"""Labels one at a time, and principal directions against a singular value decomposition."""

import numpy as np
import pytest

from defenses.class_features import centred, principal_directions, samples_by_label


def test_labels_without_samples_are_left_out_and_positions_are_those_of_the_data() -> None:
    labels = np.array([3, 1, 3, 0], dtype=np.int64)
    assert [(label, members.tolist()) for label, members in samples_by_label(labels)] == [
        (0, [3]),
        (1, [1]),
        (3, [0, 2]),
    ]


@pytest.mark.parametrize(("n", "size"), [(200, 12), (12, 200), (30, 30)])
def test_directions_are_the_right_singular_vectors(n: int, size: int) -> None:
    rows = centred(np.random.default_rng(0).normal(size=(n, size)).astype(np.float32))
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    directions, ours = principal_directions(rows, 5)
    assert ours == pytest.approx(values[:5])
    assert np.abs((directions * vectors[:5]).sum(axis=1)) == pytest.approx(np.ones(5), abs=1e-6)


def test_there_are_no_more_directions_than_the_rank() -> None:
    rng = np.random.default_rng(0)
    rows = centred(rng.normal(size=(50, 2)) @ rng.normal(size=(2, 20)))
    assert [len(part) for part in principal_directions(rows, 10)] == [2, 2]
    assert principal_directions(centred(np.ones((4, 3))), 2)[0].shape == (0, 3)
    assert principal_directions(centred(np.ones((1, 3))), 2)[0].shape == (0, 3)
