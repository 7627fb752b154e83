"""`python -m study.run --space pipd`: searches a defense's hyperparameters across attacks, rates and seeds.

Nothing heavy is imported before the command line is understood.
"""

import dataclasses
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from defenses import DEFENSES
from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from search_spaces.space import SearchSpace
from study.cli.command import EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INTERRUPTED, EXIT_TERMINATED, leave_at_once, run_command
from study.cli.numbers import format_value
from study.cli.options import Parser, add_options, given_options
from study.cli.paths import expand_home
from study.cli.terminal import duration, print_error, print_exception, print_line, show_logs, table
from study.config.config import StudyConfig, resolve
from study.config.option_groups import OPTION_GROUPS
from study.driver.head import LostCluster, check_address
from study.planning.whole_plan import plan_study
from tracking.destination import tracking_target

_FLUSH_SECONDS = 30.0
_FLUSH_SECONDS_INTERRUPTED = 3.0

_EPILOG = """\
In brackets: the default, which another preset than smoke may change.
The same command goes on where it stopped; a larger --trials extends a finished study.
Exit codes: 0 done, 2 bad input, a full disk or a Ray that is gone, 3 no trial can work, 130 Ctrl-C, 143 SIGTERM.
"""


# Set by SIGTERM. Ray raises a KeyboardInterrupt of its own in place of what a handler raises, so no class can tell.
_terminated = threading.Event()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = _parser()
    # Interrupted here, no study was open yet: there is nothing to keep.
    code = run_command(lambda: _run(parser.parse_args(arguments)), "stopped before anything was started")
    return _stop_code() if code == EXIT_INTERRUPTED else code


def _run(namespace: Namespace) -> int:
    if namespace.list is not None:
        return _list() if namespace.list == "" else _list_fields(namespace.list)
    config = resolve(StudyConfig, given_options(namespace, StudyConfig), namespace.config)
    show_logs(config.verbose)
    SEARCH_SPACES.check(config.space)
    tracking_target(config.tracking_uri, config.space, config.out.absolute())  # refuses what is no address
    return _dry_run(config) if namespace.dry_run else _study(config)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m study.run",
        description="Search a backdoor defense's hyperparameters across attacks, poison rates and seeds.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    what = "list spaces, attacks and datasets, or the fields of one space, and stop"
    parser.add_argument("--list", nargs="?", const="", metavar="SPACE", help=what)
    parser.add_argument("--dry-run", action="store_true", help="show what would be built and run, and stop")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options from a file, with the same names")
    add_options(parser, StudyConfig, OPTION_GROUPS)
    return parser


def _list() -> int:
    from study.attacks import ATTACKS
    from study.attacks.groups import GROUPS
    from study.datasets import DATASETS
    from study.scenarios.oracle_defenses import ORACLE_DEFENSES

    ablations = [name for name in SEARCH_SPACES if SEARCH_SPACES[name].paper]
    searched = [[name, SEARCH_SPACES.describe(name)] for name in SEARCH_SPACES if name not in ablations]
    print_line(table(["space", ""], searched, left=2) + "\n")
    grids = [[name, SEARCH_SPACES[name].paper, SEARCH_SPACES.describe(name)] for name in ablations]
    print_line(table(["space of one table or figure", "makes anew", ""], grids, left=3) + "\n")
    for registry in (DEFENSES, ORACLE_DEFENSES, ATTACKS, DATASETS):
        rows = [[name, registry.describe(name)] for name in registry]
        print_line(table([registry.kind, ""], rows, left=2) + "\n")
        if registry is ATTACKS:
            print_line(table(["attacks", ""], [[name, what] for name, what in GROUPS.items()], left=2) + "\n")
    return 0


def _list_fields(name: str) -> int:
    """The fields of a space's defense: what is searched and from where to where, the paper's value, the meaning."""
    from study.scenarios.oracle_defenses import find_defense

    space = SEARCH_SPACES.find(name)
    config_type = find_defense(space.defense).config_type
    rows = [
        [config_type.symbol(field.name), format_value(field.default), _range_text(field, space), field.metadata["doc"]]
        for field in sorted(dataclasses.fields(config_type), key=lambda field: field.name not in space.ranges)
    ]
    print_line(f"{name}: {SEARCH_SPACES.describe(name)}\nSearched fields first; any field is fixed with --set.\n")
    print_line(table(["field", "paper", "searched, or allowed", "what it is"], rows, left=4))
    return 0


def _range_text(field: "dataclasses.Field[Any]", space: SearchSpace) -> str:
    searched, choices = space.ranges.get(field.name), field.metadata["choices"]
    if searched is not None:
        return str(searched)
    if choices is not None:
        return "(" + ", ".join(map(str, choices)) + ")"
    low, high = field.metadata["low"], field.metadata["high"]
    if low is None and high is None:
        return "(any)"
    return f"(at least {low:g})" if high is None else f"(at most {high:g})" if low is None else f"({low:g} to {high:g})"


def _dry_run(config: StudyConfig) -> int:
    from study.planning.dry_run import describe

    if not config.defenses:
        print_line(describe(plan_study(config)))
        return 0
    from study.planning.several_defenses import child_configs

    print_line("\n\n\n".join(describe(plan_study(own)) for own in child_configs(config)))
    return 0


def _study(config: StudyConfig) -> int:
    from study.ledger.lock import refuse_if_held, study_lock
    from study.ledger.store_studies import wait_for_removal
    from study.ledger.study_folder import check_study_folder

    check_study_folder(expand_home(config.out) / config.study_name, config.store_place)
    refuse_if_held(expand_home(config.out) / config.study_name, config.study_name)  # before torch and the data load

    from study.planning.places import check_places

    out = check_places(config)
    started = time.perf_counter()
    plan = plan_study(config)
    signal.signal(signal.SIGTERM, _terminate)

    from study.driver.library_env import before_imports

    aside = before_imports(local=config.address is None)
    if aside:
        print_error(
            f"{', '.join(aside)} set, not heeded: this study starts a Ray of its own here (--address joins one)"
        )
    from defenses.storage.atomic_files import full_disk_errors

    if config.address is not None:
        check_address(config.address)
    folder = out / config.study_name
    folder.mkdir(exist_ok=True)
    with full_disk_errors(folder), study_lock(folder, config.study_name):
        wait_for_removal(config.store_place)
        session = _session_type(config)(plan, folder, out)
        code = _drive(session, config)
        print_line(f"\n{session.closing_lines(duration(time.perf_counter() - started))}")
    if code in (EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED):
        leave_at_once(code)
    return code


def _session_type(config: StudyConfig) -> Any:
    """What runs a study of these options."""
    from study.driver.driver import StudyDriver
    from study.driver.holdout import HoldOut
    from study.driver.per_defense import PerDefense
    from study.driver.per_scenario import PerScenario

    if config.defenses:
        return PerDefense
    return PerScenario if config.per_scenario else HoldOut if config.holdout else StudyDriver


def _drive(session: Any, config: StudyConfig) -> int:
    """Runs a session to its end, or to an interruption that keeps what is finished."""
    try:
        broken = session.run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the bookkeeping short
        session.close("KILLED", _FLUSH_SECONDS_INTERRUPTED)
        print_line("\nStopped. What is finished is kept; the same command goes on from here.")
        return _stop_code()
    except UserError as error:
        session.close("FAILED", _FLUSH_SECONDS)
        if not isinstance(error, LostCluster):
            raise
        print_exception(error)
        return EXIT_BAD_INPUT
    session.close("FAILED" if broken else "FINISHED", _FLUSH_SECONDS)
    if broken:
        print_error(f"error: {broken}")
        return EXIT_BROKEN
    return 0


def _terminate(_signal: int, _frame: object) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # another must not cut the bookkeeping short
        signal.signal(number, signal.SIG_IGN)
    _terminated.set()
    raise KeyboardInterrupt


def _stop_code() -> int:
    return EXIT_TERMINATED if _terminated.is_set() else EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
