"""How every command ends: its exit codes, and what a person is told when it is refused or stopped."""

import logging
import os
import sys
from collections.abc import Callable

from defenses.registry import UserError
from study.cli.terminal import (
    open_closed_streams,
    output_is_lost,
    print_error,
    print_exception,
    replace_unencodable,
    show_logs,
)

EXIT_DONE, EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_UNREACHABLE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 2, 3, 4, 130, 143
"""Done; bad input, a full disk or a Ray that is gone; no trial can work; MLflow cannot be reached; Ctrl-C; SIGTERM."""


def run_command(work: Callable[[], int], stopped: str = "stopped", warnings: bool = True) -> int:
    """Does what a command is asked for, and gives its exit code.

    Args:
        work: gives the exit code; a `UserError` that it raises is told in one line.
        stopped: what is told when it is interrupted.
        warnings: whether warnings that are logged are shown; a command that tells of damage itself does without.
    """
    open_closed_streams()
    replace_unencodable()
    if warnings:
        show_logs()
    else:
        logging.basicConfig(level=logging.ERROR)
    try:
        if sys.platform == "win32":
            raise UserError("studies run on Linux and macOS, whose file locks they need, got Windows: use WSL 2")
        code = work()
        return EXIT_BAD_INPUT if code == EXIT_DONE and output_is_lost() else code
    except UserError as error:
        print_exception(error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print_error(stopped)
        return EXIT_INTERRUPTED


def leave_at_once(code: int) -> None:
    """Ends the process: Ray's and MLflow's threads may wait for something, and all of ours is written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
