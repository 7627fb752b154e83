"""What a stage costs in passes over the training set, whatever machine it runs on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.api import Params, Stage

FORWARD = 1 / 3
"""A forward pass over all samples, of an epoch: the pass backward takes about twice as long."""


def stage_cost(stage: Stage, fields: Mapping[str, Any], n: int, flagged: NDArray[np.bool_] | None = None) -> float:
    """The epoch-equivalents of a stage by what it declares; 0 for one that runs no network.

    Args:
        fields: the config fields that the stage reads.
        n: samples of the training set.
        flagged: bool [N], the input of that name; None where the stage has none.
    """
    if stage.cost is None:
        return 0.0
    share = 0.0 if flagged is None else float(np.asarray(flagged).mean())
    return float(stage.cost(Params(**fields, share_flagged=share), n))
