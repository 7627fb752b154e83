"""`python -m study.clean DATA --out DIR`: is a dataset poisoned, what exactly, and a clean one.

From Python: ``from study import clean; result = clean("DATA", out="DIR")``.
"""

import shlex
import signal
import sys
import types
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from study.cleaning.options import OF_STUDIES, OPTION_GROUPS, CleanConfig, parse_clean
from study.cli.command import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, leave_at_once, run_command
from study.cli.options import Parser, add_options, given_options
from study.cli.printed_commands import shown_path
from study.cli.terminal import print_line, show_logs, wrap
from study.config.config import StudyConfig

if TYPE_CHECKING:
    from study.cleaning.cleaning import Applied, Cleaning
    from study.datasets.own.writing import Manifest

_EPILOG = """\
In brackets: the default. The data are never touched.
The same command goes on where it stopped; edit decisions.csv in --out and give --apply to clean by your own decisions.
Exit codes: 0 done, whatever was found; 2 bad input, a full disk or a Ray that is gone; 130 Ctrl-C, 143 SIGTERM.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    terminated: list[int] = []

    def terminate(number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another must not cut the bookkeeping short
        terminated.append(number)
        raise KeyboardInterrupt

    def work() -> int:
        namespace = parser.parse_args(words)
        signal.signal(signal.SIGTERM, terminate)
        return _run(namespace, words)

    code = run_command(work, "stopped; what is finished is kept, and the same command goes on from here")
    if code == EXIT_INTERRUPTED and terminated:
        code = EXIT_TERMINATED
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED) and "ray" in sys.modules:
        leave_at_once(code)
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="python -m study.clean",
        description="Look for poison in a dataset of your own: whether there is any, which images, and how far to "
        "trust that on these data. Writes a report, tables and a cleaned set.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("data", nargs="?", metavar="DATA", help=CleanConfig.model_fields["data"].description)
    for heading, names in OPTION_GROUPS.items():
        own = [name for name in names if name in CleanConfig.model_fields]
        add_options(parser, CleanConfig, {heading: tuple(own)})
    add_options(parser, StudyConfig, {"networks and machine": OF_STUDIES})
    return parser


def _run(namespace: Namespace, words: Sequence[str]) -> int:
    of_studies = {name: value for name, value in given_options(namespace, StudyConfig).items() if name in OF_STUDIES}
    config = parse_clean(given_options(namespace, CleanConfig))
    show_logs(of_studies.get("verbose", 0))
    if config.dry_run:
        from study.cleaning.dry_run import describe

        print_line(describe(config, of_studies))
        return EXIT_DONE
    from study.cleaning.cleaning import Applied, run_cleaning

    done = run_cleaning(config, of_studies, shlex.join(["python", "-m", "study.clean", *words]))
    print_line(_applied_text(done) if isinstance(done, Applied) else _text(done))
    return EXIT_DONE


def _text(done: "Cleaning") -> str:
    """What a person is told at the end."""
    from study.cleaning.report import REPORT_HTML
    from study.cleaning.tables import DECISIONS_CSV

    edited = shown_path(done.folder / DECISIONS_CSV)
    lines = [
        wrap(done.verdict.sentence),
        *([wrap(done.verdict.checked)] if done.verdict.checked else []),
        *([wrap(done.canaries.sentence)] if done.canaries is not None else []),
        "",
        f"the report, for a browser: {shown_path(done.folder / REPORT_HTML)}",
        _cleaned_line(done.cleaned),
        f"to decide otherwise, edit {edited} and add to the command:  --apply {edited}",
    ]
    return "\n".join([*lines, *_retrained_lines(done)])


def _applied_text(done: "Applied") -> str:
    return "\n".join([_cleaned_line(done.cleaned), *_retrained_lines(done)])


def _cleaned_line(manifest: "Manifest") -> str:
    counts = f"{manifest.kept:,} images kept, {manifest.dropped:,} dropped"
    return f"the cleaned set: {shown_path(manifest.data)} ({counts})"


def _retrained_lines(done: "Cleaning | Applied") -> list[str]:
    if done.retrained is None:
        return []
    model = done.retrained
    return [f"{model.what}: {shown_path(model.path)} ({model.accuracy_text})"]


class _Callable(types.ModuleType):
    """`study.clean` is a module and, from Python, the function of the same name."""

    def __call__(self, data: Any, out: Any, **options: Any) -> "Cleaning | Applied":
        """See `study.cleaning.cleaning.clean_dataset`."""
        from study.cleaning.cleaning import clean_dataset

        return clean_dataset(data, out, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())
