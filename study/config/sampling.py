"""Which samplers cover a space, and how many trials it takes to say what matters there."""

import math

SPACE_FILLING = ("qmc", "random", "grid")
"""Samplers whose trials are spread over the space; a search's crowd where it found something good."""

DESIGNS = ("qmc", "random")
"""Samplers that draw points over the space, so that some fields of them can be drawn less often than others."""

LEAST_TRIALS = 5
"""For each searched hyperparameter, besides those that no sampler draws; with fewer no importance is computed."""


def least_trials(fields: int, acting_share: float = 1.0, given: int = 1) -> int:
    """Trials that a study of so many hyperparameters needs before it can tell which of them matter.

    Args:
        acting_share: of the trials, in which the hyperparameter that is asked about does something.
        given: trials that no sampler draws: the paper's default, and in a wide space the preset's values.
    """
    return math.ceil(LEAST_TRIALS * fields / acting_share) + given
