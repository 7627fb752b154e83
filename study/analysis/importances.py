"""How much each hyperparameter matters, for which metric, on which scenario: fANOVA, and PED-ANOVA where it is defined.

A metric is asked only about the hyperparameters that it can depend on (`study.analysis.upstream_fields`): trials that
differ in another one differ in this metric by chance alone. One that does nothing in some trials
(`search_spaces.conditions`) is judged by the others: its share is of the variance among the trials in which it acts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.space import Choice, Range
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
FEWEST_SETTINGS = 10
"""For each field of which trials share settings, before a share of it says anything: the least that was measured."""
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
        acts: by axis, of how many trials its share is: of all, or of those in which it acts, and PED-ANOVA's importance
            as well; 0 where those are too few or have the same metric, and both are then zero.
    """

    metric: str
    scenario: str
    trials: int
    read: tuple[bool, ...]
    shares: Shares | None = None
    ped: Numbers | None = None
    why_no_ped: str = ""
    acts: tuple[int, ...] = ()


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
        self._designs: dict[tuple[bytes, tuple[int, ...], bool], Design] = {}
        self._forests: dict[tuple[str, str], tuple[tuple[int, ...], Forest]] = {}

    def importance(self, metric: str, scenario: str, known: "pandas.Series[float]", own: tuple[int, ...]) -> Importance:
        """Of one metric on one scenario.

        Args:
            known: by trial.
            own: positions of the axes that the metric can depend on.
        """
        read = tuple(at in own for at in range(len(self._axes)))
        acts = [len(known)] * len(self._axes)
        trials = self._results.space_filling_trials.loc[known.index]
        masks = {at: trials[self._axes[at].name].notna() for at in own}
        always = tuple(at for at in own if masks[at].all())
        shares = self._shares((metric, scenario), known, always)
        if shares is None:
            return Importance(metric, scenario, len(known), read, acts=tuple(acts))
        ped, why_no_ped = self._importances(metric, known, always)
        for at in own:
            if at not in always:
                acts[at] = self._add_where_it_acts(metric, known[masks[at]], at, own, shares, ped)
        return Importance(metric, scenario, len(known), read, shares, ped, why_no_ped, tuple(acts))

    def _shares(
        self, target: tuple[str, str], known: "pandas.Series[float]", own: tuple[int, ...], axes: Sequence[Axis] = ()
    ) -> Shares | None:
        """Of all axes, zero but for `own`; None where there are none, or the metric is the same in all but a few.

        Args:
            target: metric and scenario; empty texts for a part of the trials.
            axes: in place of the study's, for a part of the trials.
        """
        values = np.asarray(known, np.float64)
        if not own or not _varies(values):
            if own and target[0]:  # a score may be made of it all the same
                self._forests[target] = own, grow(self._design(known, own, ()), values)
            return None
        design = self._design(known, own, axes)
        forest = (self._sum(*target, values, own) if target[0] else None) or grow(design, values)
        if target[0]:
            self._forests[target] = own, forest
        alone = build_shares(design, forest)
        return None if alone is None else widen_shares(alone, own, len(self._axes))

    def _design(self, known: "pandas.Series[float]", own: tuple[int, ...], axes: Sequence[Axis]) -> Design:
        where = known.index.to_numpy().tobytes(), own, bool(axes)
        if where not in self._designs:
            trials = self._results.space_filling_trials.loc[known.index]
            chosen = axes or [self._axes[at] for at in own]
            self._designs[where] = build_design(chosen, [trials[axis.name] for axis in chosen])
        return self._designs[where]

    def _importances(
        self, metric: str, known: "pandas.Series[float]", own: tuple[int, ...]
    ) -> tuple[Numbers | None, str]:
        """PED-ANOVA's of all axes, zero but for `own`; or why there are none."""
        values = np.asarray(known, np.float64)
        losses = values if direction(metric) == "minimize" else -values  # it takes what is lowest for the best
        why_no_ped = why_undefined(losses)
        if why_no_ped:
            return None, why_no_ped
        trials = self._results.space_filling_trials.loc[known.index]
        of_own = self._ped(trials, [self._axes[at].name for at in own], losses)
        if of_own is None:
            return None, "the best tenth is spread as all trials are"
        ped = np.zeros(len(self._axes))
        ped[list(own)] = of_own
        return ped, ""

    def _add_where_it_acts(
        self,
        metric: str,
        known: "pandas.Series[float]",
        at: int,
        own: tuple[int, ...],
        shares: Shares,
        ped: Numbers | None,
    ) -> int:
        """Adds to the shares what a hyperparameter explains of the trials in which it acts.

        Returns:
            How many these are; 0 where they do not tell.
        """
        trials = self._results.space_filling_trials.loc[known.index]
        fields = [self._axes[one].name for one in own]
        there = {name: self._results.ranges[name] for name in fields if trials[name].notna().all()}
        axes = build_axes(_met(there, trials, self._results), trials, self._results.config.sampler == "grid")
        among = tuple(one for one in own if self._axes[one].name in {axis.name for axis in axes})
        if at not in among or len(known) < LEAST * len(among):
            return 0
        part = self._shares(("", ""), known, among, axes)
        if part is None:
            return 0
        for whole, of_part in ((shares.alone, part.alone), (shares.low, part.low), (shares.high, part.high)):
            whole[at] = of_part[at]
        shares.pairs[at, list(among)] = shares.pairs[list(among), at] = part.pairs[at, list(among)]
        if ped is not None:
            beside, _ = self._importances(metric, known, among)
            ped[at] = np.nan if beside is None else beside[at]
        return len(known)

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


def _met(ranges: Mapping[str, Range], trials: "pandas.DataFrame", results: Results) -> dict[str, Range]:
    """The ranges, of choices that others hang on those options alone that these trials have: where a field acts."""
    hung_on = {one.field for own in results.ranges.values() for one in own.when}
    return {
        name: replace(own, options=tuple(option for option in own.options if (trials[name] == option).any()))
        if isinstance(own, Choice) and name in hung_on
        else own
        for name, own in ranges.items()
    }


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
            f"at least {needed} complete trials besides the paper's values and the preset's are needed, {LEAST} for "
            f"each hyperparameter that varies, got {trials}"
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


def error_of_settings(settings: int, fields: int) -> float:
    """The same of fields whose settings trials share, by the settings; 1 where they are fewer than was measured."""
    return error_of_share(settings, fields) if settings >= FEWEST_SETTINGS * fields else 1.0
