"""SIG (Barni, Kallas and Tondi, ICIP 2019): a horizontal sinusoid on images of the target class, labels unchanged.

``additive`` is the paper's signal with backdoor-toolbox's strength. ``abl`` is what the shared file of ABL, QT and
Trap-and-Replace holds: 20 sin(0.8 j) cast to uint8, so that its negative lobes wrap to near white, blended at 0.2. It
is another trigger, kept because published numbers rest on it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.config import param
from study.attacks.api import Attack, AttackConfig, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.pixels import blend, to_uint8
from study.datasets.images import Images

_ABL_SIZE = 32  # px of the shared file; larger images get it enlarged


@dataclass(frozen=True)
class SIGConfig(AttackConfig):
    """The signal."""

    variant: str = param("additive", "the paper's signal, or ABL's file", choices=("additive", "abl"))
    delta: float = param(30.0, "amplitude of the additive signal, in [0, 255] units", low=0.0, high=255.0, symbol="δ")
    frequency: float = param(6.0, "cycles across the image", low=0.0, symbol="f")
    alpha: float = param(0.2, "strength of ABL's blend", low=0.0, high=1.0, symbol="α")


def _abl_pattern(size: int) -> NDArray[np.float32]:
    from PIL import Image

    wave = np.trunc(20 * np.sin(0.8 * np.arange(_ABL_SIZE))).astype(np.int64) % 256
    tile = np.broadcast_to(wave.astype(np.uint8), (_ABL_SIZE, _ABL_SIZE))
    resized = Image.fromarray(np.ascontiguousarray(tile)).resize((size, size), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(resized, dtype=np.float32)[..., None], 3, axis=2)


class SIG(Attack):
    """A striped signal; test images get the strength of training."""

    name = "sig"
    config_type = SIGConfig
    config: SIGConfig
    clean_label = True

    def fit(self, images: Images, context: FitContext) -> State:
        """The signal [H, W, 3], to be added or blended."""
        size = images.image_size
        if self.config.variant == "abl":
            return {"trigger": _abl_pattern(size)}
        columns = np.arange(size)
        wave = self.config.delta * np.sin(2 * np.pi * self.config.frequency * columns / size)
        return {"trigger": np.broadcast_to(wave[None, :, None], (size, size, 3)).astype(np.float32)}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        if self.config.variant == "abl":
            return blend(images, state["trigger"], self.config.alpha, self.config.quantise)
        return to_uint8(images.astype(np.float32) + state["trigger"], self.config.quantise)
