"""What shows an answer: the page, the markdown and the PNG files, whatever names and numbers they are given."""

import dataclasses
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT

from study.report import plotly_figures
from study.report.elements import (
    Axis,
    Bars,
    Contour,
    Curves,
    Fact,
    Facts,
    Figure,
    Heat,
    Line,
    Note,
    Parallel,
    Picture,
    Point,
    Scatter,
    Section,
    Table,
)
from study.report.formatting import as_table, format_cell
from study.report.html import Chapter, page
from study.report.markdown import markdown
from study.report.matplotlib_figures import png
from study.report.plotly_figures import as_plotly, template
from study.report.theme import DARK, LIGHT, SERIES, contrast

EVIL = (
    "<script>alert(1)</script>",
    '"><img onerror=alert(1) src=x>',
    "</script><b>",
    "%{x} $x^$ `|* [a](javascript:b)",
)


LIBRARY = plotly_figures.library


@pytest.fixture(autouse=True)
def _short_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strict parser in Python takes ten seconds for the five million characters of plotly.js."""
    monkeypatch.setattr(plotly_figures, "library", lambda: "window.Plotly = {};")


def test_plotly_may_stand_in_a_page() -> None:
    """What the parser would see in the whole page: no character that HTML forbids, and no end of a script."""
    text = LIBRARY()
    assert not re.search("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\r]", text)
    assert not re.search("</script|<!--", text, re.IGNORECASE)
    assert r"\x1a" in text  # of a text, as an escape


def figures(name: str = "plain") -> list[Figure]:
    """One of each kind; every text in them is a name."""
    return [
        Heat("heat", name, (name, "b"), (name, "d"), ((0.5, None), (0.25, 0.75)), marked=frozenset({(1, 0)})),
        Curves(
            "curves",
            name,
            name,
            name,
            (Line(name, (1.0, 10.0), (0.5, 1.0), (0.25, 0.75), (0.75, 1.0)), Line("two", (1.0,), (0.5,))),
            x_log=True,
            at=((10.0, name),),
        ),
        Bars("bars", name, (name, "b"), (name,), ((0.5, None),), ((0.25, None),), ((0.75, None),), x_label=name),
        Scatter("scatter", name, name, name, (Point(name, name, 0.0, 1.0), Point("b", "c", 1.0, 0.0)), ((0.0, 1.0),)),
        Contour(
            "contour", name, name, name, (1.0, 2.0), (name, "b"), ((0.5, 1.0), (None, 0.25)), name, ((1.2, "b", name),)
        ),
        Parallel(
            "parallel",
            name,
            (Axis(name, (0.1, 10.0), log=True), Axis("b", (name, "c")), Axis(name, (0.0, 1.0))),
            (name, "d"),
            ((1.0, name, 0.5), (10.0, "c", 0.25)),
            marked=((0, name),),
        ),
    ]


def picture(name: str = "plain") -> Picture:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (4, 2)).save(content, format="PNG")
    return Picture("picture", name, content.getvalue(), 4, 2)


def section(name: str = "plain", label: str = "part", **changes: Any) -> Section:
    table = Table("table", name, (name, "n"), ((name, 0.5), ("x", None)), strong=(1,), bold=frozenset({(0, 1)}))
    rows = Table("rows", name, (name, "n"), ((name, 0.123456789), ("x", None)), sortable=True)
    notes = (Note(name), Note(name, "warning"), Note(name, "footnote"), Note(name, "heading"))
    facts = Facts((Fact(name, name, name), Fact("1", "b")))
    items = (*notes, facts, table, rows, *figures(name), picture(name))
    command = f"python -m study.run --name '{name}'"
    return Section(label, name, name, items, command=command, uses_labels=True, **changes)


def parse(text: str) -> Any:
    """The document, by an HTML parser that refuses what does not conform."""
    import html5lib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def made(name: str = "plain", chapters: int = 1) -> str:
    """A front page of notes, a section with one of everything, and one that has nothing to say."""
    front = Section("front", name, name, (Note(name), Facts((Fact(name, name),)), Note(name, "footnote")))
    silent = Section("silent", name, name, answered=False)
    whole = (front, section(name), silent)
    return page(name, name, [Chapter(name, whole if n == 0 else ()) for n in range(chapters)])


@pytest.mark.parametrize("chapters", [1, 2])
def test_the_page_is_valid_html(chapters: int) -> None:
    document = parse(made(chapters=chapters))
    ids = [element.get("id") for element in document.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    targets = [link.get("href") for link in document.iter("a")]
    assert all(target.startswith("#") and target[1:] in ids for target in targets)


def test_the_validator_sees_a_page_that_is_not() -> None:
    with pytest.raises(Exception, match=r"expected"):
        parse(made().replace("</main>", "</table></main>"))


@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_text_and_never_markup(name: str) -> None:
    """The same elements with the same attributes stand in the page, whatever a study or scenario is called."""

    def skeleton(text: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(str(element.tag), tuple(sorted(element.attrib))) for element in parse(text).iter()]

    evil = made(name)
    assert skeleton(evil) == skeleton(made())
    if "<" in name:
        assert name not in evil
    document = parse(evil)
    assert document.find(".//title").text == name
    scripts = [element for element in document.iter("script") if element.get("type") == "application/json"]
    shown_names = "".join(element.text for element in scripts)
    assert "<" not in shown_names
    assert all(json.loads(element.text) for element in scripts)


def test_plotly_is_told_no_markup() -> None:
    """Plotly reads tags and ``%{`` in the texts of a figure."""

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for part in value.values() for text in texts(part)]
        if isinstance(value, list):
            return [text for part in value for text in texts(part)]
        return [value] if isinstance(value, str) else []

    for name in EVIL:
        for figure in figures(name):
            found = as_plotly(figure)
            tags = re.findall("<[^>]*>", "".join(texts(found)))
            assert set(tags) <= {"<br>", "<b>", "</b>", "<extra>", "</extra>"}, (figure, tags)
    for evil, plain in zip(figures("%{x}"), figures(), strict=True):
        counts = [
            [trace.get("hovertemplate", "").count("%{") for trace in as_plotly(figure)["data"]]
            for figure in (evil, plain)
        ]
        assert counts[0] == counts[1], evil


def test_the_page_asks_no_server() -> None:
    document = parse(made())
    policy = next(meta for meta in document.iter("meta") if meta.get("http-equiv")).get("content")
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy  # default-src holds for it
    assert "unsafe-eval" not in policy
    assert not [e for e in document.iter() if e.tag in ("link", "iframe", "object")]
    sources = [e.get("src") for e in document.iter() if e.get("src") or e.tag == "img"]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    style = "".join(element.text for element in document.iter("style"))
    assert "url(" not in style
    assert "@import" not in style


def test_only_scripts_that_the_policy_names_may_run() -> None:
    import base64
    import hashlib

    document = parse(made())
    policy = next(meta for meta in document.iter("meta") if meta.get("http-equiv")).get("content")
    allowed = set(re.findall("'sha256-([^']*)'", policy))
    scripts = [element.text for element in document.iter("script") if element.get("type") is None]
    assert len(scripts) == 3
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts} == allowed
    assert "script-src 'sha256-" in policy
    assert not [name for element in document.iter() for name in element.attrib if name.startswith("on")]


def test_plotly_takes_the_figures_and_the_templates() -> None:
    import plotly.graph_objects as graph_objects

    for figure in figures():
        graph_objects.Figure(as_plotly(figure))  # refuses unknown properties and wrong values
        kinds = {trace["type"] for trace in as_plotly(figure)["data"]}
        assert kinds <= {"heatmap", "scatter", "bar"}  # those on WebGL make code from text, which the policy forbids
    for theme in (LIGHT, DARK):
        graph_objects.layout.Template(template(theme))


def test_a_failed_attack_has_no_colour() -> None:
    found = as_plotly(figures()[0])
    assert found["data"][0]["z"] == [[0.5, None], [None, 0.75]]
    assert [note["text"] for note in found["layout"]["annotations"]] == ["(0.250)"]
    assert len(found["layout"]["shapes"]) == 2


def test_low_is_good_turns_the_colours() -> None:
    heat = Heat("h", "", ("a",), ("b",), ((0.5,),), good="low")
    assert as_plotly(heat)["layout"]["coloraxis"]["reversescale"] is True
    assert as_plotly(figures()[0])["layout"]["coloraxis"]["reversescale"] is False


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_can_be_told_from_their_ground(theme: Any) -> None:
    assert all(contrast(colour, theme.ground) >= 3 for colour in SERIES)
    assert contrast(theme.ink, theme.ground) >= 7
    assert contrast(theme.muted, theme.ground) >= 4.5
    assert contrast(theme.muted, theme.empty) >= 3


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the standard's well-known example


@pytest.mark.parametrize("name", ["plain", EVIL[-1]])
def test_every_figure_becomes_a_png(name: str) -> None:
    from PIL import Image

    for figure in figures(name):
        content = png(figure)
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"
            assert image.width > 300


def test_an_empty_heat_map_is_drawn() -> None:
    heat = Heat("h", "", ("a",), ("b",), ((None,),), low=None, high=None)
    assert png(heat)
    assert as_plotly(heat)["data"][0]["z"] == [[None]]


def test_numbers_for_people() -> None:
    assert [format_cell(cell) for cell in (None, float("nan"), 0.0, 0.5, 12, "x", 1e-5, 123456.0)] == [
        "-", "-", "0.000", "0.500", "12", "x", "<0.001", "123456",
    ]  # fmt: skip


def test_a_figure_as_a_table() -> None:
    heat, curves, bars, scatter, contour, parallel = (as_table(figure) for figure in figures())
    assert parallel.header == ("", "plain", "b", "plain")
    assert parallel.rows == (("plain", "1", "plain", 0.5), ("d", "10", "c", 0.25))
    assert heat.rows == (("plain", 0.5, None), ("d", "(0.250)", 0.75))
    assert curves.rows[0] == ("plain", "1", 0.5, 0.25, 0.75)
    assert bars.rows == (("plain", "0.500 [0.250, 0.750]"), ("b", None))
    assert scatter.rows[0] == ("plain", "plain", 0.0, 1.0)  # the one on the front
    assert contour.header == ("plain \\ plain", "1", "2")


def test_a_long_table_says_that_it_is_cut() -> None:
    many = Scatter("s", "Points.", "x", "y", tuple(Point(f"#{n}", "trial", n, n) for n in range(100)), ((99, 99),))
    table = as_table(many)
    assert table.rows[0][0] == "#99"
    assert len(table.rows) == 60
    text = page("x", "", [Chapter("x", (Section("f", "f", "f", (many,)),))])
    notes = [element.text for element in parse(text).iter("p") if element.get("class") == "footnote"]
    assert notes == ["The first 60 of 100 rows."], "to be read, and not in a label alone"
    assert "The first 60 of 100 rows." in markdown("x", [Section("f", "f", "f", (many,))])
    fewer = dataclasses.replace(many, points=many.points[:60])
    assert "of 60 rows" not in page("x", "", [Chapter("x", (Section("f", "f", "f", (fewer,)),))])


def test_without_scripts_nothing_is_said_to_be_complete_that_is_cut() -> None:
    (told,) = parse(made()).iter("noscript")
    assert "complete" not in "".join(told.itertext())


def test_markdown_shows_tables_or_links() -> None:
    text = markdown("A study", [section()])
    assert "| plain | 0.500 |" in text
    assert "| **x** | **-** |" in text
    assert "![" not in text
    linked = markdown("A study", [section()], {"heat": "figures/heat.png"})
    assert "![plain](<figures/heat.png>)" in linked
    assert linked.startswith("# A study\n")


@pytest.mark.parametrize("name", EVIL)
def test_markdown_takes_a_name_as_text(name: str) -> None:
    lines = markdown(name, [section(name)]).splitlines()
    code = False
    for line in lines:
        code ^= line.startswith("```")
        if not code and "<a id=" not in line:
            plain = re.sub(r"</?sub>", "", line)
            assert not re.search(r"<[a-z/]", plain), line
            assert not re.search(r"(?<!\\)\[a(?<!\\)\]\(", plain), line


def test_rows_of_markdown_have_as_many_cells_as_their_header() -> None:
    table = Table("t", "c", ("a", "b"), (("x|y", 1.0), ("p\nq", 2)))
    text = markdown("x", [Section("s", "s", "s", (table,))])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {3}


def test_drawing_is_part_of_the_package() -> None:
    import study.report

    folder = Path(study.report.__file__).parent
    patterns = (ROOT / "pyproject.toml").read_text()
    for path in folder.iterdir():
        if path.suffix not in (".py", "", ".png"):  # a picture in README is nothing that the code needs
            assert f'"report/*{path.suffix}"' in patterns


def test_a_rule_for_phones_does_not_hold_on_paper() -> None:
    """A page of paper is as narrow as a phone, and a table that scrolls in a low box would print over what follows."""
    style = "".join(element.text for element in parse(made()).iter("style"))
    assert not re.search(r"@media \(max-width", style)
    on_paper = style.partition("@media print {")[2]
    assert re.search(r"\.scroll\.high[^{]*{[^}]*max-height: none", on_paper)
    assert re.search(r"\.plot[^{]*{[^}]*overflow: visible", on_paper)


@pytest.mark.parametrize(("columns", "wanted"), [(4, "scroll"), (10, "scroll wide"), (25, "scroll widest")])
def test_a_table_of_many_columns_is_printed_in_small_letters(columns: int, wanted: str) -> None:
    table = Table("t", "c", tuple(f"c{at}" for at in range(columns)), (tuple(range(columns)),))
    text = page("x", "", [Chapter("x", (Section("f", "f", "f"), Section("s", "s", "s", (table,))))])
    classes = [element.get("class") for element in parse(text).iter("div")]
    assert wanted in classes
