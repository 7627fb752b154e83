"""A study for Python users: its tables, curves and flags, read from disk. Starts neither Ray nor a study.

``from study import load_study; s = load_study("runs/NAME")``
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from defenses.registry import UserError, nearest
from study.analysis.results import Results, read_results
from study.cli.paths import expand_home
from study.ledger.study_folder import OUTBOX, POINTS
from tracking import names
from tracking.destination import Target, tracking_target

if TYPE_CHECKING:
    import pandas

    from tracking.artifacts import Flags


def load_study(path: Path | str) -> "Study":
    """Reads a study.

    Args:
        path: its folder, such as ``runs/NAME``.

    Raises:
        UserError: there is no study, it cannot be read, or nothing was judged in it yet.
    """
    folder = expand_home(Path(path)).resolve()
    return Study(read_results(folder.parent, folder.name))


class Study:
    """A study as it was when it was read; one that is still running is read again with `load_study`.

    Attributes:
        results: all that the study tells, as the reports use it.
    """

    def __init__(self, results: Results) -> None:
        self.results = results

    def __repr__(self) -> str:
        scenarios = len(self.results.scenarios)
        return f"<study {self.results.name!r}: {len(self.trials)} trials, {scenarios} scenarios>"

    @property
    def trials(self) -> "pandas.DataFrame":
        """A row a trial that was started, by its number.

        The searched fields, ``key``, ``state``, ``paper_default``, ``value`` (of the objective) and ``reason`` of a
        failure. A state is ``complete``, ``fail``, ``pruned`` (stopped early), ``running`` or ``interrupted``.
        """
        return self.results.trials

    @property
    def evaluations(self) -> "pandas.DataFrame":
        """A row a trial and scenario that was judged: what it was judged on, all metrics, what it cost."""
        return self.results.evaluations

    def series(self, trial: int, scenario: str) -> dict[str, list[float]]:
        """Per-epoch or per-round values, by ``stage.name``.

        Raises:
            UserError: the trial was not judged on the scenario.
        """
        self._check(trial, scenario)
        return self.results.series(trial, scenario)

    def flags(self, trial: int, scenario: str) -> "Flags":
        """Which training images were flagged, and their scores.

        They are read from the study's folder, or, once they were sent, from the study's MLflow, which is then loaded.

        Raises:
            UserError: the trial was not judged on the scenario, or its flags are in neither place.
        """
        self._check(trial, scenario)
        from tracking.artifacts import read_flags

        folder = self.results.folder
        local = folder / POINTS / str(self.trials.loc[trial, "key"]) / scenario / names.SCORES_NPZ
        try:
            return read_flags(local)
        except FileNotFoundError:  # sent and removed
            pass
        except ValueError as error:
            raise UserError(f"the flags of trial {trial} are damaged: {error}") from error
        config = self.results.config
        target = tracking_target(config.tracking_uri, config.space, folder.resolve().parent)
        return self._sent_flags(trial, scenario, target)

    def _sent_flags(self, trial: int, scenario: str, target: Target) -> "Flags":
        from tracking.artifacts import read_flags
        from tracking.mlflow_log import fetch_artifact

        what = f"the flags of trial {trial} of study {self.results.name!r} on {scenario}"
        nowhere = (
            f"{what} are neither in its folder nor in MLflow at {target.uri}: a defense that flags nothing leaves "
            "none, and those that were sent to another server are there"
        )
        run = self._scenario_run(trial, scenario)
        if run is None:
            raise UserError(nowhere)
        with tempfile.TemporaryDirectory(prefix="flags-") as folder:
            try:
                copy = fetch_artifact(target, run, names.SCORES_NPZ, Path(folder))
                flags = None if copy is None else read_flags(copy)
            except Exception as error:  # whatever MLflow raises
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise UserError(f"{what} cannot be read from MLflow at {target.uri}: {reason}") from error
        if flags is None:
            raise UserError(nowhere)
        return flags

    def _scenario_run(self, trial: int, scenario: str) -> str | None:
        """Key of the run that the driver made of a judged scenario; None where it told MLflow of none."""
        from tracking.outbox import finished_runs

        ending = ("", str(self.trials.loc[trial, "key"]), scenario)
        runs = finished_runs(self.results.folder / OUTBOX)
        return next((run for run in runs if run.startswith("scenario/") and run.endswith("/".join(ending))), None)

    def best(self, rule: str = "best", scenario: str | None = None) -> int:
        """The number of the trial that a rule picks among those that were judged on every scenario.

        Args:
            rule: ``best`` by the study's objective and ``worst_case`` (the best on its worst scenario) are oracles:
                they take ground truth; ``default`` is the paper's default; ``visible`` is what a defender without
                ground truth takes on one scenario, by a signal that is trusted on the other attacks.
            scenario: what ``visible`` picks for; may be left out where the study has one alone.

        Raises:
            UserError: no such rule, or no trial that it could pick.
        """
        if rule not in _RULES:
            raise UserError(f"unknown rule {rule!r}: {nearest(rule, _RULES)}(known: {', '.join(_RULES)})")
        if scenario is not None and rule != "visible":
            raise UserError(f"rule {rule!r} picks one trial for all scenarios: leave the scenario out")
        return _RULES[rule](self.results, scenario)

    def _check(self, trial: int, scenario: str) -> None:
        if trial not in self.trials.index:
            raise UserError(f"study {self.results.name!r} has no trial {trial}: its numbers are the index of .trials")
        known = self.evaluations[self.evaluations["trial"] == trial]["scenario"].tolist()
        if scenario not in known:
            raise UserError(
                f"trial {trial} of study {self.results.name!r} was not judged on {scenario!r}: "
                f"{nearest(scenario, known)}(judged on: {', '.join(known) or 'nothing'})"
            )


def _chosen(rule: str) -> Callable[[Results, str | None], int]:
    def pick(results: Results, _scenario: str | None) -> int:
        from study.analysis.selected_trial import select_trial

        return select_trial(results, rule).trial

    return pick


def _worst_case(results: Results, _scenario: str | None) -> int:
    best = results.worst_case_best
    if best is None:
        raise UserError(f"study {results.name!r} has no complete trial with a value on a scenario whose attack works")
    return best


def _visible(results: Results, scenario: str | None) -> int:
    results = results.over_repeats
    from study.analysis.signal_quality import judge_signals, visible_trials

    picked = visible_trials(results, judge_signals(results))
    if not picked:
        raise UserError(f"study {results.name!r} has no signal that tells its trials apart on every scenario")
    if scenario is None and len(picked) > 1:
        raise UserError(f"rule 'visible' picks a trial for each scenario: name one of {', '.join(picked)}")
    wanted = next(iter(picked)) if scenario is None else scenario
    if wanted not in picked:
        raise UserError(f"unknown scenario {wanted!r}: {nearest(wanted, picked)}(picked for: {', '.join(picked)})")
    return picked[wanted]


_RULES: Mapping[str, Callable[[Results, str | None], int]] = {
    "best": _chosen("best"),
    "default": _chosen("default"),
    "worst_case": _worst_case,
    "visible": _visible,
}
