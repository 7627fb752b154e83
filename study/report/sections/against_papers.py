"""A study beside the table of the paper that asked the same: their number, ours, and what stands between the two."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.analysis.paper_numbers import Cell, Footnote, PaperTable, Said, load_tables
from study.analysis.results import Results
from study.analysis.selected_trial import select_trial
from study.config.objectives import in_words
from study.report.elements import Cell as TableCell
from study.report.elements import Item, Note, Section, Table, slug
from study.report.formatting import format_difference
from tracking import names

if TYPE_CHECKING:
    import pandas

_UNDEFENDED = {names.CA: names.CA_UNDEFENDED, names.ASR: names.ASR_UNDEFENDED}
_NO_DEFENSE = "no_defense"


@dataclass(frozen=True)
class _Row:
    """One attack at one rate and setting.

    Attributes:
        paper, ours: by metric; means over seeds of ours.
    """

    attack: str
    setting: str
    rate: float
    paper_rate: float | None
    seeds: int
    paper: Mapping[str, float]
    ours: Mapping[str, float | None]
    notes: tuple[Footnote, ...]


def section(results: Results, space_name: str) -> Section | None:
    """What the papers print for a grid space of ours, beside what a study of it found.

    Args:
        space_name: such as ``pipd.rounds``; not always the study's own, whose scenarios may serve another table too.

    Returns:
        None where no paper has such a table.
    """
    tables = load_tables(space_name)
    if not tables:
        return None
    shown = {table.name: list(_rows(results, table)) for table in tables if table.values}
    marks = _marks(tables, shown)
    items: list[Item] = []
    for table in tables:
        if shown.get(table.name):
            items.append(_table(table, shown[table.name], marks))
        if table.said:
            items.append(_said_table(results, table))
    items += [Note(text, "warning") for text in _warnings(results, tables, shown)]
    items += [Note(f"[{mark}] {note.text}", "footnote") for note, mark in marks.items()]
    rows = [row for of_table in shown.values() for row in of_table]
    title = f"{', '.join(table.place.partition(',')[0] for table in tables)} of {tables[0].short}, and ours"
    return Section(f"papers-{slug(space_name)}", title, _lead(results, tables, rows), tuple(items), uses_labels=True)


def _attacks(results: Results, table: PaperTable) -> tuple[str, ...]:
    """Of the images that ours are compared with."""
    dataset = table.images(results.config.dataset)
    return tuple(dict.fromkeys(cell.attack for cell in table.values if cell.dataset == dataset))


def _rows(results: Results, table: PaperTable) -> Iterable[_Row]:
    """The cells that both have, in the order of the page."""
    dataset = table.images(results.config.dataset)
    for setting in _settings(table):
        cells = _cells_at(results, table, setting)
        for attack in _attacks(results, table):
            paper = {
                cell.metric: value for cell, value in table.values.items() if cell[:3] == (dataset, attack, setting)
            }
            same = cells.loc[[text.partition(":")[0] == attack for text in cells["attack"]]]
            for (text, rate), part in same.groupby(["attack", "poison_rate"], sort=False):
                if not paper:
                    continue
                at = [Cell(dataset, attack, setting, metric) for metric in paper]
                yield _Row(
                    attack=str(text),
                    setting=setting,
                    rate=float(str(rate)),
                    paper_rate=table.rate(at[0]),
                    seeds=int(part["seed"].nunique()),
                    paper=paper,
                    ours={metric: _mean(part, metric, setting) for metric in paper},
                    notes=table.notes(at),
                )


def _settings(table: PaperTable) -> tuple[str, ...]:
    """What of a table is compared: the paper's own defense and none, or every value of what it varies."""
    if table.varies != "defense":
        return table.axis("setting")
    return tuple(setting for setting in (_NO_DEFENSE, table.short.lower()) if setting in table.axis("setting"))


def _cells_at(results: Results, table: PaperTable, setting: str) -> "pandas.DataFrame":
    """Our cells that stand for a setting: of one trial, on scenarios whose attack works."""
    cells = results.compared
    if table.varies in ("defense", "poison_rate"):
        cells = cells[cells["trial"] == _spoken_for(results)]
        return cells[cells["poison_rate"] == float(setting)] if table.varies == "poison_rate" else cells
    return cells[cells["trial"] == _trial_with(results, table.varies, setting)]


def _spoken_for(results: Results) -> int:
    """The trial of a study that varies no hyperparameter: the paper's default, or the best where it was not tried."""
    complete = results.complete
    if complete.empty:
        return -1
    default = bool(complete["paper_default"].any())
    return select_trial(results, "default" if default else "best").trial


def _trial_with(results: Results, field: str, value: str) -> int:
    """The first complete trial with a value of one field; where the paper's default is there, else like it. Or -1."""
    complete = results.complete
    if field not in complete.columns:
        fixed = results.config.set.get(field)
        return _spoken_for(results) if fixed is not None and _same(fixed, value) else -1
    alike = complete.loc[[_same(own, value) for own in complete[field]]]
    default = complete[complete["paper_default"]]
    others = [name for name in results.ranges if name != field]
    if len(default) and others:
        alike = alike[(alike[others] == default[others].iloc[0]).all(axis=1)]
    return int(str(alike.index[0])) if len(alike) else -1


def _same(own: Any, value: str) -> bool:
    try:
        return math.isclose(float(own), float(value))
    except ValueError:
        return str(own) == value


def _mean(part: "pandas.DataFrame", metric: str, setting: str) -> float | None:
    """Over seeds; None where it is undefined."""
    column = _UNDEFENDED.get(metric) if setting == _NO_DEFENSE else metric
    values = part[column].dropna() if column is not None and column in part else ()
    return float(sum(values) / len(values)) if len(values) else None


def _table(table: PaperTable, rows: list[_Row], marks: Mapping[Footnote, int]) -> Table:
    metrics = table.axis("metric")
    values = [name for metric in metrics for name in (f"{in_words(metric)} paper", "ours", "difference")]
    header = ("attack", table.varies.replace("_", " "), "rate paper", "ours", "seeds", *values, "see")
    lines: list[tuple[TableCell, ...]] = []
    strong = []
    for setting in dict.fromkeys(row.setting for row in rows):
        part = [row for row in rows if row.setting == setting]
        for row in part:
            numbers = [cell for metric in metrics for cell in _three(row.paper.get(metric), row.ours.get(metric))]
            see = ", ".join(str(marks[note]) for note in row.notes)
            rates = _rate(row.paper_rate), _rate(row.rate)
            lines.append((row.attack, setting, *rates, row.seeds, *numbers, see))
        if len(part) > 1:
            strong.append(len(lines))
            means = [cell for metric in metrics for cell in _three(*_means(part, metric))]
            lines.append((f"mean of these {len(part)}", setting, "", "", None, *means, ""))
    caption = f"{table.caption} ({table.short}, {table.place}); difference: ours minus the paper's"
    return Table(slug(table.name), caption, header, tuple(lines), left=2, strong=tuple(strong))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _three(paper: float | None, ours: float | None) -> tuple[TableCell, TableCell, TableCell]:
    """Their number, ours and the difference."""
    if paper is None or ours is None:
        return paper, ours, None
    return paper, ours, format_difference(ours - paper)


def _means(rows: Iterable[_Row], metric: str) -> tuple[float | None, float | None]:
    """Of both, over the attacks that both have."""
    both = [
        (row.paper[metric], own) for row in rows if metric in row.paper and (own := row.ours.get(metric)) is not None
    ]
    if not both:
        return None, None
    return sum(paper for paper, _ in both) / len(both), sum(own for _, own in both) / len(both)


def _said_table(results: Results, table: PaperTable) -> Table:
    rows: list[tuple[TableCell, ...]] = [
        (said.text, None if said.value is None else f"{said.relation} {said.value:g}", _ours_said(results, table, said))
        for said in table.said
    ]
    caption = f"What the text says of {table.place.partition(',')[0]} of {table.short} ({table.caption})"
    return Table(f"{slug(table.name)}-said", caption, ("the paper", "its number", "ours"), tuple(rows))


def _ours_said(results: Results, table: PaperTable, said: Said) -> float | None:
    """The mean over our attacks where a statement has a number for a value of what is varied on the paper's images."""
    if said.value is None or said.dataset or table.varies not in ("rounds", "fault_ratio", "clustering"):
        return None
    return _mean(_cells_at(results, table, said.setting), said.metric, said.setting)


def _marks(tables: Iterable[PaperTable], shown: Mapping[str, list[_Row]]) -> dict[Footnote, int]:
    """The footnotes of what is shown, numbered in their order; a figure's all hold."""
    notes: list[Footnote] = []
    for table in tables:
        notes += [note for row in shown.get(table.name, ()) for note in row.notes]
        notes += () if table.values else table.footnotes
    return {note: number for number, note in enumerate(dict.fromkeys(notes), start=1)}


def _lead(results: Results, tables: tuple[PaperTable, ...], rows: list[_Row]) -> str:
    config = results.config
    size = f", {config.train_size} training images" if config.train_size else ""
    scale = f"preset {config.preset} ({config.dataset}{size}, a network of width {config.width})"
    paper_scale = config.preset == "paper" and config.dataset in tables[0].axis("dataset")
    claim = (
        "the paper's images, network and epochs, where no option says otherwise; seeds and code are not the paper's"
        if paper_scale
        else f"not the scale of {tables[0].short}'s paper, so this claims no reproduction: "
        "look whether the order of the numbers is the same, not at their size"
    )
    told = [text for table in tables for text in _mean_differences(table, rows)]
    gap = f" Ours minus the paper's, mean: {', '.join(dict.fromkeys(told))}." if told else ""
    nothing = "" if rows else " No number of ours stands beside one of the paper's."
    return f"Ours at {scale}: {claim}.{gap}{nothing}"


def _mean_differences(table: PaperTable, rows: list[_Row]) -> Iterable[str]:
    of_defense = [row for row in rows if row.setting != _NO_DEFENSE]
    for metric in table.axis("metric"):
        paper, ours = _means(of_defense, metric)
        if paper is not None and ours is not None:
            yield f"{in_words(metric)} {format_difference(ours - paper)}"


def _warnings(results: Results, tables: tuple[PaperTable, ...], rows_shown: Mapping[str, list[_Row]]) -> Iterable[str]:
    rows = [row for of_table in rows_shown.values() for row in of_table]
    if rows and max(row.seeds for row in rows) == 1:
        yield "One seed only: how far another would move our numbers is not known."
    by_table = any(table.varies in ("defense", "poison_rate") for table in tables)
    if rows and by_table and not results.complete["paper_default"].any():
        how = select_trial(results, "best").how
        yield f"Ours is {how}, not the paper's hyperparameters, which this study did not try."
    other = sorted({row.attack for row in rows if row.paper_rate is not None and row.paper_rate != row.rate})
    if other:
        yield f"The poison rate is not the paper's on {', '.join(other)}: the two columns of rates tell both."
    failed = results.scenarios
    failed = failed[failed["attack_failed"].astype(bool)]
    if len(failed):
        yield f"Left out, since the attack failed undefended: {', '.join(map(str, failed.index))}."
    for table in tables:
        told = {row.attack.partition(":")[0] for row in rows_shown.get(table.name, ())}
        missing = [attack for attack in _attacks(results, table) if attack not in told]
        if missing:
            yield f"{table.place.partition(',')[0]} has these too, without a number of ours: {', '.join(missing)}."
