"""Label-consistent poison (Turner, Tsipras and Madry, 2019): hard images of the target class with corner patches.

Images of the target class are moved away from it on a surrogate's loss, so that a network must learn the patches; the
label is the true one. Test images get the patches alone. Patches are backdoor-toolbox's (one pattern in all corners)
or the authors' (the left corners mirrored, so that a flip changes nothing). The authors publish perturbed images and
no network; backdoor-toolbox reads their file ``two_600``. Here the perturbation is computed, for the poisoned images
alone and without a random start, as BackdoorBench does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.config import param
from study.attacks.api import TRAIN, Attack, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.marks import corner_signs
from study.attacks.support.networks import in_fixed_batches
from study.attacks.support.pixels import Values, to_uint8
from study.attacks.support.surrogate import (
    NORMS,
    SURROGATE_PRESETS,
    Ascent,
    SurrogateConfig,
    check_surrogate,
    surrogate,
)
from study.datasets.images import Images


@dataclass(frozen=True)
class LabelConsistentConfig(SurrogateConfig):
    """The perturbation and the patches."""

    norm: str = param("l2", "what bounds the perturbation (l2: backdoor-toolbox's file two_600)", choices=NORMS)
    epsilon: float = param(
        600.0, "its bound on a whole image, in [0, 255] units (linf: 8 or 16 are usual)", low=0.0, symbol="ε"
    )
    steps: int = param(100, "PGD steps (BackdoorBench)", low=0)
    step_scale: float = param(2.5, "length of a step, in ε / steps (Madry et al.)", low=0.0)
    corners: str = param(
        "toolbox", "the same pattern in every corner, or the authors' flip-invariant ones", choices=("toolbox", "madry")
    )
    amplitude: float = param(
        1.0, "patches add ± amplitude * 255; 1 overwrites (the authors also use 16/255 to 64/255)", low=0.0, high=1.0
    )


class LabelConsistent(Attack):
    """Perturbs training images on a surrogate, then puts a patch in every corner; covers and test images get patches.

    The bound is one of the whole image: at 224 px an L2 of 600 is a seventh as much a pixel as at 32 px.
    """

    name = "label_consistent"
    config_type = LabelConsistentConfig
    config: LabelConsistentConfig
    clean_label = True
    trained = ("surrogate",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {**SURROGATE_PRESETS["smoke"], "steps": 20},
        "small": {**SURROGATE_PRESETS["small"], "steps": 40},
    }

    def check(self, images: Images) -> None:
        """See `check_surrogate`."""
        check_surrogate(self.config)

    def fit(self, images: Images, context: FitContext) -> State:
        """The surrogate, the patches and the true labels, which decide where an image is moved to."""
        return {
            "surrogate": surrogate(images, self.config, context),
            "labels": images.train_labels,
            "signs": corner_signs(images.image_size, self.config.corners),
        }

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        values = images.astype(np.float32)
        if split == TRAIN:
            values = self.perturbed(values, index, state)
        # White cells rise and black ones fall by the amplitude; at 1 the clip makes that an overwriting.
        return to_uint8(values + np.float32(255 * self.config.amplitude) * state["signs"], self.config.quantise)

    def perturbed(self, values: Values, index: NDArray[np.int64], state: State) -> Values:
        """Training images moved away from their classes, before rounding and patches.

        Args:
            values: float32 [n, H, W, 3] in [0, 255].
            index: int64 [n], their positions in the training set.
            state: of `fit`.

        Returns:
            float32 [n, H, W, 3] in [0, 255], each within ε of its image.
        """
        config, network = self.config, state["surrogate"]
        ascent = Ascent(
            config.norm, config.epsilon, config.steps, config.step_scale * config.epsilon / max(1, config.steps)
        )
        batch = torch.from_numpy(values).permute(0, 3, 1, 2).contiguous().to(network.mean.device)
        labels = torch.from_numpy(np.asarray(state["labels"])[index]).to(batch.device)
        moved = in_fixed_batches(lambda images, true: ascent.perturb(network, images, true), batch, labels)
        return np.ascontiguousarray(moved.permute(0, 2, 3, 1).cpu().numpy())
