"""Sections as text."""

from collections.abc import Sequence

from study.answers.page import Cell, Section, Table
from study.terminal import number, table


def render(sections: Sequence[Section]) -> str:
    """Leads and tables."""
    parts = []
    for section in sections:
        parts += [section.title, section.lead]
        parts += [_table(item) for item in section.items if isinstance(item, Table)]
    return "\n\n".join(parts)


def _table(found: Table) -> str:
    return f"{found.caption}\n\n" + table(
        found.header, [[_cell(cell) for cell in row] for row in found.rows], found.left
    )


def _cell(cell: Cell) -> str:
    return cell if isinstance(cell, str) else number(cell)
