"""The commands that need no Ray, in odd surroundings: without UTF-8, without a home, where nothing can be written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from http_answers import answering
from mlflow_servers import empty_database, free_port, server
from odd_places import (
    ALL,
    ASCII,
    ASCII_STREAMS,
    DEAD,
    EMPTY_VARIABLES,
    LATIN_1,
    NO_HOME,
    PLAIN_C,
    PROXIES,
    READ_ONLY_CWD,
    Place,
)
from study_folder import fill_outbox
from told_study import write_study

from tracking import names
from tracking.environment import spare_loopback
from tracking.mlflow_log import RunLog
from tracking.outbox import Outbox

pytestmark = [pytest.mark.surroundings, pytest.mark.filterwarnings("ignore")]

ONE_AFTER_THE_OTHER = """
import importlib, json, sys
codes = []
for module, *words in json.loads(sys.argv[1]):
    try:
        codes.append(importlib.import_module(module).main(words))
    except SystemExit as end:
        codes.append(end.code or 0)
sys.stderr.flush()
sys.stdout.write("codes " + json.dumps(codes))
"""
"""Commands in one process: each by itself would load pandas, matplotlib and MLflow again."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies that nothing of was sent, beside an empty database."""
    out = tmp_path_factory.mktemp("made") / "my runs"
    write_study(out / "mine", trials=3, attacks=("badnets",), rates=(0.1,), seeds=(0, 1))
    fill_outbox(out / "mine")
    (out / "mlflow.db").write_bytes(empty_database())
    return out


def run_all(out: Path, place: Place) -> tuple[list[int], str, str]:
    """The commands' exit codes, and what they print, in bytes that any encoding can show."""
    studies = ["--out", str(out)]
    commands = [
        ["study.status", *studies],
        ["study.status", "mine", *studies],
        ["study.analyze", "mine", *studies],
        ["study.compare", "mine:default", "mine:best", *studies],
        ["study.sync", *studies],
        ["study.report.__main__", "mine", "-o", str(out / "r.html"), "--markdown", str(out / "r.md"), *studies],
        ["study.run", "--list"],
        ["study.run", "--help"],
        ["study.run", "--dry-run", *studies],
        ["study.status", "mein", *studies],
    ]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)],
        env=place.environment,
        cwd=place.cwd,
        capture_output=True,
        timeout=300,
        check=False,
    )
    printed, errors = done.stdout.decode("latin-1"), done.stderr.decode("latin-1")
    assert done.returncode == 0, printed + errors
    text, _, codes = printed.rpartition("codes ")
    return json.loads(codes), text, errors


SINGLE = {
    "ASCII": ASCII,
    "ASCII streams": ASCII_STREAMS,
    "Latin-1 streams": LATIN_1,
    "LC_ALL=C": PLAIN_C,
    "no home": NO_HOME,
    "read-only folder": READ_ONLY_CWD,
    "dead proxies": PROXIES,
    "empty variables": EMPTY_VARIABLES,
}


@pytest.mark.slow
@pytest.mark.parametrize("place", [pytest.param(ALL, id="all"), *(pytest.param(SINGLE[n], id=n) for n in SINGLE)])
def test_every_command_works(place: Place, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "my runs"
    shutil.copytree(made, out)
    codes, printed, errors = run_all(out, place)
    assert codes == [0] * 9 + [2], printed + errors
    assert "Traceback" not in printed + errors
    assert ("? beta" if "ascii" in str(place).lower() or place.changed.get("PYTHONUTF8") else "beta") in printed
    assert "β" in (out / "r.html").read_text(encoding="utf-8")
    assert "β" in (out / "r.md").read_text(encoding="utf-8")
    assert list(Outbox(out / "mine" / "outbox.jsonl").pending()) == []
    log = RunLog(f"sqlite:///{out / 'mlflow.db'}", "pipd", None)
    runs = log.client.search_runs([log.experiment_id])
    assert len(runs) == 6, "the five of the outbox, and the study's own, to which the report was sent"
    for run in runs:
        if run.data.tags[names.TAG_RUN_KEY].startswith("scenario/"):
            assert [item.path for item in log.client.list_artifacts(run.info.run_id)] == ["flagged.csv"]


def test_a_proxy_is_asked_for_nothing_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PROXIES.changed.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "intern.example")
    told = {
        "experiment_id": "1",
        "name": "pipd",
        "lifecycle_stage": "active",
        "artifact_location": "mlflow-artifacts:/1",
    }
    with answering(200, json.dumps({"experiment": told})) as answers:
        assert RunLog(answers.uri, "pipd", None).experiment_id == "1"
        assert answers.asked


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "a.example, 127.0.0.1"}, "a.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_what_is_spared_stays_spared(before: dict[str, str], after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name in PROXIES.changed:
        monkeypatch.delenv(name, raising=False)
    spare_loopback()
    assert "no_proxy" not in os.environ, "without a proxy there is nothing to spare"
    for name, value in (before | {"https_proxy": DEAD}).items():
        monkeypatch.setenv(name, value)
    spare_loopback()
    spare_loopback()
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (after, after)


@pytest.mark.slow
def test_a_server_on_this_machine_is_reached_past_a_dead_proxy(made: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "my runs", free_port()
    shutil.copytree(made, out)
    words = ["mine", "--out", str(out), "--tracking-uri", f"http://127.0.0.1:{port}"]
    with server(tmp_path / "server", port):
        done = subprocess.run(
            [sys.executable, "-m", "study.sync", *words],
            env=PROXIES.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "8 records have arrived" in done.stdout
