"""The digits are read and split without scikit-learn, and are the same as with it."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from study.datasets import digits


@pytest.mark.parametrize("seed", range(20))
def test_the_split_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(7), 2 + seed % 5), rng.integers(0, 7, 20 + 7 * seed)])
    options = {"test_size": 0.2, "stratify": labels, "random_state": seed}
    _, test = train_test_split(np.arange(len(labels)), **options)
    assert digits.stratified_test(labels, 0.2, seed).tolist() == sorted(test)


def test_the_values_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_digits()
    values, labels = digits._read()
    assert np.array_equal(values, known.data)
    assert np.array_equal(labels, known.target)
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda _: None)
    again = digits._read()
    assert np.array_equal(again[0], values), "where its file is not where it was, scikit-learn is asked"
    assert np.array_equal(again[1], labels)
