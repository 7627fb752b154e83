"""`python -m study.report NAME [NAME ...] -o report.html`: what studies say, as one page that needs no server."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from defenses.registry import UserError
from study.cli.bar import working
from study.cli.command import EXIT_DONE, run_command
from study.cli.options import Parser
from study.cli.paths import check_two_files
from study.cli.terminal import duration, print_error, print_line
from study.ledger.manifest import read_manifest
from study.ledger.study_folder import MANIFEST, NAME_HELP, add_out, find_study, locate, parse_out

if TYPE_CHECKING:
    from study.analysis.results import Results
    from study.report.html import Chapter


_EPILOG = """\
The page opens without a network, in light and dark, on a screen and on a phone. PNG copies of its figures are written
to each study's folder (report/figures) and logged to its run in MLflow. A study may be running: the report tells what
there is so far. Of a study of single scenarios (--per-scenario) the report has each scenario's own.
Exit codes: 0 the report is written, even if MLflow could not be told; 2 bad input, such as a study without any result;
130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.report",
        description="Write what one or several studies say as a page: summary, heat maps, trade-offs, cost, failures.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=NAME_HELP)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the page [report.html]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the same as GitHub markdown, with PNG files")
    add_out(parser)

    def work() -> int:
        namespace = parser.parse_args(arguments)
        output = namespace.output or Path("report.html")
        _write_all(namespace.names, parse_out(namespace), output, namespace.markdown)
        return EXIT_DONE

    return run_command(work, "stopped; give the same command again")


def _write_all(names: Sequence[str], out: Path, output: Path, markdown: Path | None) -> None:
    started = time.perf_counter()
    for path in (output, markdown):
        _check_place(path)
    check_two_files(output, markdown, "--output and --markdown")
    with working("reading the studies") as say:
        from study.analysis.results import read_results
        from study.report.chapters import build_chapters, report_title, subtitle
        from study.report.html import page

        studies = [read_results(place, name) for place, name in _single(out, names)]
        say("working out the sections")
        chapters = build_chapters(studies)
        title = report_title(studies)
        say("writing the page")
        _write(output, page(title, subtitle(studies), chapters))
        size = output.stat().st_size / 2**20
        print_line(f"{output}: {size:.1f} MiB, {duration(time.perf_counter() - started)}")
        say("drawing the figures as PNG")
        pictures = [_pictures(chapter) for chapter in chapters]
        if markdown is not None:
            every = {name: picture for of_chapter in pictures for name, picture in of_chapter.items()}
            _write_markdown(markdown, title, chapters, every)
    with working("sending the figures to MLflow"):
        for results, of_chapter in zip(studies, pictures[-len(studies) :], strict=True):
            _attach(results, of_chapter)


def _pictures(chapter: "Chapter") -> dict[str, bytes]:
    """PNG files of its figures and pictures, by name."""
    from study.report.matplotlib_figures import png

    drawn = {figure.name: png(figure) for section in chapter.sections for figure in section.figures()}
    return drawn | {picture.name: picture.png for section in chapter.sections for picture in section.pictures()}


def _check_place(path: Path | None) -> None:
    """Refuses a file that cannot be written before the work and not after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(f"a report is written to a file in a folder that exists, got {path}: name another, or make it")


def _single(out: Path, names: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Studies with a ledger, each once: one of single scenarios stands for those of its scenarios."""
    for place, name in dict.fromkeys(locate(out, name) for name in names):
        folder = find_study(place, name)
        try:
            manifest = read_manifest(folder)
        except ValueError:  # whoever reads the study says so
            yield place, name
            continue
        children = [] if manifest.config.holdout else manifest.child_studies(folder)
        yield from [(place, child.name) for child in children if (child / MANIFEST).is_file()] or [(place, name)]


def _write(path: Path, text: str) -> None:
    from defenses.storage.atomic_files import write_atomic

    try:
        write_atomic(path, text)
    except OSError as error:
        raise UserError(f"a report is written to a file that can be written, got {path}: {error.strerror}") from error


def _write_markdown(path: Path, title: str, chapters: "Sequence[Chapter]", pictures: Mapping[str, bytes]) -> None:
    """The document, and its pictures in a folder beside it that has its name."""
    from study.report.markdown import markdown

    folder = path.with_suffix("")
    folder = folder if folder != path else path.with_name(f"{path.name}-figures")
    sections = [
        dataclasses.replace(section, title=f"{chapter.title}: {section.title}") if len(chapters) > 1 else section
        for chapter in chapters
        for section in chapter.sections
    ]
    try:
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            (folder / f"{name}.png").write_bytes(picture)
    except OSError as error:
        raise UserError(f"pictures of a report are written to {folder}, which failed: {error.strerror}") from error
    _write(path, markdown(title, sections, {name: f"{folder.name}/{name}.png" for name in pictures}))


def _attach(results: "Results", pictures: Mapping[str, bytes]) -> None:
    """PNG copies for the study's folder and for MLflow. Whatever fails here leaves the report as it is."""
    from study.report.upload import log_pictures, write_pictures

    if not pictures:
        return
    try:
        folder = write_pictures(results.folder, pictures)
    except (UserError, OSError) as error:
        print_error(f"warning: no PNG copies of {results.name}: {error}")
        return
    try:
        log_pictures(results.folder)
        print_line(f"{folder / 'figures'}: {len(pictures)} PNG copies, logged to the study's run in MLflow")
    except UserError as error:  # nothing was queued
        print_error(
            f"warning: {len(pictures)} PNG copies are in {folder / 'figures'}, and MLflow was not told: {error}"
        )
    except Exception as error:  # whatever MLflow raises, the report is written
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        print_error(
            f"warning: {len(pictures)} PNG copies are in {folder / 'figures'}, but not yet in MLflow ({reason}); "
            f"{results.command_for('sync')} sends what waits"
        )


if __name__ == "__main__":
    sys.exit(main())
