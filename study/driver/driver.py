"""The driver of one study: opens its files, builds what is shared, runs what is missing, settles each trial, closes."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from defenses.registry import UserError
from defenses.storage.atomic_files import full_disk_errors
from study.analysis.results import Results, load_results
from study.cli.bar import working
from study.cli.numbers import format_number, several
from study.cli.printed_commands import shown_path
from study.cli.terminal import last_line, print_error, print_line
from study.code_version import code_version
from study.driver import ray_nodes
from study.driver.best_trial import BestTrial
from study.driver.clean_control import Control, missing_controls, run_controls
from study.driver.closing_files import closing_screen, write_page, write_summary, write_tables
from study.driver.mlflow_records import MlflowRecords
from study.driver.progress import TrialProgress, describe_start
from study.driver.pruner import Pruner
from study.driver.ray_session import ray_session
from study.driver.settlement import Settlement
from study.driver.stage_builder import Undefended, build_shared
from study.driver.tune_runner import MAX_FAILURES_AT_START, StudyStopper, run_trials
from study.driver.worker_watch import WorkerWatch, worker_watch
from study.ledger.activity import ActivityFile
from study.ledger.clean_control import keep_clean_control, read_clean_control
from study.ledger.dashboard import Shown, metric_names
from study.ledger.grid import Points
from study.ledger.ledger import Ledger
from study.ledger.manifest import Manifest, ScenarioParts, keep_manifest
from study.ledger.result_reader import NO_ATTACK, ResultReader
from study.ledger.snapshot import LOST, read_ledger
from study.ledger.study_folder import LEDGER, OUTBOX, POINTS, SCRATCH, check_no_links
from study.ledger.trial_row import TrialRow
from study.ledger.used_stages import keep_used_stages
from study.planning.control_builds import with_control_builds
from study.planning.plan import Plan
from study.report.next_steps import Step
from study.report.sections.closing import Closing
from study.scenarios.evaluation import cached_images
from tracking.destination import tracking_target
from tracking.mlflow_log import Sender
from tracking.outbox import Outbox
from tracking.ui_address import BASE, study_page, ui_command

_FLUSH_SECONDS_LOST = 5.0  # for MLflow, when Ray is gone


def claim_folder(plan: Plan, folder: Path) -> None:
    """Writes the manifest of a plan into its folder, unless that belongs to another study.

    Raises:
        UserError: it does, or there is a link in it, or its trials have other fields than the plan's.
    """
    check_no_links(folder)
    _check_same_fields(plan, folder)
    images = cached_images(plan.environment.dataset)
    parts = [
        ScenarioParts(scenario.name, **dataclasses.asdict(scenario), target=scenario.target_text(images))
        for scenario in plan.scenarios
    ]
    manifest = Manifest(
        identity=plan.config.identity,
        data=plan.data_keys,
        settings=plan.config.model_dump(mode="json"),
        objective=plan.goal.text,
        given_points=isinstance(plan.grid, Points),
        scenarios=tuple(scenario.name for scenario in plan.scenarios),
        parts=tuple(parts),
        code_version=code_version(),
    )
    keep_manifest(folder, manifest)


def _check_same_fields(plan: Plan, folder: Path) -> None:
    """Refuses a study of an earlier version whose space searched other fields: its trials would not compare.

    Raises:
        UserError: the fields, and the way out.
    """
    try:
        ended = [trial for trial in read_ledger(folder / LEDGER).trials if trial.finished and trial.point]
    except ValueError:
        return  # there is none yet, or the ledger says itself what is wrong with it
    # In a study that was begun before a field was conditional, points have it where it does nothing, too.
    conditions, searched = plan.space.conditions, set(plan.space.ranges)
    unlike = (trial.point for trial in ended if not conditions.is_whole(conditions.drop_idle(trial.point), searched))
    point = next(unlike, None)
    if point is not None:
        other = set(point) | (searched & conditions.idle(point))
        differ = ", ".join(sorted(other ^ searched))
        raise UserError(
            f"study {plan.config.study_name!r} was begun by a version in which space {plan.config.space} searches "
            f"other fields (they differ in {differ}): it can be read, and a new one takes another --name"
        )


def why_no_result(rows: Sequence[TrialRow]) -> str:
    """Why a study has nothing to tell, where every trial that ended failed; empty otherwise."""
    ended = [row for row in rows if row.state in ("complete", "pruned") or (row.state == "fail" and row.reason != LOST)]
    if not ended or any(row.state != "fail" for row in ended):
        return ""
    return f"every trial failed; the last one said: {last_line(ended[-1].reason)}"


class StudyDriver:
    """A study that is open in this process. The caller holds its lock.

    A trial's result goes one way: a worker writes files, the reader reads them, the settlement tells the ledger and
    then MLflow's records, and the screen shows the ledger's row.

    Args:
        plan: what to do.
        folder: the study's.
        out: the folder of all studies, where the default MLflow database lies.
        headline: the first line that is shown; by default what is searched.

    Raises:
        UserError: the folder belongs to another study.
    """

    def __init__(self, plan: Plan, folder: Path, out: Path, headline: str = "") -> None:
        claim_folder(plan, folder)
        self.plan, self.folder = plan, folder
        self._headline = headline
        config = plan.config
        target = tracking_target(config.tracking_uri, config.space, out)
        self.uri = target.uri
        self.outbox = Outbox(folder / OUTBOX)
        self.reader = ResultReader(folder / POINTS, plan.scenarios, plan.goal, plan.reads)
        self.records = MlflowRecords(plan, self.reader.points, self.outbox)
        self.ledger = Ledger(
            folder / LEDGER,
            config.study_name,
            plan.space,
            plan.goal.directions,
            config.sampler,
            config.search_seed,
            config.trials,
            plan.point_key,
            plan.grid,
            Shown(metric_names(plan.goal), self.reader.attributes),
            plan.reused,
        )
        self.settlement = Settlement(plan, self.reader, self.ledger, self.records)
        self.recovered = self.ledger.recover_interrupted(self.reader.outcome)
        self.ledger.enqueue_default(plan.default_point, plan.calibrated_point)
        self.records.study_begins(config.model_dump(mode="json"))
        self.settlement.catch_up()
        self._sender = Sender(self.outbox, target.uri, target.experiment, target.artifacts)
        self.sent = False
        self._activity = ActivityFile(folder)
        self._stopper = StudyStopper()
        self._progress: TrialProgress | None = None
        self._watch: WorkerWatch | None = None
        self._error: Exception | None = None
        self._results: Results | None = None

    def run(self) -> str:
        """Runs what is missing. Returns why the study cannot go on, or an empty string."""
        config = self.plan.config
        remaining = self.ledger.remaining(config.trials)
        ingested, queued = self.recovered
        if ingested or queued:
            print_line(f"Going on: {ingested} finished results taken in, {queued} interrupted trials queued again.")
        if remaining == 0:
            reason = why_no_result(self.ledger.rows())
            missing = [] if reason else self._missing_controls()
            if missing:
                with ray_session(config.address, lambda: self.close("FAILED", _FLUSH_SECONDS_LOST)):
                    self._run_controls(missing)
            return reason
        print_line(
            self._headline
            or f"{config.study_name}: {self.plan.scenarios_text}, {several(config.trials, 'trial')} "
            f"({config.trials - remaining} done), target class {self.plan.target}, results in {shown_path(self.folder)}"
        )
        for note in filter(None, (self.plan.points_note, self.plan.trials_note)):
            print_line(note)
        with ray_session(config.address, lambda: self.close("FAILED", _FLUSH_SECONDS_LOST)):
            if config.verbose:
                print_error(describe_start(self.plan, self.folder, self.uri, ray_nodes.in_use()))
            ray_nodes.check_cluster(self.plan, self.folder)  # refused now, or Ray would wait for ever
            started = time.perf_counter()
            undefended = build_shared(with_control_builds(self.plan, self._known_controls()), self._activity)
            self.ledger.add_shared_seconds(time.perf_counter() - started)
            failed = self._attack_failures(undefended)
            if failed and len(failed) == len(self.plan.scenarios):
                way_out = "more epochs" if self._all_received else "a larger rate or more epochs"
                return f"{NO_ATTACK} (undefended ASR below {config.asr_floor:g}): use {way_out}"
            reason = self._run_trials(remaining)
            self._run_controls([] if reason else self._missing_controls())
            return reason

    @property
    def _all_received(self) -> bool:
        """Others have poisoned all data: no option changes the rate."""
        return all(scenario.parsed.received for scenario in self.plan.scenarios)

    def _attack_failures(self, undefended: Undefended) -> list[str]:
        """Names of the scenarios whose attack does not work, each with a warning."""
        floor = self.plan.config.asr_floor
        asrs = {name: metrics["asr_undefended"] for name, metrics in undefended.items()}
        failed = {name: asr for name, asr in asrs.items() if asr is not None and asr < floor}
        for name, asr in failed.items():
            print_error(
                f"warning: the attack failed on {name}: undefended ASR {format_number(asr)} "
                f"is below {floor:g}, so it counts neither for nor against the defense"
            )
        return list(failed)

    def _run_trials(self, remaining: int) -> str:
        self._progress = TrialProgress(self.plan, self.ledger, remaining, ray_nodes.in_use, self._activity)
        self._watch = worker_watch("a trial", self.plan.config.address is None)
        try:
            run_trials(
                self.plan,
                self.ledger,
                self.reader.points,
                self.folder / SCRATCH,
                self._guarded(self.finish_trial),
                self._guarded(self.finish_scenario),
                self._stopper,
                scheduler=Pruner(self.plan, self.reader, self.ledger.rows()) if self.plan.pruning else None,
                on_step=self._guarded(self._look),
            )
        finally:
            self._progress.close()
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        if self._error is not None:
            raise self._error
        if self._stopper.stopped:
            rows = self.ledger.rows()
            last = last_line([row for row in rows if row.reason][-1].reason)
            since = " since the study went on" if any(row.comparable for row in rows) else ""
            return f"the first {MAX_FAILURES_AT_START} trials{since} all failed; the last one said: {last}"
        return why_no_result(self.ledger.rows())

    def _known_controls(self) -> set[int]:
        """Seeds with which the paper's default was run on clean data."""
        return set(read_clean_control(self.folder).get(self.plan.point_key(self.plan.default_point), {}))

    def _missing_controls(self) -> list[Control]:
        return missing_controls(self.plan, load_results(self.folder, self.folder.parent))

    def _run_controls(self, controls: Sequence[Control]) -> None:
        """Runs what is missing of the clean control; each run is kept and told at once."""
        if controls:
            run_controls(self.plan, controls, self._activity, self._keep_control)

    def _keep_control(self, control: Control, share: float) -> None:
        with full_disk_errors(self.folder):
            seed = control.scenario.seed
            known = {**read_clean_control(self.folder).get(control.key, {}), seed: share}
            self.records.control_done(control.key, control.trial, sum(known.values()) / len(known))
            keep_clean_control(self.folder, control.key, seed, share)  # last: what is missing is run and told again

    def _look(self, running: bool) -> None:
        assert self._progress is not None
        assert self._watch is not None
        self._progress.look()
        self._watch.look(running)

    def _guarded(self, keep: Callable[..., None]) -> Callable[..., None]:
        """Bookkeeping whose failure ends the study: Ray Tune, which calls it, would take it for the trial's own."""

        def guarded(*what: Any) -> None:
            try:
                with full_disk_errors(self.folder):
                    keep(*what)
            except Exception as error:
                self._error = self._error or error
                self._stopper.stopped = True

        return guarded

    def finish_scenario(self, key: str, name: str) -> None:
        """Passes a judged scenario on, unless that was done before."""
        record = self.settlement.finish_scenario(key, name)
        if self._progress is None:
            return
        if record is not None:
            self._progress.scenario(key, record)
        elif self.reader.scenario(key, name) is not None:
            self._progress.read_back(key, name)

    def finish_trial(self, number: int, key: str, error: str) -> None:
        """Settles a trial, and shows it; many failures at the start stop the study.

        Args:
            error: why it left nothing, where Ray knows.
        """
        row = self.settlement.finish_trial(number, key, error)
        if self._progress is not None:
            self._progress.settled(row)
        if self.settlement.failures_at_start >= MAX_FAILURES_AT_START:
            self._stopper.stopped = True

    def close(self, status: str, flush_seconds: float, show: bool = True) -> Closing:
        """Writes what the study found, shows it unless told not to, tells MLflow, and waits for it a little."""
        with working("writing the summary and the report"):
            results = self._results = load_results(self.folder, self.folder.parent)
            closing = Closing(results)
            text = closing.text()
            summary = write_summary(self.folder, text)
            write_tables(self.folder, results)
            keep_used_stages(self.folder)
            if show and status == "FINISHED":
                write_page(self.folder, [results])
        best = " ".join(f"#{trial}" for trial in results.front) or "none"
        reached = BestTrial(results, self.reader)
        if status == "FINISHED" and reached.key != self.plan.point_key(self.plan.default_point):
            reached.draw(self.outbox)
        self.records.study_ends(status, closing.metrics(), reached, summary, text, best)
        if show and ((results.trials["state"] == "complete").any() or len(closing.failed)):
            print_line(f"\n{text}")
        with working("sending MLflow what is left"):
            self.sent = self._sender.close(flush_seconds)
        self._activity.end()
        return closing

    def closing_lines(self, took: str) -> str:
        """What was written where, how to look at it, and how to go on."""
        assert self._results is not None, "a study is closed before its last lines are shown"
        unsent = [] if self.sent else [self.outbox.path]
        return closing_screen(took, self.folder, [self._results], self.look_steps, unsent)

    @property
    def look_steps(self) -> list[Step]:
        """How to look at the study in MLflow: the command that shows a database, and the page of the study."""
        page = self.mlflow_page
        if not self.uri.startswith("sqlite"):
            return [Step("every trial, in MLflow", page or self.uri)]
        command = Step("every trial, in MLflow", ui_command(self.uri))
        return [command, *([Step("and there, the page of this study", page)] if page else [])]

    @property
    def mlflow_page(self) -> str:
        """Address of the study's trials in MLflow's UI; empty where MLflow was not reached, or has no such pages."""
        experiment = self._sender.experiment_id
        if experiment is None or not self.uri.startswith(("sqlite", "http")):
            return ""
        base, goal = BASE if self.uri.startswith("sqlite") else self.uri, self.plan.goal
        minimised = goal.directions[0] == "minimize"
        return study_page(base, experiment, self.plan.config.study_name, goal.objectives[0], minimised)
