"""The files and sums behind the FPR when nothing is poisoned, and behind a defense's cost."""

from pathlib import Path
from typing import Any

import pytest

from study.ledger.clean_control import keep_clean_control, read_clean_control
from study.ledger.method_cost import method_cost
from study.ledger.study_folder import CLEAN_CONTROL


def test_a_control_adds_to_what_is_there(tmp_path: Path) -> None:
    assert read_clean_control(tmp_path) == {}
    assert keep_clean_control(tmp_path, "a", 0, 0.25) == {0: 0.25}
    assert keep_clean_control(tmp_path, "b", 0, 1.0) == {0: 1.0}
    assert keep_clean_control(tmp_path, "a", 7, 0.0) == {0: 0.25, 7: 0.0}
    assert read_clean_control(tmp_path) == {"a": {0: 0.25, 7: 0.0}, "b": {0: 1.0}}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"trials": 3}',
        '{"trials": {"a": {}}}',
        '{"trials": {"a": {"flagged_share": {"0": NaN}}}}',
        '{"trials": {"a": {"flagged_share": {"0": 1.5}}}}',
        '{"trials": {"a": {"flagged_share": {"zero": 0.5}}}}',
    ],
)
def test_a_damaged_file_counts_as_missing_and_is_written_anew(content: str, tmp_path: Path) -> None:
    (tmp_path / CLEAN_CONTROL).write_text(content)
    assert read_clean_control(tmp_path) == {}
    keep_clean_control(tmp_path, "a", 0, 0.5)
    assert read_clean_control(tmp_path) == {"a": {0: 0.5}}


def stage(name: str, hit: bool, **others: Any) -> dict[str, Any]:
    return {"stage": name, "hit": hit, "wall_seconds": 1.0, "built_seconds": 8.0, **others}


def test_what_a_run_trained_to_be_compared_early_is_spent_as_well() -> None:
    """Epochs 1 to 4, then 5 to 12, then 13 to 30 of one training; the activations were computed at each look."""

    def read(epoch: int, seconds: float, **others: Any) -> list[dict[str, Any]]:
        own = {"of_defense": True, "wall_seconds": seconds, **others}
        return [
            stage("pre_isolation", False, key=f"p{epoch}", training="t", epoch_equivalents=float(epoch), **own),
            stage("activations", False, key=f"a{epoch}", epoch_equivalents=0.3, **own),
        ]

    cost = method_cost(read(30, 18.0), (), [*read(4, 4.0), *read(12, 8.0)])
    assert (cost.built_epochs, cost.built_seconds) == (pytest.approx(30.3), 16.0), "by itself it reads once"
    assert cost.spent_epochs == pytest.approx(30 + 3 * 0.3)
    assert cost.spent_seconds == pytest.approx(2 * (4 + 8 + 18))


def test_what_a_kept_state_saved_is_not_spent() -> None:
    """Another trial had trained 24 of 30 epochs; the first 4 of these were read for a comparison."""
    own = {"of_defense": True, "training": "t"}
    early = stage("pre_isolation", False, epoch_equivalents=4.0, spent_epochs=0.0, **own)
    last = stage("pre_isolation", False, epoch_equivalents=30.0, spent_epochs=6.0, **own)
    cost = method_cost([last], (), [early])
    assert (cost.built_epochs, cost.spent_epochs) == (30.0, 6.0)


def test_the_defense_s_own_stages_cost_and_the_judge_s_do_not() -> None:
    stages = [
        stage("poison", False, epoch_equivalents=None, of_defense=False),
        stage("standard_training", True, epoch_equivalents=20.0, of_defense=False),
        stage("pre_isolation", True, epoch_equivalents=10.5, of_defense=True),
        stage("isolate", False, epoch_equivalents=0.0, of_defense=True),
        stage("selective_training", False, epoch_equivalents=4.0, of_defense=True),
    ]
    cost = method_cost(stages, ())
    assert (cost.built_epochs, cost.spent_epochs) == (14.5, 4.0)
    assert (cost.built_seconds, cost.spent_seconds) == (24.0, 2.0)
    detector = [{**one, "of_defense": one["stage"] != "poison"} for one in stages]
    assert method_cost(detector, ()).built_epochs == 34.5  # it builds on the undefended model


def test_records_that_say_nothing_are_read_by_the_stages_names() -> None:
    stages = [stage("poison", False), stage("pre_isolation", True), stage("isolate", False)]
    cost = method_cost(stages, {"pre_isolation", "isolate"})
    assert (cost.built_epochs, cost.spent_epochs) == (None, None)
    assert (cost.built_seconds, cost.spent_seconds) == (16.0, 1.0)
    assert method_cost([], ()).built_epochs is None
