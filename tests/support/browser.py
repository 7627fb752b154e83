"""Pages as a browser shows them: headless Chromium, where there is one."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--window-size=2800,4200")


def needs_chromium() -> "pytest.MarkDecorator":
    return pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def open_page(address: str, profile: Path, milliseconds: int = 60_000, options: Sequence[str] = ()) -> str:
    """A page's HTML after all that it did in a while of its own time, which passes quickly.

    Args:
        profile: folder of what the browser remembers; a new one knows nothing.
        options: of the command besides those that every page is opened with.
    """
    assert CHROMIUM is not None
    command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}", "--dump-dom"]
    command += options
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class Texts(HTMLParser):
    """The texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._silent = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent and data.strip():
            self.texts.append(data.strip())


def texts(html: str) -> list[str]:
    """What stands on a page, in the order of its elements."""
    return Texts(html).texts


def charts(html: str) -> list[str]:
    """Titles of the charts on a page of MLflow's, in their order."""
    return re.findall(r'<h4[^>]* title="([^"]*)"', html)
