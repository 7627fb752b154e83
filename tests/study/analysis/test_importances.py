"""Importances: none of what a metric cannot depend on, and no PED-ANOVA where the best tenth says nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_study import PAPER, draw, rates, unit, write_study

from search_spaces import SEARCH_SPACES
from study.analysis.importances import Importances, error_of_share
from study.analysis.ped_anova import why_undefined
from study.analysis.results import Results, read_results
from study.report.elements import Bars, Heat, Note, Section, Table
from study.report.sections import importance
from study.report.sections.importance import importance_section, importances

RANGES = SEARCH_SPACES["pipd"].ranges


def saturated(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
    """The statistic decides all but a little: four trials of forty reach the highest CA, whatever they are."""
    good = point["channel_statistic"] == "mean"
    best = 0.001 * (good and unit(RANGES["channels_per_tap"], point["channels_per_tap"]) > 0.8)
    return rates(1.0 if good else 0.5, 0.0, ca=0.95 + best, asr=0.0 if good else 0.5)


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("runs")
    write_study(out / "forty", draw(RANGES, 40), saturated, attacks=("badnets",), default=PAPER)
    return read_results(out, "forty")


@pytest.fixture(scope="module")
def of_forty(forty: Results) -> Importances:
    return importances(forty)


def notes(section: Section) -> str:
    return " ".join(item.text for item in section.items if isinstance(item, Note))


def table(section: Section, name: str) -> Table:
    return next(item for item in section.items if isinstance(item, Table) and item.name == name)


def test_ped_anova_of_four_tied_trials_is_noise_and_not_shown(forty: Results, of_forty: Importances) -> None:
    """What was shown before is the control: a share of 0.7 for what fANOVA gives nothing."""
    whole = of_forty.of("overall_score")
    assert whole is not None
    assert whole.shares is not None
    statistic, taps = (of_forty.fields.index(name) for name in ("channel_statistic", "channels_per_tap"))
    assert whole.shares.alone[statistic] > 0.95
    assert whole.shares.alone[taps] < 0.01
    trials = forty.space_filling_trials
    losses = -trials["value"].to_numpy(float)
    assert int((losses <= np.sort(losses)[3] + 1e-12).sum()) == 4
    assert len({round(loss, 12) for loss in np.sort(losses)[:4]}) == 1, "the best tenth are 4 tied trials"
    before = importance._Optuna(forty)(trials, of_forty.fields, losses)
    assert before is not None
    assert before[taps] > 0.6 > 0.3 > before[statistic], "the control"
    assert whole.ped is None
    assert whole.why_no_ped == "a tenth of 40 trials is 4, and fewer than 10 have no density to compare"
    section = importance_section(forty, of_forty)
    assert {row[1] for row in table(section, "importance-all").rows} == {"fANOVA"}, "no rows of dashes"
    assert f"PED-ANOVA is undefined here and left out: {whole.why_no_ped}." in notes(section)


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (np.arange(100.0), ""),
        (np.arange(99.0), ""),
        (np.arange(90.0), "a tenth of 90 trials is 9"),
        (np.repeat([0.0, 1.0], 60), "the best tenth (12 of 120 trials) is tied with 48 trials outside it"),
        (np.concatenate([np.zeros(12), np.arange(1.0, 109.0)]), ""),  # tied, and the whole tenth
        (np.concatenate([np.zeros(13), np.arange(1.0, 108.0)]), "is tied with 1 trials outside it"),
        (np.concatenate([np.full(12, 0.1 + 0.2), np.full(108, 0.3)]), "is tied with 108 trials"),  # but for rounding
    ],
)
def test_the_best_tenth_must_be_a_tenth_and_large_enough(losses: Any, why: str) -> None:
    assert why in why_undefined(losses)
    assert bool(why_undefined(losses)) is bool(why)


def test_a_field_that_no_stage_of_the_metric_reads_has_no_share(forty: Results, of_forty: Importances) -> None:
    at = of_forty.fields.index("ascent_weight")
    for one in of_forty.each:
        below = one.metric in ("tpr", "fpr", "auroc", "isolation_score")
        assert one.read[at] is not below
        if below and one.shares is not None:
            assert one.shares.alone[at] == one.shares.high[at] == one.shares.pairs[at].sum() == 0.0
    section = importance_section(forty, of_forty)
    rows = {
        row[0]: dict(zip(table(section, "importance-all").header, row, strict=True))
        for row in table(section, "importance-all").rows
    }
    assert rows["ascent_weight"]["TPR"] == "not read"
    assert str(rows["ascent_weight"]["overall score"]).startswith("0.")
    assert "so it cannot matter" in notes(section)
    heat = next(item for item in section.items if isinstance(item, Heat))
    assert heat.good == "neither", "much is neither good nor bad"


def test_metrics_in_words_and_what_does_not_vary_is_named_once(forty: Results, of_forty: Importances) -> None:
    section = importance_section(forty, of_forty)
    header = table(section, "importance-all").header
    assert header[:6] == ("hyperparameter", "method", "overall score", "TPR", "AUROC", "ASR")
    assert "Left out, since the same in all trials but a few: FPR, CA." in notes(section)
    assert next(item for item in section.items if isinstance(item, Bars)).groups == ("overall score",)
    assert "channel_statistic 1.00" in section.lead
    assert "cannot be told from zero with 40 trials (a share may be wrong by 0.15)" in section.lead


def test_a_metric_that_all_but_a_few_trials_share_has_no_variance_to_share_out(tmp_path: Path) -> None:
    """One trial of forty that differs gave its hyperparameters shares of it."""
    points = draw(RANGES, 40)
    odd = float(points["beta"].max())

    def truth(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
        return rates(1.0 if point["beta"] < odd else 0.5, 0.0)

    write_study(tmp_path / "odd", points, truth, attacks=("badnets",), default=PAPER)
    results = read_results(tmp_path, "odd")
    found = importances(results)
    assert {one.shares for one in found.each} == {None}
    section = importance_section(results, found)
    assert (section.answered, section.items) == (False, ())


def test_errors_of_shares_are_the_measured_ones() -> None:
    assert [error_of_share(trials, 7) for trials in (35, 279, 280, 1021, 1022)] == [0.15, 0.15, 0.07, 0.07, 0.04]
