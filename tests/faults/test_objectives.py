"""A trial whose objective is no number: F13."""

from pathlib import Path

import pytest

from faults.conftest import Measured
from faults.runners import ODD
from faults.studies import finish, trials_of

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

CAUSES = {
    1: "badnets-0.1-s0: tpr must be a finite number, got nan",
    2: "badnets-0.1-s0: tpr must be a finite number, got inf",
    3: "badnets-0.1-s0: fpr must be a finite number, got inf",
    4: "{} is undefined on every scenario",
    5: "{} is undefined on every scenario",
    6: "badnets-0.1-s0: tpr must be a finite number, got '0.9'",
}
"""The reason that a trial with this role has to have, for the objective that is missing."""


@pytest.mark.parametrize(("objective", "missing"), [("isolation_score", "isolation_score"), ("fpr:min,tpr:max", "tpr")])
def test_what_is_no_number_fails_with_a_reason(
    objective: str, missing: str, workplace: Path, record_property: Measured
) -> None:
    """F13: NaN, infinite, missing, None and text, as the only objective and as one of two."""
    name = f"odd-{missing}"
    finish(workplace, name, len(ODD) + 2, "--objective", objective, hook="runner=Odd")
    study = workplace / "runs" / name
    roles = {(study / "roles" / str(role)).read_text(): role for role in range(len(ODD) + 2)}
    trials = trials_of(study)
    assert not {"running", "waiting"} & {trial.state for trial in trials}
    assert {roles[trial.key] for trial in trials if trial.state == "complete"} == set(roles.values()) - ODD.keys()
    found = {roles[trial.key]: trial.reason for trial in trials if trial.state == "fail"}
    assert found == {role: cause.format(missing) for role, cause in CAUSES.items()}
    record_property("F13", f"{objective}: {len(found)} of {len(ODD)} fail with a reason, 0 running")
