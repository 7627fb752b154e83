"""The data as a person has them, and as studies are given them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.storage.atomic_files import disk_errors
from study.cleaning.options import STUDIES, CleanConfig
from study.cli.paths import expand_home
from study.datasets.own.data import OwnData, OwnSpec
from study.datasets.own.dataset import HELD_OUT, StudySpec, study_rows, write_spec


@dataclass(frozen=True)
class StudyData:
    """A dataset that a study is given.

    Attributes:
        name: as `study.run --dataset` takes it.
        fingerprint: of the images, and of which of them are used.
        labels: int64 [N], of the training images.
    """

    name: str
    fingerprint: str
    labels: NDArray[np.int64]


def own_spec(config: CleanConfig) -> OwnSpec:
    """How the data are to be read."""
    path = expand_home(config.data).absolute()
    return OwnSpec(path, config.image_size, config.image_column, config.label_column)


def check_places(config: CleanConfig) -> None:
    """Refuses data that are not there, and folders to write to that lie in them or hold them.

    Raises:
        UserError: see above.
    """
    data, folder = expand_home(config.data), config.folder
    if not data.exists():
        raise UserError(f"the dataset must be a folder or a file, and there is nothing at {config.data}: name another")
    inner = data.resolve()
    if folder == inner or (inner.is_dir() and inner in folder.parents):
        raise UserError(
            f"--out must lie outside of the data, which are not touched, got {config.out} in {config.data}: choose "
            "another"
        )
    store = config.store_place
    if isinstance(store, Path) and (store == inner or inner in store.parents):
        raise UserError(
            f"--store must lie outside of the data, which are not touched, got {store}: name another folder, or start "
            "from another one, since by default it is runs/store there"
        )
    if folder in inner.parents:
        raise UserError(f"--out must not hold the data, got {config.out}, in which {config.data} lies: choose another")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out must be a folder, and {config.out} is a file: choose another")


def whole(config: CleanConfig, data: OwnData) -> StudyData:
    """All of the data."""
    return _given(config, data, "data", np.zeros(len(data.train.labels), dtype=bool), 0.0)


def unsuspected(config: CleanConfig, data: OwnData, suspected: NDArray[np.bool_]) -> StudyData:
    """The data without suspected images, to plant known attacks into; a share is the test set where they have none.

    Args:
        suspected: bool [N].
    """
    return _given(config, data, "unsuspected", suspected, 0.0 if data.test is not None else HELD_OUT)


def kept_part(config: CleanConfig, data: OwnData, kept: NDArray[np.bool_]) -> StudyData:
    """What is kept, to train a model on it.

    Args:
        kept: bool [N].
    """
    return _given(config, data, "kept", ~kept, 0.0)


def _given(config: CleanConfig, data: OwnData, name: str, left_out: NDArray[np.bool_], held_out: float) -> StudyData:
    folder = config.folder / STUDIES
    rows, without = np.flatnonzero(left_out).astype(np.int64), None
    with disk_errors(config.folder):
        folder.mkdir(parents=True, exist_ok=True)
        if len(rows):
            without = folder / f"{name}-without.npy"
            np.save(without, rows)
        spec = StudySpec(data.spec, without, held_out)
        dataset = write_spec(spec, folder / f"{name}.json")
    train, _ = study_rows(spec, data)
    digest = f"{data.fingerprint} {rows.tobytes().hex() if len(rows) else ''} {held_out}"
    return StudyData(dataset, digest, data.train.labels[train])
