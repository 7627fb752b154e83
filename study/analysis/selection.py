"""Rules that pick a configuration: with ground truth, without it, or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from defenses.signals import SIGNALS
from study.analysis.results import Results
from study.config.objectives import direction
from tracking import names

if TYPE_CHECKING:
    import pandas

VISIBLE: Mapping[str, int] = {
    **{names.signal(name): sign for name, (sign, _) in SIGNALS.items()},
    names.FLAGGED_SHARE: -1,
}
"""Columns that a defender could choose by -> 1 to take the largest, -1 to take the smallest."""


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


def picks(values: "pandas.DataFrame") -> "pandas.Series":
    """The trial with the largest value in each scenario; of equals the first. Scenarios without a value are left out.

    Args:
        values: by trial and scenario.
    """
    known = values.dropna(axis="columns", how="all")
    return known.idxmax(axis="index")


def regrets(scores: "pandas.DataFrame", picked: "pandas.Series") -> "pandas.Series":
    """By scenario, what the best trial reaches above the picked one, >= 0; NaN where the pick has no score.

    Args:
        scores: as `oracle_scores` gives them.
        picked: scenario -> trial.
    """
    import pandas

    found = {name: scores[name].max() - scores.at[trial, name] for name, trial in picked.items() if name in scores}
    return pandas.Series(found, dtype=float)


@dataclass(frozen=True)
class Judged:
    """How well one signal chooses.

    Attributes:
        correlation: by scenario, Spearman's rank correlation of the signal (turned so that higher should be better)
            with the objective over trials; NaN where one of them does not vary.
        regret: by scenario, see `regrets`.
    """

    signal: str
    correlation: "pandas.Series"
    regret: "pandas.Series"


def judge_signals(results: Results) -> list[Judged]:
    """Every signal that the study tells, the one with the least mean regret first."""
    scores = oracle_scores(results)
    found = []
    for signal in VISIBLE:
        values = signal_values(results, signal).reindex_like(scores)
        # A signal that is silent on a scenario chooses nothing there, and cannot be ranked with those that do.
        if values.notna().any().all() and not scores.empty:
            found.append(Judged(signal, _correlations(values, scores), regrets(scores, picks(values))))
    return sorted(found, key=lambda judged: float(judged.regret.mean()))


def _correlations(values: "pandas.DataFrame", scores: "pandas.DataFrame") -> "pandas.Series":
    ranked = values.where(scores.notna()).rank(), scores.where(values.notna()).rank()
    return ranked[0].corrwith(ranked[1])  # Pearson's of ranks, ties at their mean, is Spearman's


def visible_picks(results: Results, judged: Sequence[Judged]) -> "pandas.Series":
    """The rule ``visible``: scenario -> the trial that a defender without ground truth takes.

    Which signal to trust is decided on the other attacks alone: there with the least mean regret. With one attack
    there are no others, and all its scenarios decide (`results.scenarios` tells how many attacks there are).

    Args:
        judged: as `judge_signals` gives them.
    """
    import pandas

    order = list(VISIBLE)  # of equals the first here: their order by regret would know the scenario that is judged
    judged = sorted(judged, key=lambda one: order.index(one.signal))
    attacks = results.scenarios["attack"]
    found: dict[str, int] = {}
    for scenario in oracle_scores(results).columns if judged else ():
        others = [name for name in judged[0].regret.index if attacks[name] != attacks[scenario]]
        best = min(judged, key=lambda one: float(one.regret[others or list(one.regret.index)].mean()))
        found[str(scenario)] = int(picks(signal_values(results, best.signal)[[scenario]]).iloc[0])
    return pandas.Series(found, dtype="int64")


def oracle_picks(results: Results) -> "pandas.Series":
    """The rule ``oracle``: scenario -> the trial with the best objective, which takes ground truth."""
    return picks(oracle_scores(results))


def best_single(results: Results, scenarios: "pandas.Index | None" = None) -> int | None:
    """The complete trial with the best mean objective over scenarios (or the best worst one, as the study has it).

    Args:
        scenarios: those that count; all by default.

    Returns:
        Its number, of equals the first; None where no scenario counts.
    """
    scores = oracle_scores(results)
    chosen = scores if scenarios is None else scores[[name for name in scores if name in scenarios]]
    together = chosen.min(axis="columns") if results.goal.how == "worst" else chosen.mean(axis="columns")
    return None if together.dropna().empty else int(together.index[int(together.argmax())])
