"""Sections as GitHub markdown. Figures are links to PNG files where there are some, and tables where not."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from study.report.elements import Facts, Figure, Item, Note, Picture, Section, Table
from study.report.formatting import as_table, format_cell

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$-])")
_PREFIX = {"plain": "", "heading": "### ", "warning": "> **Note:** ", "footnote": "<sub>"}
_ROWS = 60  # of a table that a page lets its reader sort
_BADGE = "ground truth"
_USES_LABELS = f"({_BADGE}): uses labels that say which images are poisoned; a defender does not have them."


def markdown(title: str, sections: Sequence[Section], pictures: Mapping[str, str] | None = None) -> str:
    """A whole document.

    Args:
        pictures: the file of each figure and picture by its name, as links from the document; None gives tables
            instead of figures.
    """
    answered = [section for section in sections if section.answered]
    silent = [f"- **{escaped(one.title)}**: {escaped(one.lead)}" for one in sections if not one.answered]
    contents = [f"- [{escaped(section.title)}](#{section.name})" for section in answered if len(sections) > 1]
    parts = [f"# {escaped(title)}", "\n".join(contents)]
    if any(section.uses_labels for section in sections):
        parts.append(escaped(_USES_LABELS))
    for section in answered:
        badge = f" ({_BADGE})" * section.uses_labels
        parts += [f'<a id="{section.name}"></a>\n\n## {escaped(section.title)}{badge}', escaped(section.lead)]
        parts += [_item(item, pictures or {}) for item in section.items]
        parts += [f"```bash\n{_one_line(section.command)}\n```"] if section.command else []
    if silent:
        parts += ["## Nothing to show", "\n".join(silent)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Text in which nothing is markup, on one line; a name from elsewhere can neither link nor embed anything."""
    return _MARKUP.sub(_entity, _one_line(text))


def _entity(match: re.Match[str]) -> str:
    character = match.group(1)
    # A hyphen inside a word and a bracket are harmless where nothing can make a link of them.
    return character if character in "-()+" else f"&#{ord(character)};" if character in "<>&|" else "\\" + character


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _item(item: Item, pictures: Mapping[str, str]) -> str:
    if isinstance(item, Note):
        text = _PREFIX[item.kind] + escaped(item.text)
        return text + "</sub>" if item.kind == "footnote" else text
    if isinstance(item, Facts):
        return "\n".join(
            f"- **{escaped(one.value)}** {escaped(one.label)}{f' ({escaped(one.note)})' * bool(one.note)}"
            for one in item.facts
        )
    if isinstance(item, Table):
        return _table(item)
    if item.name in pictures:
        return _picture(item, pictures[item.name])
    return escaped(item.caption) if isinstance(item, Picture) else _table(as_table(item))


def _picture(figure: Figure | Picture, path: str) -> str:
    return f"![{escaped(figure.caption)}](<{path}>)\n\n{escaped(figure.caption)}"


def _table(table: Table) -> str:
    rule = ["---" if column < table.left else "---:" for column in range(len(table.header))]
    shown = table.rows[:_ROWS] if table.sortable else table.rows
    rows = [
        [
            f"**{text}**" if (at in table.strong or (at, column) in table.bold) and text else text
            for column, text in enumerate(escaped(format_cell(cell)) for cell in row)
        ]
        for at, row in enumerate(shown)
    ]
    more = dataclasses.replace(table, rows=shown, left_out=table.left_out + len(table.rows) - len(shown)).cut
    lines = [list(map(escaped, table.header)), rule, *rows]
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([escaped(table.caption), drawn, more]).strip()
