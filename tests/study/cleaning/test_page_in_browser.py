"""The page of a cleaning in a browser, at two widths: it overflows nowhere, and its pictures and figures are drawn."""

from pathlib import Path
from typing import Any

import pytest
from browser import needs_chromium
from cleaning_parts import POISON, told, votes
from framed_page import ask_page

from study.cleaning.page import build_page

WIDTHS = (1280, 390)
pytestmark = [pytest.mark.slow, needs_chromium()]

_PROBE = """
const errors = [];
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("load", async () => {
  const page = document.documentElement;
  document.querySelectorAll("details.fold").forEach((fold) => (fold.open = true));
  const plots = Array.from(document.querySelectorAll(".plot"));
  for (const plot of plots) {
    for (let tries = 0; tries < 100 && !plot.querySelector(".main-svg"); tries += 1) {
      plot.scrollIntoView({ block: "center" });
      await pause(100);
    }
  }
  const images = Array.from(document.querySelectorAll("img"));
  parent.postMessage(JSON.stringify({
    width: page.clientWidth, wide: page.scrollWidth, errors,
    verdict: document.querySelector(".verdict").getBoundingClientRect().bottom + window.scrollY,
    drawn: plots.filter((plot) => plot.querySelector(".main-svg")).length, plots: plots.length,
    shown: images.filter((image) => image.naturalWidth > 0).length, images: images.length,
  }), "*");
});
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the page says of itself at each width."""
    page: Path = tmp_path_factory.mktemp("page") / "page.html"
    page.write_text(build_page(told(votes(POISON, POISON))), encoding="utf-8")
    return ask_page(page, _PROBE, WIDTHS)


def test_two_widths(seen: list[dict[str, Any]]) -> None:
    assert sorted(one["width"] for one in seen) == sorted(WIDTHS)
    for one in seen:
        assert one["wide"] <= one["width"]
        assert one["errors"] == []
        assert one["verdict"] < 300
        assert one["drawn"] == one["plots"] == 2
        assert one["shown"] == one["images"] >= 4
