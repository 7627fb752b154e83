"""Whether the folders that a study writes to can be written, and have room."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from defenses.registry import UserError
from defenses.storage.atomic_files import SHOW_STORE
from defenses.storage.remote import Remote
from study.cli.paths import expand_home
from study.config.config import CommonConfig, StudyConfig
from study.ledger.store_studies import note_results_folder
from tracking.destination import check_database, tracking_target
from tracking.mlflow_log import follow_database

_LEAST_FREE_BYTES = 500 << 20  # a default study writes about 100 MB; Ray's own log and spill folders need room too


def check_folder(folder: Path, option: str) -> Path:
    """The folder, made and shown to be writable.

    Raises:
        UserError: it is a URL, or cannot be written.
    """
    if re.match(r"[a-z][a-z0-9+]+:/", str(folder)):
        raise UserError(
            f"{option} must be a folder, since a study's ledger needs file locks, got the URL {folder}: mount it, and "
            "name the folder; --store alone may be a URL"
        )
    resolved = expand_home(folder).resolve()
    try:
        resolved.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=resolved):
            pass
    except OSError as error:
        raise UserError(
            f"{option} must be a folder that can be written, got {resolved}: {error.strerror}; choose another"
        ) from error
    return resolved


def check_name(folder: Path, option: str) -> None:
    """Refuses a folder whose name is no text: databases are opened by text.

    Raises:
        UserError: its name is not in the encoding of the locale, or of this computer's file names.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{option} must be a folder whose whole name is text under this locale "
            f"({sys.getfilesystemencoding()}), got {str(folder)!a}: name another, or set LC_ALL=C.UTF-8"
        ) from error


def check_file(path: Path, option: str) -> None:
    """Refuses a file that could not be written once the work is done; its folder is made.

    Raises:
        UserError: it is a folder, or its own folder cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{option} must name a file, got the folder {path}: add a name, such as {path / 'result.json'}")
    check_folder(path.parent, f"the place of {option}")


def check_room(folder: Path) -> None:
    """Refuses to start on a disk that is nearly full.

    Raises:
        UserError: there is less room than a study needs.
    """
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        raise UserError(
            f"a study needs at least {_LEAST_FREE_BYTES >> 20} MiB of disk, and {folder} has {free >> 20}: "
            f"free some ({SHOW_STORE}), or choose another --out and --store"
        )


def check_home() -> None:
    """Ray keeps an access token below the home folder and fails obscurely where it cannot.

    Raises:
        UserError: the home folder is missing or read-only.
    """
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry, and without HOME
        raise UserError("Ray needs a home folder, and this user has none: set HOME to a folder") from None
    token = home / ".ray"
    place = token if token.exists() else home
    try:
        if not os.access(place, os.W_OK):
            raise PermissionError
        with tempfile.NamedTemporaryFile(dir=place):  # root may write anywhere, where there is a folder at all
            pass
    except OSError:
        raise UserError(
            f"Ray must be able to write below the home folder, and {home} is missing or read-only: set HOME to another"
        ) from None


def check_places(config: CommonConfig) -> Path:
    """The results folder, checked; the store's and MLflow's as well."""
    if isinstance(config, StudyConfig):
        check_name(config.out, "--out")
    if not isinstance(config, StudyConfig) and config.store is not None:  # then nothing is written to --out
        out = config.out
    else:
        out = check_folder(config.out, "--out")
        check_room(out)
    if isinstance(place := config.store_place, str):
        Remote(place).check()
    elif config.store is not None:
        check_room(check_folder(place, "--store"))
        if isinstance(config, StudyConfig):
            note_results_folder(place, out)
    if isinstance(config, StudyConfig):
        target = tracking_target(config.tracking_uri, config.space, out)
        check_database(target, make=True)
        follow_database(target)
        check_home()
    return out
