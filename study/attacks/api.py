"""The contract of an attack: which images it may take, what label they get, and how a trigger is put on."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from defenses.config import Config, param
from defenses.seeds import derive_seed
from study.datasets.images import Images

State = dict[str, NDArray[Any]]
Pixels = NDArray[np.uint8]


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


class Attack:
    """One attack. Subclasses override `fit` and `apply`; both are pure functions of their arguments and the config.

    Attributes:
        clean_label: True takes images of the target class alone and leaves their labels.
        poisons: False for the control.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[AttackConfig]] = AttackConfig
    clean_label: ClassVar[bool] = False
    poisons: ClassVar[bool] = True

    def __init__(self, config: AttackConfig | None = None) -> None:
        self.config = self.config_type() if config is None else config

    def rng(self, seed: int, purpose: str) -> np.random.Generator:
        """Random numbers of this attack for one purpose, independent of every other."""
        return np.random.default_rng(derive_seed(seed, self.name, purpose))

    def identity(self) -> dict[str, Any]:
        """The options as the poisoned data depend on them: where one names a file, the file's content."""
        return dataclasses.asdict(self.config)

    def fit(self, images: Images, seed: int) -> State:
        """What the trigger is made of (patterns, grids, weights), from training images alone."""
        return {}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies of images.

        Args:
            images: uint8 [n, H, W, 3]; not changed.
            index: int64 [n], their positions in the split: what is drawn for an image depends on it alone, so that
                chunks of any size give the same result.
            state: of `fit`.
            split: ``train`` or ``test``.
        """
        raise TypeError(f"attack {self.name!r} puts no trigger on images")
