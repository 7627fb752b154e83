"""Which hyperparameters a metric can depend on, derived from the stages of a defense."""

import dataclasses

import pytest
from small_results import BETA, small_results

from defenses.api import Defense
from defenses.methods.pipd.pipd import PIPD
from defenses.methods.quarantine import QuarantineTraining
from defenses.signals import SIGNALS
from search_spaces import SEARCH_SPACES
from study.analysis.upstream_fields import SCORE_PARTS, searched_upstream, upstream_fields
from study.scenarios.oracle_defenses import ORACLE_DEFENSES, find_defense
from tracking import names


@pytest.mark.parametrize("metric", ["tpr", "fpr", "auroc", "isolation_score", "signal/class_share", "signal/loss_gap"])
def test_isolation_never_reads_what_only_selective_training_does(metric: str) -> None:
    fields = upstream_fields(PIPD, metric)
    assert {"isolation_rate", "beta", "channel_statistic", "pre_isolation_epochs", "batch_size"} <= fields
    assert not {"ascent_weight", "selective_epochs", "selective_clip_norm"} & fields


@pytest.mark.parametrize("metric", ["ca", "asr", "defense_score", "overall_score", "signal/final_loss"])
def test_the_final_model_depends_on_all(metric: str) -> None:
    assert upstream_fields(PIPD, metric) == {name for stage in PIPD.stages for name in stage.reads}


def test_quarantine_flags_before_the_last_training() -> None:
    flags, model = (upstream_fields(QuarantineTraining, metric) for metric in ("tpr", "ca"))
    assert {name for name in model - flags} == {
        "backdoor_free_epochs",
        "backdoor_free_lr",
        "backdoor_free_schedule",
        "backdoor_free_augment",
    }
    assert {"pre_epochs", "epsilon_init", "release_threshold"} <= flags


def test_the_undefended_model_depends_on_nothing_that_is_searched() -> None:
    assert upstream_fields(PIPD, "ca_undefended") == upstream_fields(PIPD, "asr_undefended") == frozenset()


def test_a_defense_that_flags_nothing_has_nothing_behind_its_flags() -> None:
    no_defense = find_defense("no_defense")
    assert upstream_fields(no_defense, "tpr") == frozenset()
    assert "epochs" in upstream_fields(no_defense, "ca")


@pytest.mark.parametrize("name", ["pipd", "qt", "no_defense", "pipd_cleaning", *ORACLE_DEFENSES])
def test_every_metric_score_and_signal_is_known(name: str) -> None:
    defense = find_defense(name)
    fields = {field.name for field in dataclasses.fields(defense.config_type)}
    for metric in (*names.METRICS, *SCORE_PARTS, *map(names.signal, SIGNALS)):
        assert upstream_fields(defense, metric) <= fields


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'accuracy'"):
        upstream_fields(PIPD, "accuracy")


def test_it_follows_the_stages_and_no_list_of_names() -> None:
    """Were selective training's weight read in isolation, TPR could depend on it."""
    stages = tuple(
        dataclasses.replace(stage, reads=(*stage.reads, "ascent_weight")) if stage.name == "isolate" else stage
        for stage in PIPD.stages
    )
    other: type[Defense] = type("Other", (PIPD,), {"stages": stages})
    assert "ascent_weight" in upstream_fields(other, "tpr")


def test_the_searched_ones_are_in_the_space_s_order_and_a_field_of_another_version_is_kept() -> None:
    ranges = SEARCH_SPACES["pipd"].ranges
    cells = [{"trial": 0, "attack": "a", "tpr": 1.0, "fpr": 0.0}]
    results = small_results(cells, ranges={**ranges, "gone": BETA})
    assert searched_upstream(results, "tpr") == (*(name for name in ranges if name != "ascent_weight"), "gone")
    assert searched_upstream(results, "ca") == (*ranges, "gone")
