"""README is a front door, and what it and the other pages name is there."""

import importlib.util
import re
from pathlib import Path

import pytest
from checkout import ROOT

FOLDERS = ("defenses", "search_spaces", "study", "tests", "tracking")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
LARGEST_README, LARGEST_PICTURE = 8_000, 150_000
EXPECTED = {
    "README.md",
    "CHANGELOG.md",
    "defenses/README.md",
    "search_spaces/README.md",
    "study/README.md",
    "study/attacks/README.md",
    "study/cluster/README.md",
    "tests/benchmarks/README.md",
    "tests/faults/README.md",
}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
REPOSITORY_PATH = re.compile(rf"\b(?:{'|'.join(FOLDERS)})(?:/[\w.-]+)+/?")
MODULE = re.compile(r"python -m (study(?:\.\w+)*)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(prose(text))}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to files or headings that are not there."""
    broken = []
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        elsewhere = re.match(r"[a-z]+:", link)
        if not elsewhere and not (target.exists() and (not anchor or anchor in anchors(target.read_text("utf-8")))):
            broken.append(link)
    return broken


def missing_paths(text: str) -> list[str]:
    """Repository paths that stand in backticks and are not there."""
    paths = [path for code in CODE.findall(prose(text)) for path in REPOSITORY_PATH.findall(code)]
    return [path for path in paths if not (ROOT / path).exists()]


def missing_modules(text: str) -> list[str]:
    """Commands ``python -m study.X`` that no module stands for."""
    return [module for module in MODULE.findall(text) if importlib.util.find_spec(module) is None]


def test_readme_is_a_front_door() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= LARGEST_README
    assert {named(page) for page in PAGES} >= EXPECTED
    linked = {link.partition("#")[0] for link in LINK.findall(text)}
    assert linked >= EXPECTED - {"README.md"}


def test_readme_has_the_test_command_as_ci_reads_it() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^<!-- tests -->\n```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert "-m pytest" in command


def test_the_pictures_of_a_report_and_of_a_verdict_are_shown_and_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert pictures == ["study/report/example.png", "study/cleaning/example.png"]
    assert all((ROOT / picture).stat().st_size <= LARGEST_PICTURE for picture in pictures)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert broken_links(page) == []
    assert missing_paths(text) == []
    assert missing_modules(text) == []


def test_the_checks_see_what_is_not_there(tmp_path: Path) -> None:
    assert missing_paths("`study/run.py`, `study/no_such_file.py` and `study/no_such_folder/`") == [
        "study/no_such_file.py",
        "study/no_such_folder/",
    ]
    assert missing_modules("python -m study.run; python -m study.no_such_command") == ["study.no_such_command"]
    assert anchors("# What it costs, and why?\n") == {"what-it-costs-and-why"}
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](#a-page) [b](#no-such-heading) [c](no_such_page.md) [d](https://example.org)\n")
    assert broken_links(page) == ["#no-such-heading", "no_such_page.md"]
