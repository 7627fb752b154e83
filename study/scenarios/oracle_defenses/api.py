"""Oracle defenses: experiments of the papers that are told which samples are poisoned, which no defense may be."""

import dataclasses
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from defenses.api import Defense, Outputs, Params, Stage, StageContext


def _not_given(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    raise RuntimeError("an oracle defense runs once it was given the ground truth: see OracleDefense.with_ground_truth")


GROUND_TRUTH = Stage(
    name="ground_truth",
    run=_not_given,
    reads=(),
    outputs=("poison_mask",),
    cached=False,
)
"""Gives the poison mask, bool [N], to the stages that name it as an input: their keys then hold its content."""


class OracleDefense(Defense):
    """Runs like a defense, on what no defender has. Its first stage is `GROUND_TRUTH`.

    Stages that do not take the mask keep the keys that they have in a defense, and are shared with it.
    """

    stages: ClassVar[tuple[Stage, ...]] = (GROUND_TRUTH,)

    @classmethod
    def with_ground_truth(cls, poison_mask: NDArray[np.bool_]) -> type[Self]:
        """The same oracle defense, knowing which samples are poisoned.

        Args:
            poison_mask: bool [N].
        """

        def tell(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
            return {"poison_mask": poison_mask}

        told = dataclasses.replace(GROUND_TRUTH, run=tell)
        stages: dict[str, Any] = {"stages": tuple(told if stage is GROUND_TRUTH else stage for stage in cls.stages)}
        return cast(type[Self], type(cls.__name__, (cls,), stages))
