"""The contract of an attack: which images it may take, what label they get, and how a trigger is put on."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from defenses.config import Config, param
from defenses.seeds import derive_seed
from study.datasets.images import Images

if TYPE_CHECKING:
    from study.attacks.support.fitting import FitContext

State = dict[str, Any]
"""What `Attack.fit` gives `Attack.apply`: arrays by name, or networks on their device."""
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

TRAIN, COVER, TEST = "train", "cover", "test"
"""What an image is triggered for: as poison, as a cover that keeps its label, or to measure the attack."""


@dataclass(frozen=True)
class AttackConfig(Config):
    """What every attack can be told.

    Counts and rounding follow the backdoor toolbox unless a field says otherwise.
    """

    rate_base: str = param(
        "dataset",
        "what a poison rate is a share of: all images, or those of the target class",
        choices=("dataset", "class"),
    )
    cap: bool = param(False, "poison a whole class when it has too few images, instead of refusing")
    quantise: str = param(
        "round",
        "how results become uint8: rounded half up, or truncated as some references do",
        choices=("round", "truncate"),
    )
    cover_ratio: float = param(
        0.0, "covers a poisoned image: images with a trigger that keep their label", low=0.0, high=10.0
    )
    include_target: bool = param(
        False, "measure the ASR on the target class too, as the QT code does: a clean model then scores"
    )


def selection_order(count: int, seed: int) -> NDArray[np.int64]:
    """The order in which any attack takes training images; its prefixes are the poisoned sets.

    Returns:
        int64 [count], all positions.
    """
    return np.random.default_rng(derive_seed(seed, "select")).permutation(count)


class Attack:
    """One attack. Subclasses override `fit` and `apply`; both are pure functions of their arguments and the config.

    Attributes:
        clean_label: True takes images of the target class alone and leaves their labels.
        poisons: False for the control.
        received: True for data that somebody else poisoned.
        version: raised when the same options would give other images; part of the poisoned data's key.
        trained: the parts that `fit` trains, by stage; such an attack is fitted once a dataset and seed.
        presets: what a preset changes in the Config, whose defaults are the papers' values.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[AttackConfig]] = AttackConfig
    clean_label: ClassVar[bool] = False
    poisons: ClassVar[bool] = True
    received: ClassVar[bool] = False
    version: ClassVar[int] = 1
    trained: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: AttackConfig | None = None) -> None:
        self.config = self.config_type() if config is None else config

    def rng(self, seed: int, purpose: str) -> np.random.Generator:
        """Random numbers of this attack for one purpose, independent of every other."""
        return np.random.default_rng(derive_seed(seed, self.name, purpose))

    def image_rngs(self, seed: int, purpose: str, index: NDArray[np.int64]) -> Iterator[np.random.Generator]:
        """One stream of random numbers an image, by its position alone; for draws too large to be made for all.

        Args:
            index: int64 [n], the images' positions.
        """
        key = derive_seed(seed, self.name, purpose)
        for position in index.tolist():
            yield np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, position]))

    def version_for(self, images: Images) -> int:
        """The version as far as these images would be others; 1 where all versions give the same."""
        return self.version

    @property
    def preview_rows(self) -> int:
        """Rows of images in an attack's picture: clean, poisoned and their difference; of received data the poison."""
        return 1 if self.received else 3

    def identity(self) -> dict[str, Any]:
        """The options as the poisoned data depend on them: where one names a file, the file's content."""
        return dataclasses.asdict(self.config)

    def check(self, images: Images) -> None:
        """Refuses images on which the attack cannot work, with a `UserError`. Trains nothing and takes no time."""

    def fit(self, images: Images, context: "FitContext") -> State:
        """What the trigger is made of (patterns, grids, networks), from training images alone."""
        return {}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies of images.

        Args:
            images: uint8 [n, H, W, 3]; not changed.
            index: int64 [n], their positions in the training set (the test set for ``test``): what is drawn for an
                image depends on it alone, so that chunks of any size give the same result.
            state: of `fit`.
            split: `TRAIN`, `COVER` or `TEST`.

        Returns:
            uint8 [n, H, W, 3].

        Raises:
            TypeError: the attack puts no trigger on images.
        """
        raise TypeError(f"attack {self.name!r} puts no trigger on images")

    def attacker_labels(self, labels: Labels, target_label: int, num_classes: int) -> Labels:
        """What the attacker wants triggered images to be called, int64 [n], from their true labels."""
        return np.full(len(labels), target_label, dtype=np.int64)

    def victims(self, labels: Labels, target_label: int) -> NDArray[np.int64]:
        """The test images that the attack is measured on: those of other classes than the target's.

        Args:
            labels: int64 [N], their true labels.

        Returns:
            int64 [victims], positions.
        """
        return np.flatnonzero((labels != target_label) | self.config.include_target)
