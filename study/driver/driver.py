"""One sitting of a study: opens its books, builds what is shared, runs what is missing, and closes the books."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from defenses.registry import UserError
from defenses.storage.atomic_files import full_disk_errors, write_atomic
from study.cli.terminal import last_line, print_error, print_line
from study.code_version import code_version
from study.config.config import NOT_IDENTITY
from study.driver import ray_nodes, tune_runner
from study.driver.mlflow_records import NO_ATTACK, Book
from study.driver.progress import TrialProgress, describe_start
from study.driver.pruner import Pruner
from study.driver.summary import Summary
from study.ledger.grid import Points
from study.ledger.ledger import Ledger
from study.ledger.study_folder import SCRATCH, SETTINGS, check_no_links, read_settings
from study.planning.plan import Plan
from tracking import names
from tracking.destination import tracking_target
from tracking.mlflow_log import Sender
from tracking.outbox import Outbox


class StudyDriver:
    """A study that is open in this process. The caller holds its lock.

    Args:
        plan: what to do.
        folder: the study's.
        out: the folder of all studies, where the default MLflow database lies.
    """

    def __init__(self, plan: Plan, folder: Path, out: Path) -> None:
        self.plan, self.folder = plan, folder
        config = plan.config
        self._settings = config.model_dump(mode="json")
        check_same_study(plan, folder)
        target = tracking_target(config.tracking_uri, config.space, out)
        self.uri = target.uri
        outbox = Outbox(folder / "outbox.jsonl")
        self.book = Book(plan, folder, outbox)
        self.ledger = Ledger(
            folder / "study.db",
            config.study_name,
            plan.space,
            plan.goal.directions,
            config.sampler,
            config.search_seed,
            config.trials,
            plan.point_key,
            plan.grid,
        )
        self.swept = self.ledger.recover_interrupted(self.book.outcome)
        self.ledger.enqueue_default(plan.default_point)
        self.book.open_study(self._settings)
        self.book.catch_up(self.ledger)
        self._sender = Sender(outbox, target.uri, target.experiment, target.artifacts)
        self.sent = False
        self._brake = tune_runner.StudyStopper()
        self._progress: TrialProgress | None = None
        self._error: Exception | None = None

    def run(self) -> str:
        """Runs what is missing. Returns why the study cannot go on, or an empty string."""
        config = self.plan.config
        remaining = self.ledger.remaining(config.trials)
        ingested, queued = self.swept
        if ingested or queued:
            print_line(f"Going on: {ingested} finished results taken in, {queued} interrupted trials queued again.")
        if remaining == 0:
            return ""
        print_line(
            f"{config.study_name}: {len(self.plan.scenarios)} scenarios, {config.trials} trials "
            f"({config.trials - remaining} done), results in {self.folder}"
        )
        with tune_runner.ray_session(config.address):
            if config.verbose:
                print_error(describe_start(self.plan, self.folder, self.uri, ray_nodes.in_use()))
            ray_nodes.check_cluster(self.plan, self.folder)  # refused now, or Ray would wait for ever
            failed = self._attack_failures(tune_runner.build_shared(self.plan))
            if failed and len(failed) == len(self.plan.scenarios):
                return f"{NO_ATTACK} (undefended ASR below {config.asr_floor:g}): use a larger rate or more epochs"
            return self._trials(remaining)

    def _attack_failures(self, undefended: tune_runner.Undefended) -> list[str]:
        failed = [
            name
            for name, found in undefended.items()
            if (asr := found["asr_undefended"]) is not None and asr < self.plan.config.asr_floor
        ]
        for name in failed:
            print_error(
                f"warning: the attack failed on {name}: undefended ASR {undefended[name]['asr_undefended']:.3f} "
                f"is below {self.plan.config.asr_floor:g}, so it counts neither for nor against the defense"
            )
        return failed

    def _trials(self, remaining: int) -> str:
        self._progress = TrialProgress(self.plan, self.book, self.ledger, remaining, ray_nodes.in_use)
        try:
            tune_runner.run_trials(
                self.plan,
                self.ledger,
                self.book.points,
                self.folder / SCRATCH,
                self._guarded(self._settle),
                self._guarded(self._judged),
                self._brake,
                scheduler=Pruner(self.book, self.ledger.rows()) if self.plan.pruning else None,
                on_step=self._progress.look,
            )
        finally:
            self._progress.close()
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        if self._error is not None:
            raise self._error
        if self._brake.pulled:
            rows = [row for row in self.ledger.rows() if row.reason]
            last = last_line(rows[-1].reason)
            return f"the first {tune_runner.MAX_FAILURES_AT_START} trials all failed; the last one said: {last}"
        return ""

    def _guarded(self, keep: Callable[..., None]) -> Callable[..., None]:
        """Bookkeeping whose failure ends the study: Ray Tune, which calls it, would take it for the trial's own."""

        def guarded(*what: Any) -> None:
            try:
                keep(*what)
            except Exception as error:
                self._error = self._error or error
                self._brake.pulled = True

        return guarded

    def _settle(self, number: int, key: str, error: str) -> None:
        with full_disk_errors(self.folder):
            row = self.book.settle(self.ledger, number, key, error)
        assert self._progress is not None
        self._progress.settled(row)
        if self.book.failures_at_start >= tune_runner.MAX_FAILURES_AT_START:
            self._brake.pulled = True

    def _judged(self, key: str, scenario: str) -> None:
        with full_disk_errors(self.folder):
            record = self.book.scenario_done(key, scenario)
        assert self._progress is not None
        if record is not None:
            self._progress.scenario(key, record)

    def close(self, status: str, flush_seconds: float, show: bool = True) -> Summary:
        """Writes the summary, shows it unless told not to, tells MLflow, and waits for it a little."""
        summary = Summary(self.plan, self.book, self.ledger)
        folder = self.folder / "summary"
        folder.mkdir(exist_ok=True)
        (folder / names.SUMMARY_TXT).write_text(summary.text() + "\n")
        (folder / names.RESULTS_CSV).write_text(summary.csv())
        best = " ".join(f"#{row.number}" for row in summary.front) or "none"
        self.book.close_study(status, summary.metrics(), folder, summary.text(), best)
        if show and (summary.rows or summary.failed):
            print_line(f"\n{summary.text()}")
        self.sent = self._sender.close(flush_seconds)
        return summary

    def closing_lines(self, took: str) -> str:
        """What was written where, how to look at it, and how to go on."""
        lines = [f"Took {took}. Results: {self.folder / 'summary'}"]
        if not self.sent:
            lines.append(
                f"Not everything has reached MLflow yet; the rest waits in {self.book.outbox.path} for the next run."
            )
        return "\n".join([*lines, self.look_line])

    @property
    def look_line(self) -> str:
        """How to look at the study in MLflow."""
        local = self.uri.startswith("sqlite")
        return f"Look at every trial:  {'mlflow ui --backend-store-uri ' if local else ''}{self.uri}"


def check_same_study(plan: Plan, folder: Path) -> None:
    """A name belongs to one set of settings; anything else would mix studies that do not compare."""
    check_no_links(folder)
    settings = plan.config.model_dump(mode="json")
    path = folder / SETTINGS
    if path.exists():
        known = _known(folder)
        if known["identity"] != plan.config.identity:
            changed = _differences(known["settings"], settings)
            raise UserError(
                f"study {plan.config.study_name!r} was started with other settings ({', '.join(changed)}): "
                "use those again, or another --name"
            )
        if known["data"] != list(plan.data_keys):
            raise UserError(
                f"study {plan.config.study_name!r} was started with other images than its files hold now "
                f"({plan.config.dataset}): put them back, or use another --name"
            )
    content = {
        "identity": plan.config.identity,
        "data": plan.data_keys,
        "settings": settings,
        "objective": plan.goal.text,
        "given_points": isinstance(plan.grid, Points),
        "scenarios": [scenario.name for scenario in plan.scenarios],
        "parts": [{"name": scenario.name, **dataclasses.asdict(scenario)} for scenario in plan.scenarios],
        "code_version": code_version(),
    }
    write_atomic(path, json.dumps(content, indent=1))


def _known(folder: Path) -> dict[str, Any]:
    try:
        return {"identity": None, "data": None, **read_settings(folder)}
    except ValueError as error:
        raise UserError(
            f"study {folder.name!r} must be readable, and {error}: restore it, or use another --name"
        ) from error


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Sequence[str]:
    keys = sorted(key for key in (before | after).keys() - NOT_IDENTITY if before.get(key) != after.get(key))
    return [f"{key} was {before.get(key)!r}" for key in keys[:3]]
