"""The runs behind a comparison: how many of each side failed, and how far repeats of one poisoned set lie apart."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from study.analysis.failed_runs import FAILED_RUNS, RULE, FailedRuns, count_failed
from study.analysis.paired_tests import Pairs
from study.analysis.repeats import pooled_deviation, spread_of_runs
from study.analysis.selected_trial import SelectedTrial
from study.config.objectives import in_words
from study.report.elements import Cell, Item, Note, Table

if TYPE_CHECKING:
    import pandas

REPEATS_FIRST = (
    " Repeats on the same poisoned data are not independent: they are averaged first, over those that both have, so a "
    "pair is such a mean."
)
_Side = Literal["a", "b"]
_SIDES: tuple[_Side, _Side] = ("a", "b")


def has_repeats(pairs: Pairs) -> bool:
    """Whether some poisoned set was trained on more than once."""
    return pairs.runs is not None and len(pairs.runs) > len(pairs.frame)


def runs_of_both(a: SelectedTrial, b: SelectedTrial, pairs: Pairs, metrics: Sequence[str]) -> list[Item]:
    """Tables and sentences; nothing where each attack and rate has one run, or where there is nothing to tell.

    Args:
        metrics: that are compared over all.
    """
    runs = pairs.runs
    if runs is None or len(runs) == runs["stratum"].nunique():
        return []
    counts = [count_failed(side_of(runs, side)) for side in _SIDES]
    items: list[Item] = []
    if any(one.runs for one in counts) and (has_repeats(pairs) or any(one.failed for one in counts)):
        items.append(_failed_table(runs, counts))
        for name, selected, one in zip("AB", (a, b), counts, strict=True):
            items += [Note(one.sentence(f"{name} ({selected.how})"), "warning")] if one.two_outcomes else []
    if metrics and has_repeats(pairs):
        items.append(_spread_table(runs, metrics))
    return items


def failed_runs(pairs: Pairs) -> dict[str, dict[str, int]]:
    """How many runs of each side failed, for machines: ``{"a": {"failed": 2, "runs": 9}, "b": ...}``."""
    if pairs.runs is None:
        return {}
    counts = {side: count_failed(side_of(pairs.runs, side)) for side in _SIDES}
    return {side: {"failed": one.failed, "runs": one.runs} for side, one in counts.items()}


def side_of(runs: "pandas.DataFrame", side: _Side) -> "pandas.DataFrame":
    """One side's runs, with the names that metrics have in a study."""
    shared = ["stratum", "poisoning"]
    own = {name: name.removesuffix(f"_{side}") for name in runs.columns if str(name).endswith(f"_{side}")}
    own = {name: plain for name, plain in own.items() if plain not in shared}
    return runs[[*shared, *own]].rename(columns=own)


def _failed_table(runs: "pandas.DataFrame", counts: Sequence[FailedRuns]) -> Table:
    def rows() -> Iterator[tuple[Cell, ...]]:
        for stratum, part in runs.groupby("stratum", sort=False):
            yield str(stratum), *(count_failed(side_of(part, side)).text for side in _SIDES)
        yield "all", *(one.text for one in counts)

    return Table("failed-runs", f"Runs that failed ({RULE})", (FAILED_RUNS, "A", "B"), tuple(rows()))


def _spread_table(runs: "pandas.DataFrame", metrics: Sequence[str]) -> Table:
    """Standard deviations over poisonings of an attack and rate, and over repeats of one, pooled over all."""
    rows: list[tuple[Cell, ...]] = []
    for metric in metrics:
        cells: list[Cell] = []
        for side in _SIDES:
            own = side_of(runs, side)
            known = own[own[metric].notna()]
            means = known.groupby(["stratum", "poisoning"], sort=False)[metric].mean().reset_index()
            cells += [pooled_deviation(means, "stratum", metric), spread_of_runs(own, metric).repeats]
        rows.append((in_words(metric), *cells))
    header = ("metric", *(f"{name} ± over {what}" for name in "AB" for what in ("poisonings", "repeats")))
    caption = (
        "How far the numbers above lie apart: standard deviation of the means over repeats between poisonings of an "
        "attack and rate, and between repeats of one poisoning"
    )
    return Table("spread-of-repeats", caption, header, tuple(rows))
