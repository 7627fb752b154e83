"""Studies one after the other that a person sees as one.

They are studies like any other, each with its own folder and ledger, so that what holds for a study when it is killed,
resumed, extended or looked at holds for each of them, and nothing new had to be made safe.
"""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path

from study.analysis.results import Results
from study.cli.printed_commands import shown_path
from study.cli.terminal import print_line
from study.driver.closing_files import closing_screen, write_page, write_summary
from study.driver.driver import StudyDriver, claim_folder
from study.ledger.lock import study_lock
from study.ledger.store_studies import wait_for_removal
from study.planning.plan import Plan
from study.report.next_steps import Step
from study.report.sections.closing import Closing

_FLUSH_SECONDS = 30.0


class CompositeDriver(ABC):
    """A plan that is made of studies. Subclasses say which, in `run`, and what is shown of them, in `text`.

    The caller holds the lock of the whole.

    Args:
        plan, folder, out: as `StudyDriver` takes them.
    """

    pattern = ""
    """Names of its studies, for people."""

    def __init__(self, plan: Plan, folder: Path, out: Path) -> None:
        self.plan, self.folder, self.out = plan, folder, out
        claim_folder(plan, folder)
        self.closings: list[Closing] = []
        self._open: StudyDriver | None = None
        self._locks = ExitStack()
        self._unsent: list[Path] = []
        self._look: list[Step] = []

    @abstractmethod
    def run(self) -> str:
        """Runs what is missing of each study. Returns why it cannot go on, or an empty string."""

    @abstractmethod
    def text(self) -> str:
        """What is shown of all that ran."""

    def run_child(self, plan: Plan) -> str:
        """Runs one of its studies. Returns why that cannot go on, or an empty string."""
        name = plan.config.study_name
        folder = self.out / name
        folder.mkdir(exist_ok=True)
        self._locks.enter_context(study_lock(folder, name))
        wait_for_removal(plan.environment.store)
        self._open = StudyDriver(plan, folder, self.out)
        reason = self._open.run()
        self._close_open("FAILED" if reason else "FINISHED", _FLUSH_SECONDS)
        return reason

    def _close_open(self, status: str, flush_seconds: float) -> None:
        if self._open is not None:
            self.closings.append(self._open.close(status, flush_seconds, show=False))
            self._look = self._open.look_steps
            self._unsent += [] if self._open.sent else [self._open.outbox.path]
            self._open = None
        self._locks.close()

    def close(self, status: str, flush_seconds: float) -> None:
        """Closes the study that is open, if one is, and writes and shows what all of them say."""
        self._close_open(status, flush_seconds)
        text = self.text()
        write_summary(self.folder, text)
        if status == "FINISHED":
            write_page(self.folder, self.results())
        print_line(f"\n{text}")

    def results(self) -> list[Results]:
        """What its report tells of: each of its studies."""
        return [closing.results for closing in self.closings]

    def closing_lines(self, took: str) -> str:
        """What was written where, and how to look at it."""
        each = self.out / f"{self.plan.config.study_name}{self.pattern}"
        text = closing_screen(took, self.folder, [], self._look, self._unsent)
        return text.replace("\n", f" Each of its studies is in {shown_path(each)}.\n", 1)
