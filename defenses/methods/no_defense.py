"""No defense: plain training on the data as received.

It is a defense like any other, so the undefended model needs no special path. The recipe is PIPD's, appendix B.2.
Stages: `standard_training`.
"""

from dataclasses import dataclass

from defenses.api import Defense
from defenses.config import Config, param
from defenses.shared_stages import STANDARD_TRAINING
from defenses.training.schedule import SCHEDULES


@dataclass(frozen=True)
class NoDefenseConfig(Config):
    """Fields of plain training."""

    epochs: int = param(200, "passes over the training set (PIPD, B.2)", low=1)
    lr: float = param(0.1, "peak learning rate of SGD (PIPD, B.2)", low=1e-6, high=10.0)
    batch_size: int = param(128, "images a step (PIPD, B.2)", low=2)
    schedule: str = param("step", "learning rate over the run (PIPD, B.2: / 10 at 1/2 and 3/4)", choices=SCHEDULES)
    momentum: float = param(0.9, "SGD momentum (PIPD, B.2)", low=0.0, high=1.0)
    weight_decay: float = param(5e-4, "SGD weight decay (PIPD, B.2)", low=0.0, high=1.0)
    augment: bool = param(True, "random flip and crop (PIPD, B.3)")
    read_epoch: int | None = param(
        None, "the epoch after which the training is read, at most all (ours); none for the end", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_read_epoch("read_epoch", "epochs")


class NoDefense(Defense):
    """Trains on everything and flags nothing."""

    name = "no_defense"
    config_type = NoDefenseConfig
    stages = (STANDARD_TRAINING,)
    weights = "standard_training.weights"
