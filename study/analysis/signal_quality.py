"""How well signals that need no ground truth choose trials, measured by the objective, which takes ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from defenses.signals import SIGNALS
from study.analysis.results import Results
from study.config.objectives import UNJUDGED, direction
from study.ledger.selection import Candidate, best_per_scenario, visible
from tracking import names

if TYPE_CHECKING:
    import pandas

VISIBLE: Mapping[str, int] = {
    **{names.signal(name): sign for name, (sign, _) in SIGNALS.items()},
    names.FLAGGED_SHARE: -1,
}
"""Columns that a defender could choose by -> 1 to take the largest, -1 to take the smallest."""

LEAST_DISTINCT = 10
"""Trials with different values that a rank correlation takes: of four, one order in twelve is perfect by chance."""
_DIGITS = 12  # of a value: below, two that are equal differ by rounding


def oracle_scores(results: Results) -> "pandas.DataFrame":
    """The objective (the first of several), higher is better, by trial (rows) and scenario (columns).

    Complete trials and working attacks alone; NaN where a scenario does not define the objective.
    """
    objective = results.goal.objectives[0]
    sign = 1.0 if direction(objective) == "maximize" else -1.0
    return sign * results.compared.pivot(index="trial", columns="scenario", values=objective)


def signal_values(results: Results, signal: str) -> "pandas.DataFrame":
    """A column of `VISIBLE`, higher should be better, by trial and scenario. NaN where it is undefined."""
    import pandas

    if signal not in results.compared.columns:
        empty = results.compared.pivot(index="trial", columns="scenario", values="seed")
        return pandas.DataFrame(float("nan"), index=empty.index, columns=empty.columns)
    return VISIBLE[signal] * results.compared.pivot(index="trial", columns="scenario", values=signal).astype(float)


def _candidates(values: "pandas.DataFrame") -> list[Candidate]:
    """Complete trials by their values, higher is better, by trial and scenario."""
    rows = values.to_dict("index")
    return [
        Candidate(int(str(trial)), "complete", scenarios={str(name): (value,) for name, value in row.items()})
        for trial, row in rows.items()
    ]


def regrets(scores: "pandas.DataFrame", taken: Mapping[str, int]) -> "pandas.Series":
    """By scenario, what the best trial reaches above the one that was taken, >= 0; NaN where that has no score.

    Args:
        scores: as `oracle_scores` gives them.
        taken: scenario -> trial.
    """
    import pandas

    lost = {name: scores[name].max() - scores.at[trial, name] for name, trial in taken.items() if name in scores}
    return pandas.Series(lost, dtype=float)


@dataclass(frozen=True)
class SignalQuality:
    """How well one signal chooses.

    Attributes:
        correlation: by scenario, Spearman's rank correlation of the signal (turned so that higher should be better)
            with the objective over trials; NaN where one of them does not vary.
        regret: by scenario, see `regrets`.
        distinct: by scenario, how many different values the signal has over trials, or the objective where it has
            fewer.
        varies: whether the signal differs between trials on every scenario; one that does not chooses nothing.
    """

    signal: str
    correlation: "pandas.Series"
    regret: "pandas.Series"
    distinct: "pandas.Series"
    varies: bool

    @property
    def known_correlation(self) -> "pandas.Series":
        """The correlations that enough different values stand behind (`LEAST_DISTINCT`); NaN elsewhere."""
        return self.correlation.where(self.distinct >= LEAST_DISTINCT)


def judge_signals(results: Results) -> list[SignalQuality]:
    """Every signal that the study tells, the one with the least mean regret first.

    None where the objective is one itself, as on data whose poison nobody knows: it says nothing of what was found.
    """
    if results.goal.objectives[0] in UNJUDGED:
        return []
    scores = oracle_scores(results)
    judged = []
    for signal in VISIBLE:
        values = signal_values(results, signal).reindex_like(scores)
        # A signal that is silent on a scenario chooses nothing there, and cannot be ranked with those that do.
        if values.notna().any().all() and not scores.empty:
            lost = regrets(scores, best_per_scenario(_candidates(values), "maximize"))
            known, counts = scores.round(_DIGITS).nunique(), values.round(_DIGITS).nunique()
            distinct = known.where(known <= counts, counts)
            judged.append(
                SignalQuality(signal, _correlations(values, scores), lost, distinct, bool((counts > 1).all()))
            )
    return sorted(judged, key=lambda one: float(one.regret.mean()))


def _correlations(values: "pandas.DataFrame", scores: "pandas.DataFrame") -> "pandas.Series":
    ranked = values.where(scores.notna()).rank(), scores.where(values.notna()).rank()
    return ranked[0].corrwith(ranked[1])  # Pearson's of ranks, ties at their mean, is Spearman's


def visible_trials(results: Results, judged: Sequence[SignalQuality]) -> dict[str, int]:
    """What `study.ledger.selection.visible` takes: scenario -> the trial of a defender without ground truth.

    With one attack all its scenarios decide (`results.scenarios` tells how many attacks there are).

    Args:
        judged: as `judge_signals` gives them.
    """
    known = {one.signal: one for one in judged if one.varies}  # the others choose nothing, or not everywhere
    told = [signal for signal in VISIBLE if signal in known]  # their order by regret would know the scenario itself
    return visible(
        {signal: _candidates(signal_values(results, signal)) for signal in told},
        {signal: {str(name): float(lost) for name, lost in known[signal].regret.items()} for signal in told},
        {str(name): str(attack) for name, attack in results.scenarios["attack"].items()},
    )


def oracle_trials(results: Results) -> dict[str, int]:
    """Scenario whose attack works -> the complete trial that is best there, by the first of several objectives."""
    return best_per_scenario(_candidates(oracle_scores(results)), "maximize")
