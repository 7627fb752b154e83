"""Where a study's results are tracked: the MLflow server or database, the experiment in it, the place of artifacts."""

import os
import re
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from defenses.registry import UserError

ARTIFACTS = "mlflow-artifacts"
"""The folder beside a database file in which the files of its runs lie."""

_FILE = "sqlite:///"
_OTHER_DATABASES = ("postgresql", "mysql", "mssql")
_RULE = "MLflow's address must be a server's (http://HOST:PORT) or a database file's (sqlite:///FILE)"


@dataclass(frozen=True)
class Target:
    """What `tracking.mlflow_log` is opened with.

    Attributes:
        artifacts: where a new experiment keeps them; None leaves it to a server.
    """

    uri: str
    experiment: str
    artifacts: str | None

    @property
    def database(self) -> Path | None:
        """The database file; None where it is a server, or another database."""
        return database_file(self.uri)


def sqlite_url(path: Path) -> str:
    """A file as a database URL, whatever characters its folders have."""
    return _FILE + quote(str(path), safe=" +/", errors="surrogateescape")


def database_file(uri: str) -> Path | None:
    """The file that a database URL names, as `sqlite_url` wrote it; None for any other address."""
    return Path(unquote(uri.removeprefix(_FILE), errors="surrogateescape")) if uri.startswith(_FILE) else None


def absolute_address(uri: str) -> str:
    """An address that names the same file whoever reads it, from wherever. What is no address of a file stays."""
    file = uri.removeprefix(_FILE)
    if file == uri or not file or re.search(r"[?]|^:memory:", file):
        return uri
    try:
        return sqlite_url(Path(unquote(file, errors="surrogateescape")).expanduser().resolve())
    except (OSError, RuntimeError, ValueError):  # no such user; a name that no file can have
        return uri


def tracking_target(uri: str | None, space: str, out: Path) -> Target:
    """The place that an option names; by default a database in the folder of all studies.

    Args:
        out: absolute.

    Raises:
        UserError: it is no address of MLflow's.
    """
    if uri is None:
        return Target(sqlite_url(out / "mlflow.db"), space, (out / ARTIFACTS).as_uri())
    _check_form(uri)
    if not uri.startswith("sqlite:"):
        return Target(uri, space, None)
    database = database_file(absolute_address(uri))
    assert database is not None
    # MLflow would put the artifacts of a database into the folder that the command happens to run in.
    return Target(sqlite_url(database), space, (database.parent / ARTIFACTS).as_uri())


def check_database(target: Target, make: bool) -> None:
    """Refuses a database file that could not be written; other addresses are not looked at.

    Args:
        make: makes its folder; else a folder that is missing is refused, since nobody asks for a new database.

    Raises:
        UserError: it is no database, or cannot be written.
    """
    database = target.database
    if database is None:
        return
    try:
        str(database).encode()
        if make:
            database.parent.mkdir(parents=True, exist_ok=True)
        if database.is_dir() or (database.exists() and not _is_database(database)):
            raise _refused(f"must be that of an SQLite database, got {database}, which is none", "name another file")
        with tempfile.NamedTemporaryFile(dir=database.parent):  # beside a database lie its journal and its lock
            pass
        if database.exists() and not os.access(database, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except UnicodeEncodeError as error:
        name = ascii(str(database))
        raise _refused(f"must be text under this locale, got {name}", "name another, or set LC_ALL=C.UTF-8") from error
    except OSError as error:
        raise _refused(
            f"must be that of a database that can be written, got {database}: {error.strerror}",
            "choose another place, or name the place where it is now",
        ) from error


def _is_database(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("select name from sqlite_master limit 1").fetchall()
    except sqlite3.DatabaseError as error:
        return "not a database" not in str(error)
    return True


def _check_form(uri: str) -> None:
    """Refuses what MLflow would take for something else, or refuse each time that it is sent something."""
    if not uri.strip():
        raise _refused("must not be empty", "is it a variable that is not set? Leave the option out, or name one")
    scheme = uri.partition(":")[0].lower() if re.match(r"(?i)[a-z][a-z0-9+.-]*:", uri) else ""
    if scheme == "sqlite":
        _check_file(uri)
    elif scheme in ("http", "https"):
        _check_server(uri)
    elif scheme.split("+")[0] in _OTHER_DATABASES:
        _check_driver(uri)
    elif re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise _refused(f"must be a server's with its scheme, got {uri!r}", f"did you mean http://{uri}?")
    elif scheme in ("", "file") and uri != "databricks":
        raise _refused(
            f"must be a server's or a database's, got {uri!r}",
            "MLflow keeps no runs in folders any more: sqlite:///FILE keeps them in one file",
        )
    elif scheme not in ("", "databricks") and not _is_plugin(scheme):
        raise UserError(f"{_RULE}, got {uri!r}: {scheme!r} is neither", about="tracking")


def _is_plugin(scheme: str) -> bool:
    from importlib.metadata import entry_points

    return scheme in entry_points(group="mlflow.tracking_store").names


def _check_file(uri: str) -> None:
    file = uri.removeprefix(_FILE)
    options = re.search(r"[?].*", file)
    if file == uri or not file or file.startswith(":memory:"):
        raise _refused(f"must be that of a file, got {uri!r}", "write sqlite:///FILE, or sqlite:////FOLDER/FILE")
    if options is not None:
        raise _refused(
            f"has no options, got {uri!r}",
            f"leave {options.group()!r} out (MLflow waits for a locked database by itself; a file's ? is written %3F)",
        )
    if not absolute_address(uri).startswith("sqlite:////"):
        raise _refused(f"must be that of a file that can exist, got {uri!r}", "name another, from the root on")


def _check_server(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        wrong = not parts.hostname or parts.port == 0 or bool(parts.query or parts.fragment)
    except ValueError:  # a port that is no number, or too large
        wrong = True
    if wrong or re.search(r"\s", uri):
        raise UserError(f"{_RULE}, got {uri!r}: write it as http://HOST:PORT", about="tracking")


def _check_driver(uri: str) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        raise _refused(f"must be one that can be spoken to here, got {uri!r}, and {error}", "install it") from error
    except (SQLAlchemyError, ValueError) as error:
        raise _refused(f"must be a database's URL, got {uri!r}", str(error).splitlines()[0]) from error


def _refused(rule: str, way_out: str) -> UserError:
    return UserError(f"MLflow's address {rule}: {way_out}", about="tracking")
