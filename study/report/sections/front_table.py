"""The table that a reader looks for first: each attack beside each configuration, with the spread over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.analysis.compared import UNDEFENDED, ComparedConfiguration, strata
from study.analysis.failed_runs import FAILED_RUNS, count_failed, shows_failed
from study.analysis.repeats import spread_of_runs
from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import direction, in_words
from study.report.elements import Cell, Table
from study.report.formatting import over_what, spread_cell
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
    told = shows_failed(results, [one.counted for one in compared if one.label != UNDEFENDED])
    blocks = [*_together(results, metrics, compared, told), *_by_stratum(results, metrics, compared, told)]
    rows: list[tuple[Cell, ...]] = []
    bold: set[tuple[int, int]] = set()
    for label, metric, values, cells, counts in blocks:
        if counts:
            bold |= {(len(rows), 2 + at) for at in _best(metric, values, compared)}
        rows.append((label, metric if metric == FAILED_RUNS else in_words(metric), *cells))
    header = ("attack and rate", "", *(one.label for one in compared))
    return Table("outcome", _caption(results), header, tuple(rows), left=2, bold=frozenset(bold))


def shown_metrics(compared: Sequence[ComparedConfiguration]) -> list[str]:
    """The metrics that some defended configuration defines; without such a configuration the undefended model's."""
    defended = [one for one in compared if one.label != UNDEFENDED] or compared
    return [name for name in _METRICS if any(one.cells[name].notna().any() for one in defended)]


_Row = tuple[str, str, list[float | None], list[Cell], bool]
"""Label, metric, means, cells, and whether the row counts for or against a defense."""


def _failed(parts: Sequence["pandas.DataFrame"]) -> list[_Row]:
    """A row that tells how many runs failed, for a block whose label stands above."""
    shown: list[Cell] = [count_failed(runs).text for runs in parts]
    return [("", FAILED_RUNS, [None] * len(parts), shown, False)]


def _together(
    results: Results, metrics: Sequence[str], compared: Sequence[ComparedConfiguration], told: bool
) -> list[_Row]:
    """Over all scenarios whose attack works; nothing where that is one attack, or none."""
    working = results.scenarios[~results.scenarios["attack_failed"]]
    count = working["stratum"].nunique()
    if count < 2:
        return []
    rows: list[_Row] = []
    for metric in metrics:
        means = [one.mean(metric) for one in compared]
        cells = [
            spread_cell(mean, one.deviation(metric), one.repeat_deviation(metric), len(results.seeds) > 1)
            for mean, one in zip(means, compared, strict=True)
        ]
        rows.append((f"all {count} together" if metric == metrics[0] else "", metric, means, cells, True))
    return rows + (_failed([one.counted for one in compared]) if told else [])


def _by_stratum(
    results: Results, metrics: Sequence[str], compared: Sequence[ComparedConfiguration], told: bool
) -> list[_Row]:
    rows: list[_Row] = []
    for name, _, scenarios in strata(results):
        failed = int(results.scenarios.loc[scenarios, "attack_failed"].sum())
        works = failed < len(scenarios)
        label = name if works else f"{name} †"
        for metric in metrics:
            spreads = [spread_of_runs(_runs(one, scenarios, works), metric) for one in compared]
            means = [one.mean for one in spreads]
            several = len(results.seeds) > 1
            cells = [spread_cell(one.mean, one.poisonings, one.repeats, several) for one in spreads]
            shown: list[Cell] = cells if works else [None if v is None else f"({format_number(v)})" for v in means]
            rows.append((label if metric == metrics[0] else "", metric, means, shown, works))
        rows += _failed([_runs(one, scenarios, works) for one in compared]) if told and works else []
    return rows


def _runs(one: ComparedConfiguration, scenarios: "pandas.Index[str]", works: bool) -> "pandas.DataFrame":
    """The runs on an attack and rate: those whose attack works, or all where none does."""
    cells = one.cells.loc[one.cells.index.isin(scenarios)]
    return cells[~cells["attack_failed"]] if works else cells


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
    over = over_what(len(results.seeds), results.repeats)
    failed = bool(results.scenarios["attack_failed"].any())
    return f"{over}; the best of a row is bold.{' †: the attack does not work, so its rows count nowhere.' * failed}"
