"""Which hyperparameters matter, for which metric, on which scenario: fANOVA and PED-ANOVA."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from study.analysis.discretise import Axis, Numbers, build_axes
from study.analysis.fanova import Design, Forest, Shares, build_design, build_shares, grow, together
from study.analysis.results import Results
from study.config.config import LEAST_TRIALS, SPACE_FILLING
from study.config.objectives import direction
from study.report.elements import Bars, Heat, Item, Note, Section, Table
from study.report.formatting import format_share
from tracking import names

if TYPE_CHECKING:
    import optuna
    import pandas

SHOWN = (*names.HEADLINE, names.ISOLATION_SCORE, names.DEFENSE_SCORE, names.OVERALL_SCORE)
_PARTS = {
    names.ISOLATION_SCORE: (names.TPR, names.FPR, (1.0, -1.0)),
    names.DEFENSE_SCORE: (names.CA, names.ASR, (1.0, -1.0)),
    names.OVERALL_SCORE: (names.ISOLATION_SCORE, names.DEFENSE_SCORE, (0.5, 0.5)),
}
ALL = "all scenarios"
FANOVA, PED = "fANOVA", "PED-ANOVA"
LEAST = LEAST_TRIALS
ENOUGH = 40  # below, a warning; see `_TOO_FEW` for what was measured

_TOO_FEW = (
    "{trials} trials for {axes} hyperparameters are few: take the shares as a hint. On a function of seven "
    "hyperparameters whose shares are known, the largest error of a share was 0.15 with 10 quasi-random trials a "
    "hyperparameter, 0.07 with 40 and 0.04 with 146 (random trials: 0.22, 0.12 and 0.03)."
)
_HOW = (
    "fANOVA: share of a metric's variance over the space that one hyperparameter explains alone (Hutter et al. 2014; "
    "64 trees of scikit-learn, corrected by their out-of-bag residuals; log ranges in log; what is missing to 1 are "
    "interactions and noise). In brackets the 95 % range over 200 resamples of the trials, the forest held fixed: too "
    "narrow for quasi-random trials, where it held the true share in about two of three cases. PED-ANOVA (Optuna): how "
    "differently the best tenth of the trials is spread along a hyperparameter, as a share of the sum over "
    "hyperparameters; no interval. All metrics are oracles: they are computed from ground truth that a defender does "
    "not have."
)


@dataclass(frozen=True)
class Importance:
    """Of one metric on one scenario, or its mean over all whose attack works.

    Attributes:
        shares: None where the metric is the same in all trials.
        ped: by axis, summing to 1; None likewise.
    """

    metric: str
    scenario: str
    trials: int
    shares: Shares | None
    ped: Numbers | None


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


def importances(results: Results) -> Importances:
    """Computes all; a tenth of a second each, for 1,000 trials."""
    trials = results.space_filling_trials
    axes = build_axes(results.ranges, trials, results.config.sampler == "grid") if len(trials) else ()
    why = _obstacle(results, len(trials), len(axes))
    if why:
        return Importances(why_none=why)
    computed = []
    designs: dict[bytes, tuple[Design, optuna.Study]] = {}
    forests: dict[tuple[str, str], Forest] = {}
    for metric, scenario, values in _targets(results):
        known = values.dropna()
        if len(known) < LEAST * len(axes):
            continue
        where = known.index.to_numpy().tobytes()
        if where not in designs:
            drawn = trials.loc[known.index]
            designs[where] = build_design(axes, [drawn[axis.name] for axis in axes]), _frozen(results, drawn)
        design, study = designs[where]
        numbers = np.asarray(known, np.float64)
        forest = _sum(forests, metric, scenario, numbers) or grow(design, numbers)
        forests[metric, scenario] = forest
        shares = build_shares(design, forest)
        ped = None if shares is None else _ped(study, [axis.name for axis in axes], numbers, metric)
        computed.append(Importance(metric, scenario, len(known), shares, ped))
    return Importances(axes, tuple(computed), "" if computed else "no scenario's attack works, so no metric counts")


def _sum(known: Mapping[tuple[str, str], Forest], metric: str, scenario: str, values: Numbers) -> Forest | None:
    """A score's forest, from those of the metrics that it is made of; None where it must be grown."""
    one, two, factors = _PARTS.get(metric, ("", "", (0.0, 0.0)))
    first, second = known.get((one, scenario)), known.get((two, scenario))
    if first is None or second is None or len(first.values) != len(values) or len(second.values) != len(values):
        return None
    total = together(first, second, factors)
    return total if np.allclose(total.values, values) else None  # their means may be over other scenarios


def _obstacle(results: Results, trials: int, axes: int) -> str:
    sampler = results.config.sampler
    if not results.ranges:
        return f"the space {results.space!r} has no hyperparameter to search"
    if not trials and len(results.complete) and sampler not in SPACE_FILLING:
        return (
            f"this study's trials were chosen by the sampler {sampler!r}, which crowds where it finds something good: "
            "shares of the space's variance computed from them mislead. "
            f"python -m study.run --space {results.space} --sampler qmc --trials N gives trials that fill the space"
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


def _frozen(results: Results, trials: "pandas.DataFrame") -> "optuna.Study":
    """The trials as a study in memory, which is what Optuna's evaluators read."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ranges = {name: searched.distribution() for name, searched in results.ranges.items()}
    study = optuna.create_study()
    columns = [trials[name].tolist() for name in ranges]
    points = [dict(zip(ranges, values, strict=True)) for values in zip(*columns, strict=True)]
    study.add_trials([optuna.trial.create_trial(params=point, distributions=ranges, value=0.0) for point in points])
    return study


def _ped(study: "optuna.Study", fields: Sequence[str], values: Numbers, metric: str) -> Numbers | None:
    """PED-ANOVA's importances, summing to 1; None where the best tenth does not differ from all."""
    from optuna.importance import PedAnovaImportanceEvaluator

    losses = values if direction(metric) == "minimize" else -values  # it takes what is lowest for the best
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, and told of every target that lower must be better
        shares = PedAnovaImportanceEvaluator().evaluate(study, list(fields), target=lambda t: float(losses[t.number]))
    raw = np.array([shares[field] for field in fields])
    return raw / raw.sum() if raw.sum() > 0 else None


def importance_section(results: Results, computed: Importances) -> Section:
    """The answer."""
    command = f"python -m study.analyze {results.name}"
    title = "Which hyperparameters matter"
    if computed.why_none:
        items: tuple[Item, ...] = (Note(f"No importances: {computed.why_none}.", "warning"),)
        return Section("importance", title, "This study cannot tell.", items, command)
    fewest = min(one.trials for one in computed.each)
    notes: list[Item] = [Note(_HOW)]
    if fewest < ENOUGH * len(computed.axes):
        notes.append(Note(_TOO_FEW.format(trials=fewest, axes=len(computed.axes)), "warning"))
    objective = results.goal.objectives[0]
    metrics = list(dict.fromkeys([objective, *(one.metric for one in computed.each)]))
    metrics = [metric for metric in metrics if computed.of(metric)]
    items = (
        *notes,
        _together(computed, metrics),
        _bars(computed, metrics[:1]),
        *(_heat(computed, metric) for metric in metrics[:1]),
        *(_by_scenario(computed, metric) for metric in metrics),
    )
    return Section("importance", title, _lead(computed, metrics[0]), items, command)


def _lead(computed: Importances, metric: str) -> str:
    whole = computed.of(metric)
    if whole is None or whole.shares is None:
        return f"{metric} is the same in all trials: no hyperparameter matters within its range."
    order = np.argsort(-whole.shares.alone)[:3]
    first = ", ".join(f"{computed.fields[at]} {format_share(whole.shares.alone[at])}" for at in order)
    rest = max(0.0, 1 - whole.shares.alone.sum())
    return (
        f"Of the variance of {metric} (mean over scenarios, an oracle) over the space, fANOVA gives {first}; "
        f"{format_share(rest)} is left to interactions and noise ({whole.trials} trials)."
    )


def _interval(shares: Shares | None, at: int) -> str | None:
    if shares is None:
        return None
    share, low, high = (format_share(of[at]) for of in (shares.alone, shares.low, shares.high))
    return f"{share} [{low}, {high}]"


def _ped_text(ped: Numbers | None, at: int) -> str | None:
    return None if ped is None else format_share(ped[at])


def _together(computed: Importances, metrics: Sequence[str]) -> Table:
    """Hyperparameters by metrics, on the mean over scenarios."""
    whole = {metric: one for metric in metrics if (one := computed.of(metric))}
    rows = [
        (field, evaluator, *cells)
        for at, field in enumerate(computed.fields)
        for evaluator, cells in (
            (FANOVA, [_interval(one.shares, at) for one in whole.values()]),
            (PED, [_ped_text(one.ped, at) for one in whole.values()]),
        )
    ]
    caption = "Importance for the mean over all scenarios whose attack works"
    return Table("importance-all", caption, ("hyperparameter", "evaluator", *whole), tuple(rows), left=2)


def _by_scenario(computed: Importances, metric: str) -> Table:
    rows = []
    for one in computed.each:
        if one.metric == metric:
            cells = range(len(computed.axes))
            rows.append((one.scenario, FANOVA, *(_interval(one.shares, at) for at in cells)))
            rows.append((one.scenario, PED, *(_ped_text(one.ped, at) for at in cells)))
    header = ("scenario", "evaluator", *computed.fields)
    return Table(f"importance-{metric}", f"Importance for {metric}, by scenario", header, tuple(rows), left=2)


def _bars(computed: Importances, metrics: Sequence[str]) -> Bars:
    known: Mapping[str, Shares] = {
        metric: one.shares for metric in metrics if (one := computed.of(metric)) and one.shares is not None
    }
    return Bars(
        "importance-bars",
        f"fANOVA: main effects on the mean of {', '.join(metrics)} over scenarios, with the 95 % range over resamples",
        computed.fields,
        tuple(known),
        tuple(tuple(shares.alone.tolist()) for shares in known.values()),
        tuple(tuple(shares.low.tolist()) for shares in known.values()),
        tuple(tuple(shares.high.tolist()) for shares in known.values()),
        "share of variance",
    )


def _heat(computed: Importances, metric: str) -> Heat:
    of = [one for one in computed.each if one.metric == metric]
    values = tuple(
        tuple(None if one.shares is None else float(one.shares.alone[at]) for one in of)
        for at in range(len(computed.axes))
    )
    caption = f"fANOVA: share of the variance of {metric} that each hyperparameter explains alone, by scenario"
    return Heat("importance-heat", caption, tuple(one.scenario for one in of), computed.fields, values)
