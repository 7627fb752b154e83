"""A study that is moved between two sittings goes on where it lies now, and nothing comes to be where it lay."""

import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow_servers import free_port
from odd_places import ALL, Place
from study_process import command, make_workplace

from study.ledger.manifest import read_manifest
from study.ledger.snapshot import read_ledger
from tracking import names
from tracking.destination import sqlite_url
from tracking.mlflow_log import RunLog
from tracking.outbox import Outbox

pytestmark = [
    pytest.mark.surroundings,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
FILES = {"scenario": {"flags", "plots", "attack"}, "trial": {names.CONFIG_YAML}}


def run(words: list[str], place: Place) -> str:
    """Runs a command to its end, which has to be a good one; what it said on standard error."""
    done = subprocess.run(
        words, env=place.environment, cwd=place.cwd, capture_output=True, encoding="utf-8", timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def check_whole(out: Path, trials: int) -> None:
    """Each run once, finished, with its files in the folder that lies beside the database."""
    assert [trial.state for trial in read_ledger(out / "there" / "study.db").trials] == ["complete"] * trials
    assert list(Outbox(out / "there" / "outbox.jsonl").pending()) == []
    log = RunLog(sqlite_url(out / "mlflow.db"), "pipd", (out / "mlflow-artifacts").as_uri())
    runs = log.client.search_runs([log.experiment_id])
    kinds = Counter(run.data.tags[names.TAG_KIND] for run in runs)
    assert kinds == {"study": 1, "trial": trials, "scenario": 2 * trials}
    for found in runs:
        assert found.info.status == "FINISHED"
        assert found.info.artifact_uri.startswith((out / "mlflow-artifacts").as_uri())
        files = {item.path for item in log.client.list_artifacts(found.info.run_id)}
        study = {names.SUMMARY_TXT, names.RESULTS_CSV, names.BEST} | (files & {names.REPORT_HTML})
        assert files == FILES.get(found.data.tags[names.TAG_KIND], study)


@pytest.mark.parametrize("first", ["sent", "not sent"])
def test_it_goes_on_where_it_lies_now(first: str, tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    away = [] if first == "sent" else ["--tracking-uri", f"http://127.0.0.1:{free_port()}"]
    run(command(place, "--name", "there", "--trials", "2", *away), ALL)
    here = tmp_path / "archive" / "my runs"
    shutil.move(tmp_path / "runs", here)
    words = shlex.split(read_manifest(here / "there").resume_command(here).replace("--trials 2", "--trials 3"))
    words = [word for word in words if word not in away]  # from now on to the database beside it
    told = run([sys.executable, *words[1:]], ALL)
    assert "cannot be reached" not in told
    check_whole(here, 3)
    assert not (tmp_path / "runs").exists()
    for module in ("study.status", "study.sync"):
        run([sys.executable, "-m", module, "there", "--out", str(here)], ALL)
    assert not (tmp_path / "runs").exists()
