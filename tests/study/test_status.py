"""Where a study stands: read from a folder that a driver writes, that a crash left, or that is damaged."""

import dataclasses
import fcntl
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from checkout import PYTHONPATH, ROOT
from study_folder import SCENARIOS, copy_study, fill_outbox, open_ledger, write_scenario, write_settings

from study import run, status
from study.cli.options import given_options
from study.cli.printed_commands import runnable
from study.config.config import StudyConfig, resolve
from study.ledger.activity import Activity
from study.ledger.lock import holder, study_lock
from study.ledger.manifest import Manifest
from study.ledger.selection import best_or_knee, best_over_all, front
from study.ledger.snapshot import LedgerSnapshot, SnapshotTrial, read_ledger
from study.ledger.status import StudyStatus
from tracking.outbox import Waiting


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A stopped study in a folder whose name wants quoting."""
    return copy_study(tmp_path / "my runs 100%?")


def show(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert status.main([folder.name, "--out", str(folder.parent), *options]) == 0
    return capsys.readouterr().out


def as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(show(folder, capsys, "--json"))
    return found


def test_loads_nothing_heavy(mine: Path) -> None:
    script = (
        "import sys\nfrom study.status import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'sqlalchemy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    command = [sys.executable, "-c", script, mine.name, "--out", str(mine.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine: stopped, nobody runs it\n")


def test_tells_all_of_a_stopped_study(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = show(mine, capsys)
    assert "6 trials: 2 done, 1 failed, 1 running, 1 lost and tried again; 3 left" in text
    assert "Best: trial #1, overall score 0.7500\n  beta " in text
    assert "#4: 1 of 2 scenarios done, then interrupted; what is done is kept" in text
    assert "#2: RuntimeError: it broke" in text
    assert [line.split()[:2] for line in text.splitlines() if line.startswith(SCENARIOS)] == [
        [SCENARIOS[0], "3"],
        [SCENARIOS[1], "2"],
    ]
    assert runnable("python -m study.run --space pipd --trials 6") in text.partition("To go on:  ")[2]
    found = as_json(mine, capsys)
    assert found["trials"] == {
        "planned": 6,
        "left": 3,
        "complete": 2,
        "pruned": 0,
        "fail": 1,
        "running": 1,
        "waiting": 0,
        "lost": 1,
    }
    assert (found["state"], found["driver"], found["damage"]) == ("stopped", None, [])
    assert [(best["number"], best["values"]) for best in found["best"]] == [(1, [0.75])]
    assert found["failures"] == [{"number": 2, "reason": "badnets-0.1-s0: Traceback\n  a line\nRuntimeError: it broke"}]
    assert [trial["judged"] for trial in found["running"]] == [[SCENARIOS[0]]]
    assert [(s["name"], s["judged"], s["best"]["tpr"]) for s in found["scenarios"]] == [
        (SCENARIOS[0], 3, 0.75),
        (SCENARIOS[1], 2, 0.75),
    ]


def test_a_finished_study_can_be_extended(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = open_ledger(mine)
    while ledger.remaining(6):
        ledger.tell(ledger.ask()[0], (0.5, ""))
    ledger.recover_interrupted(lambda _: (0.5, ""))
    text = show(mine, capsys)
    assert text.startswith("mine: finished, nobody runs it")
    assert "--trials 12 " in text.partition("For more trials:  ")[2], "a command that would run nothing is no way on"


def test_says_the_same_as_the_ledger(mine: Path) -> None:
    rows = open_ledger(mine).rows()
    trials = [trial for trial in read_ledger(mine / "study.db").trials if trial.state != "waiting"]
    assert [
        (t.number, t.state, t.point, t.key, t.values[0] if t.values else None, t.reason, t.paper_default)
        for t in trials
    ] == [(r.number, r.state, r.point, r.key, r.value, r.reason, r.paper_default) for r in rows]


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_the_best_is_the_ledger_s(direction: str, best: int, tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, direction)
    for value in (-0.5, 0.25, 0.25, None):
        ledger.tell(ledger.ask()[0], (value, "" if value is not None else "broken"))
    file = read_ledger(tmp_path / "study.db")
    (found,) = front(file.trials, file.directions)
    assert best_or_knee(file.trials, file.directions) == found
    row = best_over_all(ledger.rows(), (direction,))  # type: ignore[arg-type]
    assert row is not None
    assert found.number == row.number == best


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, directions=["minimize", "maximize"])
    for values in ([0.1, 0.9], [0.2, 0.8], [0.0, 0.5], [0.1, 0.9]):
        study.tell(study.ask(), values)
    ledger = read_ledger(tmp_path / "study.db")
    assert ledger.directions == ("minimize", "maximize")
    assert [trial.number for trial in study.best_trials] == [0, 2, 3]
    assert [trial.number for trial in front(ledger.trials, ledger.directions)] == [
        0,
        2,
    ]  # of equals the first, as in the summary


WRITE = """
import sys
from pathlib import Path
from study_folder import open_ledger
ledger = open_ledger(Path(sys.argv[1]))
print("open", flush=True)
for _ in range(15):
    ledger.tell(ledger.ask()[0], (0.5, ""))
"""


def test_reads_while_a_driver_writes(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=with_tests(), stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        seen = []
        while writer.poll() is None:
            trials = read_ledger(tmp_path / "study.db").trials
            assert all(trial.values == (0.5,) for trial in trials if trial.state == "complete"), "one moment, not two"
            seen.append(sum(trial.finished for trial in trials))
    assert writer.returncode == 0, "the reader stopped the writer"
    assert seen == sorted(seen)
    assert sum(trial.finished for trial in read_ledger(tmp_path / "study.db").trials) == 15


def with_tests() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PYTHONPATH}


SPILL = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size = 2")
database.execute("begin")
database.execute("update trials set state = 'FAIL'")
for number in range(2000):
    database.execute("insert into study_user_attributes (study_id, key, value_json) values (1, ?, ?)",
                     (f"filler/{number}", '"' + "x" * 400 + '"'))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_reads_what_a_driver_left_that_was_killed_in_a_write(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = as_json(mine, capsys)
    killed = subprocess.run([sys.executable, "-c", SPILL, str(mine / "study.db")], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (mine / "study.db-journal").stat().st_size > 0, "the test made no journal that is to be rolled back"
    left = {path.name: path.read_bytes() for path in mine.glob("study.db*")}
    assert as_json(mine, capsys) == before
    assert {path.name: path.read_bytes() for path in mine.glob("study.db*")} == left, "the next driver puts it right"


def test_tells_who_runs_it(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert holder(mine) is None
    with study_lock(mine, "mine"):
        text = show(mine, capsys)
        assert text.startswith(f"mine: running, process {os.getpid()} runs it\n")
        assert "#4: 1 of 2 scenarios done\n" in text
        assert "To go on" not in text
    assert holder(mine) is None
    assert show(mine, capsys).startswith("mine: stopped, nobody runs it\n")


def test_a_look_at_the_lock_refuses_no_driver(mine: Path) -> None:
    with (mine / "lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as somebody who looks does, for an instant
        timer = threading.Timer(0.02, fcntl.flock, (file, fcntl.LOCK_UN))
        timer.start()
        with study_lock(mine, "mine"):
            assert (mine / "lock").read_text() == str(os.getpid())
        timer.join()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "small", "trials": 20, "name": None},
        {"set": {"rounds": "5", "lga": "0.1"}, "seeds": [0, 1], "attacks": ["sig:variant=abl", "badnets@0.05"]},
        {"dataset": "npz:my data.npz", "download": True, "gpus_per_trial": 0.25, "until": "isolate"},
        {"asr_floor": 0.0, "gpus_per_trial": 0.0, "pruner": "asha", "pruner_grace": 1, "pruner_factor": 1.5},
        {"blocks": [1, 2], "tracking_uri": "http://127.0.0.1:5000", "poison_rates": [0.05, 0.1]},
    ],
    ids=str,
)
def test_the_command_goes_on_with_this_study_and_no_other(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_settings(tmp_path / "a study", **{"name": "a-study", **options})
    open_ledger(tmp_path / "a study")
    words = shlex.split(as_json(tmp_path / "a study", capsys)["go_on"])
    assert words[:3] == ["python", "-m", "study.run"]
    again = resolve(StudyConfig, given_options(run._parser().parse_args(words[3:]), StudyConfig))
    assert again == config


def test_a_study_of_another_version_has_no_command(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mine / "study.json"
    known = json.loads(path.read_text())
    for change in ({"identity": "0" * 64}, {"settings": {**known["settings"], "unheard_of": 3}}):
        path.write_text(json.dumps({**known, **change}))
        assert "so it cannot go on with it" in show(mine, capsys)


def test_what_waits_for_mlflow_is_counted(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outbox, _ = fill_outbox(mine)
    text = show(mine, capsys)
    assert "8 records wait for MLflow; to send them:  python -m study.sync mine --out" in text
    outbox.mark([position for _, position in outbox.pending()][5])
    assert as_json(mine, capsys)["outbox"] == {"records": 2, "damaged": 0}


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "garbage":
        path.write_bytes(b"\xff\x00garbage" * 50)
    else:
        path.write_bytes(bytes(255 - byte if i % 97 == 0 else byte for i, byte in enumerate(content)))


@pytest.mark.parametrize("how", ["gone", "empty", "half", "garbage", "flipped"])
@pytest.mark.parametrize("name", ["study.json", "study.db", "scenario", "result", "outbox.jsonl"])
def test_survives_damage_and_names_it(name: str, how: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_outbox(mine)
    records = {"scenario": write_scenario(mine, "kx", "badnets"), "result": mine / "points" / "k0" / "result.json"}
    path = records.get(name, mine / name)
    damage(path, how)
    known = as_json(mine, capsys)
    silent = (how == "gone" and name in ("scenario", "result", "outbox.jsonl")) or (name, how) in {
        ("outbox.jsonl", "empty"),  # nothing was ever to be sent
        ("outbox.jsonl", "half"),  # the last line was being written
        ("outbox.jsonl", "garbage"),  # likewise: it has no line
    }
    assert any(str(path) in line for line in known["damage"]) != silent
    assert "mine: " in show(mine, capsys)
    if name not in ("study.json", "study.db"):
        assert known["trials"]["left"] == 3, "what can be read is told"
    elif how != "flipped" or name == "study.json":
        assert (known["state"], known["trials"]["left"]) == ("damaged", None)
    assert status.main(["--out", str(mine.parent)]) == 0
    assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "x", "-3", "7", "9" * 30, "99999"])
def test_a_damaged_mark_counts_everything_as_waiting(
    content: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_outbox(mine)
    (mine / "outbox.jsonl.sent").write_text(content)
    assert as_json(mine, capsys)["outbox"] == {"records": 8, "damaged": 0}


def test_lists_every_study(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy_study(mine.parent, "other", trials=3)
    (mine.parent / "store" / "poison").mkdir(parents=True)
    (mine.parent / "mlflow.db").write_bytes(b"")
    with study_lock(mine, "mine"):
        assert status.main(["--out", str(mine.parent)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [
        ["mine", "running", "2", "of", "6", "1", "1", "0.7500", "none", "yet"],
        ["other", "finished", "2", "of", "3", "1", "1", "0.7500", "none", "yet"],
    ]
    assert status.main(["--out", str(mine.parent), "--json"]) == 0
    assert [found["name"] for found in json.loads(capsys.readouterr().out)] == ["mine", "other"]


def test_an_empty_folder_has_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no study in {tmp_path}\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [("mime", "did you mean 'mine'?"), ("../my runs 100%?/mine", "no study lies in"), ("", "unknown study")],
)
def test_an_unknown_study_is_refused(name: str, said: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([name, "--out", str(mine.parent)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_missing_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: --out must be the folder of a study's results, got ")


def test_a_ledger_of_another_schema_is_said_to_be_one(mine: Path) -> None:
    """Optuna's tables are read without Optuna, so a release that means something else by them must not be misread."""
    with sqlite3.connect(mine / "study.db") as database:
        database.execute("update version_info set schema_version = 13, library_version = '9.0'")
    with pytest.raises(ValueError, match=r"schema 12, got 13 of Optuna 9\.0"):
        read_ledger(mine / "study.db")


def test_commands_to_copy_hold_with_a_space_in_the_path(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_outbox(mine)
    commands = [line.partition(":  ")[2] for line in show(mine, capsys).splitlines() if " -m study." in line]
    assert len(commands) == 2
    for command in commands:
        assert str(mine.parent) in shlex.split(command)


def write_activity(folder: Path, **said: Any) -> None:
    """As a driver does that began forty seconds ago."""
    now = time.time()
    known = Activity(os.getpid(), now - 40, now, **said)
    (folder / "activity.json").write_text(json.dumps(dataclasses.asdict(known)))


def test_says_how_long_it_has_taken_what_is_left_and_what_is_built(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = ("standard_training of badnets-0.1-s0, step 3 of 60",)
    write_activity(mine, phase="shared stages", done=4, total=10, left_seconds=150.0, now=built, earlier_seconds=60.0)
    with study_lock(mine, "mine"):
        lines = show(mine, capsys).splitlines()
        known = as_json(mine, capsys)["progress"]
        assert status.main(["--out", str(mine.parent)]) == 0
        row = capsys.readouterr().out.splitlines()[2]
    assert lines[2:4] == [
        "running for 40 s (1 min 40 s with earlier runs); 4 of 10 stages that all trials share done, about 2 min 30 s "
        "left, then the trials",
        "Being built: standard_training of badnets-0.1-s0, step 3 of 60",
    ]
    assert "about 2 min 30 s" in row
    assert (known["phase"], known["done"], known["total"], known["now"]) == ("shared stages", 4, 10, list(built))
    assert known["elapsed_seconds"] == pytest.approx(40, abs=5)
    assert known["spent_seconds"] == pytest.approx(100, abs=5)
    assert known["left_seconds"] == pytest.approx(150, abs=5)


def test_what_one_of_several_studies_still_takes_is_the_least_of_all() -> None:
    """The first is over, the second nearly, and nobody has measured the third."""
    now = time.time()
    trials = [SnapshotTrial(n, "complete", {}, f"k{n}", (0.5,), "", n == 0) for n in range(4)]

    def of(name: str, done: int, driver: str | None) -> StudyStatus:
        activity = Activity(1, now - 180, now, phase="trials", done=9 * done, total=36, left_seconds=60.0)
        ledger = LedgerSnapshot(("maximize",), tuple(trials[:done]))
        manifest = Manifest("", (), {"trials": 4})
        return StudyStatus(Path(name), driver, manifest, ledger, Waiting(0, 0), activity if done else None)

    parts = of("whole.a", 4, None), of("whole.b", 3, "1"), of("whole.c", 0, None)
    whole = dataclasses.replace(of("whole", 0, "1"), ledger=None, parts=parts)
    assert whole.left_is_least
    assert status._time_left(whole) == "over 1 min"
    assert status._time_left(parts[1]) == "about 1 min"
    first = status._now(whole)[0]
    assert first.startswith("running whole.b for 3 min 0 s (6 min 0 s in all its studies); 27 of 36 ")


def test_a_killed_driver_s_last_words_are_not_taken_for_now(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_activity(mine, phase="trials", done=4, total=12, left_seconds=99.0, now=("trial #4 on badnets-0.1-s0",))
    text, known = show(mine, capsys), as_json(mine, capsys)
    assert "it has taken 40 s so far\n" in text
    assert "trial #4 on" not in text
    assert (known["progress"]["left_seconds"], known["progress"]["phase"], known["progress"]["now"]) == (None, None, [])


def test_a_study_of_before_says_nothing_of_time(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with study_lock(mine, "mine"):
        assert "running for" not in show(mine, capsys)
        assert as_json(mine, capsys)["progress"] is None


def test_what_mlflow_has_is_said_in_words(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def last_column() -> str:
        assert status.main(["--out", str(mine.parent)]) == 0
        header, _, row = capsys.readouterr().out.splitlines()
        return row[header.index("MLflow records") :].strip()

    assert last_column() == "none yet"
    outbox, _ = fill_outbox(mine)
    assert last_column() == "8 waiting"
    outbox.mark(max(position for _, position in outbox.pending()))
    assert last_column() == "all sent"


def test_the_words_of_the_field_are_explained_and_ours_do_not_show(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_outbox(mine)
    text = show(mine, capsys)
    for term in ("TPR and FPR: ", "CA: accuracy", "ASR: the share"):
        assert term in text
    assert not re.search(r"\b(judged|point|cell|told|oracle)\b", text)
