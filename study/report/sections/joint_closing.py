"""What studies that are made of several end with: each scenario's own best, several defenses, a hold-out."""

import dataclasses
from collections.abc import Sequence

from study.analysis.compared import OWN_BEST
from study.analysis.finding import NOTHING, find
from study.cli.numbers import format_objective
from study.config.objectives import in_words
from study.report.elements import Note, Section, Table
from study.report.screen import legend, without_empty_columns, wrapped
from study.report.sections import attacks
from study.report.sections.closing import HEADER, Closing, beside_text
from study.report.text import table_lines


def joint_text(closings: Sequence[Closing]) -> str:
    """The tables of studies that share a space, each of one scenario."""
    finished = [closing for closing in closings if closing.finished]
    if not finished:
        return NOTHING
    settings = tuple(
        ("" if at else closing.scenarios[0], name, *map(format_objective, closing.values(trial)), *closing.point(trial))
        for closing in finished
        for at, (name, trial) in enumerate(closing.compared)
    )
    symbols, goal = finished[0].symbols(), finished[0].results.goal
    header = ("scenario", "trial", *map(in_words, goal.objectives), *(symbol.split()[0] for symbol in symbols))
    rows = tuple(row for closing in finished for row in closing.scenario_rows())
    reached = without_empty_columns(Table("scenarios", "", finished[0].header, rows, left=2))
    findings = {closing.scenarios[0]: find(closing.results) for closing in closings}
    parts = [
        "\n".join(wrapped(f"{name}: {one.sentence}") for name, one in findings.items()),
        table_lines(Table("settings", "", header, settings, left=2)),
        *([wrapped(f"The hyperparameters: {', '.join(symbols)}.")] if symbols else []),
        table_lines(reached),
        "\n".join(filter(None, (wrapped(finished[0].spread_words), legend(reached.header)))),
        *beside_text({f"{closing.scenarios[0]}: ": closing.results for closing in finished}),
    ]
    told = {closing.scenarios[0]: closing.notes() for closing in closings}
    caveats = dict.fromkeys(caveat for one in findings.values() for caveat in one.caveats)
    notes = [*map(wrapped, caveats), *(f"{name}: {note}" for name, lines in told.items() for note in lines)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def defenses_text(closings: Sequence[Closing]) -> str:
    """What each of several defenses found, and all of them on every attack, by the same poisoned data."""
    findings = {closing.results.space: find(closing.results) for closing in closings}
    if not any(closing.finished for closing in closings):
        return NOTHING
    told = [closing.results for closing in closings if not closing.results.evaluations.empty]
    section = attacks.section(told)
    # Of a single trial there is nothing to choose: an own best would be the row above it once more.
    single = tuple(f"{results.name}: {OWN_BEST}" for results in told if len(results.complete) < 2)
    tables = [
        without_empty_columns(
            dataclasses.replace(item, rows=tuple(row for row in item.rows if not str(row[1]).startswith(single)))
        )
        for item in section.items
        if isinstance(item, Table)
    ]
    lines = [wrapped(f"{name}: {one.sentence}") for name, one in findings.items()]
    caveats = dict.fromkeys(caveat for one in findings.values() for caveat in one.caveats)
    notes = [note for closing in closings for note in closing.notes()]
    beside = beside_text({f"{one.results.space}: ": one.results for one in closings if one.finished})
    shown = ["\n".join(lines), *(table_lines(table) for table in tables), legend(HEADER), *beside]
    return "\n\n".join([*shown, "\n".join([*map(wrapped, caveats), *dict.fromkeys(notes)])])


def section_closing(section: Section) -> str:
    """A section as the last screen of a study: its answer first, then its tables and what else is to be known."""
    tables = [item for item in section.items if isinstance(item, Table)]
    notes = [item for item in section.items if isinstance(item, Note)]
    shown = [f"{wrapped(table.caption)}\n{table_lines(without_empty_columns(table))}" for table in tables]
    header = tuple(name for table in tables for name in table.header)
    parts = [wrapped(section.lead), *shown, legend(header), "\n".join(wrapped(note.text) for note in notes)]
    return "\n\n".join(part for part in parts if part)
