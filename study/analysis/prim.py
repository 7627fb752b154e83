"""The largest box of settings that holds good trials and no bad one.

Peeling as in PRIM (Friedman & Fisher: Bump hunting in high-dimensional data, Statistics and Computing 9, 1999), from
the whole space down, restarted so that each of many good trials is kept inside once, and by two rules of what to cut.
Nothing is drawn: the same trials give the same box.

A hyperparameter that does nothing in a trial bounds nothing there: the trial has no number (NaN) and no option (-1) of
it, and lies within any wall along it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from study.analysis.discretise import Numbers

Bools = NDArray[np.bool_]
Rule = Literal["ratio", "difference"]
_STARTS = 64  # good trials that a box is peeled around


@dataclass(frozen=True)
class Box:
    """A part of a space.

    Attributes:
        low, high: [numbers]: ends, inclusive.
        options: of each choice, whether an option is in.
    """

    low: Numbers
    high: Numbers
    options: tuple[Bools, ...]

    def holds(self, numbers: Numbers, choices: NDArray[np.int64]) -> Bools:
        """Which points lie inside.

        Args:
            numbers: float64 [points, numbers]; NaN where one does nothing.
            choices: int64 [points, choices], positions of options; -1 where one does nothing.

        Returns:
            bool [points].
        """
        within = np.isnan(numbers) | ((numbers >= self.low) & (numbers <= self.high))
        known = [(choices[:, at] < 0) | options[choices[:, at]] for at, options in enumerate(self.options)]
        return np.asarray(np.column_stack([within, *known]).all(axis=1), np.bool_)


def peel_prim_box(
    numbers: Numbers,
    choices: NDArray[np.int64],
    good: Bools,
    ends: Sequence[tuple[float, float]],
    counts: Sequence[int],
) -> Box | None:
    """The box with the most good points and no bad one; of equals the larger, then the first.

    Args:
        numbers: float64 [points, numbers], on scales on which volume is even; NaN where one does nothing.
        choices: int64 [points, choices], positions of options; -1 where one does nothing.
        good: bool [points].
        ends: of the numbers' ranges. counts: of the choices' options.

    Returns:
        None where no point is good, or bad ones lie at the places of all that are. An end is that of the outermost good
        point, or the range's own end where no bad point lies between.
    """
    if not good.any():
        return None
    best: tuple[int, float, Box] | None = None
    starts = np.flatnonzero(good)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(_STARTS, len(starts))).astype(int))]
    rules: tuple[Rule, ...] = ("ratio", "difference")
    for start in chosen:
        for rule in rules:
            inside = _peel(numbers, choices, good, int(start), rule)
            if inside is None:
                continue
            box = _grown(numbers, choices, good, inside, ends, counts)
            held = int((box.holds(numbers, choices) & good).sum())
            volume = _volume(box, ends)
            if best is None or (held, volume) > (best[0], best[1] + 1e-12):
                best = (held, volume, box)
    return best[2] if best else None


def _volume(box: Box, ends: Sequence[tuple[float, float]]) -> float:
    lengths = np.array([high - low for low, high in ends])
    there = box.high >= box.low  # no trial in the box has another number
    sides = np.where(there, box.high - box.low, 0.0) / np.where(lengths > 0, lengths, 1.0)
    return float(np.prod(sides) * np.prod([known.mean() for known in box.options]))


def _peel(numbers: Numbers, choices: NDArray[np.int64], good: Bools, start: int, rule: Rule) -> Bools | None:
    """Cuts until no bad point is left around a good one; which points remain, None where a bad one is at its place."""
    inside = np.ones(len(good), bool)
    while (inside & ~good).any():
        best_score, best_cut = -np.inf, np.zeros(0, bool)
        for cut in _cuts(numbers, choices, good, inside, start, rule):
            score = _score(good, inside, cut, rule)
            if score > best_score:
                best_score, best_cut = score, cut
        if not len(best_cut):
            return None
        inside = np.logical_and(inside, ~best_cut)
    return inside


def _score(good: Bools, inside: Bools, cut: Bools, rule: Rule) -> float:
    bad_cut, good_cut = int((cut & inside & ~good).sum()), int((cut & inside & good).sum())
    if rule == "ratio":
        return bad_cut / (good_cut + 0.5)
    return bad_cut / int((inside & ~good).sum()) - good_cut / int((inside & good).sum())


def _cuts(
    numbers: Numbers, choices: NDArray[np.int64], good: Bools, inside: Bools, start: int, rule: Rule
) -> list[Bools]:
    """The best cut of every face, and every option, that leaves the start inside and takes a bad point."""
    cuts = []
    for at in range(numbers.shape[1]):
        for sign in (1, -1):
            away = sign * (numbers[:, at] - numbers[start, at])
            where = _threshold(away[inside & ~good], away[inside & good], rule)
            if where is not None:
                cuts.append(away >= where)
    for at in range(choices.shape[1]):
        for option in np.unique(choices[inside & ~good, at]):
            if option not in (choices[start, at], -1):
                cuts.append(choices[:, at] == option)
    return cuts


def _threshold(bad: Numbers, good: Numbers, rule: Rule) -> float | None:
    """Where to cut one face: at a bad point beyond the start, by the same score that compares faces."""
    bad, good = bad[~np.isnan(bad)], good[~np.isnan(good)]
    places = np.unique(bad[bad > 0])
    if not len(places):
        return None
    bad_cut = len(bad) - np.searchsorted(np.sort(bad), places)
    good_cut = len(good) - np.searchsorted(np.sort(good), places)
    score = bad_cut / (good_cut + 0.5) if rule == "ratio" else bad_cut / len(bad) - good_cut / len(good)
    return float(places[int(np.argmax(score))])


def _grown(
    numbers: Numbers,
    choices: NDArray[np.int64],
    good: Bools,
    inside: Bools,
    ends: Sequence[tuple[float, float]],
    counts: Sequence[int],
) -> Box:
    """The hull of the good points inside; then each side out to the last before a bad one (PRIM's pasting)."""
    kept = inside & good
    low = np.fmin.reduce(numbers[kept], axis=0, initial=np.inf)
    high = np.fmax.reduce(numbers[kept], axis=0, initial=-np.inf)
    options = []
    for at, count in enumerate(counts):
        known = np.zeros(count, bool)
        own = choices[kept, at]
        known[own[own >= 0]] = True
        options.append(known)
    while True:
        box = Box(low, high, tuple(options))
        before = (low.copy(), high.copy(), [known.copy() for known in options])
        for at, (bottom, top) in enumerate(ends):
            beside = _without(box, at).holds(numbers, choices)
            high[at] = _outwards(numbers[:, at], beside, good, high[at], top)
            low[at] = -_outwards(-numbers[:, at], beside, good, -low[at], -bottom)
        for at, known in enumerate(options):
            for option in np.flatnonzero(~known):
                wider = [*options[:at], known | (np.arange(len(known)) == option), *options[at + 1 :]]
                held = Box(low, high, tuple(wider)).holds(numbers, choices) & (choices[:, at] == option)
                if (held & good).any() and not (held & ~good).any():
                    known[option] = True
        same = np.array_equal(before[0], low) and np.array_equal(before[1], high)
        if same and all(map(np.array_equal, before[2], options)):
            return Box(low, high, tuple(options))


def _without(box: Box, at: int) -> Box:
    """The box without its walls along one number."""
    low, high = box.low.copy(), box.high.copy()
    low[at], high[at] = -np.inf, np.inf
    return Box(low, high, box.options)


def _outwards(places: Numbers, beside: Bools, good: Bools, end: float, last: float) -> float:
    """How far an upper end can go: to the range's end, or to the last good point before the first bad one."""
    bad = places[beside & ~good & (places > end)]
    if not len(bad):
        return max(end, last)
    fine = places[beside & good & (places > end) & (places < bad.min())]
    return float(fine.max()) if len(fine) else end
