"""How many test images a command sets aside, and that its answers say so."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_study import write_study

from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from search_spaces.space import Choice, Int, Range
from study.analysis.results import read_results
from study.config.config import StudyConfig, resolve
from study.evaluate import EvaluateConfig
from study.planning.clean_reserve import needed_images, needs_sentence, needs_text, reserve_size
from study.planning.plan import build_evaluation_context, dataset_spec, make_plan
from study.planning.several_defenses import child_configs
from study.report.elements import Table
from study.report.sections import attacks, studied, summary
from study.scenarios.evaluation import cached_images


def study(**options: Any) -> StudyConfig:
    return resolve(StudyConfig, options)


def size(**options: Any) -> int:
    return reserve_size(study(**options))


def test_as_many_as_the_defense_needs() -> None:
    assert size(space="pipd") == size(space="ac") == 0
    assert size(space="asd") == 100
    assert size(space="asd", set={"clean_images": "50"}) == 50
    assert size(space="dbalfa", preset="paper") == 1000
    assert reserve_size(resolve(EvaluateConfig, {"defense": "asd"})) == 100
    assert reserve_size(resolve(EvaluateConfig, {"defense": "random_flags"})) == 0


@pytest.mark.parametrize(("searched", "largest"), [(Choice((50, 300), ""), 300), (Int(10, 200, ""), 200)])
def test_what_is_searched_counts_with_its_largest_value(searched: Range, largest: int) -> None:
    space = dataclasses.replace(SEARCH_SPACES["asd"], ranges={"clean_images": searched})
    assert needed_images(space, study(space="asd")) == largest
    assert needed_images(space, study(space="asd", set={"clean_images": "20"})) == 20


def test_several_defenses_set_aside_the_most_and_share_it() -> None:
    config = study(defenses=["ac", "asd", "dbalfa"])
    most = max(size(space="asd"), size(space="dbalfa"))
    assert {child.clean_reserve for child in child_configs(config)} == {most}
    # A command without such a defense is the study that it was before there was a reserve.
    assert {child.clean_reserve for child in child_configs(study(defenses=["ac", "ss"]))} == {None}


def test_what_is_asked_for_goes_before_and_must_suffice() -> None:
    assert size(space="ac", clean_reserve=40) == 40
    assert size(space="asd", clean_reserve=200) == 200
    with pytest.raises(UserError, match=r"asd needs 100 clean images, and --clean-reserve sets 99 aside: .*images=N"):
        size(space="asd", clean_reserve=99)


def test_a_typo_in_set_is_refused_where_all_of_it_is() -> None:
    with pytest.raises(UserError, match="clean_images must be of type int"):
        make_plan(study(space="asd", set={"clean_images": "many"}), "cpu", 0, "fp32")


def test_the_reserve_reaches_the_images_and_no_older_key_moves() -> None:
    plan = make_plan(study(space="asd"), "cpu", 0, "fp32")
    images = cached_images(plan.environment.dataset)
    assert images.reserve is not None
    assert (len(images.reserve), len(images.test_labels)) == (100, 260)
    assert np.bincount(images.reserve.labels).tolist() == [10] * 10
    without = make_plan(study(space="ac"), "cpu", 0, "fp32")
    assert without.environment.dataset.reserve == 0
    assert plan.data_keys != without.data_keys  # other test images measure CA and ASR


def test_more_than_the_test_images_can_give_is_one_line() -> None:
    with pytest.raises(UserError, match=r"clean reserve of 1000 images is taken out of the 360 test images of digits"):
        cached_images(dataset_spec(study(space="asd", set={"clean_images": "1000"})))


def test_every_face_says_what_is_needed() -> None:
    config = study(space="asd")
    assert needs_text(SEARCH_SPACES["asd"], config) == "needs 100 clean images"
    assert needs_sentence(SEARCH_SPACES["asd"], config) == (
        "asd needs 100 clean images: they are taken out of the test images, and CA and ASR are measured on the others."
    )
    assert needs_sentence(SEARCH_SPACES["ac"], study(space="ac")) == ""


def test_evaluate_and_a_study_take_the_same_images() -> None:
    config = resolve(EvaluateConfig, {"defense": "asd"})
    environment = build_evaluation_context(config, SEARCH_SPACES["asd"], "cpu", "fp32")
    assert environment.dataset.reserve == 100


def test_every_table_of_configurations_says_it(tmp_path: Path) -> None:
    cells = {("badnets", 0.1, 0): {"tpr": 0.9, "fpr": 0.1, "auroc": 0.9, "ca": 0.9, "asr": 0.1}}
    told = []
    for space in ("asd", "ac"):
        write_study(tmp_path / space, [(0.5, cells)], space=space)
        told.append(read_results(tmp_path, space))
    needs = "(needs 100 clean images)"
    for section in (attacks.section(told), summary.overview(told)):
        rows = [" ".join(map(str, row)) for item in section.items if isinstance(item, Table) for row in item.rows]
        assert [needs in row for row in rows if "asd" in row] == [True] * sum("asd" in row for row in rows)
        assert any(needs in row for row in rows)
        assert not any(needs in row for row in rows if "asd" not in row)
    assert "needs 100 clean images" in str(studied.section(told[0]).items[0])
