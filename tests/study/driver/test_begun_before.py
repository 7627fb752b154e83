"""A study that the version before the rooms began (`begun_before/`, made by it): read, told, and gone on with."""

import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from odd_places import ASCII, EMPTY_VARIABLES, NO_HOME, PROXIES
from study_process import ONE_AT_A_TIME

from study.analyze import main as analyze
from study.compare import main as compare
from study.config.config import StudyConfig
from study.ledger.manifest import read_manifest
from study.ledger.snapshot import read_ledger
from study.report.__main__ import main as report
from study.status import main as status
from tracking.destination import sqlite_url
from tracking.mlflow_log import RunLog
from tracking.names import CONFIG_YAML, TAG_RUN_KEY
from tracking.outbox import Outbox

MADE = Path(__file__).parent / "begun_before"
BEST = 1
"""The best trial, as the version that made the study printed it."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its studies in ``runs``, where its commands look for them."""
    shutil.copytree(MADE, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize("name", ["begun", "held", "held.search", "held.judge"])
def test_its_options_make_the_same_study(name: str) -> None:
    manifest = read_manifest(MADE / name)
    assert StudyConfig(**manifest.settings).identity == manifest.identity
    assert manifest.config.identity == manifest.identity


def test_status_tells_where_it_stands(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["begun", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["state"], told["trials"]["complete"], told["trials"]["left"], told["damage"]) == ("finished", 3, 0, [])
    assert told["best"][0]["number"] == BEST
    assert shlex.split(told["go_on"])[:3] == ["python", "-m", "study.run"]
    assert status(["held"]) == 0
    assert "held.judge" in capsys.readouterr().out


def test_it_is_analyzed_compared_and_reported(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze(["begun"]) == 0
    assert f"best single configuration (#{BEST})" in " ".join(capsys.readouterr().out.split())
    assert compare(["begun:default", "begun:best"]) == 0
    assert f"trial {BEST}" in capsys.readouterr().out
    for names in (["begun"], ["held"], ["begun", "held"]):
        assert report([*names, "-o", "page.html"]) == 0
        assert Path("page.html").read_text(encoding="utf-8").count("<table") > 3


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.surroundings
@pytest.mark.filterwarnings("ignore")
def test_it_goes_on(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_ledger(runs / "begun" / "study.db").trials
    results = {path: path.read_bytes() for path in runs.glob("begun/points/*/*.json")}
    command = read_manifest(runs / "begun").resume_command(Path("runs")).replace("--trials 3", "--trials 4")
    words = [sys.executable, *shlex.split(command)[1:]]
    at = words.index("--cpus-per-trial")
    words[at : at + 2] = ONE_AT_A_TIME
    surroundings = ASCII.and_(NO_HOME).and_(PROXIES).and_(EMPTY_VARIABLES)
    done = subprocess.run(
        words, env=surroundings.environment, capture_output=True, encoding="ascii", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "UnicodeEncodeError" in line or "Traceback" in line]
    assert "4 trials (3 done)" in done.stdout
    after = read_ledger(runs / "begun" / "study.db").trials
    assert after[:3] == before
    assert [trial.state for trial in after] == ["complete"] * 4
    assert after[3].key not in {trial.key for trial in before}
    assert {path: path.read_bytes() for path in results} == results, "what was judged is not judged again"
    check_sent(runs / "begun", done.stderr)


def check_sent(study: Path, told: str) -> None:
    """The database beside the study is a new one: it has all of it, but files that went to the earlier one."""
    assert "has nothing of what was sent from" in told
    assert list(Outbox(study / "outbox.jsonl").pending()) == []
    assert "β" in (study / "summary" / "summary.txt").read_text(encoding="utf-8")
    log = RunLog(sqlite_url(study.parent / "mlflow.db"), "pipd", (study.parent / "mlflow-artifacts").as_uri())
    runs = {run.data.tags[TAG_RUN_KEY]: run for run in log.client.search_runs([log.experiment_id])}
    assert Counter(key.split("/")[0] for key in runs) == {"study": 1, "trial": 4, "scenario": 4}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    files = {key: {item.path for item in log.client.list_artifacts(run.info.run_id)} for key, run in runs.items()}
    records = [json.loads(line) for line in (study / "outbox.jsonl").read_text().splitlines()]
    controls = [record for record in records if "fpr_clean" in record["metrics"] and record["status"] == "RUNNING"]
    assert controls, "what its trials flag of clean data, told after them"
    last = next(one for one in reversed(records[:-1]) if one not in controls)
    assert files[last["run"]] == {CONFIG_YAML}, "of the trial that was run here"
    assert last["artifacts"] == f"points/{last['run'].split('/')[-1]}/trial"
    assert sum(paths - {"plots"} == {"flags", "attack"} for paths in files.values()) == 1  # plots are the best trial's
