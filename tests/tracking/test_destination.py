"""MLflow's address: what is none is refused before anything is started, and a file is the same one from everywhere."""

import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import make_url

from defenses.registry import UserError
from study import run
from tracking.destination import absolute_address, check_database, sqlite_url, tracking_target

WRONG = {
    "mlruns": "MLflow keeps no runs in folders any more: sqlite:///FILE keeps them in one file",
    "./mlruns": "no runs in folders",
    "/tmp/mlruns": "no runs in folders",
    "file:///tmp/mlruns": "no runs in folders",
    "mlflow.db": "sqlite:///FILE",
    "": "must not be empty: is it a variable that is not set?",
    "  ": "must not be empty",
    "localhost:5000": "did you mean http://localhost:5000?",
    "127.0.0.1:5000": "did you mean http://127.0.0.1:5000?",
    "htp://localhost": "'htp' is neither",
    "http://": "http://HOST:PORT",
    "http://:5000": "http://HOST:PORT",
    "http://host:port": "http://HOST:PORT",
    "http://host:99999": "http://HOST:PORT",
    "http://my host": "http://HOST:PORT",
    "http://host/?experiment=1": "http://HOST:PORT",
    "sqlite:///x.db?timeout=60": "leave '?timeout=60' out",
    "sqlite:///:memory:": "must be that of a file",
    "sqlite://": "must be that of a file",
    "sqlite:///": "must be that of a file",
    "sqlite:x.db": "write sqlite:///FILE",
    "sqlite:///~nobody-of-this-name/x.db": "a file that can exist",
    "postgresql+nothing://host/db": "must be a database's URL",
}


@pytest.mark.parametrize("uri", WRONG)
def test_what_is_no_address_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        tracking_target(uri, "pipd", tmp_path)
    assert WRONG[uri] in str(refusal.value)
    assert refusal.value.about == "tracking"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "https://host/mlflow", "HTTP://host", "databricks"])
def test_servers_are_taken_as_they_are(uri: str, tmp_path: Path) -> None:
    target = tracking_target(uri, "pipd", tmp_path)
    assert (target.uri, target.artifacts, target.database) == (uri, None, None)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("sqlite:///x.db", "here/x.db"),
        ("sqlite:///my db/100%.db", "here/my db/100%.db"),
        ("sqlite:///a%20b.db", "here/a b.db"),
        ("sqlite:///../é#1.db", "é#1.db"),
        ("sqlite:///~/x.db", "home/x.db"),
        (None, "runs/mlflow.db"),
    ],
)
def test_a_database_is_one_file_for_us_and_for_mlflow(
    uri: str | None, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    target = tracking_target(uri, "pipd", tmp_path / "runs")
    assert target.database == tmp_path / place
    assert make_url(target.uri).database == str(tmp_path / place)
    assert target.artifacts == (tmp_path / place).with_name("mlflow-artifacts").as_uri()
    monkeypatch.chdir(tmp_path)
    assert tracking_target(target.uri, "pipd", tmp_path / "runs") == target, "from wherever, and again"
    assert uri is None or absolute_address(target.uri) == target.uri


def test_a_database_must_be_one_that_can_be_written(tmp_path: Path) -> None:
    def check(path: Path, make: bool = True) -> None:
        check_database(tracking_target(sqlite_url(path), "pipd", tmp_path), make)

    (tmp_path / "text.db").write_text("no database at all, but longer than nothing\n" * 5)
    (tmp_path / "empty.db").touch()
    with sqlite3.connect(tmp_path / "good.db") as database:
        database.execute("create table x (y)")
    for name, reason in {"text.db": "which is none", "": "which is none", "text.db/x.db": "choose another"}.items():
        with pytest.raises(UserError, match=reason):
            check(tmp_path / name)
    with pytest.raises(UserError, match="No such file"):
        check(tmp_path / "gone" / "x.db", make=False)
    assert not (tmp_path / "gone").exists()
    check(tmp_path / "empty.db")
    check(tmp_path / "good.db", make=False)
    check(tmp_path / "new folder" / "x.db")
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == []
    if os.path.isdir("/proc/self"):
        with pytest.raises(UserError, match="can be written"):
            check(Path("/proc/x.db"))


@pytest.mark.parametrize(
    ("uri", "also"),
    [
        ("mlruns", ()),
        ("mlruns", ("--dry-run",)),
        ("", ()),
        ("sqlite:///x.db?timeout=60", ()),
        ("sqlite:////proc/x.db", ()),
    ],
)
def test_a_study_is_refused_before_it_starts(
    uri: str, also: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "plan_study", None)
    assert run.main(["--out", str(tmp_path / "runs"), "--tracking-uri", uri, *also]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: MLflow's address ")
    assert line.endswith("(--tracking-uri)")
    assert not list(tmp_path.glob("**/mlruns")) + list(tmp_path.glob("*.db"))


@pytest.mark.parametrize("options", [("--out", "runs/caf\udce9"), ("--tracking-uri", "sqlite:///caf\udce9/x.db")])
def test_a_name_that_is_no_text_is_refused(
    options: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "plan_study", None)
    out = () if "--out" in options else ("--out", "runs")
    assert run.main([*out, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "LC_ALL=C.UTF-8" in line
    assert "caf\\udce9" in line
    assert not list(tmp_path.rglob("*caf*"))
