"""What could not be sent while a study ran arrives later, whole and once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_servers import empty_database, free_port, server
from study_folder import fill_outbox, write_settings

from study import sync
from study.ledger.lock import study_lock
from tracking import mlflow_log, names
from tracking.mlflow_log import RunLog
from tracking.mlflow_rows import DatabaseRows
from tracking.outbox import Outbox, Record

# What MLflow, alembic and SQLAlchemy warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

RUNS = {"study/x", "trial/k0", "trial/k1", "scenario/k0/badnets", "scenario/k1/badnets"}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A study that nothing of has been sent, beside an empty database."""
    out = tmp_path / "my runs"
    write_settings(out / "mine")
    (out / "mlflow.db").write_bytes(empty_database())
    return out / "mine"


def send(folder: Path, *options: str) -> int:
    return sync.main([folder.name, "--out", str(folder.parent), *options])


def own_log(folder: Path) -> RunLog:
    return RunLog(f"sqlite:///{folder.parent / 'mlflow.db'}", "pipd", None)


def check_whole(log: RunLog, files: Path) -> None:
    """Every run once, finished, with its metrics, its series, its files and its place in the tree."""
    found = {run.data.tags[names.TAG_RUN_KEY]: run for run in log.client.search_runs([log.experiment_id])}
    assert len(log.client.search_runs([log.experiment_id])) == len(RUNS)
    assert set(found) == RUNS
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    ids = {key: run.info.run_id for key, run in found.items()}
    for number in (0, 1):
        scenario = f"scenario/k{number}/badnets"
        assert found[scenario].data.tags[names.TAG_PARENT] == ids[f"trial/k{number}"]
        assert found[f"trial/k{number}"].data.tags[names.TAG_PARENT] == ids["study/x"]
        series = log.client.get_metric_history(ids[scenario], "isolate.tpr")
        assert [(point.step, point.value) for point in series] == [(0, 0.25), (1, 0.5), (2, 0.75)]
        assert len(log.client.get_metric_history(ids[scenario], "tpr")) == 1
        files.mkdir(exist_ok=True)
        table = log.client.download_artifacts(ids[scenario], "flagged.csv", str(files))
        assert Path(table).read_text() == f"index\n{number}\n"
    assert [item.path for item in log.client.list_artifacts(ids["study/x"])] == ["summary.txt"]


def test_everything_arrives_once(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outbox, sent_once = fill_outbox(mine)
    assert send(mine) == 0
    assert capsys.readouterr().out.startswith("mine: 8 records have arrived at sqlite:///")
    check_whole(own_log(mine), tmp_path / "files")
    assert list(outbox.pending()) == []
    assert not any(files.exists() for files in sent_once), "what arrived is not kept twice"
    assert (mine / "summary").is_dir()
    assert send(mine) == 0
    assert "has arrived at" in capsys.readouterr().out
    (mine / "outbox.jsonl.sent").unlink()  # even when nobody knows that it was sent
    assert send(mine) == 0
    check_whole(own_log(mine), tmp_path / "files")


def test_what_did_not_arrive_is_sent_by_the_next_call(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox, sent_once = fill_outbox(mine)
    take, taken = RunLog.take, list[str]()

    def take_three(self: RunLog, record: Record) -> str:
        if len(taken) == 3:
            raise ConnectionError("connection refused\nand more lines")
        taken.append(record.run)
        return take(self, record)

    with monkeypatch.context() as broken:
        broken.setattr(RunLog, "take", take_three)
        assert send(mine) == sync.EXIT_UNREACHABLE == 4
    told = capsys.readouterr().err
    assert "(connection refused): 5 of 8 wait in" in told
    assert len(list(outbox.pending())) == 5
    assert [files.exists() for files in sent_once] == [False, True]
    assert send(mine) == 0
    assert capsys.readouterr().out.startswith("mine: 5 records have arrived")
    check_whole(own_log(mine), tmp_path / "files")


def test_an_unreachable_server_takes_nothing_away(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_settings(mine, tracking_uri="http://127.0.0.1:9")
    outbox, sent_once = fill_outbox(mine)
    assert send(mine) == 4
    told = capsys.readouterr().err
    assert told.startswith("error: MLflow at http://127.0.0.1:9 must be reachable")
    assert told.count("\n") == 1
    assert not caplog.records, "one line is enough"
    assert len(list(outbox.pending())) == 8
    assert all(files.is_dir() for files in sent_once)


def test_another_server_gets_all_of_it_and_takes_nothing_from_the_study_s_own(mine: Path, tmp_path: Path) -> None:
    outbox, sent_once = fill_outbox(mine)
    other = tmp_path / "elsewhere" / "other.db"
    other.parent.mkdir()
    other.write_bytes(empty_database())
    for _ in range(2):
        assert send(mine, "--tracking-uri", f"sqlite:///{other}") == 0
        check_whole(RunLog(f"sqlite:///{other}", "pipd", None), tmp_path / "files")
    assert (other.parent / "mlflow-artifacts").is_dir()
    assert len(list(outbox.pending())) == 8
    assert all(files.is_dir() for files in sent_once)
    assert send(mine) == 0
    check_whole(own_log(mine), tmp_path / "files")


def test_files_that_the_own_server_took_are_missed_aloud(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_outbox(mine)
    assert send(mine) == 0
    (tmp_path / "other.db").write_bytes(empty_database())
    assert send(mine, "--tracking-uri", f"sqlite:///{tmp_path / 'other.db'}") == 0
    assert "the files of 2 of them are only where they were sent before" in capsys.readouterr().err


def test_a_study_that_is_being_run_is_left_to_its_driver(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outbox, _ = fill_outbox(mine)
    with study_lock(mine, "mine"):
        assert send(mine) == 2
    assert f"process {os.getpid()} runs study 'mine' and sends its records itself" in capsys.readouterr().err
    assert len(list(outbox.pending())) == 8


def test_no_driver_starts_in_between(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_outbox(mine)
    seen: list[bool] = []

    def look_at_the_lock(_self: RunLog, _record: Record) -> str:
        seen.append(sync.holder(mine) == str(os.getpid()))
        return ""

    monkeypatch.setattr(RunLog, "take", look_at_the_lock)
    assert send(mine) == 0
    assert seen == [True] * 8


def test_a_damaged_line_stops_no_other(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outbox, _ = fill_outbox(mine)
    lines = outbox.path.read_bytes().splitlines(keepends=True)
    outbox.path.write_bytes(b"".join([*lines[:2], b"\xff" + lines[2][1:], *lines[3:]]))
    assert send(mine) == 0
    captured = capsys.readouterr()
    assert "warning: 1 lines of" in captured.err
    assert captured.out.startswith("mine: 7 records have arrived")
    assert "scenario/k0/badnets" not in Outbox(outbox.path).finished(), "so that the next run sends it anew"
    assert "scenario/k1/badnets" in Outbox(outbox.path).finished()


def test_without_a_name_every_study_is_sent(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_settings(mine.parent / "other")
    fill_outbox(mine)
    fill_outbox(mine.parent / "other")
    (mine.parent / "broken").mkdir()
    (mine.parent / "broken" / "study.json").write_text("{")
    assert sync.main(["--out", str(mine.parent)]) == 2, "the worst of all studies"
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()] == ["mine", "other"]
    assert "what study 'broken' was started with must be known" in captured.err


def test_an_unknown_study_is_refused(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main(["mime", "--out", str(mine.parent)]) == 2
    assert "did you mean 'mine'?" in capsys.readouterr().err


def test_nothing_to_send_asks_no_server(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_log, "RunLog", None)
    assert send(mine, "--tracking-uri", "http://127.0.0.1:9") == 0


# A study's folder that is no longer where it was


def forget() -> None:
    """Within one process MLflow remembers where the files of a run lie; a later command is another one."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


def as_before(outbox: Outbox) -> None:
    """Makes an outbox one of an earlier version, whose records held whole paths."""
    folder = outbox.path.parent
    lines = [json.loads(line) for line in outbox.path.read_text().splitlines()]
    whole = [line | {"artifacts": str(folder / line["artifacts"]) if line["artifacts"] else ""} for line in lines]
    outbox.path.write_text("".join(json.dumps(line) + "\n" for line in whole))


@pytest.mark.parametrize(("how", "records"), [("moved", "paths within the study"), ("copied", "whole paths")])
def test_files_are_sent_from_where_the_study_is_now(how: str, records: str, mine: Path, tmp_path: Path) -> None:
    outbox, _ = fill_outbox(mine)
    if records == "whole paths":
        as_before(outbox)
    else:
        within = [line.replace(f"{mine}/", "") for line in outbox.path.read_text().splitlines()]
        outbox.path.write_text("\n".join(within) + "\n")
    here = tmp_path / "archive" / "runs"
    (shutil.move if how == "moved" else shutil.copytree)(mine.parent, here)
    before = sorted(mine.parent.rglob("*"))
    assert send(here / "mine") == 0
    check_whole(own_log(here / "mine"), tmp_path / "files")
    assert not list((here / "mine" / "points").glob("*/badnets")), "what arrived is not kept twice"
    assert sorted(mine.parent.rglob("*")) == before, "where it came from nothing is written or removed"
    assert mine.exists() == (how == "copied")


def test_what_was_sent_is_found_after_a_move(mine: Path, tmp_path: Path) -> None:
    fill_outbox(mine)
    assert send(mine) == 0
    here = tmp_path / "moved"
    shutil.move(mine.parent, here)
    forget()
    assert send(here / "mine") == 0
    check_whole(own_log(here / "mine"), tmp_path / "files")
    assert not mine.parent.exists()


@pytest.mark.parametrize("waits", [False, True])
def test_a_database_that_has_nothing_of_a_study_is_sent_all_of_it(
    waits: bool, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_outbox(mine)
    assert send(mine) == 0
    capsys.readouterr()
    here = tmp_path / "others"  # where other studies have a database of their own
    here.mkdir()
    (here / "mlflow.db").write_bytes(empty_database())
    shutil.move(mine, here / "mine")
    if waits:
        Outbox(here / "mine" / "outbox.jsonl").append(Record("study/x", None, "mine", 6_000, status="FINISHED"))
    assert send(here / "mine") == 0
    captured = capsys.readouterr()
    assert f"mine: {8 + waits} records have arrived at sqlite:///" in captured.out
    assert "the files of 2 of them are only where they were sent before" in captured.err
    log = own_log(here / "mine")
    assert {run.data.tags[names.TAG_RUN_KEY] for run in log.client.search_runs([log.experiment_id])} == RUNS
    assert send(here / "mine") == 0
    assert "everything has arrived" in capsys.readouterr().out


def test_files_that_are_lost_are_told_and_their_record_waits(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox, (files, _) = fill_outbox(mine)
    files.rename(tmp_path / "elsewhere")
    for _ in range(2):
        assert send(mine) == sync.EXIT_UNREACHABLE
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "the first of them 'badnets'" in line
        assert f"its files are not in the study's folder: put {files} back" in line
    assert [record.run for record, _ in outbox.pending()] == ["scenario/k0/badnets"]
    (tmp_path / "elsewhere").rename(files)
    assert send(mine) == 0
    check_whole(own_log(mine), tmp_path / "files")


def test_one_record_that_is_refused_holds_up_no_other(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox, _ = fill_outbox(mine)
    take = RunLog._take

    def refuse(self: RunLog, record: Record) -> str:
        if record.run == "scenario/k0/badnets":
            from mlflow import MlflowException

            raise MlflowException.invalid_parameter_value("no such name")
        return take(self, record)

    with monkeypatch.context() as broken:
        broken.setattr(RunLog, "_take", refuse)
        broken.setattr(DatabaseRows, "write", lambda self, records: [])  # which asks MLflow's client
        assert send(mine) == sync.EXIT_UNREACHABLE
    captured = capsys.readouterr()
    assert captured.out.startswith("mine: 7 records have arrived")
    assert "1 of 8 wait in" in captured.err
    assert "no such name; give the same command once that is mended" in captured.err
    assert len(list(outbox.pending())) == 1
    assert send(mine) == 0
    check_whole(own_log(mine), tmp_path / "files")


def test_plots_are_those_of_a_study(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main(["--plots", "3", "--out", str(mine.parent)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--plots names trials of a study, and 3 could be any's: give NAME" in line


def test_a_deleted_experiment_is_told_with_its_way_out(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_outbox(mine)
    log = RunLog(f"sqlite:///{mine.parent / 'mlflow.db'}", "pipd", (mine.parent / "mlflow-artifacts").as_uri())
    log.client.delete_experiment(log.experiment_id)
    assert send(mine) == sync.EXIT_UNREACHABLE
    (line,) = capsys.readouterr().err.splitlines()
    assert "must take records, and refuses what it is sent (its experiment 'pipd' was deleted; restore it" in line
    assert "8 of 8 wait in" in line
    log.client.restore_experiment(log.experiment_id)
    assert send(mine) == 0


@pytest.mark.parametrize("uri", ["mlruns", "", "sqlite:///x.db?timeout=60", "sqlite:////proc/x.db"])
def test_a_wrong_address_is_refused(uri: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_outbox(mine)
    assert send(mine, "--tracking-uri", uri) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: MLflow's address ")


def test_a_database_whose_folder_is_gone_is_not_made_again(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(mine, tracking_uri=f"sqlite:///{tmp_path / 'gone' / 'x.db'}")
    fill_outbox(mine)
    assert send(mine) == 2
    assert "name the place where it is now (--tracking-uri)" in capsys.readouterr().err
    assert not (tmp_path / "gone").exists()


@pytest.mark.slow
def test_a_server_that_was_away_gets_everything(mine: Path, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    write_settings(mine, tracking_uri=uri)
    outbox, _ = fill_outbox(mine)
    command = [sys.executable, "-m", "study.sync", "mine", "--out", str(mine.parent)]

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    away = call()
    assert away.returncode == 4, away.stderr
    assert len(list(outbox.pending())) == 8
    with server(tmp_path / "server", port):
        done = call()
        assert done.returncode == 0, done.stderr
        assert list(outbox.pending()) == []
        log = RunLog(uri, "pipd", None)
        check_whole(log, tmp_path / "files")
        for run in log.client.search_runs([log.experiment_id]):
            assert run.info.artifact_uri.startswith("mlflow-artifacts:/"), (
                "proxied: we write to no folder of the server's"
            )
    (mine / "outbox.jsonl.sent").unlink()  # as after a crash between the last record and its mark
    with server(tmp_path / "server", port):  # killed and back
        again = call()
        assert again.returncode == 0, again.stderr
        check_whole(RunLog(uri, "pipd", None), tmp_path / "files")
