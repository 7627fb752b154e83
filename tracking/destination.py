"""Where a study's results are tracked: the MLflow server or database, the experiment in it, the place of artifacts."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """What `tracking.mlflow_log` is opened with.

    Attributes:
        artifacts: where a new experiment keeps them; None leaves it to a server.
    """

    uri: str
    experiment: str
    artifacts: str | None


def sqlite_url(path: Path) -> str:
    """A file as a database URL, whatever characters its folders have."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


def tracking_target(uri: str | None, space: str, out: Path) -> Target:
    """The place that an option names; by default a database in the folder of all studies.

    A relative file is made absolute: it must be the same one whoever writes to it, from wherever.
    """
    if uri is None:
        return Target(sqlite_url(out / "mlflow.db"), space, (out / "mlflow-artifacts").as_uri())
    if not uri.startswith("sqlite:///"):
        return Target(uri, space, None)
    database = Path(uri.removeprefix("sqlite:///")).resolve()
    # MLflow would put the artifacts of a database into the folder that the command happens to run in.
    return Target(sqlite_url(database), space, (database.parent / "mlflow-artifacts").as_uri())
