"""The figures that README promises for the smoke preset, at one setting near the best: `pytest -m slow`."""

import json
from pathlib import Path
from typing import Any

import pytest

from study import evaluate

pytestmark = pytest.mark.slow

# Seeds 0 to 2 at this setting: TPR 0.993 to 1, FPR 0 to 0.009, CA 0.011 below undefended at most, ASR 0.01 at most.
SETTING = ["--set", "channel_statistic=mean", "channels_per_tap=0.04"]


def run(folder: Path, *options: str) -> dict[str, Any]:
    target = folder / "out.json"
    assert evaluate.main([*SETTING, *options, "--json", str(target), "--out", str(folder / "runs")]) == 0
    report: dict[str, Any] = json.loads(target.read_text())
    return report


@pytest.mark.parametrize("attack", ["badnets", "blended_random", "trojan_square"])
def test_pipd_finds_the_poison_and_unlearns_it(attack: str, tmp_path: Path) -> None:
    found = run(tmp_path, "--attack", attack)["metrics"]
    assert found["asr_undefended"] >= 0.95
    assert found["ca_undefended"] >= 0.95
    assert found["tpr"] >= 0.97
    assert found["fpr"] <= 0.02
    assert found["asr"] <= 0.05
    assert found["ca"] >= found["ca_undefended"] - 0.03


def test_the_clean_control_has_no_rate_to_boast_of(tmp_path: Path) -> None:
    """Nothing is poisoned: no TPR, no AUROC, no ASR, and no attack to be credited for."""
    report = run(tmp_path, "--attack", "clean", "--until", "isolate")
    assert report["metrics"]["tpr"] is None
    assert report["metrics"]["auroc"] is None
    assert 0 <= report["metrics"]["fpr"] <= 1
