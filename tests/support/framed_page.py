"""A page in frames of chosen widths in a browser: what a script of the test's own finds in it."""

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from browser import open_page

_FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body>
<script>
window.addEventListener("message", (event) => {
  const told = document.createElement("pre");
  told.textContent = event.data;
  document.body.append(told);
});
</script>
"""


def policed(page: str, script: str) -> str:
    """A page with one script more, which its policy allows as it does the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    return page.replace("<body>", f"<body><script>{script}</script>", 1)


def ask_page(page: Path, script: str, widths: tuple[int, ...]) -> list[dict[str, Any]]:
    """What a script tells of a page, once for each width in px of a window that holds it; in any order.

    Args:
        page: is changed: the script is added to it.
        script: sends an object as JSON by ``parent.postMessage``.
    """
    page.write_text(policed(page.read_text(encoding="utf-8"), script), encoding="utf-8")
    frames = [f'<iframe src="{page.name}" style="border:0;width:{width}px;height:800px"></iframe>' for width in widths]
    outer = page.with_name("frames.html")
    outer.write_text(_FRAMES + "".join(frames), encoding="utf-8")
    options = ("--hide-scrollbars", "--run-all-compositor-stages-before-draw")
    dumped = open_page(outer.as_uri(), page.parent / "profile", 30_000, options)
    return [json.loads(unescape(text)) for text in re.findall("<pre>(.*?)</pre>", dumped)]
