"""Sections as GitHub markdown. Figures are links to PNG files where there are some, and tables where not."""

import re
from collections.abc import Mapping, Sequence

from study.report.elements import Figure, Item, Note, Section, Table
from study.report.formatting import as_table, format_cell

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$-])")
_PREFIX = {"plain": "", "warning": "> **Note:** ", "footnote": "<sub>"}


def markdown(title: str, sections: Sequence[Section], pictures: Mapping[str, str] | None = None) -> str:
    """A whole document.

    Args:
        pictures: the file of each figure by its name, as links from the document; None gives tables instead.
    """
    contents = [f"- [{escaped(section.title)}](#{section.name})" for section in sections if len(sections) > 1]
    parts = [f"# {escaped(title)}", "\n".join(contents)]
    for section in sections:
        parts += [f'<a id="{section.name}"></a>\n\n## {escaped(section.title)}', escaped(section.lead)]
        parts += [_item(item, pictures or {}) for item in section.items]
        parts += [f"```bash\n{_one_line(section.command)}\n```"] if section.command else []
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
    if isinstance(item, Table):
        return _table(item)
    return _picture(item, pictures[item.name]) if item.name in pictures else _table(as_table(item))


def _picture(figure: Figure, path: str) -> str:
    return f"![{escaped(figure.caption)}](<{path}>)\n\n{escaped(figure.caption)}"


def _table(table: Table) -> str:
    rule = ["---" if column < table.left else "---:" for column in range(len(table.header))]
    rows = [
        [
            f"**{text}**" if at in table.strong and text else text
            for text in (escaped(format_cell(cell)) for cell in row)
        ]
        for at, row in enumerate(table.rows)
    ]
    lines = [list(map(escaped, table.header)), rule, *rows]
    return "\n\n".join([escaped(table.caption), "\n".join("| " + " | ".join(line) + " |" for line in lines)]).strip()
