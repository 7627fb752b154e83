"""`python -m study.analyze NAME`: what a study says about hyperparameters and attacks. Reads it, runs nothing."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from defenses.registry import UserError
from study.cli.bar import working
from study.cli.command import EXIT_DONE, run_command
from study.cli.options import Parser
from study.cli.terminal import print_line
from study.ledger.study_folder import NAME_HELP, add_out, locate, parse_out

_EPILOG = """\
Sensitivity (importances, curves, interactions) needs trials that fill the space: --sampler qmc, random or grid.
Safe while the study runs: nothing is written to its folder.
Exit codes: 0 done; 2 bad input, such as a study that does not exist or has no result yet.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.analyze",
        description="Show what a study says: which hyperparameters matter, where, and what to set them to.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    add_out(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it to a JSON file")
    # Damaged files are told in the text, once.
    return run_command(lambda: _analyze(parser.parse_args(arguments)), warnings=False)


def _analyze(namespace: Namespace) -> int:
    out, name = locate(parse_out(namespace), namespace.name)
    file = namespace.json
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise UserError(f"--json must be a file in a folder that exists, got {file}: make the folder, or name a file")
    with working("loading pandas") as say:  # after the options were understood: it takes a second
        from study.analysis.results import read_results
        from study.report.sections.contents import answers, papers, unseen
        from study.report.text import as_json, as_text

        say(f"reading {name}")
        results = read_results(out, name)
        say("computing importances, curves and interactions")
        sections = [*unseen(results), *papers(results), *answers(results)]
    print_line(as_text(results, sections))
    if file is not None:
        try:
            file.write_text(as_json(results, sections), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json cannot be written, got {file}: {error.strerror}") from error
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
