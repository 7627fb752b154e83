"""Sections as lines of text, for a terminal. A figure is a line that says what the report shows."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from study.analysis.failed_runs import failure_caveats
from study.analysis.results import Results
from study.cli.numbers import several
from study.cli.terminal import table
from study.report.elements import (
    Bars,
    Contour,
    Curves,
    Facts,
    Figure,
    Heat,
    Item,
    Note,
    Parallel,
    Picture,
    Section,
    Table,
)
from study.report.formatting import format_cell
from study.report.screen import wrapped

_WIDTH = 110
_NAMED = 6  # figures of curves that are named one by one
_PREFIX = {"plain": "", "heading": "", "warning": "Note well: ", "footnote": "* "}
_ROWS = 20  # of a table that a page lets its reader sort
BADGE = "[uses ground truth]"
BADGE_MEANS = f"{BADGE}: from labels that say which images are poisoned; a defender does not have them"


def as_text(results: Results, sections: Sequence[Section]) -> str:
    """What the study is, then all sections, each with its title underlined; those that have nothing to say last."""
    answered = [section_text(section) for section in sections if section.answered]
    silent = [_wrapped(f"{section.title}: {section.lead}") for section in sections if not section.answered]
    return "\n\n\n".join([headline(results), *answered, *(["\n".join(silent)] if silent else [])])


def headline(results: Results) -> str:
    """The study in a few lines, with what limits all that follows."""
    states = results.trials["state"].value_counts()
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    scenarios = results.over_repeats.scenarios
    seeds = len(results.seeds)
    repeats = f", {results.repeats} repeats of each" if results.repeats > 1 else ""
    failed = [str(name) for name in scenarios.index[scenarios["attack_failed"]]]
    lines = [
        f"{results.name}: {results.defense}, {results.goal.words}, sampler {results.config.sampler}; "
        f"trials: {told}; {several(len(scenarios), 'scenario')}, {several(seeds, 'seed')}{repeats}"
    ]
    if failed:
        all_of = "every attack" if len(failed) == len(scenarios) else ", ".join(failed)
        lines.append(f"Attack failed even undefended, so it counts neither way: {all_of}")
    if results.damaged:
        damaged = several(len(results.damaged), "damaged file")
        lines.append(f"Left out: {damaged}, which cannot be read, the first: {results.damaged[0]}")
    lines += [*failure_caveats(results), BADGE_MEANS]
    return "\n".join(_wrapped(line) for line in lines)


def as_json(results: Results, sections: Sequence[Section]) -> str:
    """The same for machines, figures with all their numbers; each item says its ``type``."""
    content = {
        "name": results.name,
        "defense": results.defense,
        "space": results.space,
        "objective": results.goal.text,
        "sections": [
            {
                **vars(section),
                "items": [{"type": type(item).__name__.lower(), **_fields(item)} for item in section.items],
            }
            for section in sections
        ],
    }
    return json.dumps(content, indent=1, default=sorted, allow_nan=False)  # a set is all that JSON has no word for


def _fields(item: Item) -> dict[str, Any]:
    """An item's fields; of a picture its file as base64."""
    fields = asdict(item)
    return fields | {"png": base64.b64encode(item.png).decode()} if isinstance(item, Picture) else fields


def section_text(section: Section) -> str:
    """One section; one that has nothing to say is a line."""
    if not section.answered:
        return _wrapped(f"{section.title}: {section.lead}")
    title = f"{section.title}\n{'=' * len(section.title)}"
    curves = [item for item in section.items if isinstance(item, Curves)]
    many = len(curves) > _NAMED
    items = [_item(item) for item in section.items if not (many and isinstance(item, Curves))]
    if many:
        items.append(f"[{len(curves)} figures, {curves[0].name} to {curves[-1].name}, drawn in the report]")
    lead = f"{BADGE} {section.lead}" if section.uses_labels else section.lead
    return "\n\n".join([title, _wrapped(lead), *items])


def _item(item: Item) -> str:
    if isinstance(item, Note):
        return _wrapped(_PREFIX[item.kind] + item.text)
    if isinstance(item, Facts):
        return "\n".join(_wrapped(f"{one.label}: {one.value}{f' ({one.note})' * bool(one.note)}") for one in item.facts)
    if isinstance(item, Table):
        return f"{_wrapped(item.caption)}\n{table_lines(item)}".lstrip()
    if isinstance(item, Picture):
        return _wrapped(f"[picture {item.name}: {item.caption} Shown in the report]")
    return _figure(item)


def table_lines(shown: Table) -> str:
    """A table without its caption, as aligned columns; of many rows that a page can sort, the first."""
    rows = shown.rows[:_ROWS] if shown.sortable else shown.rows
    more = len(shown.rows) - len(rows)
    lines = table(shown.header, [[format_cell(cell) for cell in row] for row in rows], shown.left)
    return f"{lines}\n({more} more rows in the report)" if more else lines


def _figure(figure: Figure) -> str:
    if isinstance(figure, Heat):
        rows = [
            [name, *(f"({text})" if (row, column) in figure.marked else text for column, text in enumerate(texts))]
            for row, (name, texts) in enumerate(
                zip(figure.rows, (map(format_cell, values) for values in figure.values), strict=True)
            )
        ]
        return f"{_wrapped(figure.caption)}\n{table(['', *figure.columns], rows)}"
    if isinstance(figure, Bars):
        what = f"{len(figure.labels)} bars"
    elif isinstance(figure, Curves):
        what = several(len(figure.lines), "line")
    elif isinstance(figure, Parallel):
        what = f"{len(figure.places)} trials"
    elif isinstance(figure, Contour):
        what = f"{len(figure.y)} by {len(figure.x)} places"
    else:
        what = f"{len(figure.points)} points"
    return f"[figure {figure.name}: {figure.caption}; {what}, drawn in the report]"


def _wrapped(text: str) -> str:
    return wrapped(text, _WIDTH)
