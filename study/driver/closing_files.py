"""What a study leaves in its folder when it ends, and what its last screen says of it."""

from collections.abc import Sequence
from pathlib import Path

from defenses.storage.atomic_files import write_atomic
from study.analysis.results import Results
from study.cli.printed_commands import shown_path
from study.cli.terminal import print_error
from study.report.best_configuration import BEST_YAML, best_configuration
from study.report.chapters import write_report
from study.report.next_steps import Step, next_steps, steps_text
from study.report.results_csv import results_csv
from tracking import names

SUMMARY = "summary"


def write_summary(folder: Path, text: str) -> Path:
    """Writes the closing text; gives the folder in which it lies."""
    summary = folder / SUMMARY
    summary.mkdir(exist_ok=True)
    write_atomic(summary / names.SUMMARY_TXT, text + "\n")
    return summary


def write_tables(folder: Path, results: Results) -> None:
    """Writes the results as a table, and the best configuration as options, of a study with one ledger."""
    write_atomic(folder / SUMMARY / names.RESULTS_CSV, results_csv(results))
    best = best_configuration(results)
    if best is None:
        (folder / BEST_YAML).unlink(missing_ok=True)  # of an earlier end, before its records were damaged
    else:
        write_atomic(folder / BEST_YAML, best)


def write_page(folder: Path, studies: Sequence[Results]) -> None:
    """Writes the report, which must not cost a finished study its end: what goes wrong is a warning."""
    told = [results for results in studies if not results.evaluations.empty]
    if not told:
        return
    try:
        write_report(told, folder / names.REPORT_HTML)
    except Exception as error:
        print_error(f"warning: the report was not written ({type(error).__name__}: {error})")


def closing_screen(
    took: str, folder: Path, studies: Sequence[Results], look: Sequence[Step], unsent: Sequence[Path]
) -> str:
    """What was written where, and what to do next.

    Args:
        studies: with a ledger, that the study is made of: itself, in most cases.
        look: how to see the study in MLflow.
        unsent: outboxes in which records still wait.
    """
    lines = [f"Took {took}. Everything is in {shown_path(folder)}."]
    if unsent:
        waiting = ", ".join(map(shown_path, unsent))
        lines.append(f"Not everything has reached MLflow yet; the rest waits in {waiting} for the next run.")
    page = folder / names.REPORT_HTML
    steps = [Step("the report, for a browser", shown_path(page))] if page.is_file() else []
    steps += look
    steps += next_steps(studies[0]) if len(studies) == 1 and studies[0].best is not None else []
    return "\n".join([*lines, *(["", steps_text(steps)] if steps else [])])
