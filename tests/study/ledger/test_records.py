"""Results on disk: whole or not there, and what a damaged one costs."""

import errno
import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import scenario_record

from defenses.registry import UserError
from study.ledger.records import ScenarioRecord, TrialRecord, build_record, read_scenario, read_trial, write_record

SCENARIO = scenario_record(
    "badnets-0.1-s0",
    {"tpr": 0.75, "fpr": 0.125, "auroc": None},
    attack_failed=True,
    meta={"n_train": 128, "fingerprint": "é" * 8, "effective_rate": 0.09375},
    artifacts="/tmp/a folder/badnets-0.1-s0",
)
TRIAL = TrialRecord("0123abcd", {"beta": 3.0, "rounds": 8, "channel_statistic": "max"}, ["badnets-0.1-s0"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """In a folder that does not exist yet."""
    return tmp_path / "points" / "0123abcd" / "badnets-0.1-s0.json"


def test_a_scenario_reads_back_as_it_was(path: Path) -> None:
    write_record(path, SCENARIO)
    assert read_scenario(path) == SCENARIO
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing temporary is left"


@pytest.mark.parametrize("failure", ["", "badnets-0.1-s0: the loss must stay finite\n  in two lines"])
def test_a_trial_reads_back_as_it_was(failure: str, path: Path) -> None:
    record = TrialRecord(TRIAL.key, TRIAL.point, TRIAL.scenarios, failure)
    write_record(path, record)
    assert read_trial(path) == record


def test_writing_again_replaces(path: Path) -> None:
    write_record(path, TRIAL)
    write_record(path, TrialRecord(TRIAL.key, {}, [], "broken"))
    found = read_trial(path)
    assert found is not None
    assert found.failure == "broken"


def test_what_is_missing_is_none_without_a_word(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_scenario(path) is None
    assert read_trial(path) is None
    assert caplog.text == ""


def test_a_truncated_record_is_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_record(path, SCENARIO)
    whole = path.read_bytes()
    cuts = range(0, len(whole), 7)
    assert len(cuts) > 50
    for cut in cuts:
        path.write_bytes(whole[:cut])
        assert read_scenario(path) is None, f"cut at byte {cut} of {len(whole)}"
    assert f"{path} is damaged" in caplog.text
    path.write_bytes(whole)
    assert read_scenario(path) == SCENARIO


def test_a_flipped_bit_never_gives_another_record(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    write_record(path, SCENARIO)
    whole = path.read_bytes()
    unnoticed = []
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        found = read_scenario(path)
        assert found is None or found == SCENARIO, f"byte {position}: {whole[position]:#x} to {damaged[position]:#x}"
        if found is not None:
            unnoticed.append(whole[position - 4 : position + 1])
    # JSON writes an accent as \u00e9, where a capital E says the same.
    assert all(b"00e" in text for text in unnoticed), unnoticed


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", "{}", '{"sha256": "0"}', '{"record": {}}', '{"sha256": "0", "record": []}', "NaN"]
)
def test_other_json_is_none(content: str, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert read_scenario(path) is None
    assert read_trial(path) is None


def test_an_edited_record_is_none(path: Path) -> None:
    write_record(path, SCENARIO)
    path.write_text(path.read_text().replace('"tpr": 0.75', '"tpr": 0.95'))
    assert read_scenario(path) is None


def test_a_record_of_another_version_is_none(path: Path) -> None:
    # What an older version would have written: the same layout and a right checksum, one field short.
    write_record(path, TRIAL)
    assert read_scenario(path) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.9", [0.9], np.float32(0.9)], ids=repr)
def test_what_is_no_finite_number_is_refused(value: Any, path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"tpr must be a finite number, got {value!r}")):
        scenario_record("badnets-0.1-s0", {"tpr": value})
    with pytest.raises(UserError, match="loss must be a finite number"):
        scenario_record("badnets-0.1-s0", {}, series={"loss": [0.5, value]})
    # What an older version may have written: a right checksum, and no number.
    object.__setattr__(record := scenario_record("badnets-0.1-s0", {}), "metrics", {"tpr": "0.9"})
    write_record(path, record)
    assert read_scenario(path) is None


def test_an_undefined_number_is_none(path: Path) -> None:
    write_record(path, scenario_record("badnets-0.1-s0", {"tpr": None}))
    assert json.loads(path.read_text())["record"]["metrics"] == {"tpr": None}


def test_a_crash_while_writing_keeps_the_old_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(path, TRIAL)

    def killed(_file: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_record(path, TrialRecord(TRIAL.key, {}, [], "new"))
    assert read_trial(path) == TRIAL


def test_a_full_disk_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"no room left on disk below {path.parent}: free some"):
        write_record(path, TRIAL)
    assert read_trial(path) is None


def test_what_is_kept_of_a_result(tmp_path: Path) -> None:
    from defenses.api import StageRun
    from study.scenarios.evaluation import EvaluationResult
    from study.scenarios.scenario import Scenario

    result = EvaluationResult(
        scenario=Scenario("badnets", 0.1, 0, 0),
        metrics={"tpr": 0.5, "auroc": None},
        series={"isolate.tpr": [0.5]},
        stages=(
            StageRun("poison", "a" * 64, True, 0.1, 1.5),
            StageRun("own", "b" * 64, False, 2.0, 2.0, 4.5, True, "eager", "t" * 64, 1.5),
        ),
        meta={"fingerprint": "f" * 64},
        attack_failed=False,
        wall_seconds=2.5,
        scores=np.zeros(4),
        flagged=np.zeros(4, dtype=bool),
    )
    expected = ScenarioRecord(
        scenario="badnets-0.1-s0",
        metrics={"tpr": 0.5, "auroc": None},
        series={"isolate.tpr": [0.5]},
        stages=[
            {"stage": "poison", "key": "a" * 64, "hit": True, "wall_seconds": 0.1, "built_seconds": 1.5}
            | {"epoch_equivalents": None, "of_defense": None, "step": None, "training": "", "spent_epochs": None},
            {"stage": "own", "key": "b" * 64, "hit": False, "wall_seconds": 2.0, "built_seconds": 2.0}
            | {"epoch_equivalents": 4.5, "of_defense": True, "step": "eager", "training": "t" * 64}
            | {"spent_epochs": 1.5},
        ],
        meta={"fingerprint": "f" * 64},
        attack_failed=False,
        wall_seconds=2.5,
        artifacts=str(tmp_path),
    )
    assert build_record(result, tmp_path) == expected
