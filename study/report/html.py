"""Sections as one HTML page that needs no server: plotly.js, styles and data are in it, and it may fetch nothing.

Its first section is the front page; all others are folded behind their headings, and those that have nothing to say
are a line each at its end. Whatever a study is called, its name is text: the template escapes by itself, figures' data
are JSON in which nothing can end a script, and the page's own policy runs no script but those whose hashes it names.
"""

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.report import plotly_figures
from study.report.elements import Cell, Facts, Figure, Item, Note, Picture, Section, Table
from study.report.formatting import as_table, format_cell
from study.report.theme import DARK, LIGHT

BADGE = "ground truth"
USES_LABELS = "uses labels that say which images are poisoned; a defender does not have them"
"""What the badge of a section means, told once a page."""
_SHORT, _LONG = 26, 60  # characters of a cell that stays on one line, and of one that needs a wide column
_ON_PAPER = ((18, " widest"), (9, " wide"))  # columns, at least
_PLACES = (("facts", Facts), ("pictures", Picture), ("tables", Table), ("after", Note), ("figures", Figure))
_SCRIPTS = ("page.js", "drawing.js")  # what is printed is unfolded before it is drawn


@dataclass(frozen=True)
class Chapter:
    """What is told of one study; a page of one chapter shows no title of it.

    Attributes:
        front: its first section is shown as it is; all others are folded.
    """

    title: str
    sections: tuple[Section, ...]
    front: bool = True

    @property
    def opened(self) -> tuple[Section, ...]:
        """The sections that are not folded."""
        return self.sections[:1] if self.front else ()

    @property
    def folded(self) -> tuple[Section, ...]:
        """The sections behind their headings."""
        return tuple(section for section in self.sections[len(self.opened) :] if section.answered)

    @property
    def unanswered(self) -> tuple[Section, ...]:
        """Those that have nothing to say, but why."""
        return tuple(section for section in self.sections[len(self.opened) :] if not section.answered)


def page(title: str, subtitle: str, chapters: Sequence[Chapter]) -> str:
    """The page.

    Args:
        subtitle: a line below the title.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"shown": format_cell, "runs": _runs, "front": _front, "columns": _columns}
    environment.filters |= {"order": _order, "paper": _paper, "source": _source}
    environment.globals["numbers"] = as_table
    template = environment.get_template("page.html")
    own = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    scripts = [_script(text) for text in (plotly_figures.library(), *own)]
    sections = [section for chapter in chapters for section in chapter.sections]
    figures = [figure for section in sections for figure in section.figures()]
    return template.render(
        title=title,
        subtitle=subtitle,
        chapters=chapters,
        scripts=scripts,
        hashes=[_hash(text) for text in scripts],
        themes=_json({"light": plotly_figures.template(LIGHT), "dark": plotly_figures.template(DARK)}),
        drawn={figure.name: _drawn(figure) for figure in figures},
        light=LIGHT,
        dark=DARK,
        badge=BADGE,
        uses_labels=USES_LABELS if any(section.uses_labels for section in sections) else "",
    )


def _runs(section: Section) -> list[tuple[str, list[Item]]]:
    """A section's items, those of one kind that follow one another together: figures stand side by side."""
    return [(kind, list(items)) for kind, items in itertools.groupby(section.items, key=_kind)]


def _front(section: Section) -> dict[str, list[Item]]:
    """The items of a front page by their place: notes before everything else and behind it, tables beside figures."""
    rest = list(itertools.dropwhile(lambda item: isinstance(item, Note), section.items))
    parts: dict[str, list[Item]] = {"before": list(section.items[: len(section.items) - len(rest)])}
    for name, kinds in _PLACES:
        parts[name] = [item for item in rest if isinstance(item, kinds)]
    return parts


def _columns(table: Table) -> list[str]:
    """How wide each column is at least, by its longest text, so that none is squeezed: a class of the page's style.

    ``n`` a number, aligned right; ``t`` a short text on one line; ``m`` and ``w`` a longer and a long text.
    """
    kinds = []
    for column in range(len(table.header)):
        longest = max((len(format_cell(row[column])) for row in table.rows), default=0)
        short = "t" if column < table.left else "n"
        kinds.append(short if longest <= _SHORT else "m" if longest <= _LONG else "w")
    return kinds


def _paper(table: Table) -> str:
    """The class of a table whose columns a page of paper holds in smaller letters alone; empty for others."""
    return next((name for least, name in _ON_PAPER if len(table.header) >= least), "")


def _kind(item: Item) -> str:
    kinds = {Note: "note", Facts: "facts", Table: "table", Picture: "picture"}
    return kinds.get(type(item), "figure")


def _order(cell: Cell) -> str:
    """What a cell is sorted by where its text is rounded; empty where its text will do, or nothing is known."""
    return f"{cell:.9g}" if isinstance(cell, float) and math.isfinite(cell) else ""


def _source(picture: Picture) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()


def _drawn(figure: Figure) -> dict[str, Any]:
    """A figure's data for the page, the height that is kept free for it, and the width that it needs."""
    drawn = plotly_figures.as_plotly(figure)
    least = plotly_figures.least_width(figure)
    return {"json": _json(drawn), "height": drawn["layout"]["height"], "least": least}


def _json(value: Any) -> Any:
    """JSON inside a script element: without any character that HTML or JavaScript gives a meaning there."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _script(text: str) -> Any:
    """Our own code, which must be given as it is: its hash stands in the policy."""
    from markupsafe import Markup

    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("a script that holds the end of a script cannot stand in a page")
    return Markup(text.replace("\r\n", "\n").replace("\r", "\n"))  # as a reader of HTML takes it


def _hash(script: str) -> str:
    """A script as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
