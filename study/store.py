"""`python -m study.store`: what the store of shared stages holds and who uses it; removes what is not needed, verifies.

Reads folders and small files alone: neither torch nor Ray is loaded.
"""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from defenses.registry import UserError
from defenses.storage.atomic_files import disk_errors
from defenses.storage.inventory import Held, read_store
from defenses.storage.remote import is_url
from defenses.storage.verification import damages
from study.cli.bar import working
from study.cli.command import EXIT_BROKEN, EXIT_DONE, run_command
from study.cli.options import Parser
from study.cli.paths import expand_home
from study.cli.sizes import format_size, parse_age, parse_size
from study.cli.terminal import print_line, print_raw
from study.ledger.store_listing import as_json, describe, describe_choice, describe_study
from study.ledger.store_removal import Wish, choose, remove_chosen
from study.ledger.store_studies import read_uses, results_folders
from study.ledger.store_use import StoreUse
from study.ledger.study_folder import NAME_HELP, add_out, find_study, locate, parse_out

_EPILOG = """\
Without an option that removes, nothing is written. What a running study uses, or might still ask for, is never removed,
and what is being built now neither; a study may be started meanwhile. --unused and --down-to say what goes first:
leftovers of processes that died, then what no study uses, by its last use, then what takes the fewest seconds to build
again for each byte that it frees. Whatever is removed is built again, with the same numbers, when a study asks for it.
Exit codes: 0 done; 2 bad input; 3 --verify: an entry is damaged; 130 interrupted: what is gone is gone whole.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.store",
        description="Show what the store of shared stages holds, and which studies use it; remove what is not needed.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"show what one study uses: {NAME_HELP}")
    add_out(parser)
    parser.add_argument("--store", metavar="PATH|URL", help="the store [the folder store below --out]")
    parser.add_argument("--unused", action="store_true", help="remove what no study uses, or might still ask for")
    parser.add_argument("--down-to", type=parse_size, metavar="SIZE", help="remove until so much is left: 500MB, 2GB")
    parser.add_argument("--stage", nargs="+", metavar="STAGE", help="remove these stages alone")
    parser.add_argument("--older-than", type=parse_age, metavar="AGE", help="remove what was last used longer ago: 30d")
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and stop")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument("--verify", action="store_true", help="read every file and compare it with its hash")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return run_command(lambda: _answer(parser.parse_args(arguments)), _STOPPED, warnings=False)


_STOPPED = "stopped; what was removed is gone whole, and everything else is as it was"


def _answer(namespace: Namespace) -> int:
    wish = Wish(namespace.unused, frozenset(namespace.stage or ()), namespace.older_than, namespace.down_to)
    removes = wish != Wish()
    _check_options(namespace, removes)
    out = parse_out(namespace)
    root = _root(namespace, out)
    if namespace.verify:
        return _verify(root)
    with working(f"reading {root}"):
        outs = results_folders(root, out)
        use = StoreUse(root, _read(root), read_uses(root, outs))
    if removes:
        _check_stages(use, sorted(wish.stages))
        return _remove(root, outs, use, wish, namespace)
    if namespace.json:
        print_line(json.dumps(as_json(root, use), indent=1))
    elif namespace.name is not None:
        print_line(describe_study(use, find_study(*locate(out, namespace.name))))
    else:
        print_line(describe(root, use, out, time.time()))
    return EXIT_DONE


def _check_options(namespace: Namespace, removes: bool) -> None:
    """Refuses options that change nothing together.

    Raises:
        UserError: which.
    """
    if (namespace.dry_run or namespace.yes) and not removes:
        option = "--dry-run" if namespace.dry_run else "--yes"
        raise UserError(f"{option} goes with what is to be removed: add --unused, --down-to, --stage or --older-than")
    if namespace.verify and (removes or namespace.name is not None):
        raise UserError("--verify only reads, and reads everything: leave out NAME and what removes")
    if namespace.name is not None and (removes or namespace.json):
        raise UserError("NAME shows what one study uses: leave out NAME, or --json and what removes")


def _root(namespace: Namespace, out: Path) -> Path:
    """The folder of the store.

    Raises:
        UserError: there is none, or it lies behind a URL.
    """
    if is_url(namespace.store):
        raise UserError(
            f"a store must be a folder for this command, got {namespace.store}: list and clear object storage with its "
            "own tools (such as aws s3 ls and rm) while no study runs; what is removed there, studies build again"
        )
    root = expand_home(Path(namespace.store)) if namespace.store else out / "store"
    if not root.is_dir():
        raise UserError(f"a store must be a folder, and there is none in {root}: name it with --store, or use --out")
    return root.resolve()


def _read(root: Path) -> list[Held]:
    try:
        return read_store(root)
    except OSError as error:
        raise UserError(f"the store {root} must be readable: {error.strerror}; choose another with --store") from error


def _check_stages(use: StoreUse, stages: Sequence[str]) -> None:
    known = sorted({one.stage for one in use.held})
    unknown = [stage for stage in stages if stage not in known]
    if unknown:
        raise UserError(f"--stage must name stages that the store holds ({', '.join(known)}), got {unknown[0]!r}")


def _remove(root: Path, outs: Sequence[Path], use: StoreUse, wish: Wish, namespace: Namespace) -> int:
    chosen = choose(use, wish)
    print_line(describe_choice(use, wish, chosen))
    if not chosen or namespace.dry_run:
        return EXIT_DONE
    if not namespace.yes and not _agrees():
        print_line("Nothing is removed.")
        return EXIT_DONE
    with disk_errors(root), working("removing") as say:
        removed = remove_chosen(root, outs, use, chosen, lambda one: say(f"removing {one.stage} {one.key[:12]}"))
    kept = f"; {removed.kept} stay, which somebody uses now" if removed.kept else ""
    print_line(f"Removed {removed.gone} of {len(chosen)}: {format_size(removed.freed)} are free{kept}.")
    return EXIT_DONE


def _agrees() -> bool:
    """Asks.

    Raises:
        UserError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "what is removed must be agreed to, and there is no terminal to ask on: add --yes, or --dry-run to see it"
        )
    print_raw("Remove this? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _verify(root: Path) -> int:
    with working(f"reading {root}") as say:
        held = _read(root)
        damaged = list(damages(root, held, lambda one: say(f"reading {one.stage} {one.key[:12]}")))
    if not damaged:
        size = format_size(sum(one.bytes for one in held))
        print_line(f"{root}: {size} in {len(held)} parts; every file is as it was written")
        return EXIT_DONE
    lines = [f"  {one.stage}/{one.key}: {what}" for one, what in damaged]
    print_line(
        f"{len(damaged)} of {len(held)} parts of {root} are damaged:\n"
        + "\n".join(lines)
        + "\nNo study reads them: whoever asks for one builds it again. To remove one now, remove its folder while "
        "no study runs."
    )
    return EXIT_BROKEN


if __name__ == "__main__":
    sys.exit(main())
