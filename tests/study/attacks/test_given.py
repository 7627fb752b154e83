"""Data that somebody else poisoned: as much ground truth as the file holds, and never more."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_images import make_images
from small_study import TINY_PIPD, save_npz, small_plan

from defenses.registry import UserError
from defenses.storage.store import Store
from study.attacks import parse_attack
from study.config.config import resolve
from study.datasets.images import Images
from study.evaluate import EvaluateConfig
from study.evaluate import main as evaluate
from study.planning.plan import build_evaluation_context, build_scenario
from study.planning.searched_space import load_space as _space_of
from study.scenarios.evaluation import evaluate_scenario
from study.scenarios.oracle_defenses import check_truth
from study.scenarios.poison import PoisonedDataset, poison
from study.scenarios.scenario import Scenario
from study.scenarios.stored_poison import stored_poison


def made(images: Images) -> PoisonedDataset:
    return poison(images, parse_attack("badnets"), 0.25, 1, 0)


def given_file(path: Path, images: Images, poisoned: PoisonedDataset, **changes: Any) -> str:
    """A file as another tool would write it: the poisoned training set beside the clean test set."""
    arrays = {
        "train_images": poisoned.suspect.images,
        "train_labels": poisoned.suspect.labels,
        "poison_mask": poisoned.poison_mask,
        "test_triggered_images": poisoned.triggered_images,
        "test_triggered_labels": poisoned.triggered_labels,
        **changes,
    }
    return save_npz(path, images, **arrays)


def test_what_another_tool_poisoned_is_judged_as_if_it_were_poisoned_here(images: Images, tmp_path: Path) -> None:
    poisoned = made(images)
    dataset = given_file(tmp_path / "theirs.npz", images, poisoned)
    found = poison(images, parse_attack(f"given:file={tmp_path / 'theirs.npz'}"), 0.0, 1, 0)
    assert found.suspect.fingerprint == poisoned.suspect.fingerprint
    np.testing.assert_array_equal(found.poison_mask, poisoned.poison_mask)
    np.testing.assert_array_equal(found.triggered_images, poisoned.triggered_images)
    np.testing.assert_array_equal(found.triggered_labels, poisoned.triggered_labels)
    assert found.meta["n_poison"] == 32
    assert found.meta["effective_rate"] == 0.25
    assert dataset.startswith("npz:")


def test_the_whole_command_runs_on_it(images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poisoned = made(images)
    dataset = given_file(tmp_path / "theirs.npz", images, poisoned)
    common = ["--out", str(tmp_path / "out"), "--width", "4", "--blocks", "1", "1", "--target-label", "1"]
    fields = ["--set", *[f"{name}={value}" for name, value in TINY_PIPD.items()]]
    assert evaluate(["--dataset", dataset, "--attack", "given", *common, *fields]) == 0
    shown = capsys.readouterr().out
    cells = shown.splitlines()[5].split()
    assert cells[0] == "pipd"
    assert "-" not in cells  # every metric has a value
    assert shown.startswith("pipd on given.file_")
    assert "poison rate 0.25, seed 0, target class 1," in shown
    assert "ASR counts the file's triggered test images, those of the target class too, unless" in shown
    bare = given_file(tmp_path / "bare.npz", images, poisoned, poison_mask=None, test_triggered_images=None)
    assert evaluate(["--dataset", bare, "--attack", "given", *common, *fields]) == 2  # labels without images
    bare = given_file(
        tmp_path / "bare.npz",
        images,
        poisoned,
        poison_mask=None,
        test_triggered_images=None,
        test_triggered_labels=None,
    )
    assert evaluate(["--dataset", bare, "--attack", "given", *common, *fields]) == 0
    shown = capsys.readouterr().out
    cells = shown.splitlines()[5].split()
    assert cells[:4] == ["pipd", "-", "-", "-"]  # TPR, FPR, AUROC: nobody knows
    assert (cells[4] != "-", cells[5]) == (True, "-")  # CA is known, ASR is not
    assert "TPR, FPR and AUROC are unknown: the file has no poison_mask" in shown
    assert "ASR is unknown: the file has no test_triggered_images" in shown


def test_without_a_mask_only_what_a_defender_knows_is_told(images: Images, tmp_path: Path) -> None:
    given_file(tmp_path / "bare.npz", images, made(images), poison_mask=None)
    config = resolve(
        EvaluateConfig,
        {
            "dataset": f"npz:{tmp_path / 'bare.npz'}",
            "out": tmp_path,
            "width": 4,
            "blocks": (1, 1),
            "until": "isolate",
            "target_label": 1,
        },
    )
    space = _space_of(resolve_study(tmp_path))
    environment = build_evaluation_context(config, space, "cpu", "fp32")
    result = evaluate_scenario("pipd", small_fields(), build_scenario("given", 0.1, 0, config), environment, "isolate")
    assert result.poison_mask is None
    assert "tpr" not in result.metrics
    assert "fpr" not in result.metrics
    assert result.flagged is not None
    assert result.metrics["flagged_share"] == pytest.approx(result.flagged.mean())
    assert result.metrics["asr_undefended"] is not None  # the file has triggered test images
    assert not any(name.endswith((".tpr", ".fpr")) for name in result.series)


def resolve_study(out: Path) -> Any:
    from study.config.config import StudyConfig

    return resolve(StudyConfig, {"out": out})


def small_fields() -> dict[str, Any]:
    from defenses.methods.pipd.pipd import PIPD

    config = PIPD.config_type.from_text(TINY_PIPD)
    return {name: getattr(config, name) for name in TINY_PIPD}


def test_the_store_gives_back_the_same(images: Images, store: Store, tmp_path: Path) -> None:
    poisoned = made(images)
    given_file(tmp_path / "t.npz", images, poisoned, poison_mask=None, original_labels=images.train_labels)
    scenario = Scenario(f"given:file={tmp_path / 't.npz'}", 0.0, 1, 0)
    first, hit = stored_poison(scenario, images, store)
    second, hit_again = stored_poison(scenario, images, store)
    assert (hit, hit_again) == (False, True)
    for found in (first, second):
        np.testing.assert_array_equal(found.suspect.images, poisoned.suspect.images)
        np.testing.assert_array_equal(found.original_labels, images.train_labels)
        assert not found.poison_known


def test_a_training_set_of_another_length_is_taken_whole(images: Images, store: Store, tmp_path: Path) -> None:
    larger = poison(make_images(train=200), parse_attack("badnets"), 0.25, 1, 0)
    given_file(tmp_path / "larger.npz", images, larger)
    found, _ = stored_poison(Scenario(f"given:file={tmp_path / 'larger.npz'}", 0.0, 1, 0), images, store)
    assert len(found.suspect) == len(found.poison_mask) == 200


def test_another_content_is_another_scenario(images: Images, tmp_path: Path) -> None:
    scenario = Scenario(f"given:file={tmp_path / 't.npz'}", 0.0, 1, 0)
    given_file(tmp_path / "t.npz", images, made(images))
    before = scenario.key(images)
    given_file(tmp_path / "t.npz", images, made(images), poison_mask=None)
    assert scenario.key(images) != before


@pytest.mark.parametrize(
    ("changes", "objective"),
    [
        ({}, "overall_score"),
        ({"poison_mask": None}, "defense_score"),
        ({"test_triggered_images": None, "test_triggered_labels": None}, "isolation_score"),
        ({"poison_mask": None, "test_triggered_images": None, "test_triggered_labels": None}, "ca"),
        (
            {"poison_mask": np.zeros(128, dtype=bool), "test_triggered_images": None, "test_triggered_labels": None},
            "fpr",
        ),
    ],
)
def test_the_objective_follows_what_is_known(
    images: Images, tmp_path: Path, changes: dict[str, Any], objective: str
) -> None:
    dataset = given_file(tmp_path / "t.npz", images, made(images), **changes)
    plan = small_plan(dataset, tmp_path, attacks=("given",), set=TINY_PIPD)
    assert plan.objective == objective
    assert [scenario.poison_rate for scenario in plan.scenarios] == [0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "train_labels is missing"),
        ({"train_labels": np.zeros(5, dtype=np.int64)}, "train_labels must hold a label for each of 128 images, got 5"),
        ({"train_labels": np.full(128, 4)}, r"train_labels must lie in \[0, 4\), the classes of --dataset, got 4 to 4"),
        ({"poison_mask": np.zeros(128)}, r"poison_mask must be bool \[128\], one a training image, got float64"),
        ({"poison_mask": np.zeros(9, dtype=bool)}, r"poison_mask must be bool \[128\]"),
        ({"train_images": np.zeros((128, 8, 8, 3), np.uint8)}, r"train_images must have the shape \[N, 16, 16, 3\]"),
        (
            {"cover_mask": np.ones(128, dtype=bool)},
            r"an image is poison or a cover, and \d+ are marked as both: take them out of cover_mask",
        ),
        ({"test_triggered_images": np.zeros((48, 16, 16, 3))}, "test_triggered_images must be uint8"),
    ],
)
def test_what_does_not_fit_is_refused(images: Images, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    given_file(tmp_path / "bad.npz", images, made(images), **changes)
    with pytest.raises(UserError, match=message):
        parse_attack(f"given:file={tmp_path / 'bad.npz'}").check(images)


def test_a_missing_file_is_refused(images: Images, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use --dataset npz:FILE, or write given:file=FILE"):
        parse_attack("given").check(images)
    with pytest.raises(UserError, match="there must be a file at"):
        parse_attack(f"given:file={tmp_path / 'none.npz'}").check(images)


def test_triggered_images_of_the_target_class_are_left_out_where_the_file_tells(images: Images, tmp_path: Path) -> None:
    wanted = np.ones(64, dtype=np.int64)
    extra = {"test_triggered_images": images.test_images, "test_triggered_labels": wanted}
    given_file(tmp_path / "all.npz", images, made(images), **extra)
    given_file(tmp_path / "told.npz", images, made(images), **extra, test_triggered_original_labels=images.test_labels)
    counts = {}
    for text in ("all.npz", "told.npz", "told.npz:include_target=true"):
        received = poison(images, parse_attack(f"given:file={tmp_path}/{text}"), 0.0, 1, 0)
        counts[text] = len(received.triggered_labels)
    assert counts == {"all.npz": 64, "told.npz": 48, "told.npz:include_target=true": 64}


def test_a_target_that_the_file_does_not_have_is_refused(images: Images, tmp_path: Path) -> None:
    poisoned = made(images)
    labels = {"train_labels": poisoned.suspect.labels + 1, "test_labels": images.test_labels + 1}
    dataset = given_file(tmp_path / "t.npz", images, poisoned, **labels, test_triggered_labels=None)
    with pytest.raises(
        UserError, match="wanted as a class with training images, and 0 has none: write their test_trig"
    ):
        small_plan(dataset, tmp_path, attacks=("given",))
    small_plan(dataset, tmp_path, attacks=("given",), target_label=2)


def test_covers_are_known_where_the_file_marks_them(images: Images, tmp_path: Path) -> None:
    for changes, known in (({}, False), ({"cover_mask": np.zeros(128, dtype=bool)}, True)):
        given_file(tmp_path / "t.npz", images, made(images), **changes)
        assert poison(images, parse_attack(f"given:file={tmp_path / 't.npz'}"), 0.0, 1, 0).covers_known is known
    assert made(images).covers_known


def test_what_is_not_known_to_be_clean_is_not_called_so(images: Images, tmp_path: Path) -> None:
    given_file(tmp_path / "t.npz", images, made(images))
    meta = poison(images, parse_attack(f"given:file={tmp_path / 't.npz'}"), 0.0, 1, 0).meta
    assert "clean_fingerprint" not in meta
    assert meta["test_fingerprint"] == images.test_fingerprint != images.fingerprint


def test_a_train_size_that_cannot_act_is_refused_and_the_preset_s_is_none(images: Images, tmp_path: Path) -> None:
    dataset = given_file(tmp_path / "t.npz", images, made(images))
    with pytest.raises(UserError, match="--train-size changes nothing for given, whose training set is taken whole"):
        small_plan(dataset, tmp_path, attacks=("given",), train_size=64)
    plan = small_plan(dataset, tmp_path, attacks=("given",), preset="small", test_size=32)
    assert plan.config.train_size == 10_000
    assert plan.target == "as in the file"


def test_advice_fits_a_rate_that_is_the_file_s(images: Images, tmp_path: Path) -> None:
    dataset = given_file(tmp_path / "t.npz", images, made(images), poison_mask=None)
    with pytest.raises(UserError, match="or add poison_mask to the file of a given set"):
        check_truth("pipd_fault_ratio", ["given"])
    with pytest.raises(
        UserError, match=r"no scenario tells fpr: .* no poison_mask: leave out --until isolate, and use"
    ):
        small_plan(dataset, tmp_path, attacks=("given",), until="isolate")
    with pytest.raises(UserError, match="the file of a given set has no poison_mask or test_triggered_images: use"):
        small_plan(dataset, tmp_path, attacks=("given",), objective="tpr")
