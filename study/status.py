"""`python -m study.status [NAME]`: where a study stands. Reads its folder, starts nothing, disturbs no driver."""

import json
import statistics
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.cli.bar import working
from study.cli.command import EXIT_DONE, run_command
from study.cli.numbers import format_number, several
from study.cli.options import Parser
from study.cli.printed_commands import runnable
from study.cli.sizes import format_size
from study.cli.terminal import duration, last_line, print_line, rough, table, wrap
from study.cli.terms import METRICS
from study.config.objectives import in_words
from study.ledger.activity import CONTROL, STAGES, TRIALS
from study.ledger.manifest import Manifest, read_manifest
from study.ledger.snapshot import SnapshotTrial
from study.ledger.status import Progress, StudyStatus, read_status
from study.ledger.store_share import Share, read_shares
from study.ledger.study_folder import NAME_HELP, OUTBOX, add_out, find_study, locate, parse_out, studies, study_command
from tracking import names

_SHOWN = 5  # failures and damaged files that are listed; --json has all

_PHASES = {
    STAGES: "stages that all trials share",
    TRIALS: "scenarios of all trials",
    CONTROL: "runs on the data unpoisoned",
}

_EPILOG = """\
Safe while the study runs: nothing is written, and no lock is kept.
Exit codes: 0 done, whatever state the study is in; 2 bad input, such as a study that does not exist.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.status",
        description="Show where a study stands; without a name, one line for every study.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=NAME_HELP)
    add_out(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    # What is damaged is said below, once.
    return run_command(lambda: _tell(parser.parse_args(arguments)), warnings=False)


def _tell(namespace: Namespace) -> int:
    out = parse_out(namespace)
    if namespace.name is not None:
        out, name = locate(out, namespace.name)
        folder = find_study(out, name)
        with working(f"reading the results of {name}"):
            state = read_status(folder, out)
            share = _shares(out).get(folder)
        print_line(json.dumps(as_json(state, share), indent=1) if namespace.json else describe(state, share))
        return EXIT_DONE
    with working(f"reading the studies in {out}"):
        statuses = [read_status(folder, out, records=False) for folder in studies(out)]
        shares = _shares(out)
    if namespace.json:
        print_line(json.dumps([as_json(state, shares.get(state.folder)) for state in statuses], indent=1))
    else:
        print_line(overview(statuses, out, shares))
    return EXIT_DONE


def _shares(out: Path) -> dict[Path, Share]:
    """What the trials of each study use of the store."""
    manifests: dict[Path, Manifest | None] = {}
    for folder in studies(out):
        try:
            manifests[folder] = read_manifest(folder)
        except ValueError:  # which is told where the study is
            manifests[folder] = None
    return read_shares(manifests)


def overview(shown: Sequence[StudyStatus], out: Path, shares: Mapping[Path, Share] | None = None) -> str:
    """One line a study."""
    known = shares or {}
    if not shown:
        return f"no study in {out}"
    columns = {
        "study": [state.folder.name for state in shown],
        "state": [state.status for state in shown],
        "trials done": [_done(state) for state in shown],
        "failed": [_count(state, "fail") for state in shown],
        "running": [_count(state, "running") for state in shown],
        "time left": [_time_left(state) for state in shown],
        "best": [
            " ".join(format_number(v, 4) for v in state.best.values or ()) if state.best else "" for state in shown
        ],
        "MLflow records": [_sent(state) for state in shown],
        "store (alone)": [_share(known.get(state.folder)) for state in shown],
    }
    shown_columns = {
        name: values for name, values in columns.items() if any(value not in ("", "0") for value in values)
    }
    rows = [[value or "-" for value in row] for row in zip(*shown_columns.values(), strict=True)]
    return table(list(shown_columns), rows, left=2)


def _done(state: StudyStatus) -> str:
    done = str(state.counts["complete"] + state.counts["pruned"]) if state.has_ledger else "?"
    return f"{done} of {_known(state.planned)}"


def _best_values(state: StudyStatus) -> str:
    return " ".join(format_number(value, 4) for value in state.best.values or ()) if state.best else ""


def _count(state: StudyStatus, of: str) -> str:
    return str(state.counts[of]) if state.has_ledger else "?"


def _sent(state: StudyStatus) -> str:
    """What MLflow has of a study's records, in a word or two."""
    if state.parts:
        waiting = sum(part.outbox.records for part in state.parts)
        return f"{waiting} waiting" if waiting else "all sent"
    if state.outbox.records:
        return f"{state.outbox.records} waiting"
    return "all sent" if (state.folder / OUTBOX).is_file() else "none yet"


def _share(share: Share | None) -> str:
    """Of the store, in a word or two; empty where nothing is used, or nobody knows quickly."""
    return f"{format_size(share.bytes)} ({format_size(share.alone)})" if share and share.bytes else ""


def _known(count: int | None) -> str:
    return "?" if count is None else str(count)


def describe(state: StudyStatus, share: Share | None = None) -> str:
    """Everything about one study, in lines."""
    target = [f"target class {state.manifest.target}"] if state.manifest else []
    parts = [
        "\n".join([_headline(state), *_now(state), *target]),
        overview(state.parts, state.folder.parent) if state.parts else _best(state),
        "" if state.parts else _scenarios(state),
        _clean_control(state),
        _list("Running", _running_trials(state)),
        _list("Failed", [f"#{trial.number}: {last_line(trial.reason)}" for trial in state.failures]),
        _list("Cannot be read", state.damage),
        "\n".join(line for line in (_stored(state, share), _waiting(state), _go_on(state)) if line),
    ]
    return "\n\n".join(part for part in parts if part)


def _headline(state: StudyStatus) -> str:
    counts = state.counts
    shown = [f"{counts['complete']} done"]
    shown += [f"{counts['pruned']} stopped early"] if counts["pruned"] else []
    shown += [f"{counts['fail']} failed", f"{counts['running']} running"]
    shown += [f"{counts['lost']} lost and tried again"] if counts["lost"] else []
    who = f"process {state.driver} runs it" if state.driver is not None else "nobody runs it"
    if not state.has_ledger:
        return f"{state.folder.name}: {state.status}, {who}"
    planned = "? trials" if state.planned is None else several(state.planned, "trial")
    return f"{state.folder.name}: {state.status}, {who}\n{planned}: {', '.join(shown)}; {_known(state.left)} left"


def _now(state: StudyStatus) -> list[str]:
    """How long it has taken, what is left, and what is being done, as far as its driver says so."""
    spent, elapsed = state.spent_seconds, state.elapsed_seconds
    if elapsed is None:
        if spent is None:
            return []
        return [f"it has taken {duration(spent)} so far"] if state.left != 0 else [f"it took {duration(spent)}"]
    besides = "in all its studies" if state.parts else "with earlier runs"
    earlier = f" ({duration(spent)} {besides})" if spent is not None and spent - elapsed >= 1 else ""
    of_part = f" {state.running_part.folder.name}" if state.parts else ""
    lines = [f"running{of_part} for {duration(elapsed)}{earlier}{_phase(state.running_part)}"]
    activity = state.running_part.activity
    if activity is not None and activity.now:
        title = "Being built" if activity.phase == STAGES else "Now"
        lines += [f"{title}: {line}" for line in activity.now[:_SHOWN]]
    return lines


def _phase(state: StudyStatus) -> str:
    """Where a study that runs is, as the end of a line."""
    activity = state.activity
    if activity is None or activity.phase not in _PHASES:
        return ""
    left, what = _time_left(state), _PHASES[activity.phase]
    then = ", then the trials" if activity.phase == STAGES else ""
    return f"; {activity.done} of {activity.total} {what} done{f', {left} left' if left else ''}{then}"


def _time_left(state: StudyStatus) -> str:
    """What is left by measured cost, in words; empty where that is not known. Of a part of the work, at least that."""
    activity, seconds = state.running_part.activity, state.left_seconds
    if seconds is None or activity is None or activity.phase not in _PHASES:
        return ""
    return f"{'over' if state.left_is_least else 'about'} {rough(seconds)}"


def _best(state: StudyStatus) -> str:
    lines = []
    for trial in state.front:
        point = ", ".join(f"{name} {_value(value)}" for name, value in trial.point.items())
        remarks = ["paper default"] if trial.paper_default else ["the preset's values"] if trial.calibrated else []
        remarks += ["knee of the front"] if state.has_knee and trial == state.best else []
        remark = f" ({', '.join(remarks)})" if remarks else ""
        lines.append(f"trial #{trial.number}{remark}, {_reached(state, trial.values or ())}")
        lines += [f"  {point}"] if point else []
    title = "Pareto front" if state.has_knee else "Best"
    return f"{title}: " + "\n".join(lines) if lines else "No trial has finished yet" if state.has_ledger else ""


def _reached(state: StudyStatus, values: Sequence[float]) -> str:
    """A trial's objectives in words: ``ASR 0.0120, CA 0.9300``."""
    text = state.manifest.objective if state.manifest else ""
    metrics = text.removeprefix("worst ").split(", ") if text else []
    metrics = list(map(in_words, metrics)) if len(metrics) == len(values) else ["objective"] * len(values)
    shown = ", ".join(f"{name} {format_number(value, 4)}" for name, value in zip(metrics, values, strict=True))
    return f"{shown} on the worst scenario" if text.startswith("worst ") else shown


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _scenarios(state: StudyStatus) -> str:
    """A row a scenario, without the columns that nothing is known for yet, and what the others mean."""
    if not state.scenarios:
        return ""
    best = "knee" if state.has_knee else "best"
    columns = {
        "scenario": [_scenario_name(progress) for progress in state.scenarios],
        "trials done": [str(progress.judged) for progress in state.scenarios],
    }
    metrics = {
        "CA undefended": [_metric(progress.undefended, names.CA_UNDEFENDED) for progress in state.scenarios],
        "ASR undefended": [_metric(progress.undefended, names.ASR_UNDEFENDED) for progress in state.scenarios],
    }
    for metric in (names.TPR, names.FPR, names.CA, names.ASR):
        metrics[f"{best} {in_words(metric)}"] = [_metric(progress.best, metric) for progress in state.scenarios]
    known = {name: values for name, values in metrics.items() if set(values) != {"-"}}
    rows = zip(*columns.values(), *known.values(), strict=True)
    shown = table([*columns, *known], [list(row) for row in rows])
    return f"{shown}\n{wrap(METRICS)}" if known else shown


def _clean_control(state: StudyStatus) -> str:
    flagged = [
        f"{format_number(statistics.fmean(shares.values()))} of trial #{trial}"
        for trial, shares in sorted(state.clean_fpr.items())
        if shares
    ]
    return f"{in_words(names.FPR_CLEAN)}: {', '.join(flagged)}" if flagged else ""


def _scenario_name(progress: Progress) -> str:
    return f"{progress.name} ATTACK FAILED" if progress.attack_failed else progress.name


def _metric(metrics: Mapping[str, float | None], name: str) -> str:
    return format_number(metrics.get(name))


def _running_trials(state: StudyStatus) -> list[str]:
    """A line for each trial that runs, unless its driver says more of them above."""
    activity = state.activity
    if state.driver is not None and activity is not None and activity.phase == TRIALS and activity.now:
        return []
    return [_running(state, trial) for trial in state.trials if trial.state == "running"]


def _running(state: StudyStatus, trial: SnapshotTrial) -> str:
    planned = state.manifest.scenarios if state.manifest else ()
    of = f" of {len(planned)}" if planned else ""
    text = f"#{trial.number}: {len(state.judged.get(trial.key, []))}{of} scenarios done"
    return text if state.driver is not None else f"{text}, then interrupted; what is done is kept"


def _list(title: str, lines: Sequence[str]) -> str:
    more = [f"  and {len(lines) - _SHOWN} more (--json has them)"] if len(lines) > _SHOWN else []
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines[:_SHOWN]), *more]) if lines else ""


def _stored(state: StudyStatus, share: Share | None) -> str:
    if share is None or not share.bytes:
        return ""
    size, alone = format_size(share.bytes), format_size(share.alone)
    show = study_command("store", state.folder)
    return f"Its trials use {size} of the store, {alone} of it no other study's; by stage:  {show}"


def _waiting(state: StudyStatus) -> str:
    if not state.outbox.records:
        return ""
    what = f"{state.outbox.records} records wait for MLflow"
    if state.driver is not None:
        return f"{what}; the driver sends them"
    return f"{what}; to send them:  {study_command('sync', state.folder)}"


def _go_on(state: StudyStatus) -> str:
    if state.driver is not None or state.manifest is None:
        return ""
    if not state.resume_command:
        return "This version makes another study of its settings (study.json), so it cannot go on with it."
    if state.left == 0:
        return f"For more trials:  {runnable(state.extend_command)}" if state.extend_command else ""
    return f"To go on:  {runnable(state.resume_command)}"


def as_json(state: StudyStatus, share: Share | None = None) -> dict[str, Any]:
    """The same for machines; ``null`` is what nobody knows."""
    counts = state.counts if state.has_ledger else None
    states = ("complete", "pruned", "fail", "running", "waiting", "lost")
    return {
        "name": state.folder.name,
        "folder": str(state.folder.resolve()),
        "state": state.status,
        "driver": state.driver,
        "progress": _progress(state),
        "trials": {"planned": state.planned, "left": state.left}
        | {name: None if counts is None else counts[name] for name in states},
        "objective": (state.manifest.objective or None) if state.manifest else None,
        "target": state.manifest.target if state.manifest else None,
        "directions": list(state.ledger.directions) if state.ledger else None,
        "best": [_trial(trial) for trial in state.front],
        "knee": state.best.number if state.has_knee and state.best else None,
        "running": [
            {"number": trial.number, "key": trial.key, "judged": state.judged.get(trial.key, [])}
            for trial in state.trials
            if trial.state == "running"
        ],
        "failures": [{"number": trial.number, "reason": trial.reason} for trial in state.failures],
        "scenarios": [vars(progress) for progress in state.scenarios],
        names.FPR_CLEAN: {str(trial): shares for trial, shares in state.clean_fpr.items()},
        "outbox": vars(state.outbox),
        "store": {"bytes": share.bytes, "alone_bytes": share.alone} if share else None,
        "damage": list(state.damage),
        "parts": [part.folder.name for part in state.parts],
        "go_on": state.resume_command or None,
    }


def _progress(state: StudyStatus) -> dict[str, Any] | None:
    """What its driver says of its work; seconds, and ``null`` where none ever said anything."""
    part = state.running_part
    if state.spent_seconds is None or part.activity is None:
        return None
    alive = state.driver is not None
    return {
        "phase": part.activity.phase if alive else None,
        "study": part.folder.name,
        "done": part.activity.done,
        "total": part.activity.total,
        "elapsed_seconds": state.elapsed_seconds,
        "spent_seconds": state.spent_seconds,
        "left_seconds": state.left_seconds,
        "left_is_a_lower_bound": state.left_is_least,
        "now": list(part.activity.now) if alive else [],
    }


def _trial(trial: SnapshotTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "values": trial.values,
        "point": trial.point,
        "paper_default": trial.paper_default,
    }


if __name__ == "__main__":
    sys.exit(main())
