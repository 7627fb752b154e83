"""What proposes the next point: Optuna's samplers or a grid, each point once."""

import itertools
import math
import random
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from defenses.seeds import derive_seed
from search_spaces.space import SearchSpace, all_values
from study.ledger.grid import LARGEST, Grid, Points

_STARTUP_SHARE = 0.4  # of the planned trials: TPE needs some to learn from, and a short study must still learn
_DRAWS = 20  # for a point that no trial has, before the rest of the space is listed
_GENERATIONS = 5  # that the planned trials are to make at least: NSGA-II learns between generations alone


class GridSampler(BaseSampler):
    """Proposes each point of a grid that no trial has had yet. Knows nothing but the ledger, so a kill loses nothing.

    Args:
        seed: of the order, the same whenever the study goes on.
    """

    def __init__(self, space: SearchSpace, grid: Grid | Points, seed: int) -> None:
        self._space, self._grid, self._seed = space, grid, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All fields."""
        return self._space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point."""
        tried = tried_points(study, self._grid.values, besides=trial.number)
        points = self._grid.points(self._seed)
        return next((point for point in points if tuple(point.values()) not in tried), {})

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A study asks for no more points than the grid has.

        Raises:
            RuntimeError: always, since every field of a point is set before.
        """
        raise RuntimeError(f"the grid of {self._grid.size} points is used up")


class EachPointOnce(BaseSampler):
    """A sampler whose points no other trial has: trials repeat exactly, so that a copy would tell nothing.

    It draws whole points, each field that the sampler leaves open included, and draws again where a trial has the point
    already. Where that goes on, as in a small space or once a search has settled, it takes one of those that are left.

    Args:
        base: draws the points, over the whole space from the first one.
        seed: of the choice among those that are left.
    """

    def __init__(self, base: BaseSampler, space: SearchSpace, seed: int) -> None:
        self._base, self._space, self._random = base, space, random.Random(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All fields."""
        return self._space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point that no trial has or is queued with; any, if there is no other."""
        tried = tried_points(study, search_space, besides=trial.number)
        point = self._draw(study, trial, search_space)
        if "fixed_params" in trial.system_attrs:  # it was queued: what is drawn here is not used
            return point
        for _ in range(_DRAWS):
            if tuple(point.values()) not in tried:
                return point
            point = self._draw(study, trial, search_space)
        return self._left(tried) or point

    def _draw(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._base.sample_relative(study, trial, search_space) if search_space else {}
        return {
            name: drawn[name] if name in drawn else self._base.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def _left(self, tried: set[tuple[Any, ...]]) -> dict[str, Any] | None:
        """One of the points that no trial has; None where there are none, or too many to list."""
        if (self._space.size or math.inf) > LARGEST:
            return None
        values = [all_values(own) or () for own in self._space.ranges.values()]
        left = [point for point in itertools.product(*values) if point not in tried]
        return dict(zip(self._space.ranges, self._random.choice(left), strict=True)) if left else None

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A field by itself, of a trial that was queued without it."""
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Passed on."""
        self._base.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Passed on."""
        self._base.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Passed on: NSGA-II and TPE keep what they learn here."""
        self._base.after_trial(study, trial, state, values)


def tried_points(study: optuna.Study, fields: Collection[str], besides: int | None = None) -> set[tuple[Any, ...]]:
    """The points that trials have or are queued with, as values in the order of the fields.

    Args:
        besides: the number of a trial that is left out.
    """
    points = [settled_point(trial) for trial in study.get_trials(deepcopy=False) if trial.number != besides]
    return {tuple(point[name] for name in fields) for point in points if point.keys() == set(fields)}


class ReusingSampler(BaseSampler):
    """A nested design: some fields take few settings, equally often, and the others are drawn freely beside them.

    Each trial takes a setting that fewest others have, by lot where there are several. In the order of trials a setting
    would come back at every so many points, and with it the same part of a Sobol sequence.

    Args:
        base: draws the other fields.
        settings: each names the same fields.
        seed: of the lot.
    """

    def __init__(self, base: BaseSampler, settings: Sequence[Mapping[str, Any]], seed: int) -> None:
        self._base, self._settings, self._seed = base, settings, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """That of the base."""
        return self._base.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the base draws, with the setting in place of its values."""
        drawn = self._base.sample_relative(study, trial, search_space)
        points = [settled_point(other) for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        counts = [sum(setting.items() <= point.items() for point in points) for setting in self._settings]
        fewest = [setting for setting, count in zip(self._settings, counts, strict=True) if count == min(counts)]
        lot = random.Random(derive_seed(self._seed, "settings", trial.number))
        return {**drawn, **lot.choice(fewest)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Passed on."""
        return self._base.sample_independent(study, trial, param_name, param_distribution)


def draw_settings(name: str, space: SearchSpace, fields: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Different settings of some fields of a space, as the sampler `name` draws them; fewer where there are fewer.

    They hang on the seed alone, so that a study which goes on has them again.
    """
    distributions = {field: space.ranges[field].distribution() for field in fields}
    drawn: dict[tuple[Any, ...], dict[str, Any]] = {}
    sampler = _base_sampler(name, derive_seed(seed, "settings") % 2**32, count)
    asked = optuna.create_study(sampler=sampler)
    for _ in range(count * _DRAWS):
        point = dict(asked.ask(distributions).params)
        drawn.setdefault(tuple(point.values()), point)
        if len(drawn) == count:
            break
    return [*drawn.values()]


def make_sampler(
    name: str, space: SearchSpace, seed: int, planned: int, settings: Sequence[Mapping[str, Any]] = ()
) -> BaseSampler:
    """TPE or NSGA-II to search; random or quasi-Monte-Carlo to cover the space, which sensitivity analysis needs.

    Args:
        settings: of some fields, which trials then share; see `ReusingSampler`.
    """
    base = _base_sampler(name, seed, planned)
    if settings:
        base = ReusingSampler(base, settings, seed)
    return EachPointOnce(base, space, derive_seed(seed, "points that are left"))


def _base_sampler(name: str, seed: int, planned: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "qmc":
            return QMCSampler(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)
        if name == "nsga2":
            return NSGAIISampler(population_size=min(50, max(4, planned // _GENERATIONS)), seed=seed)
        startup = max(4, round(planned * _STARTUP_SHARE))
        return TPESampler(
            seed=seed,
            n_startup_trials=min(startup, 10),
            multivariate=True,
            constant_liar=True,
        )


def settled_point(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's point, or that part of it which is settled."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
