"""How many different trials a study can have: a copy of one would tell nothing, and count as evidence all the same."""

import math
from collections.abc import Sequence

from defenses.config import Config
from search_spaces.conditions import Value
from search_spaces.space import SearchSpace
from study.config.config import StudyConfig
from study.ledger.grid import Grid, Points


def given_points(
    config: StudyConfig, space: SearchSpace, grid: Grid | Points | None, base: Config
) -> list[dict[str, Value]]:
    """The points that no sampler draws: the paper's values, and those that suit the preset where they are others.

    A grid says itself which points there are besides the paper's.

    Args:
        base: the fields that all trials share, with the paper's values of the others.
    """
    default = space.default(base)
    calibrated = space.calibrated_point(config.preset, base) if grid is None else None
    return [default, *([] if calibrated in (None, default) else [calibrated])]


def count_points(
    config: StudyConfig,
    space: SearchSpace,
    grid: Grid | None,
    expensive: Sequence[str],
    given: Sequence[dict[str, Value]],
) -> float:
    """How many trials there can be: a point each, and those given beside them that the sampler would not draw.

    Infinity where a field takes any number in a range.

    Args:
        expensive: the fields of which trials share few settings where the study reuses them.
        given: the points of the trials that no sampler draws.
    """
    if grid is not None:
        return grid.size + sum(point not in grid for point in given)
    if config.reuse is not None:
        return _count_reused(config, space, expensive, given)
    return math.inf if space.size is None else space.size + sum(point not in space for point in given)


def draw_reused(config: StudyConfig, space: SearchSpace, expensive: Sequence[str]) -> list[dict[str, Value]]:
    """The settings of the expensive fields that a study's trials share, as its ledger draws them."""
    from study.ledger.samplers import draw_settings  # needs Optuna

    return draw_settings(config.sampler, space, expensive, config.reuse or 0, config.search_seed)


def _count_reused(
    config: StudyConfig, space: SearchSpace, expensive: Sequence[str], given: Sequence[dict[str, Value]]
) -> float:
    from study.ledger.samplers import points_beside  # needs Optuna

    settings = draw_reused(config, space, expensive)
    drawn = [any(setting.items() <= point.items() for setting in settings) and point in space for point in given]
    return sum(points_beside(space, expensive, settings)) + drawn.count(False)
