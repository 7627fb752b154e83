"""A page of chosen tables and figures in a browser: which column a filter takes, and what is printed."""

from typing import Any

import pytest
from browser import needs_chromium
from framed_page import ask_page

from defenses import DEFENSES
from search_spaces import SEARCH_SPACES
from study.report.elements import Axis, Curves, Line, Parallel, Section, Table
from study.report.html import Chapter, page

PAPER = 640  # px
WIDTHS = (1280, 390)
SPACE = SEARCH_SPACES["qt_wide"]

pytestmark = [
    pytest.mark.slow,
    needs_chromium(),
]

_PROBE = """
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
window.addEventListener("load", async () => {
  const told = { width: window.innerWidth, filtered: {} };
  const table = document.querySelector("#trials table");
  const names = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent.trim());
  const field = document.querySelector("#trials input");
  /* Row n holds 1 in its column n alone: what is left of the rows tells which column was taken. */
  for (const name of [...names.filter((name) => !name.includes(" ")), "built", "tp"]) {
    field.value = name + "=1";
    field.dispatchEvent(new Event("input"));
    const rows = Array.from(table.tBodies[0].rows);
    told.filtered[name] = rows.flatMap((row, at) => (row.hidden ? [] : [names[at]]));
  }
  field.value = "";
  field.dispatchEvent(new Event("input"));
  const parts = document.querySelector("#parts table");
  const heads = parts.querySelectorAll("th button");
  told.sorted = Array.from(heads, (button, at) => {
    button.click();
    return Array.from(parts.tBodies[0].rows, (row) => row.cells[at].textContent);
  });
  const widths = () =>
    Array.from(document.querySelectorAll(".plot"), (plot) => {
      const drawn = plot.querySelector(".main-svg");
      return drawn ? drawn.getBoundingClientRect().width : null;
    });
  window.dispatchEvent(new Event("beforeprint"));
  await pause(500);
  told.printed = widths();
  window.dispatchEvent(new Event("afterprint"));
  document.querySelectorAll("details.fold").forEach((fold) => (fold.open = true));
  document.querySelector(".plot").scrollIntoView();
  await pause(2000);
  told.after = Array.from(document.querySelectorAll(".plot"), (plot) => [plot.style.width, plot.style.zoom]);
  told.shown = [widths()[0], document.querySelector(".plot").clientWidth];
  parent.postMessage(JSON.stringify(told), "*");
});
"""


def columns() -> tuple[str, ...]:
    """Those of the trials of a study of QT's wide space."""
    symbol = DEFENSES[SPACE.defense].config_type.symbol
    measured = ("overall score", "TPR", "FPR", "FPR when nothing is poisoned", "seconds built", "seconds spent")
    return ("trial", *measured, *map(symbol, SPACE.ranges), "state")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What the page says of itself, by its width."""
    names = columns()
    rows = tuple(tuple(int(at == row) for at in range(len(names))) for row in range(len(names)))
    curve = Curves("curve", "A curve", "x", "y", (Line("a", (1.0, 2.0), (0.1, 0.2)),))
    axes = tuple(Axis(f"field {at}", (0.0, 1.0)) for at in range(12))
    lines = Parallel("lines", "Twelve axes", axes, ("a", "b"), ((0.5,) * 12, (0.2,) * 12))
    trials = Section("trials", "All trials", "Here.", (Table("t", "", names, rows, sortable=True), curve, lines))
    mixed = (("2 of 21", "(0.500)"), ("21 of 21", 0.25), ("10 of 21", None), ("0 of 21", "<0.001"))
    parts = Section("parts", "Parts", "Here.", (Table("p", "", ("scenarios", "mean"), mixed, sortable=True),))
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page("A page", "", [Chapter("A page", (Section("front", "Front", "Here."), trials, parts))]))
    return {min(WIDTHS, key=lambda width: abs(width - one["width"])): one for one in ask_page(path, _PROBE, WIDTHS)}


def test_a_filter_takes_the_column_of_that_name(told: dict[int, dict[str, Any]]) -> None:
    filtered = told[1280]["filtered"]
    assert {"lr", "pre_lr"} <= set(filtered), "the control: one name ends like another"
    for name in columns():
        if " " not in name:
            assert filtered[name] == [name]
    assert filtered["built"] == ["seconds built"]
    assert filtered["tp"] == ["TPR"]


def test_parts_and_brackets_are_sorted_as_numbers(told: dict[int, dict[str, Any]]) -> None:
    by_scenarios, by_mean = told[1280]["sorted"]
    assert by_scenarios == ["0 of 21", "2 of 21", "10 of 21", "21 of 21"]
    assert by_mean == ["<0.001", "0.250", "(0.500)", "-"]


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_are_printed_as_wide_as_paper_whatever_the_window_is(
    told: dict[int, dict[str, Any]], width: int
) -> None:
    assert told[width]["printed"] == [pytest.approx(PAPER, abs=1), pytest.approx(PAPER, abs=1)]
    assert told[width]["after"] == [["", ""], ["", ""]]
    drawn, place = told[width]["shown"]
    assert drawn == pytest.approx(place, abs=2)
