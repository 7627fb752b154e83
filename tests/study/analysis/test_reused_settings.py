"""Importances of a nested design: unbiased, and no more is told apart than settings allow."""

import dataclasses
import itertools
import re
from typing import Any

import numpy as np
import pytest
from small_results import small_results

from search_spaces.space import Float, Range
from study.analysis.results import Results
from study.analysis.reused_settings import SETTINGS, group_reused, grouped_fields, shared_fields
from study.ledger.manifest import Manifest
from study.report.elements import Contour, Note, Table
from study.report.sections.curves import curves_section
from study.report.sections.importance import importance_section, importances
from study.report.sections.interactions import interactions_section

RANGES: dict[str, Range] = {
    "gamma": Float(0.05, 2.0, "starts a training", log=True),
    "pre_isolation_lr": Float(0.01, 0.3, "starts a training", log=True),
    "beta": Float(0.0, 6.0, "is read afterwards"),
    "isolation_rate": Float(0.002, 0.05, "is read afterwards", log=True),
}


def study(settings: int, trials: int, reuse: int | None) -> Results:
    """TPR = 0.5 + an effect of the setting + an effect of beta: two thirds of its variance, and one third."""
    draw = np.random.default_rng(5)
    costly = [(float(draw.uniform(0.05, 2)), float(draw.uniform(0.01, 0.3))) for _ in range(settings)]
    effect = np.linspace(-1, 1, settings) * np.sqrt(3 * (settings - 1) / (settings + 1))  # variance 1
    points: list[dict[str, Any]] = [{"gamma": 0.5, "pre_isolation_lr": 0.1, "beta": 3.0, "isolation_rate": 0.01}]
    cells: list[dict[str, Any]] = [{"trial": 0, "attack": "badnets", "tpr": 0.5, "fpr": 0.0}]
    for trial in range(1, trials + 1):
        own = (trial - 1) % settings
        beta, rate = float(draw.uniform(0, 6)), float(np.exp(draw.uniform(np.log(0.002), np.log(0.05))))
        points.append(
            {"gamma": costly[own][0], "pre_isolation_lr": costly[own][1], "beta": beta, "isolation_rate": rate}
        )
        beside = np.sqrt(0.5) * (beta / 6 - 0.5) * np.sqrt(12)
        cells.append({"trial": trial, "attack": "badnets", "tpr": 0.5 + 0.1 * (effect[own] + beside), "fpr": 0.0})
    options = {"sampler": "random", "preset": "smoke", "space": "pipd_wide", "aggregate": "mean", "reuse": reuse}
    return small_results(cells, ranges=RANGES, points=points, manifest=Manifest("", (), options))


def test_settings_count_as_one_hyperparameter_with_the_share_that_they_have() -> None:
    results = study(settings=8, trials=400, reuse=8)
    computed = importances(results)
    assert computed.fields == (SETTINGS, "beta", "isolation_rate")
    whole = computed.of("tpr")
    assert whole is not None
    assert whole.shares is not None
    assert whole.shares.alone == pytest.approx([2 / 3, 1 / 3, 0], abs=0.06)
    section = importance_section(results, computed)
    notes = [item.text for item in section.items if isinstance(item, Note)]
    assert any("stands for gamma and pre_isolation_lr together: trials share 8 settings" in text for text in notes)
    assert any("Trials share 8 settings of the first training" in text and "is too narrow" in text for text in notes)
    assert "8 settings, each with the luck of one training, give first training 0." in section.lead
    assert section.lead.endswith("which may be wrong by anything."), "8 trainings stand behind it, however many trials"
    assert interactions_section(results, computed).title


def test_settings_that_an_axis_numbers_are_told() -> None:
    """Beta helps with some settings and harms with the others, so that the two make the largest pair."""
    results = study(settings=8, trials=400, reuse=8)
    of_trial = np.where(results.trials["gamma"] > results.trials["gamma"].median(), 1, -1)
    effect = dict(zip(results.trials.index, of_trial * (results.trials["beta"] / 6 - 0.5), strict=True))
    reached = results.evaluations["trial"].map(effect) * 0.5 + 0.5
    results = dataclasses.replace(results, evaluations=results.evaluations.assign(tpr=reached, isolation_score=reached))
    section = interactions_section(results, importances(results))
    contour = next(item for item in section.items if isinstance(item, Contour))
    assert SETTINGS in (contour.x_label, contour.y_label)
    assert re.fullmatch(r"[\w-]+", contour.name), "a link to a name with a space leads nowhere"
    (told,) = [item for item in section.items if isinstance(item, Table) and item.name == "interactions-settings"]
    assert told.header == (SETTINGS, "gamma", "pre_isolation_lr")
    assert {row[0] for row in told.rows} == set(contour.x if contour.x_label == SETTINGS else contour.y)
    drawn = {f"{gamma:.3g}" for gamma in results.space_filling_trials["gamma"]}
    assert {row[1] for row in told.rows} == drawn


def test_shares_of_next_to_nothing_are_said_to_be() -> None:
    results = study(settings=8, trials=400, reuse=8)
    assert "next to nothing" not in importance_section(results, importances(results)).lead
    narrow = results.trials.assign(value=0.99 + results.trials["value"] / 100)
    section = importance_section(dataclasses.replace(results, trials=narrow), importances(results))
    assert section.lead.endswith("of each other, so these are shares of next to nothing.")


def test_enough_settings_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    few, enough, none = study(79, 240, 79), study(80, 240, 80), study(8, 90, None)
    assert grouped_fields(few) == ("gamma", "pre_isolation_lr")
    assert grouped_fields(enough) == grouped_fields(none) == ()
    assert group_reused(enough) is enough
    assert shared_fields(none) == ("gamma", "pre_isolation_lr"), "no less shared where nobody asked for it"
    assert shared_fields(study(90, 90, None)) == ()
    assert grouped_fields(study(1, 90, 1)) == (), "nothing varies"


def luck(seed: int, settings: int, trials: int, reuse: int | None) -> Results:
    """TPR is the luck of each setting's training and of each trial: no field has any effect."""
    draw = np.random.default_rng(seed)
    results = study(settings, trials, reuse)
    of_setting, of_trial = draw.normal(size=settings), 0.7 * draw.normal(size=trials)
    numbers = np.arange(trials) % settings
    tpr = [0.5, *(0.5 + 0.1 * (of_setting[numbers] + of_trial))]
    names = list(results.ranges)
    points = results.trials[names].to_dict("records")
    cells = [{"trial": at, "attack": "badnets", "tpr": float(one), "fpr": 0.0} for at, one in enumerate(tpr)]
    return small_results(cells, ranges=RANGES, points=points, manifest=results.manifest)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_the_luck_of_trainings_is_no_effect_of_a_field(seed: int, reuse: bool) -> None:
    results = luck(seed, settings=12, trials=240, reuse=12 if reuse else None)
    assert curves_section(results).lead.startswith("No hyperparameter alone moves the mean")
    computed = importances(results)
    section = importance_section(results, computed)
    if reuse:
        assert "gives first training 0." in section.lead
        return
    assert section.lead.startswith("No hyperparameter stands out"), "12 settings tell nothing of two fields"
    notes = " ".join(item.text for item in section.items if isinstance(item, Note))
    assert "Trials share 12 settings of gamma and pre_isolation_lr" in notes
    assert "may be wrong by anything (fewer than 10 settings for each field)" in notes


def test_an_effect_of_a_shared_field_still_shows() -> None:
    results = study(20, 240, 20)  # the effect of a setting grows with its number
    ordered = sorted({float(value) for value in results.trials["gamma"].iloc[1:]})
    rank = {value: at for at, value in enumerate(ordered)}
    points = results.trials[list(results.ranges)].to_dict("records")
    cells = [
        {"trial": at, "attack": "badnets", "tpr": 0.2 + 0.03 * rank.get(point["gamma"], 0), "fpr": 0.0}
        for at, point in enumerate(points)
    ]
    again = small_results(cells, ranges=RANGES, points=points, manifest=results.manifest)
    assert curves_section(again).lead.startswith("Alone, gamma moves the mean")


def grid_of_luck(seed: int) -> Results:
    """γ x rate x beta x p of a grid, 4 x 4 x 8 x 4: TPR is the luck of each of 16 trainings, and some of each trial."""
    draw = np.random.default_rng(seed)
    values = [np.geomspace(0.05, 2, 4), np.geomspace(0.01, 0.3, 4), np.linspace(0, 6, 8), np.geomspace(0.002, 0.05, 4)]
    points: list[dict[str, Any]] = [{"gamma": 0.5, "pre_isolation_lr": 0.1, "beta": 3.0, "isolation_rate": 0.01}]
    cells: list[dict[str, Any]] = [{"trial": 0, "attack": "badnets", "tpr": 0.5, "fpr": 0.0}]
    luck = draw.normal(size=(4, 4))
    for trial, (one, two, three, four) in enumerate(itertools.product(*map(range, (4, 4, 8, 4))), start=1):
        own = [values[at][place] for at, place in enumerate((one, two, three, four))]
        points.append(dict(zip(RANGES, map(float, own), strict=True)))
        tpr = 0.5 + 0.1 * (luck[one, two] + 0.3 * draw.normal())
        cells.append({"trial": trial, "attack": "badnets", "tpr": float(tpr), "fpr": 0.0})
    options = {"sampler": "grid", "preset": "smoke", "space": "pipd_wide", "aggregate": "mean"}
    return small_results(cells, "grid", ranges=RANGES, points=points, manifest=Manifest("", (), options))


def test_the_luck_of_a_grid_s_trainings_is_neither_an_effect_nor_an_interaction() -> None:
    results = grid_of_luck(0)
    computed = importances(results)
    lead = importance_section(results, computed).lead
    assert "fANOVA gives" not in lead
    assert "16 settings, each with the luck of one training, give gamma" in lead
    assert lead.endswith("which may be wrong by anything.")
    pairs = interactions_section(results, computed).lead
    assert pairs.startswith("No pair stands out from noise: the largest share is")
    assert "with 16 settings a pair that does nothing may be given as much" in pairs
