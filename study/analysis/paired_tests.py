"""Differences of two configurations on the same scenarios, with intervals over seeds and corrected tests.

The test is the exact sign-flip permutation test: where two configurations are alike, each pair's difference has either
sign equally often. It asks for no normal distribution, which rates that end at 0 or 1 do not have (a t test of
differences that are nearly all the same claims certainty). With n pairs that differ its p cannot fall below 2^(1-n), so
what has too few pairs to ever be separated is told and not tested, and costs the others nothing in Holm's correction
(Tarone, 1990: the bound depends on the differences' sizes alone, never on their signs).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from defenses.registry import UserError
from study.analysis.selected_trial import SelectedTrial
from study.config.objectives import direction
from study.ledger.records import read_scenario
from study.ledger.study_folder import POINTS

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05

Verdict = Literal["A", "B", "not separated", "equal", "not tested"]

_KEY = ["attack", "poison_rate", "seed", "repeat"]
_SET = _KEY[:3]
"""What repeats of one poisoned set share."""
_RESAMPLES = 99_999  # of the permutation test where all sign flips are more: 17 pairs that differ, or more
_SAME = 1e-12  # a difference below it is rounding


@dataclass(frozen=True)
class Pairs:
    """Scenarios that both have a result on.

    Attributes:
        frame: a row a scenario, in A's order: ``scenario``, ``attack``, ``poison_rate``, ``seed``, ``stratum``, and
            every metric as ``<metric>_a`` and ``<metric>_b``: the mean over the repeats that both have.
        left_out: scenario -> why it is not compared.
        other_tests: scenarios whose test images differ between A and B, as where another clean reserve is set aside.
        picked_of: trials that a side is the best of, by ground truth on these scenarios; 1 where neither is picked.
        runs: the same with a row a repeat, with its ``repeat`` and ``poisoning``; empty where there is one of each.
    """

    frame: "pandas.DataFrame"
    left_out: dict[str, str]
    runs: "pandas.DataFrame | None" = None
    other_tests: tuple[str, ...] = ()
    picked_of: int = 1


@dataclass(frozen=True)
class Difference:
    """One metric, A minus B, on one stratum (an attack at a rate) or over all of them.

    Attributes:
        stratum: None for all.
        seeds: of the scenarios; over all strata those that every stratum has.
        differing: pairs whose difference is not 0.
        a, b: means; strata weigh the same.
        low, high: Student's t interval (95 %) of the difference over seeds; None with one seed.
        p: of the sign-flip test; None where nothing was tested.
        corrected: by Holm, over all that was tested, and by Bonferroni for the trials that a side is the best of.
        smallest_p: that so many differing pairs could reach.
        more_seeds: before the test could separate, if all that comes agrees; 0 where it could.
    """

    metric: str
    stratum: str | None
    pairs: int
    seeds: int
    differing: int
    a: float
    b: float
    mean: float
    low: float | None
    high: float | None
    p: float | None
    smallest_p: float
    corrected: float | None = None
    more_seeds: int = 0
    verdict: Verdict = "not tested"

    @property
    def holds_over_seeds(self) -> bool | None:
        """Whether the interval over seeds excludes 0; None without one."""
        return None if self.low is None or self.high is None else not self.low <= 0 <= self.high


def pair(a: SelectedTrial, b: SelectedTrial) -> Pairs:
    """The scenarios of both trials whose attack works, on the same poisoned data.

    Repeats of one poisoned set are not independent: each is paired with the other's of the same training seed, and a
    pair is the means over these.

    Raises:
        UserError: there is none.
    """
    cells = [_cells(selected) for selected in (a, b)]
    metrics = [name for name in cells[0].columns if name in cells[1].columns and name not in ("trial", *_KEY)]
    both = cells[0].merge(cells[1][[*_KEY, *metrics]], on=_KEY, how="outer", suffixes=("_a", "_b"), indicator="in")
    left_out: dict[str, str] = {}
    kept = []
    one_study = a.results.folder == b.results.folder
    for at, row in both.iterrows():
        obstacle = _why_not(row, one_study)
        name = row["scenario_a"] if row["in"] != "right_only" else row["scenario_b"]
        if obstacle:
            left_out[str(name)] = obstacle
        else:
            kept.append(at)
    if not kept:
        reasons = sorted(set(left_out.values()))
        raise UserError(
            f"{a.results.name!r} and {b.results.name!r} have no scenario to compare: of {len(left_out)}, each is left "
            f"out ({'; '.join(reasons)}); run both with the same --attacks, --poison-rates, --seeds and dataset"
        )
    names_of = {f"{name}_a": name for name in ("scenario", "stratum", "poisoning")}
    runs = both.loc[kept].rename(columns=names_of).reset_index(drop=True)
    other_tests = runs["scenario"][
        (runs["tests_a"] != runs["tests_b"]) & (runs["tests_a"] != "") & (runs["tests_b"] != "")
    ]
    picked_of = max(1, a.picked_of, b.picked_of)  # a side's luck is its own: the other's picking cannot add to it
    return Pairs(_merged(runs), left_out, runs, tuple(map(str, other_tests)), picked_of)


def _merged(runs: "pandas.DataFrame") -> "pandas.DataFrame":
    """A row a poisoned set: means over its repeats, and what has none of the first of them."""
    if not runs["repeat"].any():
        return runs
    numbers = [str(name) for name in runs.select_dtypes("number") if name not in _KEY]
    grouped = runs.groupby(_SET, sort=False, dropna=False)
    merged = grouped.first()
    merged[numbers] = grouped[numbers].mean()
    return merged.reset_index().assign(scenario=merged["poisoning"].to_list())


def _cells(selected: SelectedTrial) -> "pandas.DataFrame":
    """A trial's cells, with the fingerprints of each one's poisoned training set and of the clean data behind it."""
    results = selected.results
    cells = results.evaluations[results.evaluations["trial"] == selected.trial]
    folder = results.folder / POINTS / str(results.trials.loc[selected.trial, "key"])
    metas = [getattr(read_scenario(folder / f"{name}.json"), "meta", {}) for name in cells["scenario"]]
    tests = [str(meta.get("test_fingerprint") or meta.get("clean_fingerprint") or "") for meta in metas]
    return cells.assign(fingerprint=[str(meta.get("fingerprint", "")) for meta in metas], tests=tests)


def _why_not(row: "pandas.Series", one_study: bool) -> str:
    """Why a scenario is not compared; empty when it is. All trials of one study have the same poisoned data."""
    if row["in"] != "both":
        return f"only {'A' if row['in'] == 'left_only' else 'B'} has it"
    failed = [which for which in ("A", "B") if row[f"attack_failed_{which.lower()}"]]
    if failed:
        return "its attack failed undefended" if len(failed) == 2 else f"its attack failed undefended in {failed[0]}"
    if row["fingerprint_a"] != row["fingerprint_b"]:
        return "its poisoned data are not the same in A and B"
    if not (row["fingerprint_a"] or one_study):
        return "nothing tells whether its poisoned data are the same in A and B"
    return ""


def differences(pairs: Pairs, metrics: Sequence[str], alpha: float = ALPHA) -> tuple[Difference, ...]:
    """Each metric over all strata, then on each stratum where there are several; Holm-corrected together.

    Metrics that no pair defines in both are left out.
    """
    strata = list(dict.fromkeys(pairs.frame["stratum"]))
    judged: list[Difference] = []
    for metric in metrics:
        columns = [f"{metric}_a", f"{metric}_b"]
        frame = pairs.frame.dropna(subset=columns)
        overall = _balanced(frame)
        if not overall.empty:
            judged.append(_difference(metric, None, overall, alpha))
        for stratum in strata if len(strata) > 1 else ():
            part = frame[frame["stratum"] == stratum]
            if not part.empty:
                judged.append(_difference(metric, stratum, part, alpha))
    return _judged(judged, pairs.picked_of, alpha)


def _balanced(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """The pairs of seeds that every stratum has: a seed's mean over strata would compare nothing otherwise."""
    counts = frame.groupby("seed")["stratum"].nunique()
    return frame[frame["seed"].isin(counts.index[counts == frame["stratum"].nunique()])]


def _difference(metric: str, stratum: str | None, frame: "pandas.DataFrame", alpha: float) -> Difference:
    values = (frame[f"{metric}_a"] - frame[f"{metric}_b"]).tolist()
    by_seed = (frame[f"{metric}_a"] - frame[f"{metric}_b"]).groupby(frame["seed"]).mean().tolist()
    low, high = t_interval(by_seed)
    differing = sum(abs(value) > _SAME for value in values)
    smallest = min(1.0, 2.0 ** (1 - differing))
    # One seed gives every attack the same initial weights: its pairs are one draw, however many they are.
    tested = len(by_seed) > 1 and smallest < alpha
    return Difference(
        metric=metric,
        stratum=stratum,
        pairs=len(values),
        seeds=len(by_seed),
        differing=differing,
        a=float(frame[f"{metric}_a"].mean()),
        b=float(frame[f"{metric}_b"].mean()),
        mean=sum(values) / len(values),
        low=low,
        high=high,
        p=sign_flip_p(values) if tested else None,
        smallest_p=smallest,
    )


def _judged(differences: list[Difference], picked_of: int, alpha: float) -> tuple[Difference, ...]:
    """The same with corrected p values, and what follows from them."""
    corrected = iter(holm([min(1.0, picked_of * one.p) for one in differences if one.p is not None]))
    judged = []
    for one in differences:
        p = next(corrected) if one.p is not None else None
        more = seeds_needed(one, differences, picked_of, alpha)
        judged.append(replace(one, corrected=p, more_seeds=more, verdict=_verdict(one, p, alpha)))
    return tuple(judged)


def _verdict(one: Difference, corrected: float | None, alpha: float) -> Verdict:
    if one.differing == 0:
        return "equal"
    if corrected is None:
        return "not tested"
    if corrected >= alpha:
        return "not separated"
    return "A" if (one.mean > 0) == (direction(one.metric) == "maximize") else "B"


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float | None, float | None]:
    """Student's t interval of the mean of independent values; (None, None) of fewer than two."""
    if len(values) < 2:
        return None, None
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread / math.sqrt(n)
    return mean - half, mean + half


def sign_flip_p(values: Sequence[float]) -> float:
    """The two-sided p of the mean of paired differences under all sign flips; 1 where all are 0.

    Exact up to 16 differences that are not 0, and where all have one sign; else 99,999 flips, of a fixed seed.
    """
    import numpy as np
    from scipy.stats import permutation_test

    changed = [value for value in values if abs(value) > _SAME]  # flipping a 0 changes nothing
    if len(changed) < 2:
        return 1.0
    if min(changed) > 0 or max(changed) < 0:  # no other flip reaches as far, but for that of all
        return 2.0 ** (1 - len(changed))
    test = permutation_test(
        (np.asarray(changed),),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        random_state=np.random.default_rng(0),
    )
    return float(min(1.0, test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p values (Holm, 1979), in the order given: (m - rank) p, never below an earlier one, at most 1.

    scipy corrects for the false discovery rate only.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def seeds_needed(one: Difference, differences: Sequence[Difference], picked_of: int = 1, alpha: float = ALPHA) -> int:
    """Seeds to add before the smallest p of the sign-flip test passes Holm's strictest step.

    As if every new pair differed, all in one direction. Others become testable with the same seeds, and are counted.

    Args:
        one: of `differences`, which are corrected together.
        picked_of: trials that a side is the best of.
    """
    others = [other for other in differences if other.differing and other is not one]

    def separates(added: int) -> bool:
        tests = 1 + sum(_reach(other, added) < alpha for other in others)
        return picked_of * tests * _reach(one, added) < alpha

    return next(filter(separates, itertools.count()))


def _reach(one: Difference, added: int) -> float:
    """The smallest p with so many more seeds, each with as many pairs as one has now; 1 of a single seed."""
    pairs = one.differing + added * max(1, one.pairs // one.seeds)
    return 1.0 if one.seeds + added < 2 else min(1.0, 2.0 ** (1 - pairs))
