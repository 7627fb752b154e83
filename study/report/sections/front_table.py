"""The table that a reader looks for first: each attack beside each configuration, with the spread over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.analysis.compared import UNDEFENDED, ComparedConfiguration, strata
from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import direction, in_words
from study.report.elements import Cell, Table
from study.report.formatting import mean_with_deviation, spread
from tracking import names

if TYPE_CHECKING:
    import pandas

_METRICS = (names.TPR, names.FPR, names.CA, names.ASR)
_DECIMALS = 3  # two that look alike are equally good


def front_table(results: Results, compared: Sequence[ComparedConfiguration]) -> Table:
    """A block of rows for all attacks together, then one for each attack and rate; a column a configuration.

    The best of a row is bold where configurations differ; the undefended model is no candidate.
    """
    metrics = shown_metrics(compared)
    blocks = [*_together(results, metrics, compared), *_by_stratum(results, metrics, compared)]
    rows: list[tuple[Cell, ...]] = []
    bold: set[tuple[int, int]] = set()
    for label, metric, values, cells, counts in blocks:
        if counts:
            bold |= {(len(rows), 2 + at) for at in _best(metric, values, compared)}
        rows.append((label, in_words(metric), *cells))
    header = ("attack and rate", "", *(one.label for one in compared))
    return Table("outcome", _caption(results), header, tuple(rows), left=2, bold=frozenset(bold))


def shown_metrics(compared: Sequence[ComparedConfiguration]) -> list[str]:
    """The metrics that some defended configuration defines; without such a configuration the undefended model's."""
    defended = [one for one in compared if one.label != UNDEFENDED] or compared
    return [name for name in _METRICS if any(one.cells[name].notna().any() for one in defended)]


_Row = tuple[str, str, list[float | None], list[Cell], bool]
"""Label, metric, means, cells, and whether the row counts for or against a defense."""


def _together(results: Results, metrics: Sequence[str], compared: Sequence[ComparedConfiguration]) -> list[_Row]:
    """Over all scenarios whose attack works; nothing where that is one attack, or none."""
    working = results.scenarios[~results.scenarios["attack_failed"]]
    count = working["stratum"].nunique()
    if count < 2:
        return []
    rows: list[_Row] = []
    for metric in metrics:
        means = [one.mean(metric) for one in compared]
        cells = [mean_with_deviation(one.mean(metric), one.deviation(metric)) for one in compared]
        rows.append((f"all {count} together" if metric == metrics[0] else "", metric, means, cells, True))
    return rows


def _by_stratum(results: Results, metrics: Sequence[str], compared: Sequence[ComparedConfiguration]) -> list[_Row]:
    rows: list[_Row] = []
    for name, _, scenarios in strata(results):
        failed = int(results.scenarios.loc[scenarios, "attack_failed"].sum())
        works = failed < len(scenarios)
        label = name if works else f"{name} †"
        for metric in metrics:
            values = [_values(one, scenarios, metric, works) for one in compared]
            means = [None if of_one.dropna().empty else float(of_one.mean()) for of_one in values]
            cells = [spread(of_one) for of_one in values]
            shown: list[Cell] = cells if works else [None if v is None else f"({format_number(v)})" for v in means]
            rows.append((label if metric == metrics[0] else "", metric, means, shown, works))
    return rows


def _values(
    one: ComparedConfiguration, scenarios: "pandas.Index[str]", metric: str, works: bool
) -> "pandas.Series[float]":
    """A metric over the seeds of an attack and rate: those whose attack works, or all where none does."""
    cells = one.cells.reindex(scenarios)
    return cells.loc[cells["attack_failed"].eq(False), metric] if works else cells[metric]


def _best(metric: str, means: Sequence[float | None], compared: Sequence[ComparedConfiguration]) -> list[int]:
    """Positions of the best values; none where all are as good."""
    known = {
        at: round(mean, _DECIMALS)
        for at, (mean, one) in enumerate(zip(means, compared, strict=True))
        if mean is not None and one.label != UNDEFENDED
    }
    if len(set(known.values())) < 2:
        return []
    top = min(known.values()) if direction(metric) == "minimize" else max(known.values())
    return [at for at, value in known.items() if value == top]


def _caption(results: Results) -> str:
    seeds = len(results.seeds)
    over = f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    failed = bool(results.scenarios["attack_failed"].any())
    return f"{over}; the best of a row is bold.{' †: the attack does not work, so its rows count nowhere.' * failed}"
