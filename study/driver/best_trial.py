"""The trial that a study ends with: what it reached, and the files that go with the study in MLflow.

A trial's files leave the study's folder as soon as MLflow has them. Which trial is the best is known at the end alone,
so the flags of every trial that may still be it are held beside them.
"""

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from study.analysis.results import Results
from study.config.objectives import aggregate
from study.ledger.result_reader import ResultReader
from study.report.run_plots import draw_plots
from tracking import names
from tracking.artifacts import Flags, read_flags
from tracking.outbox import Outbox

_HELD = "flagged"
_FILES = (names.FLAGGED_CSV, names.SCORES_NPZ)


class HeldFlags:
    """Who was flagged, of the trials that are running and of those that no other beats.

    Args:
        points: folder in which each point has one of its own.
    """

    def __init__(self, points: Path) -> None:
        self._points = points
        self._ended: set[str] = set()

    def hold(self, key: str, scenario: str) -> None:
        """Keeps what a trial flagged on a scenario, where it left that."""
        for file in _FILES:
            flags = self._points / key / scenario / file
            if flags.is_file():
                _put(flags, _held(self._points, key, scenario, file))

    def let_go(self, ended: Iterable[str], unbeaten: Collection[str]) -> None:
        """Removes what is held of trials that ended and that another beats.

        Args:
            ended: keys of trials that ended.
            unbeaten: keys of those that no other beats.
        """
        self._ended.update(ended)
        for key in self._ended.difference(unbeaten):
            shutil.rmtree(self._points / key / _HELD, ignore_errors=True)
        self._ended.intersection_update(unbeaten)


class BestTrial:
    """The best trial of a study, of several objectives the knee of their front, with the study's own files.

    Args:
        results: all that the study tells.
        reader: of its points.

    Attributes:
        key: its own; empty where there is none.
    """

    def __init__(self, results: Results, reader: ResultReader) -> None:
        self._results, self._points = results, reader.points
        self.key = "" if results.best is None else str(results.trials.at[results.best, "key"])
        self._records = (reader.complete(self.key) or []) if self.key else []

    def metrics(self) -> dict[str, float | None]:
        """What it reached over all scenarios, as the study puts them together; none where no trial is complete."""
        goal = self._results.goal
        together = aggregate(self._records, goal.how).metrics
        reached = {name: together.get(name) for name in (*names.HEADLINE, *names.SCORES, *goal.objectives)}
        return reached if len(goal.objectives) > 1 else {names.OBJECTIVE: reached[goal.objectives[0]], **reached}

    def put_files(self, folder: Path) -> None:
        """Puts the study's report and what the trial flagged on each scenario into a folder, as far as they are there.

        Raises:
            OSError: the folder cannot be written.
        """
        _put(self._results.folder / names.REPORT_HTML, folder / names.REPORT_HTML)
        shutil.rmtree(folder / names.BEST, ignore_errors=True)
        for record in self._records:
            target = folder / names.BEST / record.scenario / Path(names.FLAGGED_CSV).name
            _put(self._file(record.scenario, names.FLAGGED_CSV), target)

    def _file(self, scenario: str, file: str) -> Path:
        """Where what it flagged is, held or not sent yet; no file where it is neither."""
        held = _held(self._points, self.key, scenario, file)
        return held if held.is_file() else self._points / self.key / scenario / file

    def draw(self, outbox: Outbox) -> None:
        """Puts plots of what it flagged into the outbox, for the runs of its scenarios.

        Raises:
            DiskFull: there is no room for them.
        """
        if self.key:
            draw_plots(self._results.folder, outbox, self.key, self._flags)

    def _flags(self, scenario: str) -> Flags | None:
        try:
            return read_flags(self._file(scenario, names.SCORES_NPZ))
        except (OSError, ValueError):  # it flags nothing, or its files went with an earlier version
            return None


def _held(points: Path, key: str, scenario: str, file: str) -> Path:
    return points / key / _HELD / f"{scenario}{Path(file).suffix}"


def _put(source: Path, target: Path) -> None:
    """Makes a file appear in another place of the study's folder, without a copy where the disk can do that."""
    target.unlink(missing_ok=True)
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
