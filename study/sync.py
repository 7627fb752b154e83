"""`python -m study.sync [NAME]`: sends MLflow what it could not be sent while the study ran."""

import sys
from collections.abc import Sequence
from pathlib import Path

from defenses.registry import UserError
from study.cli.command import EXIT_BAD_INPUT, EXIT_DONE, EXIT_UNREACHABLE, run_command
from study.cli.options import Parser
from study.cli.terminal import Bar, print_error, print_exception, print_line
from study.ledger.lock import holder, study_lock
from study.ledger.manifest import read_manifest
from study.ledger.study_folder import OUTBOX, add_out, check_no_links, find_study, parse_out, studies
from tracking.destination import Target, tracking_target
from tracking.outbox import Outbox, look

_LINES = 10  # of progress where there is no terminal

_EPILOG = """\
Sending twice changes nothing, and what was sent is not sent again. Another --tracking-uri than the study's gets all of
it from the start, except files that the study's own server has taken already.
Exit codes: 0 everything has arrived; 2 bad input, or a driver runs the study and sends it itself; 4 MLflow cannot be
reached or takes no records, and what is left waits for the next call; 130 interrupted, likewise.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.sync",
        description="Send MLflow what waits in a study's outbox; without a name, in every study's.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the study")
    add_out(parser)
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or sqlite:/// file [the study's own]")

    def work() -> int:
        namespace = parser.parse_args(arguments)
        out = parse_out(namespace)
        folders = [find_study(out, namespace.name)] if namespace.name is not None else studies(out)
        return max((_sync(folder, namespace.tracking_uri) for folder in folders), default=EXIT_DONE)

    return run_command(work, "stopped; what has arrived is marked, and the same command sends the rest")


def _sync(folder: Path, uri: str | None) -> int:
    """Sends one study's records, and says how that went."""
    try:
        driver = holder(folder)
        if driver is not None:
            raise UserError(
                f"process {driver} runs study {folder.name!r} and sends its records itself: wait for it, or stop it"
            )
        check_no_links(folder)
        with study_lock(folder, folder.name):
            own = _own_target(folder)
            target = tracking_target(uri, own.experiment, folder.resolve().parent) if uri else own
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


def _send(folder: Path, target: Target, own: bool) -> int:
    path = folder / OUTBOX
    outbox = Outbox(path, "" if own else target.uri)
    damaged = look(path).damaged
    if damaged:
        print_error(f"warning: {damaged} lines of {path} cannot be read; what they said is sent anew by the next run")
    waiting = sum(1 for _ in outbox.pending())
    if not waiting:
        print_line(f"{folder.name}: everything has arrived at {target.uri} already")
        return 0
    bar = Bar(waiting, folder.name, unit="record")
    try:
        missing = _deliver(outbox, target, own, bar, max(1, waiting // _LINES))
    except Exception as error:  # whatever MLflow raises: the outbox keeps what it did not take
        bar.close()
        left = sum(1 for _ in outbox.pending())
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        print_error(
            f"error: MLflow at {target.uri} must be reachable and take records, and it did not ({reason}): "
            f"{left} of {waiting} wait in {path}; give the same command once it is back, or name another --tracking-uri"
        )
        return EXIT_UNREACHABLE
    bar.close()
    print_line(f"{folder.name}: {waiting} records have arrived at {target.uri}")
    if missing and not own:
        print_error(f"warning: the files of {missing} of them are only where they were sent before, at the study's own")
    return 0


def _deliver(outbox: Outbox, target: Target, own: bool, bar: Bar, step: int) -> int:
    """Sends everything. Returns how many records had files that are no longer here."""
    from tracking.mlflow_log import RunLog, deliver

    run_log = RunLog(target.uri, target.experiment, target.artifacts)
    missing = 0
    for count, (record, position) in enumerate(outbox.pending(), start=1):
        missing += bool(record.artifacts) and not Path(record.artifacts).is_dir()
        deliver(run_log, outbox, record, position, keep=not own)
        bar.advance(1, record.name if count % step == 0 else "")
    return missing


if __name__ == "__main__":
    sys.exit(main())
