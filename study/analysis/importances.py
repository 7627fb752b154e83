"""How much each hyperparameter matters, for which metric, on which scenario: fANOVA, and PED-ANOVA where it is defined.

A metric is asked only about the hyperparameters that it can depend on (`study.analysis.upstream_fields`): trials that
differ in another one differ in this metric by chance alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from study.analysis.discretise import Axis, Numbers, build_axes
from study.analysis.fanova import (
    LEAF,
    Design,
    Forest,
    Shares,
    build_design,
    build_shares,
    grow,
    together,
    widen_forest,
    widen_shares,
)
from study.analysis.ped_anova import why_undefined
from study.analysis.results import Results
from study.analysis.upstream_fields import SCORE_PARTS, searched_upstream
from study.config.objectives import direction
from study.config.sampling import LEAST_TRIALS, SPACE_FILLING
from tracking import names

if TYPE_CHECKING:
    import pandas

SHOWN = (*names.HEADLINE, names.ISOLATION_SCORE, names.DEFENSE_SCORE, names.OVERALL_SCORE)
_FACTORS = {
    names.ISOLATION_SCORE: (1.0, -1.0),
    names.DEFENSE_SCORE: (1.0, -1.0),
    names.OVERALL_SCORE: (0.5, 0.5),
}
ALL = "all scenarios"
LEAST = LEAST_TRIALS
ERRORS = ((146, 0.04), (40, 0.07), (0, 0.15))
"""Trials a hyperparameter, at least -> the largest error of a share: of 10, 40 and 146 quasi-random trials a
hyperparameter, measured on a function of seven whose shares are known."""
_DIGITS = 12  # of a value: below, two that are equal differ by rounding

Ped = Callable[["pandas.DataFrame", Sequence[str], Numbers], Numbers | None]
"""Trials, fields and losses float64 [trials] -> PED-ANOVA's importances float64 [fields], summing to 1; or None."""


@dataclass(frozen=True)
class Importance:
    """Of one metric on one scenario, or its mean over all whose attack works.

    Attributes:
        read: by axis, whether the metric can depend on it at all; see `study.analysis.upstream_fields`.
        shares: by axis, zero where it cannot; None where the metric is the same in all trials, or in all but a few.
        ped: by axis, summing to 1, zero where the metric cannot depend on it; None where it is undefined.
        why_no_ped: why not, as the end of a sentence.
    """

    metric: str
    scenario: str
    trials: int
    read: tuple[bool, ...]
    shares: Shares | None = None
    ped: Numbers | None = None
    why_no_ped: str = ""


@dataclass(frozen=True)
class Importances:
    """All of a study.

    Attributes:
        why_none: why there are none; empty where there are some.
    """

    axes: tuple[Axis, ...] = ()
    each: tuple[Importance, ...] = ()
    why_none: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    def of(self, metric: str, scenario: str = ALL) -> Importance | None:
        """One of them."""
        return next((one for one in self.each if (one.metric, one.scenario) == (metric, scenario)), None)

    def varies(self, metric: str) -> bool:
        """Whether there is a share of it anywhere."""
        return any(one.shares is not None for one in self.each if one.metric == metric)


def compute_importances(results: Results, ped: Ped) -> Importances:
    """Computes all; a tenth of a second each, for 1,000 trials."""
    trials = results.space_filling_trials
    axes = build_axes(results.ranges, trials, results.config.sampler == "grid") if len(trials) else ()
    why = _obstacle(results, len(trials), len(axes))
    if why:
        return Importances(why_none=why)
    work = _Work(results, axes, ped)
    upstream = {metric: set(searched_upstream(results, metric)) for metric in SHOWN}
    computed = []
    for metric, scenario, values in _targets(results):
        known = values.dropna()
        own = tuple(at for at, axis in enumerate(axes) if axis.name in upstream[metric])
        if len(known) >= LEAST * max(1, len(own)):
            computed.append(work.importance(metric, scenario, known, own))
    return Importances(axes, tuple(computed), "" if computed else "no scenario's attack works, so no metric counts")


class _Work:
    """What the importances of a study share: designs and forests."""

    def __init__(self, results: Results, axes: Sequence[Axis], ped: Ped) -> None:
        self._results, self._axes, self._ped = results, axes, ped
        self._designs: dict[tuple[bytes, tuple[int, ...]], Design] = {}
        self._forests: dict[tuple[str, str], tuple[tuple[int, ...], Forest]] = {}

    def importance(self, metric: str, scenario: str, known: "pandas.Series[float]", own: tuple[int, ...]) -> Importance:
        """Of one metric on one scenario.

        Args:
            known: by trial.
            own: positions of the axes that the metric can depend on.
        """
        read = tuple(at in own for at in range(len(self._axes)))
        values = np.asarray(known, np.float64)
        if not own:
            return Importance(metric, scenario, len(known), read)
        where = known.index.to_numpy().tobytes()
        trials = self._results.space_filling_trials.loc[known.index]
        if (where, own) not in self._designs:
            axes = [self._axes[at] for at in own]
            self._designs[where, own] = build_design(axes, [trials[axis.name] for axis in axes])
        design = self._designs[where, own]
        forest = self._sum(metric, scenario, values, own) or grow(design, values)
        self._forests[metric, scenario] = own, forest
        alone = build_shares(design, forest) if _varies(values) else None
        if alone is None:
            return Importance(metric, scenario, len(known), read)
        shares = widen_shares(alone, own, len(self._axes))
        losses = values if direction(metric) == "minimize" else -values  # it takes what is lowest for the best
        why_no_ped = why_undefined(losses)
        if why_no_ped:
            return Importance(metric, scenario, len(known), read, shares, None, why_no_ped)
        ped = np.zeros(len(self._axes))
        of_own = self._ped(trials, [self._axes[at].name for at in own], losses)
        if of_own is None:
            why_no_ped = "the best tenth is spread as all trials are"
            return Importance(metric, scenario, len(known), read, shares, None, why_no_ped)
        ped[list(own)] = of_own
        return Importance(metric, scenario, len(known), read, shares, ped)

    def _sum(self, metric: str, scenario: str, values: Numbers, own: tuple[int, ...]) -> Forest | None:
        """A score's forest, from those of the metrics that it is made of; None where it must be grown."""
        parts = [self._forests.get((part, scenario)) for part in SCORE_PARTS.get(metric, ())]
        wide = [
            widen_forest(part[1], [own.index(at) for at in part[0]], len(own))
            for part in parts
            if part is not None and set(part[0]) <= set(own) and len(part[1].values) == len(values)
        ]
        if len(wide) < 2:
            return None
        total = together(wide[0], wide[1], _FACTORS[metric])
        return total if np.allclose(total.values, values) else None  # their means may be over other scenarios


def _varies(values: Numbers) -> bool:
    """Whether enough trials differ from the commonest value: fewer than fill a leaf of the forest are no variance."""
    counts = np.unique(np.round(values, _DIGITS), return_counts=True)[1]
    return bool(len(values) - counts.max() >= LEAF)


def _obstacle(results: Results, trials: int, axes: int) -> str:
    sampler = results.config.sampler
    if not results.ranges:
        return f"the space {results.space!r} has no hyperparameter to search"
    if not trials and len(results.complete) and sampler not in SPACE_FILLING:
        return (
            f"this study's trials were chosen by the sampler {sampler!r}, which crowds where it finds something good; "
            "--sampler qmc gives trials that fill the space"
        )
    if not trials:
        return "no trial is complete but the paper's default"
    needed = LEAST * max(axes, 1)
    if trials < needed:
        return (
            f"at least {needed} complete trials besides the paper's default are needed, {LEAST} for each "
            f"hyperparameter that varies, got {trials}"
        )
    return "" if axes else "every trial has the same value of every hyperparameter"


def _targets(results: Results) -> "Iterator[tuple[str, str, pandas.Series[float]]]":
    """Metric, scenario and its value by trial; first the mean over scenarios, then each."""
    cells = results.compared[results.compared["trial"].isin(results.space_filling_trials.index)]
    for metric in SHOWN:
        table = cells.pivot(index="trial", columns="scenario", values=metric)
        table = table.reindex(columns=[name for name in results.scenarios.index if name in table])
        yield metric, ALL, table.mean(axis=1)
        for scenario in table:
            yield metric, str(scenario), table[scenario]


def error_of_share(trials: int, axes: int) -> float:
    """How wrong a share may be with so many trials, as measured where shares are known."""
    return next(error for least, error in ERRORS if trials >= least * max(1, axes))
