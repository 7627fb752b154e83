"""The folders of studies: what their files are called, which there are, and the one that a name stands for."""

import argparse
import os
import shlex
from pathlib import Path

from defenses.registry import UserError, nearest
from study.cli.paths import expand_home, parse_path
from study.config.config import OUT

SEARCH, JUDGE = ".search", ".judge"  # the two studies that one with --holdout is made of: its name and this
MANIFEST, LEDGER, OUTBOX, POINTS, SCRATCH = "study.json", "study.db", "outbox.jsonl", "points", "ray"
LOCK, LATEST, ACTIVITY, CLEAN_CONTROL = "lock", "latest", "activity.json", "clean_control.json"
STAGES = "stages.json"
_OWN_NAMES = ("store", "mlflow.db", "mlflow-artifacts", LATEST)  # beside the studies, or for one of them
NAME_HELP = "of the study: its name or the beginning of it, its folder, or latest"


def add_out(parser: argparse.ArgumentParser) -> None:
    """Gives a command the option ``--out``, as `study.run` has it."""
    parser.add_argument("--out", type=parse_path, metavar="PATH", help=f"folder of results [{OUT}]")


def parse_out(namespace: argparse.Namespace) -> Path:
    """What was given for it."""
    return expand_home(namespace.out or OUT)


def study_command(name: str, folder: Path) -> str:
    """A command about a study, to copy: ``python -m study.analyze NAME``, with ``--out`` where one is needed."""
    return shlex.join(["python", "-m", f"study.{name}", folder.name, *out_words(folder.parent)])


def out_words(out: Path) -> list[str]:
    """The option that says where the studies are; none where they are in the usual place."""
    return [] if out.resolve() == OUT.resolve() else ["--out", str(out)]


def studies(out: Path) -> list[Path]:
    """The folders of all studies, by name.

    Raises:
        UserError: there is no such folder.
    """
    try:
        return sorted(path for path in out.iterdir() if is_study(path))
    except OSError as error:
        raise UserError(f"--out must be the folder of a study's results, got {out}: {error.strerror}") from error


def locate(out: Path, name: str) -> tuple[Path, str]:
    """The folder of all studies and the name of the one that a person means.

    Args:
        name: the study's; as much of it as no other begins with; the path of its folder; or ``latest``, the one that
            was written to last.

    Raises:
        UserError: there is none, or there are several; the message has them, or the nearest name.
    """
    path = expand_home(Path(name))
    if len(path.parts) > 1 or name in (".", ".."):
        if is_study(path):
            return path.resolve().parent, path.resolve().name
        raise UserError(f"no study lies in {path}: name the folder that holds its {MANIFEST}, or the study alone")
    folders = {folder.name: folder for folder in studies(out)}
    if name == LATEST and folders:
        return out, max(folders, key=lambda known: _written(folders[known]))
    begun = [known for known in folders if name and known.startswith(name)]
    if name in folders or not begun:
        return out, name  # `find_study` refuses what is not there
    wholes = [known for known in begun if not any(known != other and known.startswith(f"{other}.") for other in begun)]
    if len(wholes) > 1:
        raise UserError(f"{name!r} begins the names of {len(wholes)} studies, {', '.join(wholes)}: write one of them")
    return out, wholes[0]


def is_study(folder: Path) -> bool:
    """Whether a folder is a study's."""
    try:
        return any((folder / name).is_file() for name in (MANIFEST, LEDGER))
    except (OSError, ValueError):  # no folder's name at all
        return False


def _written(folder: Path) -> float:
    return max((folder / name).stat().st_mtime for name in (MANIFEST, LEDGER) if (folder / name).is_file())


def find_study(out: Path, name: str) -> Path:
    """The folder of one study.

    Raises:
        UserError: it does not exist; the message has the nearest name.
    """
    folders = {path.name: path for path in studies(out)}
    if name not in folders:
        raise UserError(
            f"unknown study {name!r} in {out}: {nearest(name, folders)}"
            f"({'known: ' + ', '.join(folders) if folders else 'there is none'}; another folder is named with --out)"
        )
    return folders[name]


def check_study_folder(folder: Path, store: Path | str) -> None:
    """Refuses a name whose folder is something else: the tool's own, the store's, or anybody's.

    Args:
        folder: that the study would have.
        store: the folder of the store, absolute, or its URL.

    Raises:
        UserError: what lies there.
    """
    folder = folder.resolve()
    if folder.name in _OWN_NAMES:
        raise UserError(f"--name must be none of {', '.join(_OWN_NAMES)}, which mean something else: choose another")
    if isinstance(store, Path) and (folder == store or folder in store.parents or store in folder.parents):
        raise UserError(
            f"--name must not be the folder of the store or hold it, and {store} is it: choose another name"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--name must be new or a study's, and {folder} is a file: choose another")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held - {LOCK} and not held & {MANIFEST, LEDGER}:
        raise UserError(f"--name must be new or a study's, and {folder} holds {min(held - {LOCK})}: choose another")


def check_no_links(folder: Path) -> None:
    """Refuses a study's folder with a link in it: what is written to the folder would land wherever the link leads.

    Ray's own scratch folder, which a killed driver leaves behind, is passed over: it is removed and never read.

    Raises:
        UserError: there is a link.
    """
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and SCRATCH in folders and not (folder / SCRATCH).is_symlink():
            folders.remove(SCRATCH)
        for name in (*folders, *files):
            if (Path(place) / name).is_symlink():
                raise UserError(f"a study's folder must hold no links, and {Path(place) / name} is one: remove it")
