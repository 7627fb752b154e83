"""Worker processes die: F8."""

from pathlib import Path

import pytest

from faults.conftest import Measured
from faults.studies import finish, trials_of

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]


def test_a_killed_worker_is_replaced_three_times(workplace: Path, record_property: Measured) -> None:
    """F8: SIGKILL of a trial's worker three times, and of another trial's every time."""
    printed = finish(workplace, "mortal", 4, hook="runner=Mortal")
    study = workplace / "runs" / "mortal"
    attempts = {folder.name: len(list(folder.iterdir())) for folder in study.glob("attempts/*")}
    survivor, doomed = ((study / "roles" / role).read_text() for role in ("0", "1"))
    trials = {trial.key: trial for trial in trials_of(study)}
    assert attempts == {key: 4 if key in (survivor, doomed) else 1 for key in trials}
    assert [key for key, trial in trials.items() if trial.state != "complete"] == [doomed]
    assert trials[doomed].state == "fail"
    assert trials[doomed].reason == "the worker process died, and again at each of 3 restarts"
    assert trials[survivor].values is not None
    assert "1 trials failed" in printed
    record_property("F8", f"killed 3 times: complete; 4 times: fail; {len(trials) - 1} of {len(trials)} complete")
