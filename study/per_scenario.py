"""Each scenario's own best: a study a scenario, one after the other, and one table of all of them.

They are studies like any other, each with its own folder and ledger, so that what holds for a study when it is killed,
resumed, extended or looked at holds for each of them, and nothing new had to be made safe. One ledger for all would
need a trial that is half of one scenario's search and nothing of another's.
"""

import dataclasses
from contextlib import ExitStack
from pathlib import Path

from study.cell import cached_images
from study.lock import study_lock
from study.objective import measurable
from study.plan import Plan, goal_of, shared_builds
from study.session import Session, check_same_study
from study.summary import Summary, joint_text
from study.terminal import complain, say
from tracking import names

_FLUSH_SECONDS = 30.0


def plans_of(plan: Plan) -> tuple[Plan, ...]:
    """The studies of single scenarios that a study is made of, named ``STUDY.SCENARIO``.

    Raises:
        UserError: an objective that one of the scenarios does not tell.
    """
    found = []
    for scenario, key in zip(plan.scenarios, plan.data_keys, strict=True):
        known = measurable((scenario,), cached_images(plan.environment.dataset))
        found.append(
            dataclasses.replace(
                plan,
                config=plan.config.model_copy(update={"name": f"{plan.config.study_name}.{scenario.name}"}),
                scenarios=(scenario,),
                data_keys=(key,),
                builds=shared_builds((scenario,), plan.defense, plan.space, plan.base, plan.environment),
                goal=goal_of(plan.config, plan.defense, known),
            )
        )
    return tuple(found)


class PerScenario:
    """The studies of a plan's scenarios, open in this process as one. The caller holds the lock of the whole.

    Args:
        plan, folder, out: as a `Session` has them.
    """

    def __init__(self, plan: Plan, folder: Path, out: Path) -> None:
        self._plan, self._folder, self._out = plan, folder, out
        check_same_study(plan, folder)
        self._plans = plans_of(plan)
        self._open: Session | None = None
        self._locks = ExitStack()
        self._summaries: list[Summary] = []
        self._unsent: list[Path] = []
        self._look = ""

    def run(self) -> str:
        """Runs what is missing of each study. Returns why none of them can go on, or an empty string."""
        reasons = []
        for plan in self._plans:
            name = plan.config.study_name
            folder = self._out / name
            folder.mkdir(exist_ok=True)
            self._locks.enter_context(study_lock(folder, name))
            self._open = Session(plan, folder, self._out)
            reason = self._open.run()
            if reason:
                complain(f"warning: {name}: {reason}")
                reasons.append(reason)
            self._close_open("FAILED" if reason else "FINISHED", _FLUSH_SECONDS)
        return reasons[0] if len(reasons) == len(self._plans) else ""

    def _close_open(self, status: str, flush_seconds: float) -> None:
        if self._open is not None:
            self._summaries.append(self._open.close(status, flush_seconds, show=False))
            self._look = self._open.look_line
            self._unsent += [] if self._open.sent else [self._open.book.outbox.path]
            self._open = None
        self._locks.close()

    def close(self, status: str, flush_seconds: float) -> None:
        """Closes the study that is open, if one is, and writes the table of all."""
        self._close_open(status, flush_seconds)
        text = joint_text(self._summaries)
        folder = self._folder / "summary"
        folder.mkdir(exist_ok=True)
        (folder / names.SUMMARY_TXT).write_text(text + "\n")
        say(f"\n{text}")

    def closing_lines(self, took: str) -> str:
        """What was written where, and how to look at it."""
        each = self._out / f"{self._plan.config.study_name}.SCENARIO" / "summary"
        lines = [f"Took {took}. Results: {self._folder / 'summary'}, and of each scenario: {each}"]
        if self._unsent:
            waiting = ", ".join(map(str, self._unsent))
            lines.append(f"Not everything has reached MLflow yet; the rest waits in {waiting} for the next run.")
        return "\n".join([*lines, *([self._look] if self._look else [])])
