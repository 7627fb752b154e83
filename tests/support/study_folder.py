"""A study's folder as a driver leaves it, written by hand: for the commands that read one and run nothing."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from small_study import empty_ledger, scenario_record

from search_spaces.space import Choice, Float, Int, SearchSpace
from study.config.config import StudyConfig, resolve
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord, write_record
from tracking.outbox import Outbox, Record

SPACE = SearchSpace(
    "toy",
    "pipd",
    {"beta": Float(0.0, 6.0, "why"), "rounds": Int(1, 12, "why"), "statistic": Choice(("max", "mean"), "why")},
)
SCENARIOS = ("badnets-0.1-s0", "trojan_square-0.1-s0")


def write_settings(folder: Path, **options: Any) -> StudyConfig:
    """`study.json` of a study that was asked for six trials."""
    config = resolve(StudyConfig, {"name": folder.name, "out": folder.parent, "trials": 6, **options})
    known = {
        "identity": config.identity,
        "data": [],
        "settings": config.model_dump(mode="json"),
        "objective": "overall_score",
        "scenarios": list(SCENARIOS),
        "code_version": "0",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(known))
    return config


def open_ledger(folder: Path, direction: Any = "maximize") -> Ledger:
    """The folder's ledger, as a driver has it."""
    path = folder / "study.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(empty_ledger(direction))
    return Ledger(path, "toy", SPACE, direction, "random", 0, 12, lambda point: repr(sorted(point.items())))


def write_scenario(folder: Path, key: str, scenario: str, value: float = 0.5, **changes: Any) -> Path:
    """A scenario's record below a point."""
    metrics = {"tpr": value, "fpr": 0.0, "ca": 0.9, "asr": 0.1, "ca_undefended": 0.95, "asr_undefended": 1.0}
    path = folder / "points" / key / f"{scenario}.json"
    write_record(path, scenario_record(scenario, metrics, **changes))
    return path


def make_study(folder: Path) -> Path:
    """Two trials done, one failed, one lost, one in the middle of its second scenario."""
    write_settings(folder)
    ledger = open_ledger(folder)
    for value in (0.25, 0.75):
        number, point, _ = ledger.ask()
        ledger.tell(number, (value, ""))
        write_record(
            folder / "points" / f"k{number}" / "result.json", TrialRecord(f"k{number}", point, list(SCENARIOS))
        )
    number, _, _ = ledger.ask()
    ledger.tell(number, (None, "badnets-0.1-s0: Traceback\n  a line\nRuntimeError: it broke"))
    ledger.ask()
    ledger = open_ledger(folder)
    ledger.recover_interrupted(lambda _: None)  # the next driver: the last trial is lost, and queued again
    ledger.ask()
    keys = [row.key for row in ledger.rows()]
    for number in (0, 1):
        for scenario in SCENARIOS:
            write_scenario(folder, keys[number], scenario, value=0.25 + 0.5 * number)
    write_scenario(folder, keys[4], SCENARIOS[0])
    return folder


@functools.cache
def _made() -> Path:
    """A study to copy: making one takes a second, copying it none. Removed when Python ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return make_study(Path(folder.name) / "made")


def copy_study(out: Path, name: str = "mine", **options: Any) -> Path:
    """The same as `make_study`."""
    folder = out / name
    shutil.copytree(_made(), folder)
    write_settings(folder, **options)
    return folder


def fill_outbox(folder: Path, trials: int = 2) -> tuple[Outbox, list[Path]]:
    """Records of a whole study, with files; the folders of those that go once they were sent."""
    outbox = Outbox(folder / "outbox.jsonl")
    outbox.append(Record("study/x", None, folder.name, 1_000, params={"space": "pipd"}))
    sent_once = []
    for number in range(trials):
        files = folder / "points" / f"k{number}" / "badnets"
        files.mkdir(parents=True)
        (files / "flagged.csv").write_text(f"index\n{number}\n")
        sent_once.append(files)
        outbox.append(Record(f"trial/k{number}", "study/x", "trial", 2_000 + number))
        outbox.append(
            Record(
                f"scenario/k{number}/badnets",
                f"trial/k{number}",
                "badnets",
                3_000 + number,
                metrics={"tpr": 0.5},
                series={"isolate.tpr": [0.25, 0.5, 0.75]},
                artifacts=str(files),
                status="FINISHED",
            )
        )
        outbox.append(Record(f"trial/k{number}", "study/x", "trial", 4_000, metrics={"tpr": 0.5}, status="FINISHED"))
    summary = folder / "summary"
    summary.mkdir()
    (summary / "summary.txt").write_text("the answer\n")
    outbox.append(
        Record("study/x", None, folder.name, 5_000, artifacts=str(summary), keep_artifacts=True, status="FINISHED")
    )
    return outbox, sent_once
