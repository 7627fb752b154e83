"""Refool (Liu, Ma, Bailey and Lu, ECCV 2020): a scene reflected in a window before the image, the target's label.

Ghosts as in backdoor-toolbox: the window's two faces reflect a picture twice, a few pixels apart, and light adds up
before the camera's gamma. The paper also blurs some reflections, takes images of the target class alone and picks the
reflections that work best; the toolbox and BackdoorBox leave this out, and so do we. We differ from the toolbox in
that test images keep their parameters, large images get larger shifts, and pictures do not depend on a machine.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.config import param
from defenses.registry import UserError
from study.attacks.api import TEST, TRAIN, Attack, AttackConfig, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.pixels import Values, to_uint8
from study.attacks.support.reflections import content_hash, find_photographs, paint, read_photographs, tell_passed_over
from study.datasets.images import Images

_PAPER_SIZE = 32  # px of the images for which shifts are given
_DRAWS = np.dtype(
    [
        ("picture", np.int64),  # position in the pool
        ("reflection", np.float32),  # share of the light
        ("ghost", np.float32),  # share of the one image of the reflection; the other has the rest
        ("rows", np.int64),  # px between the two
        ("columns", np.int64),
    ]
)


@dataclass(frozen=True)
class RefoolConfig(AttackConfig):
    """Reflections. Every image's values are drawn uniformly from the ranges."""

    pool_size: int = param(200, "pictures that may be reflected, at most, for photographs", low=1, high=100_000)
    trigger_dir: str = param("", "folder of photographs, the first by name are taken; empty for painted pictures")
    reflection_low: float = param(0.05, "least share of the reflection in the light", low=0.0, high=1.0)
    reflection_high: float = param(0.45, "largest share of the reflection in the light", low=0.0, high=1.0)
    ghost_low: float = param(0.5, "least share of the brighter ghost in the reflection", low=0.5, high=1.0)
    ghost_high: float = param(0.75, "largest share of the brighter ghost in the reflection", low=0.5, high=1.0)
    shift_low: int = param(3, "least shift between the ghosts an axis, px at 32 px (times 7 at 224)", low=0, high=15)
    shift_high: int = param(8, "largest shift between the ghosts an axis, px at 32 px", low=0, high=15)
    gamma: float = param(2.2, "of the camera: light is (pixel / 255) to this power", low=0.1, high=10.0, symbol="γ")


class Refool(Attack):
    """Lays a reflection over the image, another one for each."""

    name = "refool"
    config_type = RefoolConfig
    config: RefoolConfig

    def identity(self) -> dict[str, Any]:
        """The options, with the sha256 of the photographs for their folder; `UserError` when they cannot be read."""
        options = super().identity()
        if self.config.trigger_dir:
            options["trigger_dir"] = content_hash(find_photographs(self.config.trigger_dir, self.config.pool_size))
        return options

    def check(self, images: Images) -> None:
        """Refuses ranges that end before they begin, and a folder that has no pictures.

        Raises:
            UserError: either of the two.
        """
        for name in ("reflection", "ghost", "shift"):
            low, high = (getattr(self.config, f"{name}_{end}") for end in ("low", "high"))
            if low > high:
                raise UserError(
                    f"refool:{name}_low must be at most {name}_high, got {low} and {high}: lower the first, or raise "
                    "the second"
                )
        if self.config.trigger_dir:
            find_photographs(self.config.trigger_dir, self.config.pool_size)
            tell_passed_over(self.config.trigger_dir)

    def fit(self, images: Images, context: FitContext) -> State:
        """The pictures, the same for training and test, and what each image gets of them."""
        size = images.image_size
        if self.config.trigger_dir:
            pool = read_photographs(find_photographs(self.config.trigger_dir, self.config.pool_size), size)
        else:
            pool = paint(self.rng(context.seed, "pool"), self.config.pool_size, size)
        counts = {TRAIN: len(images.train_images), TEST: len(images.test_images)}
        draws = {
            split: self._draw(self.rng(context.seed, split), count, len(pool), size) for split, count in counts.items()
        }
        return {"pool": pool, **draws}

    def _draw(self, rng: np.random.Generator, count: int, pictures: int, size: int) -> NDArray[Any]:
        """The random values of images, a record of `_DRAWS` each [count]; more images leave the first as they are."""
        config = self.config
        unit = rng.random((count, 6)).T
        draws = np.empty(count, dtype=_DRAWS)
        draws["picture"] = unit[0] * pictures
        draws["reflection"] = config.reflection_low + (config.reflection_high - config.reflection_low) * unit[1]
        brighter = config.ghost_low + (config.ghost_high - config.ghost_low) * unit[2]
        draws["ghost"] = np.where(unit[3] < 0.5, brighter, 1 - brighter)
        for axis, uniform in (("rows", unit[4]), ("columns", unit[5])):
            shift = np.floor(config.shift_low + (config.shift_high - config.shift_low + 1) * uniform)
            draws[axis] = np.floor(shift * size / _PAPER_SIZE + 0.5)
        return draws

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        pool: Pixels = state["pool"]
        draws = state[TEST if split == TEST else TRAIN][index]
        light = ((np.arange(256) / 255) ** self.config.gamma).astype(np.float32)
        out = np.empty_like(images)
        shifts = np.stack([draws["rows"], draws["columns"]], axis=1)
        pairs, pair_of = np.unique(shifts, axis=0, return_inverse=True)
        for number, (rows, columns) in enumerate(pairs.tolist()):  # images with equal shifts at once
            group = np.flatnonzero(pair_of == number)
            drawn = draws[group]
            reflection = _ghosts(light[pool[drawn["picture"]]], _a_number_each(drawn["ghost"]), rows, columns)
            share = _a_number_each(drawn["reflection"])
            mixed = share * reflection + (1 - share) * light[images[group]]
            values = np.float32(255) * mixed ** np.float32(1 / self.config.gamma)
            out[group] = to_uint8(values, self.config.quantise)
        return out


def _a_number_each(values: Values) -> Values:
    """[n] as [n, 1, 1, 1], to multiply images."""
    return values[:, None, None, None]


def _ghosts(pictures: Values, share: Values, rows: int, columns: int) -> Values:
    """Two copies of each picture, shifted against each other, where they overlap; enlarged to the picture's size.

    Args:
        pictures: float32 [n, H, W, 3].
        share: float32 [n, 1, 1, 1], of the copy that is moved up and left.
        rows, columns: the shift in px.
    """
    height, width = pictures.shape[1:3]
    moved = pictures[:, rows:, columns:]
    ghosts = share * moved + (1 - share) * pictures[:, : height - rows, : width - columns]
    return _enlarge(_enlarge(ghosts, height, 1), width, 2)


def _enlarge(values: Values, size: int, axis: int) -> Values:
    """Bilinear interpolation along one axis to a size; pixels are areas, and edges are continued."""
    old = values.shape[axis]
    position = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    below = np.floor(position).astype(np.int64)
    weight = (position - below).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    first, second = (values.take(np.minimum(below + step, old - 1), axis) for step in (0, 1))
    enlarged: Values = first + weight * (second - first)
    return enlarged
