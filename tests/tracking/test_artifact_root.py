"""A database that was moved or copied: its runs' files are those that lie beside it now."""

import shutil
import tempfile
from pathlib import Path

import pytest
from mlflow_servers import empty_database

from defenses.registry import UserError
from study import run
from tracking import names
from tracking.artifact_root import renew_artifact_root
from tracking.destination import Target, sqlite_url, tracking_target
from tracking.mlflow_log import RunLog, fetch_artifact
from tracking.outbox import Record
from tracking.refusals import AddressRefused

pytestmark = pytest.mark.filterwarnings("ignore")


def target(folder: Path) -> Target:
    return tracking_target(None, "pipd", folder)


def forget() -> None:
    """Within one process MLflow remembers where the files of a run lie; a later command is another one."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


def opened(folder: Path) -> RunLog:
    forget()
    place = target(folder)
    return RunLog(place.uri, place.experiment, place.artifacts)


def send(folder: Path, run: str, text: str) -> str:
    """A run with a file, in the database of a folder."""
    files = folder / "files"
    files.mkdir(exist_ok=True)
    (files / "a.txt").write_text(text)
    return opened(folder).take(Record(run, None, run, 1_000, artifacts=str(files), status="FINISHED"))


def read(folder: Path, run: str) -> str:
    """The file of a run, as MLflow finds it."""
    with tempfile.TemporaryDirectory() as copy:
        return Path(opened(folder).client.download_artifacts(run, "a.txt", copy)).read_text()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder of studies with one run in its database."""
    folder = tmp_path / "old runs é"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database())
    return folder


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_runs_are_found_and_written_where_the_database_is_now(how: str, old: Path, tmp_path: Path) -> None:
    new = tmp_path / "elsewhere" / "new"
    first = send(old, "trial/1", "one")
    (shutil.move if how == "moved" else shutil.copytree)(old, new)
    before = sorted(old.rglob("*"))
    assert read(new, first) == "one"
    second = send(new, "trial/2", "two")
    assert send(new, "trial/1", "one again") == first
    assert (read(new, first), read(new, second)) == ("one again", "two")
    assert sorted(old.rglob("*")) == before, "nothing is written to the place that it came from"
    assert old.exists() == (how == "copied")
    log = opened(new)
    places = {run.info.artifact_uri for run in log.client.search_runs([log.experiment_id])}
    assert all(place.startswith((new / "mlflow-artifacts").as_uri() + "/") for place in places)
    if how == "copied":
        assert read(old, first) == "one"


def test_a_file_is_fetched_from_a_database_that_was_moved(old: Path, tmp_path: Path) -> None:
    send(old, "trial/1", "one")
    shutil.move(old, tmp_path / "new")
    forget()
    copy = fetch_artifact(target(tmp_path / "new"), "trial/1", "a.txt", tmp_path)
    assert copy is not None
    assert copy.read_text() == "one"
    assert not old.exists()


def test_a_database_without_its_files_is_refused(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send(old, "trial/1", "one")
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(old / "mlflow.db", new)
    with pytest.raises(UserError, match=f"files of 1 runs lie in {old / 'mlflow-artifacts'} alone: copy that folder"):
        opened(new)
    monkeypatch.setattr(run, "plan_study", None)
    assert run.main(["--out", str(new)]) == 2, "before a study starts"
    assert "copy that folder to" in capsys.readouterr().err
    shutil.copytree(old / "mlflow-artifacts", new / "mlflow-artifacts")
    opened(new)


def test_a_folder_that_somebody_chose_stays(old: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    RunLog(target(old).uri, "pipd", chosen.as_uri())
    assert renew_artifact_root(old / "mlflow.db", str(target(old).artifacts)) == []
    run = send(old, "trial/1", "one")
    assert list(chosen.rglob("a.txt"))
    assert read(old, run) == "one"


def test_what_is_no_database_of_mlflow_s_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("text\n" * 100)
    (tmp_path / "empty.db").touch()
    for name in ("text.db", "empty.db", "none.db"):
        assert renew_artifact_root(tmp_path / name, "file:///x/mlflow-artifacts") == []
    assert not (tmp_path / "none.db").exists()


def test_a_place_that_two_paths_lead_to_stays_as_it_is(old: Path, tmp_path: Path) -> None:
    run = send(old, "trial/1", "one")
    (tmp_path / "link").symlink_to(old)
    log = RunLog(sqlite_url(tmp_path / "link" / "mlflow.db"), "pipd", (tmp_path / "link/mlflow-artifacts").as_uri())
    assert log.client.get_run(run).info.artifact_uri.startswith((old / "mlflow-artifacts").as_uri())
    assert log.client.get_run(run).data.tags[names.TAG_RUN_KEY] == "trial/1"


def test_a_chosen_folder_that_is_gone_is_not_made_again(old: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "a" / "b" / "chosen"
    chosen.mkdir(parents=True)
    RunLog(target(old).uri, "pipd", chosen.as_uri())
    shutil.rmtree(chosen)
    RunLog(target(old).uri, "pipd", None)  # MLflow makes it when it is needed
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(AddressRefused, match="which is no folder here"):
        opened(old)
    assert not (tmp_path / "a").exists()
