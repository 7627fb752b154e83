"""A report of one or several studies: its chapters, title and subtitle, and the page that they make."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from defenses.storage.atomic_files import write_atomic
from study.analysis.results import Results
from study.code_version import code_version
from study.report.elements import Facts, Note, Section
from study.report.html import Chapter, page
from study.report.sections import attacks, reported_elsewhere
from study.report.sections.contents import sections
from study.report.sections.summary import overview
from study.report.study_names import distinct_names


def write_report(studies: Sequence[Results], path: Path) -> None:
    """Writes the page of a report.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, page(report_title(studies), subtitle(studies), build_chapters(studies)))


def report_title(studies: Sequence[Results]) -> str:
    """The heading."""
    return f"Report: {studies[0].name if len(studies) == 1 else f'{len(studies)} studies'}"


def build_chapters(studies: Sequence[Results]) -> list[Chapter]:
    """A chapter a study, and before several one of all."""
    if len(studies) == 1:
        return [Chapter(studies[0].name, tuple(sections(studies[0])))]
    called = distinct_names([results.folder for results in studies])
    own = [
        Chapter(name, tuple(_numbered(section, number) for section in sections(results)), front=False)
        for number, (name, results) in enumerate(zip(called, studies, strict=True), start=1)
    ]
    reported = reported_elsewhere.section(studies)
    shared = (overview(studies), attacks.section(studies), *([reported] if reported else []))
    return [Chapter("All studies", shared), *own]


def _numbered(section: Section, number: int) -> Section:
    """The section with names that are unique among those of several studies."""
    items = tuple(
        item if isinstance(item, Note | Facts) else dataclasses.replace(item, name=f"s{number}-{item.name}")
        for item in section.items
    )
    return dataclasses.replace(section, name=f"s{number}-{section.name}", items=items)


def subtitle(studies: Sequence[Results]) -> str:
    """What was studied, when this was written, and by which code."""
    spaces = ", ".join(dict.fromkeys(f"{results.space} ({results.config.preset})" for results in studies))
    return f"{spaces}, {time.strftime('%Y-%m-%d %H:%M')}, framework {code_version()}"
