"""Repeats in tables: put together before anything is compared, with their spread told from that of poisonings."""

import math
from typing import Any

import numpy as np
import pandas
import pytest
from small_results import small_results

from study.analysis.compared import DEFAULT, compared_configurations, own_best
from study.analysis.importances import _targets
from study.analysis.paired_tests import differences, pair
from study.analysis.repeats import merge_repeats, noise_share, pooled_deviation, spread_of_runs
from study.analysis.results import Results
from study.analysis.selected_trial import SelectedTrial
from study.report.sections.repeat_noise import noise_notes


def cell(trial: int, tpr: float, seed: int = 0, repeat: int = 0, **more: Any) -> dict[str, Any]:
    return {"trial": trial, "attack": "badnets", "seed": seed, "repeat": repeat, "tpr": tpr, "fpr": 0.0, **more}


def two_by_three(**more: Any) -> Results:
    """Two seeds, three repeats: the paper's default fails in one repeat of the first seed, trial 1 in none."""
    default = {(0, 0): 1.0, (0, 1): 0.1, (0, 2): 1.0, (1, 0): 0.9, (1, 1): 0.9, (1, 2): 0.9}
    cells = [cell(0, tpr, seed, repeat) for (seed, repeat), tpr in default.items()]
    cells += [cell(1, 0.8, seed, repeat) for seed, repeat in default]
    return small_results(cells, **more)


def test_the_merged_study_has_a_row_a_trial_and_poisoned_set() -> None:
    merged = two_by_three().over_repeats
    rows = merged.evaluations[["trial", "scenario", "repeat", "tpr"]].to_dict("records")
    assert [tuple(row.values())[:3] for row in rows] == [
        (trial, f"badnets-0.1-s{seed}", 0) for trial in (0, 1) for seed in (0, 1)
    ]
    assert [row["tpr"] for row in rows] == pytest.approx([0.7, 0.9, 0.8, 0.8])
    assert list(merged.complete.index) == [0, 1]
    assert merged.repeats == 1
    assert merged.over_repeats is merged


def test_a_study_without_repeats_is_its_own_merged_one() -> None:
    results = small_results([cell(0, 1.0), cell(1, 0.5)])
    assert results.repeats == 1
    assert results.over_repeats is results


def test_a_repeat_whose_attack_fails_is_left_out_and_all_of_them_mark_the_row() -> None:
    cells = [cell(0, 0.2, repeat=0, attack_failed=True), cell(0, 0.8, repeat=1)]
    cells += [cell(0, 0.4, 1, 0, attack_failed=True), cell(0, 0.6, 1, 1, attack_failed=True)]
    rows = merge_repeats(small_results(cells).evaluations)
    assert rows["tpr"].tolist() == pytest.approx([0.8, 0.5])
    assert rows["attack_failed"].tolist() == [False, True]


def test_a_trial_that_lacks_a_repeat_is_not_complete_in_the_merged_study() -> None:
    cells = [cell(0, 1.0, repeat=0), cell(0, 1.0, repeat=1), cell(1, 1.0, repeat=0)]
    assert list(small_results(cells).over_repeats.complete.index) == [0]


def test_the_spread_of_poisonings_and_that_of_repeats_by_hand() -> None:
    runs = two_by_three().evaluations
    spread = spread_of_runs(runs[runs["trial"] == 0], "tpr")
    # Means 0.7 and 0.9. Within the first: 0.3, -0.6, 0.3, squares 0.54; within the second none; 4 degrees of freedom.
    assert spread.mean == pytest.approx(0.8)
    assert spread.poisonings == pytest.approx(0.2 / math.sqrt(2))
    assert spread.repeats == pytest.approx(math.sqrt(0.54 / 4))
    alone = spread_of_runs(runs[(runs["trial"] == 0) & (runs["repeat"] == 0)], "tpr")
    assert (alone.poisonings, alone.repeats) == (pytest.approx(0.1 / math.sqrt(2)), None)
    assert spread_of_runs(runs, "ca") == spread_of_runs(runs.iloc[:0], "tpr")


def test_pooled_deviation_is_that_of_one_group_where_there_is_one() -> None:
    rows = pandas.DataFrame({"group": ["a"] * 4, "x": [1.0, 2.0, 4.0, 8.0]})
    assert pooled_deviation(rows, "group", "x") == pytest.approx(np.std([1, 2, 4, 8], ddof=1))
    assert pooled_deviation(rows.iloc[:1], "group", "x") is None


def test_a_configuration_s_deviations_over_seeds_and_over_repeats() -> None:
    default = next(one for one in compared_configurations(two_by_three()) if one.label == DEFAULT)
    assert default.mean("tpr") == pytest.approx(0.8)
    assert default.deviation("tpr") == pytest.approx(0.2 / math.sqrt(2))
    assert default.repeat_deviation("tpr") == pytest.approx(math.sqrt(0.54 / 4))


def test_a_scenario_s_own_best_is_so_over_its_repeats() -> None:
    """By the first repeat alone the paper's default would be best everywhere."""
    own = own_best(two_by_three())
    assert own is not None
    assert own["trial"].to_dict() == {
        **{f"badnets-0.1-s0{name}": 1 for name in ("", "-r1", "-r2")},
        **{f"badnets-0.1-s1{name}": 0 for name in ("", "-r1", "-r2")},
    }


# --- noise and importances --------------------------------------------------------------------------------------------


def test_the_share_of_noise_where_it_is_known() -> None:
    """Settings with a variance of 4 and repeats with one of 1: a fifth is noise."""
    draw = np.random.default_rng(0)
    level = draw.normal(0.0, 2.0, 400)
    trials = np.repeat(np.arange(400), 3)
    rows = pandas.DataFrame({"trial": trials, "poisoning": "p", "tpr": level[trials] + draw.normal(size=1200)})
    assert noise_share(rows, "tpr") == pytest.approx(0.2, abs=0.03)


def test_all_or_none_of_the_variance_is_noise() -> None:
    values = {"settings": [0.0, 0.0, 1.0, 1.0], "repeats": [0.0, 1.0, 0.0, 1.0], "nothing": [1.0] * 4}
    shares = {
        name: noise_share(pandas.DataFrame({"trial": [0, 0, 1, 1], "poisoning": "p", "tpr": column}), "tpr")
        for name, column in values.items()
    }
    assert shares == {"settings": 0.0, "repeats": 1.0, "nothing": None}
    single = pandas.DataFrame({"trial": [0, 1], "poisoning": "p", "tpr": [0.0, 1.0]})
    assert noise_share(single, "tpr") is None


def test_importances_explain_the_mean_over_repeats_and_the_noise_stands_beside_them() -> None:
    """Repeats that lie symmetrically around a slope leave the slope alone to be explained."""
    cells = [cell(trial, trial / 40 + sign * 0.2, repeat=at) for trial in range(40) for at, sign in enumerate((1, -1))]
    flat = [cell(trial, trial / 40) for trial in range(40)]
    results, plain = small_results(cells), small_results(flat)
    explained, expected = ([(m, s, v.tolist()) for m, s, v in _targets(one)] for one in (results.over_repeats, plain))
    assert [target[:2] for target in explained] == [target[:2] for target in expected]
    for (metric, _, values), (_, _, known) in zip(explained, expected, strict=True):
        assert values == pytest.approx(known, nan_ok=True), metric
    (note,) = noise_notes(results)
    assert "% of the variance of TPR between runs is between repeats of one configuration." in note.text
    assert "the mean over 2 repeats of each scenario" in note.text
    assert noise_notes(plain) == []


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scenario has the same poisoned data in both."""
    monkeypatch.setattr("study.analysis.paired_tests.read_scenario", lambda path: None)


@pytest.mark.usefixtures("records")
def test_pairs_are_means_over_the_repeats_that_both_have() -> None:
    a, b = two_by_three(), two_by_three()
    b = small_results(b.evaluations[["trial", "attack", "seed", "repeat", "tpr", "fpr"]].to_dict("records")[:-1])
    pairs = pair(SelectedTrial(a, 0, "a"), SelectedTrial(b, 1, "b"))
    assert pairs.frame["scenario"].tolist() == ["badnets-0.1-s0", "badnets-0.1-s1"]
    assert pairs.frame["tpr_a"].tolist() == pytest.approx([0.7, 0.9])
    assert pairs.frame["tpr_b"].tolist() == pytest.approx([0.8, 0.8])
    assert pairs.left_out == {"badnets-0.1-s1-r2": "only A has it"}
    assert pairs.runs is not None
    assert len(pairs.runs) == 5


@pytest.mark.usefixtures("records")
def test_repeats_make_no_more_pairs_to_test() -> None:
    """Six seeds can separate; two seeds with three repeats of each are two pairs, and cannot."""

    def both(seeds: int, repeats: int) -> Any:
        cells = [
            cell(trial, 0.5 + 0.3 * trial + 0.01 * seed, seed, repeat)
            for trial in (0, 1)
            for seed in range(seeds)
            for repeat in range(repeats)
        ]
        results = small_results(cells)
        (one,) = differences(pair(SelectedTrial(results, 0, "a"), SelectedTrial(results, 1, "b")), ["tpr"])
        return one

    assert (both(6, 1).pairs, both(6, 1).verdict) == (6, "B")
    assert (both(2, 3).pairs, both(2, 3).seeds, both(2, 3).verdict) == (2, 2, "not tested")
