"""The training images that a scenario's defense was given, as far as they are on this machine. Nothing is made anew."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.analysis.results import Results
from study.datasets.images import Images

if TYPE_CHECKING:
    from defenses.storage.store import Artifact

_MOST_FILES = 5000  # of a folder of pictures: reading more for a few of them would take long


@dataclass(frozen=True)
class StoredImages:
    """A scenario's poisoned data in the store, and the clean images beside them.

    Attributes:
        fingerprint: of the suspect dataset.
        preview: uint8 [3 h, n w, 3], see `study.scenarios.poison.PoisonedDataset`.
    """

    fingerprint: str
    preview: NDArray[np.uint8]
    _artifact: "Artifact"
    _source: "ImageSource"

    def rows(self, wanted: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """Training images as the defense had them; None where some are not here.

        Args:
            wanted: int64 [n], positions in the training set.
            labels: int64 [N], of the training set as received.

        Returns:
            uint8 [n, h, w, 3].
        """
        rows = np.asarray(self._artifact.load("rows"))
        changed = self._artifact.load("images")
        place = {int(row): at for at, row in enumerate(rows)}
        clean = None
        if not all(int(row) in place for row in wanted):
            clean = self._source.clean(len(labels))
            untouched = np.setdiff1d(np.arange(len(labels)), rows)
            if clean is None or not np.array_equal(clean.train_labels[untouched], labels[untouched]):
                return None
        chosen: list[Any] = []
        for row in map(int, wanted):
            if row in place:
                chosen.append(changed[place[row]])
            elif clean is not None:
                chosen.append(clean.train_images[row])
        return np.stack(chosen).astype(np.uint8)


class ImageSource:
    """Where a study's images are: its store and its dataset. Both are read when they are asked for.

    Args:
        results: the study.
    """

    def __init__(self, results: Results) -> None:
        self._results = results

    @functools.cached_property
    def place(self) -> Path:
        """The store's folder here, which need not exist; of a store behind a URL this machine's copy."""
        from defenses.storage.remote import cache_folder, is_url

        config = self._results.config
        if config.store is None:  # it lies beside the studies, and moves with them
            return self._results.folder.resolve().parent / "store"
        place = config.store_place
        return cache_folder(str(place)) if is_url(place) else Path(place)

    def load(self, scenario: str) -> StoredImages | None:
        """The poisoned data of a scenario; None where the store does not have them."""
        from defenses.storage.store import Store

        stages = self._results.stages
        keys = stages.loc[(stages["stage"] == "poison") & (stages["scenario"] == scenario), "key"].unique()
        for key in map(str, keys if self.place.is_dir() else ()):
            try:
                artifact = Store(self.place).look("poison", key)
                if artifact is not None:
                    fingerprint, preview = artifact.load("fingerprint"), np.asarray(artifact.load("preview"))
                    return StoredImages(str(fingerprint), preview, artifact, self)
            except (UserError, OSError, ValueError, KeyError):  # a link in its place, or what this version cannot read
                continue
        return None

    def clean(self, count: int) -> Images | None:
        """The clean dataset; None where it is not here, or has other than `count` training images."""
        spec = self._spec
        if spec.kind == "folder" and count > _MOST_FILES:
            return None
        images = self._clean
        return images if images is not None and len(images.train_labels) == count else None

    @property
    def _spec(self) -> Any:
        from study.planning.plan import dataset_spec

        spec = dataset_spec(self._results.config)
        store = spec.store if spec.kind == "own" and self.place.is_dir() else None  # whose images lie there alone
        return dataclasses.replace(spec, download=False, at_most=("train", "test"), store=store)

    @functools.cached_property
    def _clean(self) -> Images | None:
        from study.datasets import load_dataset

        try:
            return load_dataset(self._spec)
        except (UserError, OSError):
            return None
