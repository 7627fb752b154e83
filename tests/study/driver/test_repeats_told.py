"""A study with repeats, from its settlement to what MLflow, the manifest and the joint tables are told of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, judged, rows_of
from small_study import save_npz, small_plan

from study.datasets.images import Images
from study.driver.per_scenario import build_plans
from study.ledger.manifest import read_manifest
from study.planning.plan import Plan
from study.report.best_configuration import best_configuration
from study.report.sections.joint_closing import joint_text
from tracking import names

Opened = Callable[..., Desk]


@pytest.fixture
def make(tmp_path: Path, images: Images) -> Opened:
    dataset = save_npz(tmp_path / "data.npz", images)

    def opened(plan: Plan | None = None, **options: Any) -> Desk:
        plan = plan or small_plan(dataset, tmp_path / "out", **options)
        folder = tmp_path / plan.config.study_name
        folder.mkdir()
        desk = Desk(plan, folder)
        desk.ledger.enqueue_default(plan.default_point)
        return desk

    return opened


def test_mlflow_is_told_which_repeat_a_run_is(make: Opened) -> None:
    desk = make(repeats=2, name="repeated")
    key = desk.trial(judged(1.0, 0.0, 0.9, 0.0), judged(0.0, 0.0, 0.9, 1.0)).key
    for record in desk.reader.readable(key).values():
        desk.told.scenario_judged(key, 0, record)
    tags = {one.name.split()[-1]: one.tags for one in desk.records()}
    repeats = {name: own[names.TAG_REPEAT] for name, own in tags.items() if names.TAG_REPEAT in own}
    assert repeats == {"badnets-0.1-s0": "0", "badnets-0.1-s0-r1": "1"}
    once = make(name="once")
    key = once.trial(judged(1.0, 0.0, 0.9, 0.0)).key
    once.told.scenario_judged(key, 0, once.reader.readable(key)["badnets-0.1-s0"])
    assert not any(names.TAG_REPEAT in one.tags for one in once.records())


def test_a_trial_is_worth_the_mean_over_its_repeats(make: Opened) -> None:
    desk = make(repeats=2, objective="tpr", name="repeated")
    assert desk.trial(judged(1.0, 0.0, 0.9, 0.0), judged(0.5, 0.0, 0.9, 0.0)).value == pytest.approx(0.75)
    results = desk.closing().results
    assert results.repeats == 2
    assert results.scenarios["poisoning"].tolist() == ["badnets-0.1-s0"] * 2
    manifest = read_manifest(desk.folder)
    assert [part.repeat for part in manifest.parts] == [0, 1]
    assert "--repeats 2" in manifest.resume_command(desk.folder.parent)
    assert manifest.data[0] == manifest.data[1]


def test_the_best_configuration_names_a_repeat_only_where_the_first_one_s_attack_fails(make: Opened) -> None:
    desk = make(repeats=2, objective="tpr", name="repeated")
    desk.trial(judged(1.0, 0.0, 0.9, 0.0), judged(0.5, 0.0, 0.9, 0.0))
    assert "repeat:" not in str(best_configuration(desk.closing().results))
    other = make(repeats=2, objective="tpr", name="other")
    other.trial(judged(1.0, 0.0, 0.9, 0.0), judged(0.5, 0.0, 0.9, 0.0), failed=("badnets-0.1-s0",))
    assert "repeat: 1" in str(best_configuration(other.closing().results))


def test_each_scenario_s_own_study_has_a_line_of_all_its_repeats(make: Opened, images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "same.npz", images)
    whole = small_plan(dataset, tmp_path / "out", repeats=2, seeds=(0, 1), per_scenario=True, name="all")
    closings = []
    for plan in build_plans(whole):
        desk = make(plan)
        for good in (0.8, 0.9):
            desk.trial(judged(good, 0.0, 0.9, 0.0), judged(good - 0.2, 0.0, 0.9, 0.0))
        closings.append(desk.closing())
    text = joint_text(closings)
    rows = rows_of(text, "attack and rate  model")
    assert [row[1] for row in rows] == ["undefended", "paper default", "best (#1)"] * 2
    assert rows[1][2] == "0.700±0.141"
    assert [row[-1] for row in rows] == ["-", "1 of 2", "0 of 2"] * 2, "an AUROC of 0.6 is that of a failed run"
    assert "± standard deviation over 2 repeats" in text
