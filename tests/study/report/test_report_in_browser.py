"""A report in a browser: how tall it is, that it overflows nowhere, and that it unfolds, sorts, filters and draws."""

from typing import Any

import pytest
import synthetic_study
from browser import needs_chromium
from framed_page import ask_page
from synthetic_study import PAPER, draw, rates

from search_spaces.pipd import PIPD_SPACE
from study.analysis.results import read_results
from study.report.chapters import write_report

WIDTHS = (1280, 390)
TALLEST = {1280: 3000, 390: 3600}
"""px of a folded page by its width."""

pytestmark = [
    pytest.mark.slow,
    needs_chromium(),
]

_PROBE = """
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
window.addEventListener("load", async () => {
  const page = document.documentElement;
  const folds = Array.from(document.querySelectorAll("details.fold"));
  const told = { height: page.scrollHeight, width: page.scrollWidth, sections: folds.length };
  told.front = document.querySelector(".front").getBoundingClientRect().bottom + window.scrollY;
  told.opened = folds.filter((fold) => fold.open).length;
  location.hash = "#trials";
  await pause(200);
  told.revealed = folds.filter((fold) => fold.open).map((fold) => fold.parentElement.id);
  const table = document.querySelector("#trials table");
  const column = (at) => Array.from(table.tBodies[0].rows, (row) => row.cells[at].textContent);
  const button = table.querySelector("th:nth-child(4) button");
  told.named = Array.from(table.querySelectorAll("th button"), (button) => button.textContent);
  button.click();
  told.ascending = [button.parentElement.getAttribute("aria-sort"), column(3)];
  button.click();
  told.descending = [button.parentElement.getAttribute("aria-sort"), column(3)];
  const field = document.querySelector("#trials input");
  field.value = "tpr>=0.9 max";
  field.dispatchEvent(new Event("input"));
  told.filtered = Array.from(table.tBodies[0].rows)
    .filter((row) => !row.hidden)
    .map((row) => [row.cells[4].textContent, row.textContent.includes("max")]);
  told.count = document.querySelector("#trials output").textContent;
  told.before = document.querySelectorAll("#parallel .main-svg").length;
  document.querySelector("#parallel summary").click();
  document.querySelector("#parallel").scrollIntoView();
  const plot = document.querySelector("#parallel .plot");
  for (let tries = 0; tries < 40 && !plot.querySelector(".main-svg"); tries += 1) await pause(100);
  const drawn = plot.querySelector(".main-svg");
  told.drawn = drawn && [drawn.getBoundingClientRect().width, plot.clientWidth];
  folds.forEach((fold) => (fold.open = true));
  await pause(1500);
  told.unfolded = page.scrollWidth;
  folds.forEach((fold) => (fold.open = false));
  window.dispatchEvent(new Event("beforeprint"));
  told.printed = folds.filter((fold) => fold.open).length;
  window.dispatchEvent(new Event("afterprint"));
  told.folded = folds.filter((fold) => fold.open).length;
  told.errors = errors;
  parent.postMessage(JSON.stringify(told), "*");
});
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What the page of a study of 24 trials and 3 scenarios says of itself, by width."""
    out = tmp_path_factory.mktemp("runs")

    def truth(point: Any, attack: str, rate: float, seed: int) -> Any:
        off = abs(point["beta"] - 3) / 6 + (0.2 if attack == "sig" and point["channel_statistic"] == "max" else 0)
        return rates(1 - off, off / 10, ca=0.97 - off / 20, asr=off)

    attacks = ("badnets", "blended_random", "sig")
    synthetic_study.write_study(out / "s", draw(PIPD_SPACE.ranges, 23), truth, attacks, default=PAPER)
    page = out / "page.html"
    write_report([read_results(out, "s")], page)
    asked = ask_page(page, _PROBE, WIDTHS)
    return {min(WIDTHS, key=lambda width: abs(width - one["width"])): one for one in asked}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_folded_page_is_short_and_overflows_nowhere(told: dict[int, dict[str, Any]], width: int) -> None:
    found = told[width]
    assert found["sections"] > 10
    assert found["opened"] == 0
    assert found["height"] <= TALLEST[width]
    assert found["width"] <= width
    assert found["unfolded"] <= width
    assert found["errors"] == []


def test_the_front_page_is_one_screen(told: dict[int, dict[str, Any]]) -> None:
    assert told[1280]["front"] <= 900


@pytest.mark.parametrize("width", WIDTHS)
def test_a_link_unfolds_and_printing_unfolds_all(told: dict[int, dict[str, Any]], width: int) -> None:
    found = told[width]
    assert found["revealed"] == ["trials"]
    assert found["printed"] == found["sections"]
    assert found["folded"] == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_figure_is_drawn_when_its_section_is_unfolded(told: dict[int, dict[str, Any]], width: int) -> None:
    assert told[width]["before"] == 0
    drawn, place = told[width]["drawn"]
    assert drawn == pytest.approx(place, abs=2)
    assert place > 300


def test_a_table_is_sorted_and_filtered(told: dict[int, dict[str, Any]]) -> None:
    found = told[1280]
    assert found["named"][:5] == ["trial", "state", "scenarios", "overall score", "TPR"]
    for way, name in ((False, "ascending"), (True, "descending")):
        said, column = found[name]
        values = [float(text) for text in column]
        assert said == name
        assert values == sorted(values, reverse=way)
        assert len(values) == 24
    rows = found["filtered"]
    assert 0 < len(rows) < 24
    assert all(float(tpr) >= 0.9 and has for tpr, has in rows)
    assert found["count"] == f"{len(rows)} of 24"
