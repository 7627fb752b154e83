"""`python -m study.sync [NAME]`: sends MLflow what it could not be sent while the study ran."""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from defenses.registry import UserError
from study.cli.bar import Bar, working
from study.cli.command import EXIT_BAD_INPUT, EXIT_DONE, EXIT_UNREACHABLE, run_command
from study.cli.numbers import several
from study.cli.options import Parser
from study.cli.terminal import print_error, print_exception, print_line
from study.ledger.lock import holder, study_lock
from study.ledger.manifest import read_manifest
from study.ledger.study_folder import NAME_HELP, OUTBOX, add_out, check_no_links, find_study, locate, parse_out, studies
from tracking.delivery import Delivery, deliver
from tracking.destination import Target, check_database, tracking_target
from tracking.outbox import Outbox, look
from tracking.refusals import Refused, short_reason

if TYPE_CHECKING:
    from tracking.mlflow_log import RunLog

_LINES = 10  # of progress where there is no terminal

_EPILOG = """\
Sending twice changes nothing, and what was sent is not sent again. Another --tracking-uri than the study's gets all of
it from the start, except files that the study's own server has taken already.
A study draws the score histogram and the ROC curve of the paper's default and of its best trial; --plots draws others'.
Exit codes: 0 everything has arrived; 2 bad input, or a driver runs the study and sends it itself; 4 MLflow cannot be
reached, or refuses all records or some, and what is left waits for the next call; 130 interrupted, likewise.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.sync",
        description="Send MLflow what waits in a study's outbox; without a name, in every study's.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=NAME_HELP)
    add_out(parser)
    plots = "draw the score histogram and the ROC curve of these trials, for MLflow; needs NAME"
    parser.add_argument("--plots", nargs="+", type=int, metavar="TRIAL", help=plots)
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or sqlite:/// file [the study's own]")

    def work() -> int:
        namespace = parser.parse_args(arguments)
        out = parse_out(namespace)
        if namespace.plots and namespace.name is None:
            raise UserError(
                f"--plots names trials of a study, and {_listed(namespace.plots)} could be any's: give NAME"
            )
        folders = [find_study(*locate(out, namespace.name))] if namespace.name is not None else studies(out)
        return max(
            (_sync(folder, namespace.tracking_uri, namespace.plots or ()) for folder in folders), default=EXIT_DONE
        )

    return run_command(work, "stopped; what has arrived is marked, and the same command sends the rest")


def _listed(trials: Sequence[int]) -> str:
    return " ".join(map(str, trials))


def _sync(folder: Path, uri: str | None, plots: Sequence[int] = ()) -> int:
    """Sends one study's records, with plots of some trials, and says how that went."""
    try:
        driver = holder(folder)
        if driver is not None:
            raise UserError(
                f"process {driver} runs study {folder.name!r} and sends its records itself: wait for it, or stop it"
            )
        check_no_links(folder)
        with study_lock(folder, folder.name):
            own = _own_target(folder)
            target = own if uri is None else tracking_target(uri, own.experiment, folder.resolve().parent)
            check_database(target, make=uri is not None)
            _draw(folder, plots)
            return _send(folder, target, own=target.uri == own.uri)
    except (UserError, OSError) as error:
        print_exception(error)
        return EXIT_BAD_INPUT


def _own_target(folder: Path) -> Target:
    """Where the study itself sends its records."""
    try:
        config = read_manifest(folder).config
        return tracking_target(config.tracking_uri, config.space, folder.resolve().parent)
    except ValueError as error:
        raise UserError(
            f"what study {folder.name!r} was started with must be known, and {error}: the command that started it "
            "writes it anew"
        ) from error


def _draw(folder: Path, trials: Sequence[int]) -> None:
    """Puts plots of what trials flagged among the records that wait.

    Raises:
        UserError: there is no such trial.
    """
    if not trials:
        return
    with working(f"{folder.name}: drawing what trials flagged"):
        from study.analysis.results import load_results
        from study.report.run_files import RunFiles
        from study.report.run_plots import draw_plots

        results = load_results(folder, folder.parent)
        unknown = [trial for trial in trials if trial not in results.trials.index]
        if unknown:
            last = max(results.trials.index, default=-1)
            known = f"numbers from 0 to {last}" if last >= 0 else "a study with trials, which this one has none of yet"
            raise UserError(f"--plots takes trials of {folder.name}, {known}, got {_listed(unknown)}")
        outbox, files = Outbox(folder / OUTBOX), RunFiles(results)
        for trial in trials:
            key = str(results.trials.at[trial, "key"])
            drawn = draw_plots(folder, outbox, key, functools.partial(files.flags, trial))
            print_line(f"{folder.name}: {_drawn_text(drawn, trial)}")


def _drawn_text(drawn: int, trial: int) -> str:
    if drawn:
        return f"trial {trial} is drawn on {several(drawn, 'scenario')}"
    return f"trial {trial} has nothing to draw: it has plots already, or no scores of it are in reach"


def _send(folder: Path, target: Target, own: bool) -> int:
    with working("loading MLflow"):
        from tracking.mlflow_log import follow_database, open_log

    path = folder / OUTBOX
    outbox = Outbox(path, "" if own else target.uri)
    damaged = look(path).damaged
    if damaged:
        print_error(f"warning: {damaged} lines of {path} cannot be read; what they said is sent anew by the next run")
    with working(f"{folder.name}: looking at {target.uri}"):
        follow_database(target)
    waiting = sum(1 for _ in outbox.pending())
    # Whether a database still is the one that took the records is soon told; a server is not asked for nothing.
    if not waiting and not (outbox.sent and target.database is not None):
        print_line(f"{folder.name}: everything has arrived at {target.uri} already")
        return EXIT_DONE
    try:
        with working(f"{folder.name}: opening MLflow at {target.uri}"):
            run_log = open_log(target, outbox)
        waiting = sum(1 for _ in outbox.pending())
        deliveries = _deliver(run_log, outbox, waiting, keep=not own)
    except UserError:
        raise
    except Exception as error:  # whatever MLflow raises: the outbox keeps what it did not take
        left = sum(1 for _ in outbox.pending())
        print_error(f"error: {_complaint(error, target.uri)}: {left} of {waiting} wait in {path}; {_way_out(error)}")
        return EXIT_UNREACHABLE
    return _tell(folder, target, deliveries)


def _complaint(error: Exception, uri: str) -> str:
    if isinstance(error, Refused):
        return f"MLflow at {uri} must take records, and refuses what it is sent ({error})"
    return f"MLflow at {uri} must be reachable and take records, and it did not ({short_reason(error)})"


def _way_out(error: Exception) -> str:
    when = "that is mended" if isinstance(error, Refused) else "it is back"
    return f"give the same command once {when}, or name another --tracking-uri"


def _deliver(run_log: "RunLog", outbox: Outbox, waiting: int, keep: bool) -> dict[str, Delivery]:
    """Sends everything. Returns what became of each record, by its name and place."""
    bar = Bar(waiting, f"{outbox.path.parent.name}, records")
    step = max(1, waiting // _LINES)
    deliveries = {}
    try:
        for count, (record, position) in enumerate(outbox.pending(), start=1):
            delivery = deliver(run_log, outbox, record, position, keep)
            deliveries[f"{record.name!r} (line that ends at byte {position})"] = delivery
            bar.advance(1, record.name if count % step == 0 else "")
    finally:
        bar.close()
    return deliveries


def _tell(folder: Path, target: Target, deliveries: Mapping[str, Delivery]) -> int:
    refused = {name: delivery.refused for name, delivery in deliveries.items() if delivery.refused}
    arrived = len(deliveries) - len(refused)
    if deliveries:
        print_line(f"{folder.name}: {arrived} records have arrived at {target.uri}")
    else:
        print_line(f"{folder.name}: everything has arrived at {target.uri} already")
    elsewhere = sum(delivery.elsewhere for delivery in deliveries.values())
    if elsewhere:
        print_error(f"warning: the files of {elsewhere} of them are only where they were sent before")
    if not refused:
        return EXIT_DONE
    name, reason = next(iter(refused.items()))
    print_error(
        f"error: MLflow at {target.uri} must take every record, and {len(refused)} of {len(deliveries)} wait in "
        f"{folder / OUTBOX}, the first of them {name}: {reason}; give the same command once that is mended"
    )
    return EXIT_UNREACHABLE


if __name__ == "__main__":
    sys.exit(main())
