"""Blended (Chen et al., 2017): a whole picture or noise mixed into the image at a low strength, the target's label.

Strength 0.2 for training and test, as in backdoor-toolbox, BackdoorBench and the QT code. The noise is RGB as in
backdoor-toolbox; ``gray`` gives the QT code's single channel. The picture is drawn, not shipped: a striped cat before
checks, of mean (150, 123, 130) and standard deviation (98, 82, 81) at 32 px. The toolbox's file has (199, 175, 149) and
(69, 68, 95). Blended into CIFAR-10 it shows a little less: 21.4 dB PSNR, theirs 21.1.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.config import param
from study.attacks.api import Attack, AttackConfig, Pixels, State
from study.attacks.support.cartoon import CARTOON_VERSION, draw_cartoon
from study.attacks.support.fitting import FitContext
from study.attacks.support.pixels import Values, blend
from study.datasets.image_files import as_rgb, open_picture, readable, special_reading
from study.datasets.images import Images

DRAWN = f"cartoon {CARTOON_VERSION}"
"""What stands for the content of a picture that is drawn, in an attack's identity."""


@dataclass(frozen=True)
class BlendedConfig(AttackConfig):
    """Strength of a blend."""

    alpha: float = param(0.2, "share of the trigger in the image", low=0.0, high=1.0, symbol="α")


@dataclass(frozen=True)
class BlendedRandomConfig(BlendedConfig):
    """A blend of noise."""

    gray: bool = param(False, "one channel of noise for all three colours, as the QT code has it")


@dataclass(frozen=True)
class BlendedImageConfig(BlendedConfig):
    """A blend of a picture."""

    image: str = param("", "path of a picture; empty for the cartoon that is drawn")


class _Blended(Attack):
    config: BlendedConfig

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        return blend(images, state["trigger"], self.config.alpha, self.config.quantise)


class BlendedRandom(_Blended):
    """Uniform noise of the image's own size: one pattern a dataset."""

    name = "blended_random"
    config_type = BlendedRandomConfig
    config: BlendedRandomConfig

    def fit(self, images: Images, context: FitContext) -> State:
        """The noise, drawn once."""
        size = images.image_size
        channels = 1 if self.config.gray else 3
        noise = self.rng(context.seed, "trigger").integers(0, 256, (size, size, channels))
        return {"trigger": np.broadcast_to(noise, (size, size, 3)).astype(np.float32)}


class BlendedImage(_Blended):
    """A picture: the cartoon, or a file of the user's."""

    name = "blended_image"
    config_type = BlendedImageConfig
    config: BlendedImageConfig

    def identity(self) -> dict[str, Any]:
        """The options, with the content of the picture for its path; `UserError` when it cannot be read."""
        return {**super().identity(), "image": picture_identity(self.config.image) or DRAWN}

    def fit(self, images: Images, context: FitContext) -> State:
        """The picture at the size of the images."""
        return {"trigger": picture_at(self.config.image, images.image_size)}


def picture_identity(path: str) -> str:
    """What a picture is read to: the sha256 of the file, and what is done to it beyond that; empty for the cartoon.

    Raises:
        UserError: it cannot be read.
    """
    if not path:
        return ""
    with open_picture(path, _complaint(path)) as picture:
        special = special_reading(picture)
    with readable(_complaint(path)):
        return " ".join(filter(None, [hashlib.sha256(Path(path).read_bytes()).hexdigest(), special]))


def picture_at(path: str, size: int) -> Values:
    """A picture, or the cartoon for an empty path, as float32 [size, size, 3] in 0-255 units."""
    return (_read_picture(path, size) if path else draw_cartoon(size)).astype(np.float32)


def _complaint(path: str) -> str:
    return f"a trigger image must be a readable picture, got {path!r}"


def _read_picture(path: str, size: int) -> Pixels:
    """A file as RGB [size, size, 3]: cut to its central square, then averaged down."""
    from PIL import Image, ImageOps

    with open_picture(path, _complaint(path)) as file:
        square = ImageOps.fit(as_rgb(file), (size, size), Image.Resampling.BOX)
    return np.asarray(square)
