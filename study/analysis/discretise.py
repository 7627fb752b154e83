"""Hyperparameters as axes: cells of known measure, so that a share of the space is a sum, on whatever scale.

A log range is cut evenly in its logarithm, a whole number has a cell a value, a choice a cell an option. Whoever draws
evenly from a range (`search_spaces.space`) falls into every cell as often as its weight says.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Choice, Int, Range

if TYPE_CHECKING:
    import pandas

CELLS = 64  # of a real number; a step of the forest cannot be told more finely
Numbers = NDArray[np.float64]
Cells = NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """One hyperparameter.

    Attributes:
        edges: of the cells, ascending; in log where `log`. Of a choice: 0, 1, 2 ...
        weights: share of the range in each cell; sums to 1.
        levels: the values that cells stand for, where each stands for one; empty for a real number.
    """

    name: str
    edges: Numbers
    weights: Numbers
    levels: tuple[Any, ...] = ()
    log: bool = False

    def cells(self, values: "pandas.Series[Any]") -> Cells:
        """Positions, int64 [n], of the cells that n values fall into; those outside fall into the next one."""
        if self.levels and not isinstance(self.levels[0], int | float):
            return np.array([self.levels.index(value) for value in values], np.int64)
        if self.levels:
            return self._nearest(values.to_numpy(float))
        places = self.place(values.to_numpy(float))
        return np.clip(np.searchsorted(self.edges, places, side="right") - 1, 0, len(self.weights) - 1).astype(np.int64)

    def _nearest(self, values: Numbers) -> Cells:
        levels = np.asarray(self.levels, float)
        nearest: Cells = np.abs(values[:, None] - levels[None, :]).argmin(axis=1).astype(np.int64)
        return nearest

    def place(self, values: Numbers) -> Numbers:
        """Values on the scale of the edges, both float64 [n]."""
        return np.log(values) if self.log else values

    def value(self, place: float) -> float:
        """The value at a place on the scale of the edges."""
        return math.exp(place) if self.log else place


def build_axis(name: str, searched: Range, drawn: "pandas.Series[Any]", grid: bool = False) -> Axis:
    """The axis of a range.

    Args:
        drawn: the values that trials have.
        grid: they were laid out and not drawn: each level counts as much as any other.
    """
    if isinstance(searched, Choice):
        return _of_levels(name, tuple(searched.options), np.ones(len(searched.options)))
    if grid:
        levels = tuple(sorted(drawn.dropna().unique().tolist()))
        return _of_levels(name, levels, np.ones(len(levels)), searched.log)
    if isinstance(searched, Int) and searched.high - searched.low < CELLS:
        values = np.arange(searched.low, searched.high + 1)
        widths = np.log((values + 0.5) / (values - 0.5)) if searched.log else np.ones(len(values))
        return _of_levels(name, tuple(values.tolist()), widths, searched.log)
    half = 0.5 if isinstance(searched, Int) else 0.0  # Optuna draws an integer from half before to half after it
    low, high = searched.low - half, searched.high + half
    ends = (math.log(low), math.log(high)) if searched.log else (low, high)
    return Axis(name, np.linspace(*ends, CELLS + 1), np.full(CELLS, 1 / CELLS), log=searched.log)


def _of_levels(name: str, levels: tuple[Any, ...], widths: Numbers, log: bool = False) -> Axis:
    return Axis(name, np.arange(len(levels) + 1.0), widths / widths.sum(), levels, log)


def build_axes(ranges: Mapping[str, Range], trials: "pandas.DataFrame", grid: bool = False) -> tuple[Axis, ...]:
    """The axes of a space, in its order; a field that every trial has the same is left out: it explains nothing."""
    return tuple(
        build_axis(name, own, trials[name], grid) for name, own in ranges.items() if trials[name].nunique() > 1
    )


def load_default_point(fields: Iterable[str], trials: "pandas.DataFrame") -> dict[str, Any]:
    """The paper's point, as the trial that is the paper's default has it; empty where there is none."""
    default = trials[trials["paper_default"]]
    return {name: default.iloc[0][name] for name in fields} if len(default) else {}
