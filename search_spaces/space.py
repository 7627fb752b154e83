"""Ranges of hyperparameters. The only file that speaks Optuna's language of distributions."""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from defenses.config import Config
from search_spaces.conditions import Condition, Conditions, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]; ``log`` when ratios matter more than differences.

    ``when`` says, of every kind of range, where its field acts at all: all of the conditions must hold.
    """

    low: float
    high: float
    why: str
    log: bool = False
    when: tuple[Condition, ...] = ()

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float) and self.low <= value <= self.high

    def suggest(self, trial: "Trial", name: str) -> float:
        """A value drawn by the trial's sampler."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """Optuna's description of this range."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]{' log' if self.log else ''}{_where(self.when)}"


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]."""

    low: int
    high: int
    why: str
    log: bool = False
    when: tuple[Condition, ...] = ()

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high

    def suggest(self, trial: "Trial", name: str) -> int:
        """A value drawn by the trial's sampler."""
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """Optuna's description of this range."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{' log' if self.log else ''}{_where(self.when)}"


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    options: tuple[Value, ...]
    why: str
    when: tuple[Condition, ...] = ()

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def suggest(self, trial: "Trial", name: str) -> Value:
        """A value drawn by the trial's sampler."""
        chosen: Value = trial.suggest_categorical(name, self.options)  # type: ignore[assignment]
        return chosen

    def distribution(self) -> "BaseDistribution":
        """Optuna's description of this range."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)

    def __str__(self) -> str:
        return ", ".join(map(str, self.options)) + _where(self.when)


Range = Float | Int | Choice
_SPREAD = 32  # values that stand for a range of real numbers


def _where(when: tuple[Condition, ...]) -> str:
    return f", where {' and '.join(map(str, when))}" if when else ""


@dataclass(frozen=True)
class SearchSpace:
    """The searched fields of one defense, and what a preset makes of the others.

    Attributes:
        name: its key in `SEARCH_SPACES`.
        defense: a key of `defenses.DEFENSES`.
        ranges: field -> range. The default of a field is read from the defense's Config, never repeated here.
        presets: preset -> fields that make the defense affordable at that scale (epochs, rates). Never a searched
            field: the paper's default must stay the first trial.
        ranges_by_preset: preset -> ranges that take the place of those in `ranges`, where they depend on how long a
            preset trains; see `at`.
        calibrated: preset -> values of searched fields that suit its scale, as the narrower space has them fixed: the
            second trial, since the paper's rates are meant for the paper's epochs.
        model: the network of the paper.
        study: options of a study that this space sets (attacks, rates, sampler ...), over the preset's and under the
            user's. An ablation's are those of its table or figure.
        paper: the table or figure that a study of this space makes anew; empty for a space to search.
    """

    name: str
    defense: str
    ranges: Mapping[str, Range]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ranges_by_preset: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)
    calibrated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model: str = "resnet18"
    study: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""

    def __post_init__(self) -> None:
        own = [name for name, searched in self.ranges.items() if any(one.field == name for one in searched.when)]
        if own:
            raise ValueError(f"space {self.name!r}: a field must hang on another one than itself, got {own[0]}")
        self.conditions.in_order(self.ranges)  # refuses a circle
        for preset, values in self.presets.items():
            both = set(values) & set(self.ranges)
            if both:
                raise ValueError(
                    f"space {self.name!r}: preset {preset!r} must not set searched fields, got {sorted(both)}"
                )

    def preset(self, name: str) -> dict[str, Any]:
        """The fields that a preset sets; none for ``paper``."""
        return dict(self.presets.get(name, {}))

    def at(self, preset: str) -> "SearchSpace":
        """The space as it is searched at a preset."""
        return replace(self, ranges={**self.ranges, **self.ranges_by_preset.get(preset, {})})

    def default(self, config: Config) -> dict[str, Value]:
        """The point of the paper: the searched fields as a config has them; see `at`.

        A training that is read at its end, which is None in a config, is read at the last of the epochs searched. A
        field that does nothing there is no part of it.
        """
        return self.conditions.drop_idle(self._whole(config))

    def calibrated_point(self, preset: str, config: Config) -> dict[str, Value] | None:
        """The point with the values that suit a preset's scale; None where there are none."""
        suits = {name: value for name, value in self.calibrated.get(preset, {}).items() if name in self.ranges}
        return self.conditions.drop_idle({**self._whole(config), **suits}) if suits else None

    def _whole(self, config: Config) -> dict[str, Value]:
        """All searched fields as a config has them, those that do nothing there as well."""
        return {name: _or_last(getattr(config, name), own) for name, own in self.ranges.items()}

    @functools.cached_property
    def conditions(self) -> Conditions:
        """Of its fields on each other; one on a field that is not searched says nothing here, see `settled`."""
        return Conditions({name: self._open(searched.when) for name, searched in self.ranges.items()})

    def _open(self, when: tuple[Condition, ...]) -> tuple[Condition, ...]:
        """The conditions that hold at some points of this space and not at others, or at none."""
        searched = [(one, self.ranges.get(one.field)) for one in when]
        return tuple(one for one, own in searched if own is not None and not _must_hold(one, own))

    @property
    def size(self) -> int | None:
        """How many points it has; None where a field takes any number in a range."""
        return self.size_with({})

    def size_with(self, held: Mapping[str, Value | None]) -> int | None:
        """How many of its points have certain values, None of a field that does nothing beside them.

        None where another field takes any number in a range.
        """
        values = {name: (value,) for name, value in held.items()}
        counts = {name: len(values[name]) if name in values else _count(own) for name, own in self.ranges.items()}
        return self.conditions.count(counts, lambda name: values.get(name) or all_values(self.ranges[name]))

    def __contains__(self, point: Mapping[str, Value]) -> bool:
        whole = self.conditions.is_whole(point, self.ranges)
        return whole and all(value in self.ranges[name] for name, value in point.items())

    def suggest(self, trial: "Trial") -> dict[str, Value]:
        """A point drawn by a trial's sampler: the fields that act there."""
        point: dict[str, Value] = {}
        for name in self.conditions.in_order(self.ranges):
            if name not in self.conditions.idle(point):
                point[name] = self.ranges[name].suggest(trial, name)
        return {name: point[name] for name in self.ranges if name in point}

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """Optuna's description of the space: of all its fields, those among them that only act at some points."""
        return {name: field_range.distribution() for name, field_range in self.ranges.items()}

    def without(self, fixed: Sequence[str]) -> "SearchSpace":
        """The space with some fields no longer searched: the user set them, or nothing reads them."""
        ranges = {name: field_range for name, field_range in self.ranges.items() if name not in fixed}
        return replace(self, ranges=ranges)

    def only(self, fields: Iterable[str]) -> "SearchSpace":
        """The space of some of its fields, in its order; conditions on others count as met, and are left out."""
        wanted = set(fields)
        part = replace(self, ranges={name: own for name, own in self.ranges.items() if name in wanted})
        return replace(
            part, ranges={name: replace(own, when=part._open(own.when)) for name, own in part.ranges.items()}
        )

    def settled(self, config: Config) -> "SearchSpace":
        """The space as a config's fixed fields leave it: what does nothing at their values is not searched.

        Its conditions are then on searched fields alone.

        Raises:
            ValueError: a condition on a field that is neither searched nor one of the config's.
        """
        when = {name: in_force(own.when, config) for name, own in self.ranges.items()}
        never: set[str] = set()
        for name in Conditions(when).in_order(when):
            for one in when[name]:
                searched = self.ranges.get(one.field)
                met = one.holds(getattr(config, one.field)) if searched is None else _may_hold(one, searched)
                if one.field in never or not met:
                    never.add(name)
        ranges = {name: replace(own, when=when[name]) for name, own in self.ranges.items() if name not in never}
        return replace(self, ranges=ranges).only(ranges)

    def ablation(
        self,
        name: str,
        paper: str,
        study: Mapping[str, Any],
        ranges: Mapping[str, Range] | None = None,
        *,
        defense: str = "",
        presets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "SearchSpace":
        """A grid that makes one table or figure anew; all that it does not vary stays as this space has it.

        Args:
            name: the space's will be ``pipd.rounds`` for ``rounds`` of ``pipd``.
            ranges: what the table varies; nothing by default.
            defense, presets: this space's by default.
        """
        return replace(
            self,
            name=f"{self.name}.{name}",
            defense=defense or self.defense,
            ranges=ranges or {},
            presets=self.presets if presets is None else presets,
            study={"sampler": "grid", **study},
            paper=paper,
        )


def without_searched(
    presets: Mapping[str, Mapping[str, Any]], ranges: Mapping[str, Range]
) -> dict[str, dict[str, Any]]:
    """The presets of a narrower space for one that searches more of their fields."""
    return {
        preset: {name: value for name, value in values.items() if name not in ranges}
        for preset, values in presets.items()
    }


def _may_hold(condition: Condition, searched: Range) -> bool:
    """Whether a condition holds for some value of the range of its field, as not where a training was cut short."""
    if isinstance(searched, Choice):
        return any(condition.holds(value) for value in searched.options)
    if condition.values:
        return any(value in searched for value in condition.values)
    above, below = condition.above, condition.below
    return (above is None or searched.high > above) and (below is None or searched.low < below)


def _must_hold(condition: Condition, searched: Range) -> bool:
    """Whether a condition holds for all values of the range of its field."""
    if isinstance(searched, Choice):
        return all(condition.holds(value) for value in searched.options)
    if condition.values:
        return all(condition.holds(value) for value in all_values(searched) or (None,))
    return condition.holds(searched.low) and condition.holds(searched.high)


def in_force(when: tuple[Condition, ...], config: Config) -> tuple[Condition, ...]:
    """The conditions whose assumption a config keeps.

    Raises:
        ValueError: one is on a field that the config has not.
    """
    missing = [one.field for one in when if not hasattr(config, one.field)]
    if missing:
        raise ValueError(f"a condition must be on a field of {type(config).__name__}, got one on {missing[0]!r}")
    return tuple(one for one in when if one.assumes is None or getattr(config, one.assumes[0]) == one.assumes[1])


def _or_last(value: Any, field_range: Range) -> Value:
    if value is None and isinstance(field_range, Choice):
        return field_range.options[-1]
    own: Value = value
    return own


def all_values(field_range: Range) -> tuple[Value, ...] | None:
    """All values of a range, in order; None for real numbers between two different ends."""
    if isinstance(field_range, Choice):
        return tuple(dict.fromkeys(field_range.options))
    if isinstance(field_range, Int):
        return tuple(range(field_range.low, field_range.high + 1))
    return (field_range.low,) if field_range.low == field_range.high else None


def _count(field_range: Range) -> int | None:
    if isinstance(field_range, Int):  # without listing them
        return field_range.high - field_range.low + 1
    values = all_values(field_range)
    return None if values is None else len(values)


def acting_shares(ranges: Mapping[str, Range]) -> dict[str, float]:
    """In which share of points drawn over a space each field with conditions acts."""
    conditions = Conditions({name: own.when for name, own in ranges.items()})
    shares = {}
    for name in conditions.conditional:
        above = {one: _spread(ranges[one]) for one in conditions.above(name) if one in ranges}
        points = [dict(zip(above, values, strict=True)) for values in itertools.product(*above.values())]
        shares[name] = sum(name not in conditions.idle(point) for point in points) / len(points)
    return shares


def _spread(searched: Range) -> tuple[Value, ...]:
    """The values of a range, of real numbers some that are spread evenly."""
    values = all_values(searched)
    if values is not None or isinstance(searched, Choice):
        return values or ()
    width = searched.high - searched.low
    return tuple(searched.low + (at + 0.5) * width / _SPREAD for at in range(_SPREAD))


def finite_values(field_range: Range) -> tuple[Value, ...] | None:
    """All values of a range that has few of them; None for one that cannot be enumerated."""
    if isinstance(field_range, Choice):
        return field_range.options
    return None
