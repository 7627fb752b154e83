"""Where the files of an MLflow database lie once the database was moved or copied: beside it, as before.

MLflow keeps the whole path of each run's files. After a move they name a folder that is gone, and MLflow would make it
again and write there; after a copy they name the original's. MLflow itself has no way to change them.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from defenses.registry import UserError
from tracking import names
from tracking.destination import ARTIFACTS

_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
_LOCK_SECONDS = 20.0  # as long as MLflow waits


def renew_artifact_root(database: Path, root: str) -> list[str]:
    """Points the runs of a database to the folder beside it, where they name the folder beside it of an earlier place.

    Folders that somebody chose, which have other names, are left as they are.

    Args:
        root: the folder as a URL.

    Returns:
        The folders that it named before; none where nothing had to be changed.

    Raises:
        UserError: files lie in the earlier place that do not lie in this one.
    """
    if not database.is_file():
        return []
    with closing(sqlite3.connect(database, timeout=_LOCK_SECONDS)) as connection:
        try:
            told = connection.execute("select distinct artifact_location from experiments").fetchall()
        except sqlite3.DatabaseError:  # no table of that name yet, or it is locked: MLflow says what is wrong
            return []
        earlier = [str(uri) for (uri,) in told if _is_earlier(str(uri), root)]
        for uri in earlier:
            _check_files_are_here(connection, uri, root)
        with connection:
            for uri in earlier:
                for table, column in _COLUMNS:
                    change = f"update {table} set {column} = :new || substr({column}, length(:old) + 1)"
                    connection.execute(f"{change} where {_at_or_below(column)}", {"old": uri, "new": root})
    return [str(local_folder(uri)) for uri in earlier]


def find_run_file(database: Path, root: str, run_key: str, artifact: str) -> Path | None:
    """One file of a run of a database file, without MLflow; None where there is none. Nothing is changed.

    Args:
        root: the folder of artifacts beside the database, as a URL: where the runs' files are after a move.
        run_key: as `tracking.names.run_key` gives it.
        artifact: its path within the run.
    """
    query = (
        "select runs.run_uuid, runs.artifact_uri from runs join tags on tags.run_uuid = runs.run_uuid "
        "where tags.key = ? and tags.value = ? and runs.lifecycle_stage = 'active'"
    )
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            runs = connection.execute(query, (names.TAG_RUN_KEY, run_key)).fetchall()
    except sqlite3.Error:  # no such file, or no database of MLflow's
        return None
    here = local_folder(root)
    for run, uri in runs:
        folders = [local_folder(str(uri)), here / str(run) / "artifacts" if here is not None else None]
        for folder in folders:
            if folder is not None and (folder / artifact).is_file():
                return folder / artifact
    return None


def _at_or_below(column: str) -> str:
    return f"({column} = :old or substr({column}, 1, length(:old) + 1) = :old || '/')"


def local_folder(uri: str) -> Path | None:
    """The folder on this machine that a place of artifacts names; None where it names no folder."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parts.path, errors="surrogateescape")) if parts.scheme else Path(uri)


def _is_earlier(uri: str, root: str) -> bool:
    folder, here = local_folder(uri), local_folder(root)
    if folder is None or here is None or folder.name != ARTIFACTS or folder == here:
        return False
    return not (folder.exists() and here.exists() and folder.samefile(here))


def _check_files_are_here(connection: sqlite3.Connection, uri: str, root: str) -> None:
    folder, here = local_folder(uri), local_folder(root)
    assert folder is not None
    assert here is not None
    told = connection.execute(f"select artifact_uri from runs where {_at_or_below('artifact_uri')}", {"old": uri})
    runs = {str(place)[len(uri) + 1 :].split("/")[0] for (place,) in told}
    missing = [run for run in runs if run and (folder / run).is_dir() and not (here / run).is_dir()]
    if missing:
        raise UserError(
            f"an MLflow database must be moved or copied with the folder {ARTIFACTS} beside it, and the files of "
            f"{len(missing)} runs lie in {folder} alone: copy that folder to {here}, or name another database",
            about="tracking",
        )
