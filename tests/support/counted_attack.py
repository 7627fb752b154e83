"""An attack whose trained part is a number, so that tests can count how often it is trained."""

import numpy as np
from numpy.typing import NDArray

from study.attacks.api import Attack, Pixels, State
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images

TRAININGS: list[int] = []


class Counted(Attack):
    """Adds a trained constant to the first pixel."""

    name = "counted"
    trained = ("counted_part",)

    def fit(self, images: Images, context: FitContext) -> State:
        """The constant."""

        def build(_own: FitContext) -> State:
            TRAININGS.append(context.seed)
            context.progress("counted_part", 1, 1, {"loss": 0.5})
            return {"step": np.array([7 + context.seed])}

        return context.part("counted_part", images, {"target": context.target_label}, build)

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies."""
        out = images.copy()
        out[:, 0, 0] = out[:, 0, 0] // 2 + np.uint8(int(state["step"][0]))
        return out
