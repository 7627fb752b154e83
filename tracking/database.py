"""A database file for MLflow: made whole or not at all, and with no folder beside its own."""

from pathlib import Path
from typing import Any

from tracking.destination import database_file, sqlite_url

_MAKE_PARENT, _MAKE_TABLES = "_make_parent_dirs_if_sqlite", "_initialize_tables"  # MLflow's own, where it has them


def prepare_database(uri: str, utils: Any) -> None:
    """Sees to it that MLflow can open a database file; nothing for any other address.

    The caller keeps other processes from the file.

    Args:
        uri: as `tracking.destination.sqlite_url` writes it, for a file.
        utils: the module ``mlflow.store.db.utils``.
    """
    database = database_file(uri)
    if database is None:
        return
    if hasattr(utils, _MAKE_PARENT):
        # MLflow makes the folder of a URL as it is spelled: of "a%20b" that is another one than the database's.
        setattr(utils, _MAKE_PARENT, _make_parent)
    if hasattr(utils, _MAKE_TABLES) and not (database.is_file() and database.stat().st_size):
        _make_tables(database, utils)


def _make_tables(database: Path, utils: Any) -> None:
    """Makes the tables in another file first: MLflow refuses for good a database that was interrupted halfway."""
    new = database.with_name(f"{database.name}.new")
    for left in (new, new.with_name(f"{new.name}-journal")):  # SQLite would apply the old journal to the new file
        left.unlink(missing_ok=True)
    engine = utils.create_sqlalchemy_engine_with_retry(sqlite_url(new))
    try:
        getattr(utils, _MAKE_TABLES)(engine)
    finally:
        engine.dispose()
    new.replace(database)


def _make_parent(uri: str) -> None:
    database = database_file(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
