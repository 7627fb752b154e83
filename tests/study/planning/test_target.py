"""The target: given by number or by name, related to the classes that exist, and named wherever its number is shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import save_npz, small_plan
from told_study import write_study

from defenses.registry import UserError
from study import run, status
from study.analysis.results import read_results
from study.attacks import __main__ as attacks_command
from study.config.config import StudyConfig, resolve
from study.datasets.images import Images
from study.driver.driver import claim_folder
from study.driver.progress import describe_start
from study.ledger.manifest import read_manifest
from study.planning.dry_run import describe
from study.planning.scenario_checks import tell_misread
from study.report.elements import Table
from study.report.sections.studied import section

NAMES = ["cat", "dog", "2", "a\nb"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Images) -> str:
    """Four classes with names."""
    return save_npz(tmp_path_factory.mktemp("target") / "data.npz", images, classes=np.array(NAMES))


@pytest.mark.parametrize(
    ("given", "number"), [(1, 1), ("1", 1), ("dog", 1), ("name:dog", 1), ("name:2", 2), ("2", 2), ("a\nb", 3)]
)
def test_a_target_is_a_number_or_a_name(given: str | int, number: int, dataset: str, tmp_path: Path) -> None:
    plan = small_plan(dataset, tmp_path, target_label=given)
    assert [scenario.target_label for scenario in plan.scenarios] == [number]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dgo", r"--target-label must be the number or the name of a class, got 'dgo': did you mean 'dog'\? \(classes"),
        ("4", r"--target-label must lie in \[0, 3\] for this dataset, or be the name of a class, got 4"),
        ("-1", r"--target-label: a target is a class's number, from 0, or its name, got '-1'"),
        (1.5, r"--target-label: a target is a class's number, from 0, or its name, got 1\.5"),
        (True, r"--target-label: a target is a class's number, from 0, or its name, got True"),
    ],
)
def test_other_targets_are_refused(given: Any, message: str, dataset: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        small_plan(dataset, tmp_path, target_label=given)


def test_a_name_that_two_classes_have_is_refused(images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", images, classes=np.array(["cat", "dog", "cat", "cow"]))
    with pytest.raises(UserError, match="must be one class, and 'cat' is the name of 0, 2: give a number"):
        small_plan(dataset, tmp_path, target_label="cat")


def test_a_target_without_training_images_is_refused(images: Images, tmp_path: Path) -> None:
    shifted = {name: getattr(images, name) + 1 for name in ("train_labels", "test_labels")}
    dataset = save_npz(tmp_path / "data.npz", images, **shifted)
    with pytest.raises(UserError, match="a class with training images, and 0 has none: the first that has is 1"):
        small_plan(dataset, tmp_path)
    assert attacks_command.main(["--preview", str(tmp_path / "a.png"), "--dataset", dataset, "--attacks", "sig"]) == 2
    assert small_plan(dataset, tmp_path, attacks=("clean",)).target == "none"  # the control has no target
    small_plan(dataset, tmp_path, target_label=1)


def test_numbers_and_names_that_cross_are_told_of(images: Images, tmp_path: Path, caplog: Any) -> None:
    dataset = save_npz(tmp_path / "data.npz", images, classes=np.array(["1", "2", "3", "4"]))
    small_plan(dataset, tmp_path, target_label=2)
    assert caplog.messages == ["--target-label 2 is class 2 (3); the class called 2 is number 1: name:2 is that one"]
    caplog.clear()
    small_plan(dataset, tmp_path, target_label="name:2")
    small_plan(dataset, tmp_path)
    tell_misread(0, images)
    assert not caplog.messages


def test_a_study_of_a_number_keeps_its_name_on_disk() -> None:
    by_text, by_number = (resolve(StudyConfig, {"target_label": target}) for target in ("3", 3))
    assert by_text.identity == by_number.identity
    assert by_number.model_dump(mode="json")["target_label"] == 3


def test_the_target_is_named_wherever_its_number_is(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = small_plan(dataset, tmp_path, target_label=1)
    assert "target class 1 (dog)" in describe(plan)
    assert "target: class 1 (dog)" in describe_start(plan, tmp_path, "", "")
    (tmp_path / "mine").mkdir()
    claim_folder(plan, tmp_path / "mine")
    assert read_manifest(tmp_path / "mine").target == "1 (dog)"
    assert status.main(["mine", "--out", str(tmp_path)]) == 0
    assert "\ntarget class 1 (dog)\n" in capsys.readouterr().out
    assert status.main(["mine", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "1 (dog)"
    options = ["--dataset", dataset, "--target-label", "dog", "--out", str(tmp_path)]
    assert attacks_command.main(["--preview", str(tmp_path / "a.png"), "--attacks", "badnets", *options]) == 0
    assert "a.png, target class 1 (dog)" in capsys.readouterr().out
    assert run.main(["--dry-run", *options]) == 0
    assert "target class 1 (dog)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"sig poisons images of class 1 \(dog\) alone"):
        small_plan(dataset, tmp_path, target_label=1, attacks=("sig",), poison_rates=(0.3,))


def test_a_report_names_the_target_and_an_old_study_its_number(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "mine", trials=2)
    assert _row(folder) == ("target class", "0")
    path = folder / "study.json"
    known = json.loads(path.read_text())
    for part in known["parts"]:
        part["target"] = "0 (cat)"
    path.write_text(json.dumps(known))
    assert _row(folder) == ("target class", "0 (cat)")


def _row(folder: Path) -> tuple[Any, ...]:
    items = section(read_results(folder.parent, folder.name)).items
    studied = next(item for item in items if isinstance(item, Table) and item.name == "studied")
    return next(row for row in studied.rows if row[0] == "target class")
