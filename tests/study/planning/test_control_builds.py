"""What the clean control needs is built with the stages that all trials share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import save_npz, small_plan

from study.datasets.images import Images
from study.planning.control_builds import with_control_builds
from study.planning.plan import Plan


@pytest.fixture
def make(tmp_path: Path, images: Images) -> Callable[..., Plan]:
    dataset = save_npz(tmp_path / "data.npz", images)
    return lambda **options: small_plan(dataset, tmp_path / "out", **options)


def test_the_default_s_stages_up_to_isolation_stand_behind_the_study_s_own(make: Callable[..., Plan]) -> None:
    plan = make(seeds=(0, 1))
    whole = with_control_builds(plan, ())
    own, added = whole.builds[: len(plan.builds)], whole.builds[len(plan.builds) :]
    assert own == plan.builds
    assert [build.label for build in added] == [
        f"{stage} clean-0-s{seed}" for seed in (0, 1) for stage in ("poison", "pre_isolation", "channel_activations")
    ]
    first = len(own)
    assert [build.needs for build in added[:3]] == [(), (first,), (first, first + 1)]
    assert added[1].config == {**plan.base, **plan.default_point}
    assert len({build.label for build in whole.builds}) == len(whole.builds)
    assert plan.point_key(plan.default_point) == whole.point_key(plan.default_point), "no trial is another"


def test_a_detector_builds_on_the_undefended_model_of_clean_data(make: Callable[..., Plan]) -> None:
    plan = make(space="ac")
    added = with_control_builds(plan, ()).builds[len(plan.builds) :]
    assert [build.stage for build in added] == ["poison", "standard_training", "penultimate_features"]


def test_nothing_is_built_where_there_is_no_control_to_run(make: Callable[..., Plan]) -> None:
    assert with_control_builds(plan := make(), (0,)) == plan
    for options in ({"clean_control": "none"}, {"space": "no_defense"}, {"attacks": ("badnets", "clean")}):
        assert with_control_builds(plan := make(**options), ()) == plan


def test_a_study_that_leaves_it_out_is_the_same_study(make: Callable[..., Plan]) -> None:
    one, other = make(), make(clean_control="none")
    assert one.config.identity == other.config.identity
    assert one.config.study_name == other.config.study_name
    assert one.point_key(one.default_point) == other.point_key(other.default_point)
