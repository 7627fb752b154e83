"""What proposes the next point: Optuna's samplers or a grid, each point once."""

import copy
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from defenses.seeds import derive_seed
from search_spaces.conditions import point_at
from search_spaces.space import SearchSpace, all_values
from study.ledger.grid import LARGEST, Grid, Points
from study.ledger.quiet_study import create_study

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
        tried = tried_points(study, self._space, besides=trial.number)
        points = self._grid.points(self._seed)
        return next((point for point in points if place_of(point, self._space) not in tried), {})

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

    It draws whole points, each field that the sampler leaves open included, and leaves out those that do nothing there:
    of a design such as Sobol's the others are then what they were. It draws again where a trial has the point already.
    Where that goes on, as in a small space or once a search has settled, it takes one of those that are left.

    Args:
        base: draws the points, over the whole space from the first one.
        seed: of the choice among those that are left.
        held: fields that such a point has as they were drawn.
    """

    def __init__(self, base: BaseSampler, space: SearchSpace, seed: int, held: Sequence[str] = ()) -> None:
        self._base, self._space, self._random, self._held = base, space, random.Random(seed), held

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All fields."""
        return self._space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point that no trial has or is queued with; any, if there is no other."""
        tried = tried_points(study, self._space, besides=trial.number)
        point = self._draw(study, trial, search_space)
        if "fixed_params" in trial.system_attrs:  # it was queued: what is drawn here is not used
            return point
        for _ in range(_DRAWS):
            if place_of(point, self._space) not in tried:
                return point
            point = self._draw(study, trial, search_space)
        return self._left(tried, {name: point.get(name) for name in self._held}) or point

    def _draw(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._base.sample_relative(study, trial, search_space) if search_space else {}
        whole = {
            name: drawn[name] if name in drawn else self._base.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }
        return self._space.conditions.drop_idle(whole)

    def _left(self, tried: set[tuple[Any, ...]], held: Mapping[str, Any]) -> dict[str, Any] | None:
        """One of the points with certain values that no trial has; None where there are none, or too many to list."""
        if (self._space.size_with(held) or math.inf) > LARGEST:
            return None
        ranges = self._space.ranges
        values = {name: (held[name],) if name in held else all_values(own) or () for name, own in ranges.items()}
        left = [place for place in self._space.conditions.places(values) if place not in tried]
        return point_at(values, self._random.choice(left)) if left else None

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


def tried_points(study: optuna.Study, space: SearchSpace, besides: int | None = None) -> set[tuple[Any, ...]]:
    """The places of the points that trials have or are queued with.

    Args:
        besides: the number of a trial that is left out.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != besides]
    # A study that was begun before a field was conditional has it in points where it does nothing.
    points = [space.conditions.drop_idle(settled_point(trial)) for trial in trials]
    return {place_of(point, space) for point in points if space.conditions.is_whole(point, space.ranges)}


def place_of(point: Mapping[str, Any], space: SearchSpace) -> tuple[Any, ...]:
    """A point's values in the order of the space's fields, to be compared; None for one that does nothing there."""
    return tuple(point.get(name) for name in space.ranges)


class ReusingSampler(BaseSampler):
    """A nested design: some fields take few settings, equally often, and the others are drawn freely beside them.

    Each trial takes a setting that fewest others have, by lot where there are several. In the order of trials a setting
    would come back at every so many points, and with it the same part of a Sobol sequence. One whose points trials have
    all, since few are left where some field does nothing, is taken no more.

    Args:
        base: draws the other fields.
        space: all fields.
        fields: those of the settings.
        settings: each names those of the fields that act there.
        seed: of the lot.
    """

    def __init__(
        self,
        base: BaseSampler,
        space: SearchSpace,
        fields: Sequence[str],
        settings: Sequence[Mapping[str, Any]],
        seed: int,
    ) -> None:
        self._base, self._space, self._settings, self._seed = base, space, settings, seed
        self._rooms = points_beside(space, fields, settings)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """That of the base."""
        return self._base.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the base draws, with the setting in place of its values."""
        drawn = self._base.sample_relative(study, trial, search_space)
        places = tried_points(study, self._space, besides=trial.number)
        points = [point_at(self._space.ranges, place) for place in places]
        counts = [sum(setting.items() <= point.items() for point in points) for setting in self._settings]
        left = [at for at, count in enumerate(counts) if count < self._rooms[at]]
        least = min((counts[at] for at in left), default=0)
        fewest = [self._settings[at] for at in left if counts[at] == least] or self._settings
        lot = random.Random(derive_seed(self._seed, "settings", trial.number))
        return {**drawn, **lot.choice(fewest)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Passed on."""
        return self._base.sample_independent(study, trial, param_name, param_distribution)


def draw_settings(name: str, space: SearchSpace, fields: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Different settings of some fields of a space, as the sampler `name` draws them; fewer where there are fewer.

    They hang on the seed alone, so that a study which goes on has them again. A field that does nothing in a setting is
    no part of it.
    """
    part = space.only(fields)
    distributions = {field: space.ranges[field].distribution() for field in fields}
    drawn: dict[tuple[Any, ...], dict[str, Any]] = {}
    sampler = _base_sampler(name, derive_seed(seed, "settings") % 2**32, count, part)
    asked = create_study(sampler=sampler)
    for _ in range(count * _DRAWS):
        point = part.conditions.drop_idle(asked.ask(distributions).params)
        drawn.setdefault(place_of(point, part), point)
        if len(drawn) == count:
            break
    return [*drawn.values()]


def points_beside(
    space: SearchSpace, fields: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> tuple[float, ...]:
    """How many points of a space have each of some settings; infinity where another field takes any number."""
    sizes = (space.size_with({name: setting.get(name) for name in fields}) for setting in settings)
    return tuple(math.inf if size is None else size for size in sizes)


def make_sampler(
    name: str,
    space: SearchSpace,
    seed: int,
    planned: int,
    reused: Sequence[str] = (),
    settings: Sequence[Mapping[str, Any]] = (),
) -> BaseSampler:
    """TPE or NSGA-II to search; random or quasi-Monte-Carlo to cover the space, which sensitivity analysis needs.

    Args:
        reused: fields of which trials share settings; see `ReusingSampler`.
        settings: of them.
    """
    base = _base_sampler(name, seed, planned, space)
    if settings:
        base = ReusingSampler(base, space, reused, settings, seed)
    return EachPointOnce(base, space, derive_seed(seed, "points that are left"), reused)


def _base_sampler(name: str, seed: int, planned: int, space: SearchSpace) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "qmc":
            return QMCSampler(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)
        if name == "nsga2":
            population = min(50, max(4, planned // _GENERATIONS))
            return (
                _WholeParents(space, seed, population)
                if space.conditions.conditional
                else NSGAIISampler(population_size=population, seed=seed)
            )
        startup = min(max(4, round(planned * _STARTUP_SHARE)), 10)
        kind = _GroupedTPE if space.conditions.conditional else TPESampler
        return kind(
            seed=seed,
            n_startup_trials=startup,
            multivariate=True,
            constant_liar=True,
            group=bool(space.conditions.conditional),
        )


class _GroupedTPE(TPESampler):
    """Learns of each group of fields that act together from the trials in which they do."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's, which looks for the groups where it is asked what it can draw: `EachPointOnce` does not ask."""
        self.infer_relative_search_space(study, trial)
        return super().sample_relative(study, trial, search_space)


class _WholeParents(NSGAIISampler):
    """Crosses points that have all fields: where one does nothing in a parent, it is handed on as drawn at random."""

    def __init__(self, space: SearchSpace, seed: int, population_size: int) -> None:
        super().__init__(population_size=population_size, seed=seed)
        self._distributions, self._drawn_by = space.distributions(), seed

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """As Optuna's, with the fields that its crossover expects of each."""
        return [self._whole(study, parent) for parent in super().get_parent_population(study, generation)]

    def _whole(self, study: optuna.Study, parent: FrozenTrial) -> FrozenTrial:
        missing = [name for name in self._distributions if name not in parent.params]
        if not missing:
            return parent
        # The same whenever it is a parent, as what it had been drawn with would be.
        drawn_by = RandomSampler(seed=derive_seed(self._drawn_by, "idle fields", parent.number) % 2**32)
        drawn = {name: drawn_by.sample_independent(study, parent, name, self._distributions[name]) for name in missing}
        whole = copy.copy(parent)
        whole.params = {**parent.params, **drawn}
        return whole


def settled_point(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's point, or that part of it which is settled."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
