"""The files that a study ends with, and the names of its runs after a kill."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import BAD, GOOD, Desk, judged
from small_study import save_npz, scenario_record, small_plan

from defenses.registry import UserError
from study.datasets.images import Images
from study.driver.best_trial import BestTrial
from study.driver.driver import claim_folder
from study.ledger.records import write_record
from tracking import names

MakeDesk = Callable[..., Desk]
WON, LOST = judged(1.0, 0.0, 1.0, 0.0), judged(0.5, 0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Images) -> str:
    return save_npz(tmp_path_factory.mktemp("best") / "data.npz", images)


@pytest.fixture
def make(dataset: str, tmp_path: Path) -> MakeDesk:
    def desk(**options: Any) -> Desk:
        given = {"attacks": ("badnets", "blended_random"), "name": "study", **options}
        (tmp_path / "study").mkdir(exist_ok=True)
        made = Desk(small_plan(dataset, tmp_path / "out", **given), tmp_path / "study")
        made.ledger.enqueue_default(made.plan.default_point)
        return made

    return desk


def flags(desk: Desk, key: str, scenario: str) -> Path:
    return desk.reader.points / key / scenario / names.FLAGGED_CSV


def run_trial(desk: Desk, *metrics: dict[str, float | None]) -> str:
    """A trial whose scenarios left flags, which MLflow took at once. Its key."""
    number, point, key = desk.ledger.ask()
    desk.write(key, point, list(metrics))
    for scenario in desk.plan.scenarios:
        path = flags(desk, key, scenario.name)
        path.parent.mkdir(parents=True)
        path.write_text(f"{number} {scenario.name}")
        desk.settlement.finish_scenario(key, scenario.name)
        shutil.rmtree(path.parent.parent)
    desk.settlement.finish_trial(number, key, "")
    return key


def ending(desk: Desk) -> dict[str, str]:
    """The files of the study's run."""
    folder = desk.folder / "summary"
    BestTrial(desk.closing().results, desk.reader).put_files(folder)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_flags_of_the_best_trial_are_there_at_the_end(make: MakeDesk) -> None:
    desk = make()
    keys = [run_trial(desk, metrics, metrics) for metrics in (LOST, WON, LOST)]
    assert ending(desk) == {f"best/{name}/flagged.csv": f"1 {name}" for name in (BAD, GOOD)}
    held = {path.parent.parent.name for path in desk.reader.points.rglob("*.csv")}
    assert held == {keys[1]}, "of trials that another beats nothing is kept"
    later = make()  # the study goes on
    later.settlement.catch_up()
    better = run_trial(later, judged(1.0, 0.0, 1.0, -0.5), WON)
    (desk.folder / names.REPORT_HTML).write_text("a page")
    page = {names.REPORT_HTML: "a page"}
    assert ending(later) == {f"best/{name}/flagged.csv": f"3 {name}" for name in (BAD, GOOD)} | page
    later.settlement.catch_up()
    assert {path.parent.parent.name for path in desk.reader.points.rglob("*.csv")} == {better}
    (desk.folder / names.REPORT_HTML).unlink()
    assert names.REPORT_HTML not in ending(later)


def test_flags_that_were_not_sent_are_taken_from_where_they_lie(make: MakeDesk) -> None:
    desk = make()
    key = desk.trial(WON, WON).key
    flags(desk, key, BAD).parent.mkdir(parents=True)
    flags(desk, key, BAD).write_text("flags")
    assert ending(desk) == {f"best/{BAD}/flagged.csv": "flags"}
    assert flags(desk, key, BAD).read_text() == "flags"


def test_of_a_front_the_flags_of_its_knee(make: MakeDesk) -> None:
    desk = make(objective="asr:min,ca:max")
    for ca, asr in ((1.0, 1.0), (0.9, 0.1), (0.0, 0.0), (0.5, 0.5)):
        run_trial(desk, *[judged(1.0, 0.0, ca, asr)] * 2)
    assert set(ending(desk).values()) == {f"1 {BAD}", f"1 {GOOD}"}
    best = BestTrial(desk.closing().results, desk.reader).metrics()
    assert (best["asr"], best["ca"]) == pytest.approx((0.1, 0.9))
    assert names.OBJECTIVE not in best


def test_nothing_has_finished(make: MakeDesk) -> None:
    desk = make()
    assert ending(desk) == {}
    best = BestTrial(desk.closing().results, desk.reader)
    assert set(best.metrics().values()) == {None}


def test_the_study_s_run_compares_with_a_trial_s(make: MakeDesk) -> None:
    desk = make()
    run_trial(desk, WON, WON)
    closing = desk.closing()
    folder = desk.folder / "summary"
    best = BestTrial(closing.results, desk.reader)
    desk.told.study_ends("FINISHED", closing.metrics(), best, folder, "text", "#0")
    study, trial = desk.records()[-1], desk.records()[-2]
    shown = {"tpr", "fpr", "auroc", "ca", "asr", "objective", "overall_score", "isolation_score", "defense_score"}
    assert {name: study.metrics[name] for name in shown} == {name: trial.metrics[name] for name in shown}
    own = (names.COST_DEFENSE_BUILT, names.COST_DEFENSE_SPENT)
    costs = {names.in_mlflow(name) for name in (names.COST_BUILT, names.COST_WALL, names.COST_HITS, *own)}
    assert set(trial.metrics) == shown | costs, "the rest says something on a scenario alone"
    assert {name for name in study.metrics if "/" not in name} == shown
    assert study.metrics["system/trials"] == 1.0
    assert study.metrics["system/paper_default.tpr"] == 1.0
    assert "system/best.tpr" not in study.metrics, "it has its own name"
    assert study.artifacts == "summary"


def test_what_was_judged_before_a_kill_gets_the_trial_s_new_number(make: MakeDesk) -> None:
    desk = make()
    number, point, key = desk.ledger.ask()
    assert number == 0
    write_record(desk.reader.points / key / f"{BAD}.json", scenario_record(BAD, dict(WON)))
    desk.settlement.finish_scenario(key, BAD)
    later = make()
    assert later.ledger.recover_interrupted(later.reader.outcome) == (0, 1)
    number, point, key = later.ledger.ask()
    assert number == 1
    later.write(key, point, [WON, WON])
    later.settlement.finish_scenario(key, GOOD)
    later.settlement.finish_trial(number, key, "")
    shown = later.outbox.shown_names()
    trial = "study #1 paper default"
    assert shown[later.told.trial_run(key)] == trial
    assert {shown[later.told.scenario_run(key, name)] for name in (BAD, GOOD)} == {f"{trial} {BAD}", f"{trial} {GOOD}"}


def test_a_study_whose_space_had_other_fields_is_not_gone_on_with(make: MakeDesk, tmp_path: Path) -> None:
    desk = make()
    number, _, _ = desk.ledger.ask()
    desk.ledger.tell(number, (0.5, ""))
    claim_folder(desk.plan, desk.folder)
    narrower = dataclasses.replace(desk.plan, space=desk.plan.space.without(("beta",)))
    with pytest.raises(UserError, match=r"searches other fields \(they differ in beta\).*another --name"):
        claim_folder(narrower, desk.folder)
