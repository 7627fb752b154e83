"""Where too little is left to plant known attacks into, what was found is told without."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cleaning_parts import CLASSES, LABELS, images, votes
from numpy.typing import NDArray

from study.cleaning import source
from study.cleaning.options import parse_clean
from study.cleaning.workflow import plant
from study.datasets.own.reading import read_own

ALL_BUT_STOP = np.flatnonzero(LABELS != 2)


@pytest.mark.parametrize(
    ("flagged", "left"), [(ALL_BUT_STOP, "all of class stop"), (np.arange(len(LABELS)), "nothing")]
)
def test_a_single_class_takes_no_planting_and_loses_no_verdict(
    flagged: NDArray[np.int64], left: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "signs.npz", images=images(), labels=LABELS, classes=np.array(CLASSES))
    config = parse_clean({"data": tmp_path / "signs.npz", "out": tmp_path / "out", "store": tmp_path / "store"})
    data = read_own(source.own_spec(config), config.store_place)
    work = SimpleNamespace(config=config, data=data, searches=())
    canaries, why = plant(work, votes(flagged), [])  # type: ignore[arg-type]
    assert canaries is None
    assert f"what is not flagged is {left}, and a planting takes two classes" in why
