"""Where a searched field acts at all: some do nothing at some values of another, and a point then has none of them.

A threshold that one rule reads says nothing of a trial with another rule. Drawn all the same, it would make two trials
of one, blur what the others explain, and stand in tables beside a result that it had no part in.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | bool


@dataclass(frozen=True)
class Condition:
    """A field acts only where another has certain values.

    Attributes:
        field: the other one: searched as well, or fixed for all trials.
        values: those at which it acts; empty where a bound says it.
        above, below: it acts where the other one is larger than the one or smaller than the other; one that is None
            (the end of a training) is.
        assumes: a third field and its value, without which nothing is said: where somebody sets it otherwise, the
            field acts everywhere.
    """

    field: str
    values: tuple[Value, ...] = ()
    above: float | None = None
    below: float | None = None
    assumes: tuple[str, Any] | None = None

    def holds(self, value: Any) -> bool:
        """Whether the field acts at a value of the other one."""
        if self.values:
            return value in self.values
        low, high = -math.inf if self.above is None else self.above, math.inf if self.below is None else self.below
        return value is None or low < value < high

    def __str__(self) -> str:
        bounds = {">": self.above, "<": self.below}
        told = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
        return f"{self.field} {' and '.join(told) or ' or '.join(map(str, self.values))}"


def where(other: str, *values: Value) -> tuple[Condition, ...]:
    """The condition that another field has one of some values."""
    return (Condition(other, values),)


def where_above(other: str, bound: float, assumes: tuple[str, Any] | None = None) -> tuple[Condition, ...]:
    """The condition that another field is larger than a number."""
    return (Condition(other, above=bound, assumes=assumes),)


def where_below(other: str, bound: float, assumes: tuple[str, Any] | None = None) -> tuple[Condition, ...]:
    """The condition that another field is smaller than a number."""
    return (Condition(other, below=bound, assumes=assumes),)


@dataclass(frozen=True)
class Conditions:
    """The conditions among some fields.

    Attributes:
        when: field -> what must all hold; fields without any need not be there.
    """

    when: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)

    @functools.cached_property
    def conditional(self) -> tuple[str, ...]:
        """The fields with conditions, each after those that it hangs on.

        Raises:
            ValueError: fields that hang on each other.
        """
        return tuple(name for name in self.in_order(self.when) if self.when[name])

    def in_order(self, fields: Iterable[str]) -> list[str]:
        """Fields in their order, but each after those that it hangs on.

        Raises:
            ValueError: fields that hang on each other.
        """
        ordered: list[str] = []
        left = list(fields)
        while left:
            free = (name for name in left if not any(one.field in left for one in self.when.get(name, ())))
            first = next(free, None)
            if first is None:
                raise ValueError(f"conditions must not go in a circle, got one through {', '.join(left)}")
            ordered.append(first)
            left.remove(first)
        return ordered

    def above(self, name: str) -> tuple[str, ...]:
        """The fields that one hangs on, and those that these hang on."""
        known: dict[str, None] = {}
        waiting = [name]
        while waiting:
            others = [one.field for one in self.when.get(waiting.pop(), ()) if one.field not in known]
            known |= dict.fromkeys(others)
            waiting += others
        return tuple(known)

    def idle(self, point: Mapping[str, Any]) -> frozenset[str]:
        """The fields that do nothing at a point. One whose other field is not known there counts as acting.

        What does nothing has no say: a field that hangs on it does nothing either.
        """
        idle: set[str] = set()
        for name in self.conditional:
            for one in self.when[name]:
                if one.field in idle or (one.field in point and not one.holds(point[one.field])):
                    idle.add(name)
        return frozenset(idle)

    def drop_idle(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The point without the fields that do nothing there."""
        idle = self.idle(point)
        return {name: value for name, value in point.items() if name not in idle}

    def is_whole(self, point: Mapping[str, Any], fields: Iterable[str]) -> bool:
        """Whether a point has all fields that act there, and no other."""
        return point.keys() == set(fields) - self.idle(point)

    def points(self, values: Mapping[str, Sequence[Value | None]]) -> Iterator[dict[str, Value]]:
        """Every point of a product of values once, without its idle fields; there may be many."""
        return (point_at(values, place) for place in self.places(values))

    def places(self, values: Mapping[str, Sequence[Value | None]]) -> Iterator[tuple[Value | None, ...]]:
        """The same as values in the order of the fields, None for one that does nothing.

        Without conditions in the order of `itertools.product`.
        """
        if not self.conditional:
            return itertools.product(*values.values())
        partial: list[dict[str, Value | None]] = [{}]
        for name in self.in_order(values):
            partial = [
                longer
                for point in partial
                for longer in ([point] if name in self.idle(point) else [{**point, name: v} for v in values[name]])
            ]
        return (tuple(point.get(name) for name in values) for point in partial)

    def count(
        self, counts: Mapping[str, int | None], values: Callable[[str], Sequence[Value | None] | None]
    ) -> int | None:
        """How many points there are.

        Args:
            counts: field -> how many values it has; None for one that takes any number in a range.
            values: field -> these values, where there is a number of them.

        Returns:
            None where a field that may act takes any number.
        """
        parents = {one.field for conditions in self.when.values() for one in conditions} & counts.keys()
        known = {name: values(name) for name in counts if name in parents}
        listed = {name: options for name, options in known.items() if options is not None}
        if len(listed) < len(known):
            return None
        total = 0
        for point in self.points(listed):
            idle = self.idle(point)
            others = [count for name, count in counts.items() if name not in parents and name not in idle]
            finite = [count for count in others if count is not None]
            if len(finite) < len(others):
                return None
            total += math.prod(finite)
        return total


def point_at(fields: Iterable[str], place: Iterable[Any]) -> dict[str, Any]:
    """The point whose values stand in the order of the fields, None for one that does nothing."""
    return {name: value for name, value in zip(fields, place, strict=True) if value is not None}
