"""What each configuration gives on every attack and rate, as heat maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from study.analysis.compared import OWN_BEST, UNDEFENDED, ComparedConfiguration, compared_configurations, strata
from study.analysis.results import Results
from study.cli.numbers import format_value
from study.config.objectives import in_words
from study.report.elements import Heat, Item, Note, Section
from tracking import names

if TYPE_CHECKING:
    import pandas

    Names = pandas.Index[str]

_WHAT = {
    names.TPR: "share of the poisoned training samples that are flagged",
    names.FPR: "share of the benign training samples that are flagged",
    names.AUROC: "area under the ROC curve of the scores",
    names.CA: "accuracy on clean test images",
    names.ASR: "share of triggered test images that get the attacker's label",
}
_WIDTH = 0.1  # of the narrowest scale: smaller differences are not to shout
_ENDS: dict[str, tuple[float, float]] = {
    names.TPR: (0.0, 1.0),
    names.FPR: (0.0, 0.2),
    names.AUROC: (0.5, 1.0),
    names.ASR: (0.0, 1.0),
}


def sections(results: Results) -> list[Section]:
    """A heat map a metric: attack and rate down, configurations across, the mean over seeds in each cell."""
    compared = compared_configurations(results)
    rows = list(strata(results))
    labels = tuple(_label(results, label, scenarios) for label, _, scenarios in rows)
    parts = [scenarios for _, _, scenarios in rows]
    items: list[Item] = [
        _heat(metric, labels, parts, compared) for metric in names.HEADLINE if _defined(metric, compared)
    ]
    failed = int(results.scenarios["attack_failed"].sum())
    if failed:
        items.append(
            Note(
                "† k/n: in k of n seeds the attack does not work even undefended. Those are left out of the mean; "
                "where all failed, the number stands in brackets without a colour, and counts neither for nor against "
                "a defense.",
                "footnote",
            )
        )
    return [
        Section(
            name="heat",
            title="Every attack and rate",
            lead=_lead(results, compared, rows),
            items=tuple(items),
            uses_labels=True,
        )
    ]


def _label(results: Results, label: str, scenarios: "Names") -> str:
    failed = results.scenarios.loc[scenarios, "attack_failed"]
    return f"{label} †{int(failed.sum())}/{len(failed)}" if failed.any() else label


def _defined(metric: str, compared: Sequence[ComparedConfiguration]) -> bool:
    return any(one.cells[metric].notna().any() for one in compared if one.label != UNDEFENDED)


def _heat(
    metric: str, labels: tuple[str, ...], rows: "Sequence[Names]", compared: Sequence[ComparedConfiguration]
) -> Heat:
    shown = [one for one in compared if one.cells[metric].notna().any()]
    values: list[tuple[float | None, ...]] = []
    marked: set[tuple[int, int]] = set()
    for at, scenarios in enumerate(rows):
        cells = [_cell(one, metric, scenarios) for one in shown]
        values.append(tuple(value for value, _ in cells))
        marked |= {(at, column) for column, (_, failed) in enumerate(cells) if failed}
    of_defense = [at for at, one in enumerate(shown) if one.label != UNDEFENDED]
    counted = [
        value
        for at, row in enumerate(values)
        for column in of_defense
        if (value := row[column]) is not None and (at, column) not in marked
    ]
    high = max(counted, default=1.0)
    low, high = _ENDS.get(metric, (min(*counted, high - _WIDTH) if counted else 0.0, high))
    good: Literal["low", "high"] = "low" if metric in (names.FPR, names.ASR) else "high"
    return Heat(
        name=f"heat-{metric}",
        caption=f"{in_words(metric)}: {_WHAT[metric]}; {'lower' if good == 'low' else 'higher'} is better. "
        f"Colours from {format_value(low)} to {format_value(high)}.",
        columns=tuple(one.label for one in shown),
        rows=labels,
        values=tuple(values),
        low=low,
        high=high,
        good=good,
        marked=frozenset(marked),
        uncoloured=tuple(at for at, one in enumerate(shown) if one.label == UNDEFENDED),
    )


def _cell(configuration: ComparedConfiguration, metric: str, scenarios: "Names") -> tuple[float | None, bool]:
    """The mean over the seeds whose attack works; where none does, over all, and True."""
    cells = configuration.cells.loc[configuration.cells.index.isin(scenarios)]
    working = cells[~cells["attack_failed"]]
    failed = working.empty and not cells.empty
    value = (cells if failed else working)[metric].mean()
    return (None if value != value else float(value)), failed


def _lead(results: Results, compared: Sequence[ComparedConfiguration], rows: Sequence[object]) -> str:
    seeds = len(results.seeds)
    over = f"Numbers are means over {seeds} seeds." if seeds > 1 else "One seed, so nothing is known of the spread."
    own = (
        " Each scenario's own best shows what one configuration for all attacks gives away."
        if any(one.label == OWN_BEST for one in compared)
        else ""
    )
    count = f"{len(rows)} combinations" if len(rows) != 1 else "One combination"
    return f"{count} of attack and rate. {over}{own}"
