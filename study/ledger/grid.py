"""Every combination of a few values of each searched field."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from defenses.registry import UserError, nearest
from defenses.text_numbers import parse_real, parse_whole
from search_spaces.conditions import Conditions, Value, point_at
from search_spaces.space import Choice, Float, Int, Range, SearchSpace, all_values

LARGEST = 100_000  # points: more than any study runs, and still listed in a blink


@dataclass(frozen=True)
class Grid:
    """The points of a grid.

    Attributes:
        values: field -> the values that it takes.
        conditions: of the fields on each other: no two points are the same but for a field that does nothing.
    """

    values: Mapping[str, tuple[Value, ...]]
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def size(self) -> int:
        """How many points it has."""
        size = self.conditions.count({name: len(options) for name, options in self.values.items()}, self.values.get)
        assert size is not None
        return size

    def __contains__(self, point: Mapping[str, Value]) -> bool:
        whole = self.conditions.is_whole(point, self.values)
        return whole and all(value in self.values[name] for name, value in point.items())

    def points(self, seed: int) -> Iterator[dict[str, Value]]:
        """All points, in an order drawn from the seed: the first few of them cover the space, too."""
        places = list(self.conditions.places(self.values))
        random.Random(seed).shuffle(places)
        return (point_at(self.values, place) for place in places)


@dataclass(frozen=True)
class Points:
    """Given points instead of a grid's, in their order.

    Attributes:
        given: each names the fields that act there.
    """

    given: tuple[Mapping[str, Value], ...]

    @property
    def size(self) -> int:
        """How many points there are."""
        return len(self.given)

    def __contains__(self, point: Mapping[str, Value]) -> bool:
        return any(point == known for known in self.given)

    def points(self, _seed: int) -> Iterator[dict[str, Value]]:
        """All points."""
        return (dict(point) for point in self.given)


Resolution = Mapping[str, int | tuple[str, ...]]
"""Field -> how many points its range gets, or which, as somebody wrote them."""


def make_grid(space: SearchSpace, resolution: Resolution) -> Grid:
    """The grid of a space.

    Args:
        resolution: of its fields. Unless it is told otherwise a choice has all its options, and a range of whole
            numbers all of them.

    Raises:
        UserError: a field that is not searched, a range that needs a resolution, a value outside it, or too many
            points.
    """
    for name in resolution:
        if name not in space.ranges:
            raise UserError(
                f"--resolution names a field that is searched, got {name!r}: "
                f"{nearest(name, space.ranges)}(searched: {', '.join(space.ranges) or 'none'})"
            )
    told = {name: _values_told(name, space.ranges[name], values) for name, values in resolution.items()}
    listed = {name: all_values(own) for name, own in space.ranges.items() if name not in told}
    endless = [name for name, values in listed.items() if values is None]
    if endless:
        raise UserError(
            f"a grid lists every value, and {', '.join(endless)} may be any number in a range: say how many values it "
            f"is to have (--resolution {' '.join(f'{name}=4' for name in endless)}) or which ({endless[0]}=V,V), fix "
            f"it (--set {endless[0]}=VALUE) or use --sampler qmc, which covers ranges evenly"
        )
    known = told | {name: values for name, values in listed.items() if values is not None}
    grid = Grid({name: known[name] for name in space.ranges}, space.conditions)
    if grid.size > LARGEST:
        raise UserError(
            f"a grid has at most {LARGEST} configurations, this one {grid.size}: lower --resolution, fix fields with "
            "--set, or use --sampler qmc"
        )
    return grid


def _values_told(name: str, searched: Range, values: int | tuple[str, ...]) -> tuple[Value, ...]:
    """The values of a range, of which somebody said how many or which."""
    if isinstance(values, tuple):
        return _named(name, searched, values)
    if isinstance(searched, Choice):
        raise UserError(
            f"--resolution {name}: it has {searched} and nothing between: name those that you want, with commas "
            "between, or leave it out"
        )
    spread = _spread(searched, values)
    return tuple(dict.fromkeys(map(round, spread))) if isinstance(searched, Int) else tuple(spread)


def _named(name: str, searched: Range, texts: tuple[str, ...]) -> tuple[Value, ...]:
    """The values of a range that somebody wrote."""
    values = tuple(_written(name, searched, text) for text in texts)
    if len(set(values)) < len(values):
        raise UserError(f"--resolution {name} names a value more than once, got {','.join(texts)}: keep one of the two")
    return values


def _written(name: str, searched: Range, text: str) -> Value:
    """The value of a range that a text stands for."""
    if isinstance(searched, Choice):
        value = next((option for option in searched.options if str(option).lower() == text.lower()), None)
    else:
        value = parse_whole(text) if isinstance(searched, Int) else parse_real(text)
    if value is None or value not in searched:
        raise UserError(f"--resolution {name}: its values are {searched}, got {text!r}")
    return value


def _spread(searched: Float | Int, points: int) -> list[float]:
    """Evenly spaced from one end to the other, both exactly; in ratios where these matter more."""
    low, high = float(searched.low), float(searched.high)
    steps = [step / (points - 1) for step in range(1, points - 1)]
    between = [low * (high / low) ** step if searched.log else low + (high - low) * step for step in steps]
    return [low, *between, high]
