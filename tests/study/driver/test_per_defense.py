"""Several defenses by one command: the same poisoned data for all, a study each, one table."""

from pathlib import Path

import pytest
from desk import BAD, Desk, judged, rows_of
from small_study import save_npz, small_plan
from study_process import make_workplace, run, states

from defenses.registry import UserError
from study.config.config import StudyConfig, resolve
from study.datasets.images import Images
from study.ledger.manifest import read_manifest
from study.planning.several_defenses import child_configs
from study.report.sections.joint_closing import defenses_text

QT_TINY = ("pre_epochs=1", "quarantine_epochs=2", "dynamic_epochs=1", "backdoor_free_epochs=1")


def config(**options: object) -> StudyConfig:
    return resolve(StudyConfig, {"defenses": ["pipd", "qt"], **options})


def test_each_defense_has_a_study_of_its_own_and_its_own_fields() -> None:
    whole = config(set={"rounds": "3", "quarantine_epochs": "4"}, seeds=["0", "1"], trials=7)
    pipd, qt = child_configs(whole)
    assert (pipd.space, qt.space) == ("pipd", "qt")
    assert (pipd.name, qt.name) == (f"{whole.study_name}.pipd", f"{whole.study_name}.qt")
    assert (pipd.set, qt.set) == ({"rounds": "3"}, {"quarantine_epochs": "4"})
    assert {(own.seeds, own.trials, own.attacks, own.defenses) for own in (pipd, qt)} == {
        ((0, 1), 7, whole.attacks, ())
    }


def test_a_defense_s_study_is_the_one_that_its_own_command_makes() -> None:
    alone = resolve(StudyConfig, {"space": "qt"})
    assert child_configs(config())[1].identity == alone.identity
    assert config().identity not in (alone.identity, resolve(StudyConfig, {}).identity)


def test_a_study_of_one_defense_keeps_its_name() -> None:
    assert resolve(StudyConfig, {}).study_name == "pipd-smoke-5698d912", "studies on disk go on under their names"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"defenses": ["pipd", "qtt"]}, "did you mean 'qt'"),
        ({"defenses": ["pipd", "pipd.rounds"]}, "makes a paper's table anew"),
        ({"defenses": ["pipd", "pipd"]}, "pipd"),
        ({"space": "qt"}, "--defenses names the spaces"),
        ({"holdout": "attack"}, "--holdout goes with one defense"),
        ({"per_scenario": True}, "--per-scenario goes with one defense"),
        ({"set": {"round": "3"}}, "did you mean 'rounds'"),
    ],
)
def test_what_cannot_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        child_configs(config(**options))


def test_one_table_has_every_defense_below_the_undefended_model(tmp_path: Path, images: Images) -> None:
    dataset = save_npz(tmp_path / "data.npz", images)
    closings = []
    for space, good in (("pipd", 1.0), ("no_defense", 0.5)):
        plan = small_plan(dataset, tmp_path / "out", space=space, attacks=("badnets",), name=f"all.{space}")
        (tmp_path / f"all.{space}").mkdir()
        desk = Desk(plan, tmp_path / f"all.{space}")
        desk.ledger.enqueue_default(plan.default_point)
        desk.trial(judged(good, 0.0, good, 0.0))
        closings.append(desk.closing())
    text = defenses_text(closings)
    assert "pipd: The paper's default, the only trial, reaches" in text
    models = [row[1] for row in rows_of(text, "attack and rate")]
    assert models[0] == "undefended"
    # A row each: of a single trial an own best would say the same once more.
    assert models[1:] == ["all.pipd: paper default", "all.no_defense: paper default"]
    assert BAD.removesuffix("-s0") in text


@pytest.mark.ray
@pytest.mark.slow
def test_one_command_runs_them_on_the_same_poison(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    options = ("--defenses", "pipd", "qt", "--name", "all", "--trials", "2", "--set", *QT_TINY)
    ended = run(place, *options)
    assert ended.returncode == 0, ended.stderr
    studies = [place / "runs" / f"all.{space}" for space in ("pipd", "qt")]
    assert [states(study)["COMPLETE"] for study in studies] == [2, 2]
    data = [read_manifest(study).data for study in studies]
    assert data[0] == data[1], "the very same poisoned images"
    assert (place / "runs" / "all" / "report.html").is_file()
    assert "pipd: " in ended.stdout
    assert "qt: " in ended.stdout
    again = run(place, *options)
    assert again.returncode == 0, again.stderr
    assert [states(study)["COMPLETE"] for study in studies] == [2, 2]
