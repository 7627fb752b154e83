"""What proposes the next point: Optuna's samplers, a grid, and NSGA-II without copies."""

import warnings
from collections.abc import Collection
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from search_spaces.space import SearchSpace
from study.ledger.grid import Grid, Points

_STARTUP_SHARE = 0.4  # of the planned trials: TPE needs some to learn from, and a short study must still learn
_CHILDREN = 20  # that NSGA-II may draw for one that is new
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
        tried = _tried(study, trial, self._grid.values)
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


class FreshNSGA2(NSGAIISampler):
    """NSGA-II without copies: a child that equals an earlier point would tell nothing, since trials repeat exactly."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A child that no trial has had; after some tries none, and the point is drawn at random."""
        tried = _tried(study, trial, search_space)
        for _ in range(_CHILDREN):
            child = super().sample_relative(study, trial, search_space)
            if child:  # what was mutated is left out, to be drawn later: drawn here, or it might make a copy
                for name in [name for name in search_space if name not in child]:
                    child[name] = self.sample_independent(study, trial, name, search_space[name])
            if tuple(child.get(name) for name in search_space) not in tried:
                return child
        return {}


def _tried(study: optuna.Study, trial: FrozenTrial, fields: Collection[str]) -> set[tuple[Any, ...]]:
    """The points that other trials have or are queued with."""
    points = [settled_point(other) for other in study.get_trials(deepcopy=False) if other.number != trial.number]
    return {tuple(point[name] for name in fields) for point in points if point.keys() == set(fields)}


def make_sampler(name: str, seed: int, planned: int) -> BaseSampler:
    """TPE or NSGA-II to search; random or quasi-Monte-Carlo to cover the space, which sensitivity analysis needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "qmc":
            return QMCSampler(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)
        if name == "nsga2":
            return FreshNSGA2(population_size=min(50, max(4, planned // _GENERATIONS)), seed=seed)
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
