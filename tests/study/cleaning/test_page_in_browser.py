"""The page of a cleaning in a browser, at two widths: it overflows nowhere, and its pictures and figures are drawn."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, needs_chromium
from cleaning_parts import POISON, told, votes

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
_FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body>
<script>
window.addEventListener("message", (event) => {
  const told = document.createElement("pre");
  told.textContent = event.data;
  document.body.append(told);
});
</script>
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the page says of itself at each width."""
    folder: Path = tmp_path_factory.mktemp("page")
    page = build_page(told(votes(POISON, POISON)))
    digest = base64.b64encode(hashlib.sha256(_PROBE.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    (folder / "page.html").write_text(page.replace("<body>", f"<body><script>{_PROBE}</script>", 1), encoding="utf-8")
    frames = [f'<iframe src="page.html" style="border:0;width:{width}px;height:800px"></iframe>' for width in WIDTHS]
    (folder / "frames.html").write_text(_FRAMES + "".join(frames), encoding="utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1800,1800"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--hide-scrollbars"]
    command += ["--run-all-compositor-stages-before-draw", "--dump-dom", (folder / "frames.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    return [json.loads(text.replace("&amp;", "&")) for text in re.findall("<pre>(.*?)</pre>", done.stdout)]


def test_two_widths(seen: list[dict[str, Any]]) -> None:
    assert sorted(one["width"] for one in seen) == sorted(WIDTHS)
    for one in seen:
        assert one["wide"] <= one["width"]
        assert one["errors"] == []
        assert one["verdict"] < 300
        assert one["drawn"] == one["plots"] == 2
        assert one["shown"] == one["images"] >= 4
