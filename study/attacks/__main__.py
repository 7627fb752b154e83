"""`python -m study.attacks`: lists the attacks, and draws what they do to images of a dataset."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from defenses.registry import UserError
from study.attacks import ATTACKS
from study.attacks.groups import GROUPS
from study.cli.bar import EpochProgress, working
from study.cli.command import EXIT_DONE, run_command
from study.cli.options import Parser, add_options, given_options
from study.cli.terminal import print_line, table
from study.cli.waiting import wait_passively
from study.config.config import StudyConfig, resolve
from study.config.option_groups import OF_ATTACKS, OPTION_GROUPS

_ONE_ROW = "every"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.attacks",
        description="List the attacks, or draw what they do: clean, poisoned, and ten times the difference.",
        epilog="In brackets: the default, which another preset than smoke may change.\n"
        "Exit codes: 0 done, 2 bad input, 130 interrupted; the same command goes on from there.",
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="list the attacks and groups of attacks")
    parser.add_argument("--preview", type=Path, metavar="OUT.png", help="draw a row for each of --attacks")
    add_options(parser, StudyConfig, OPTION_GROUPS, OF_ATTACKS)

    def work() -> int:
        namespace = parser.parse_args(arguments)
        if not namespace.list and namespace.preview is None:
            raise UserError("nothing to do: give --list, or --preview OUT.png")
        if namespace.list:
            rows = [[name, ATTACKS.describe(name)] for name in ATTACKS]
            print_line(table(["attack", ""], rows, left=2) + "\n")
            print_line(table(["attacks", ""], [[name, what] for name, what in GROUPS.items()], left=2))
        return _preview(namespace) if namespace.preview is not None else EXIT_DONE

    return run_command(work, "stopped; trained parts are in the store and the same command goes on from there")


def _preview(namespace: Namespace) -> int:
    wait_passively()
    with working("loading torch"):
        from study.preview import write_preview

    named = given_options(namespace, StudyConfig)
    config = resolve(StudyConfig, {"attacks": (_ONE_ROW,), **named})
    with EpochProgress(f"drawing on {config.dataset}") as progress:
        drawn = write_preview(namespace.preview, config, train="attacks" in named, progress=progress)
    print_line(f"drawn: {namespace.preview}, target class {drawn.target}")
    if drawn.left_out:
        left_out = " ".join(sorted(drawn.left_out))
        print_line(f"left out, since they train networks first, for minutes; to draw them:  --attacks {left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
