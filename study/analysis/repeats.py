"""Repeats: trainings on the same poisoned data with other seeds. What they are together, and how far they lie apart.

Repeats of one poisoning are no independent samples of a defense: they share what was poisoned. So wherever scenarios
are compared or put together, the repeats of each are put together first, and their spread is told beside that of
poisonings.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracking import names

if TYPE_CHECKING:
    import pandas

_COUNTS_WHOLE = ("trial", "seed", "repeat")  # integers, which are the same in all rows that are put together


def count_repeats(evaluations: "pandas.DataFrame") -> int:
    """How many repeats a study has; 1 where it trained once on each poisoned set.

    Args:
        evaluations: as `study.analysis.results.Results` has them.
    """
    return 1 if evaluations.empty else int(evaluations["repeat"].max()) + 1


def merge_repeats(evaluations: "pandas.DataFrame") -> "pandas.DataFrame":
    """The same with a row a trial and poisoned set: means over its repeats whose attack works.

    Where the attack works in none, the row is marked as failed and has the mean over all. What has no mean (texts) is
    that of the first repeat. A trial that lacks a repeat of a poisoned set has no row of it: means would not compare.

    Args:
        evaluations: as `study.analysis.results.Results` has them; rows are named by their first repeat's scenario.
    """
    if count_repeats(evaluations) == 1:
        return evaluations
    keys, signals = ["trial", "poisoning"], [name for name in evaluations if str(name).startswith(names.SIGNAL)]
    evaluations = evaluations.astype(dict.fromkeys(signals, float))  # one that is undefined somewhere holds objects
    numbers = [str(name) for name in evaluations.select_dtypes("number") if name not in _COUNTS_WHOLE]
    sizes = evaluations.groupby(keys)["repeat"].transform("size")
    whole = evaluations[sizes == evaluations.groupby("poisoning")["repeat"].transform("nunique")]
    fails = whole["attack_failed"].astype(bool)
    in_all = fails.groupby([whole[key] for key in keys]).transform("all")
    grouped = whole[~fails | in_all].groupby(keys, sort=False)
    merged = grouped.first()
    merged[numbers] = grouped[numbers].mean()
    merged = merged.reset_index().assign(repeat=0)
    return merged.assign(scenario=merged["poisoning"])[list(evaluations.columns)]


@dataclass(frozen=True)
class Spread:
    """A metric over runs.

    Attributes:
        mean: of the means over the repeats of each poisoning; None where nothing is defined.
        poisonings: standard deviation (n - 1) of these means; None of fewer than two.
        repeats: standard deviation within a poisoning, pooled over all; None where none has two repeats.
    """

    mean: float | None
    poisonings: float | None
    repeats: float | None


def spread_of_runs(runs: "pandas.DataFrame", metric: str) -> Spread:
    """How far poisonings, and repeats of one, lie apart.

    Args:
        runs: a row a run of one configuration, with its ``poisoning``.
    """
    known = runs.loc[runs[metric].notna(), ["poisoning", metric]]
    if known.empty:
        return Spread(None, None, None)
    means = known.groupby("poisoning", sort=False)[metric].mean()
    between = float(means.std(ddof=1)) if len(means) > 1 else None
    return Spread(float(means.mean()), between, pooled_deviation(known, "poisoning", metric))


def pooled_deviation(rows: "pandas.DataFrame", group: str, metric: str) -> float | None:
    """Standard deviation within groups, by the squares of all of them together; None where none has two rows.

    Args:
        rows: that define the metric.
        group: the column that tells groups apart.
    """
    values = rows[metric].astype(float)
    away = values - values.groupby(rows[group]).transform("mean")
    free = len(rows) - rows[group].nunique()
    return math.sqrt(float((away**2).sum()) / free) if free else None


def noise_share(runs: "pandas.DataFrame", metric: str) -> float | None:
    """The share of a metric's variance between runs that is between repeats of one configuration on one poisoned set.

    The rest is between configurations. Both are estimated apart on each poisoned set, by the mean squares of a
    one-way analysis of variance with random effects, and their sums over poisoned sets are compared.

    Args:
        runs: rows of `study.analysis.results.Results.compared`.

    Returns:
        In [0, 1]; None where no configuration was repeated, or where the metric is the same in all runs.
    """
    within = between = 0.0
    known = runs.loc[runs[metric].notna(), ["poisoning", "trial", metric]]
    for _, part in known.groupby("poisoning", sort=False):
        groups = part.groupby("trial")[metric]
        inside = pooled_deviation(part, "trial", metric)
        if inside is None or groups.ngroups < 2:
            continue
        each = len(part) / groups.ngroups
        weighed = groups.size() * (groups.mean() - part[metric].mean()) ** 2
        mean_square = float(weighed.sum()) / (groups.ngroups - 1)
        within += inside**2
        between += max(0.0, (mean_square - inside**2) / each)
    return within / (within + between) if within + between > 0 else None
