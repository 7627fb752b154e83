"""Sections as one HTML page that needs no server: plotly.js, styles and data are in it, and it may fetch nothing.

Whatever a study is called, its name is text: the template escapes by itself, figures' data are JSON in which nothing
can end a script, and the page's own policy runs no script but the two whose hashes it names.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.report import plotly_figures
from study.report.elements import Figure, Item, Note, Section, Table
from study.report.formatting import as_table, format_cell
from study.report.theme import DARK, LIGHT


@dataclass(frozen=True)
class Chapter:
    """What is told of one study; a page of one chapter shows no title of it."""

    title: str
    sections: tuple[Section, ...]


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
    environment.filters["shown"] = format_cell
    environment.filters["runs"] = _runs
    environment.globals["numbers"] = as_table
    template = environment.get_template("page.html")
    drawing = (Path(__file__).parent / "drawing.js").read_text(encoding="utf-8")
    scripts = [_script(text) for text in (plotly_figures.library(), drawing)]
    figures = [figure for chapter in chapters for section in chapter.sections for figure in section.figures()]
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
    )


def _runs(section: Section) -> list[tuple[str, list[Item]]]:
    """A section's items, those of one kind that follow one another together: figures stand side by side."""
    return [(kind, list(items)) for kind, items in itertools.groupby(section.items, key=_kind)]


def _kind(item: Item) -> str:
    return "note" if isinstance(item, Note) else "table" if isinstance(item, Table) else "figure"


def _drawn(figure: Figure) -> dict[str, Any]:
    """A figure's data for the page, and the height that is kept free for it."""
    drawn = plotly_figures.as_plotly(figure)
    return {"json": _json(drawn), "height": drawn["layout"]["height"]}


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
