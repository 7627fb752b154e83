"""`python -m study COMMAND`, and `backdoor-study COMMAND` where the project is installed: all commands in one place."""

import importlib
import os
import sys
from collections.abc import Sequence

from defenses.registry import UserError, nearest
from study.cli.command import EXIT_DONE, run_command
from study.cli.terminal import print_line, table

COMMANDS = {
    "run": ("study.run", "search a defense's hyperparameters across attacks, poison rates and seeds"),
    "evaluate": ("study.evaluate", "run one configuration of a defense on one attack"),
    "clean": ("study.clean", "is a dataset of your own poisoned, what exactly, and a clean one"),
    "attacks": ("study.attacks.__main__", "list the attacks, or draw what they do"),
    "status": ("study.status", "where a study stands, while it runs or after"),
    "report": ("study.report.__main__", "make a page of a study, or of several"),
    "analyze": ("study.analyze", "which hyperparameters matter, where, and what to set them to"),
    "compare": ("study.compare", "compare two defenses or two configurations"),
    "store": ("study.store", "what the store of shared stages holds and who uses it; remove, verify"),
    "sync": ("study.sync", "send MLflow what it could not be sent while a study ran"),
}
"""Name -> the module whose `main` it is, and one line of what it does."""

_USAGE = """\
usage: backdoor-study COMMAND [options]

{commands}

backdoor-study COMMAND --help tells a command's options. Start with:  backdoor-study run --space pipd
Without an installation the same commands are python -m study COMMAND, or python -m study.COMMAND."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code of the one that it is asked for."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what the command may go on with
        from study.completion import answer

        return answer(COMMANDS)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        # Loaded when it is asked for: some take a second.
        return int(importlib.import_module(COMMANDS[words[0]][0]).main(words[1:]))
    return run_command(lambda: _answer(words))


def _answer(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        rows = [[f"  {name}", what] for name, (_, what) in COMMANDS.items()]
        print_line(_USAGE.format(commands=table(["  command", ""], rows, left=2)))
        return EXIT_DONE
    raise UserError(f"unknown command {words[0]!r}: {nearest(words[0], COMMANDS)}(known: {', '.join(COMMANDS)})")


if __name__ == "__main__":
    sys.exit(main())
