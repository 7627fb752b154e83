"""The budget of a method that trains for several hundred epochs: one field that scales them all."""

from dataclasses import dataclass

from defenses.config import Config, param


@dataclass(frozen=True)
class BudgetConfig(Config):
    """The field of methods whose epochs are scaled together; a stage that trains reads it beside its epochs."""

    budget_fraction: float = param(
        1.0, "scales every epoch count, so that a dear method can be tried for less (ours)", low=1e-3, high=1.0
    )


def scaled_epochs(epochs: int, budget_fraction: float) -> int:
    """So much of a number of epochs: rounded, at least one; none stay none."""
    return max(1, round(epochs * budget_fraction)) if epochs else 0
