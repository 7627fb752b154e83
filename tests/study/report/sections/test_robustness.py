"""The cost of one configuration for all attacks, as the study puts its scenarios together."""

from typing import Any

import pytest
from small_results import small_results

from study.report.elements import Note, Scatter, Table
from study.report.sections import pareto
from study.report.sections.robustness import robustness_section


def cell(trial: int, attack: str, seed: int, tpr: float, fpr: float = 0.0) -> dict[str, Any]:
    return {"trial": trial, "attack": attack, "seed": seed, "tpr": tpr, "fpr": fpr}


CELLS = [
    *(cell(0, attack, seed, 0.5) for attack in "ab" for seed in (0, 1)),
    *(cell(1, attack, seed, tpr) for attack in "ab" for seed, tpr in ((0, 1.0), (1, 0.25))),
]
"""Trial 1 has the better mean on both attacks, and the worse seed."""


@pytest.mark.parametrize(("how", "best", "cost"), [("mean", 1, 0.125), ("worst", 0, 0.0)])
def test_own_bests_and_costs_go_by_what_the_study_goes_by(how: str, best: int, cost: float) -> None:
    section = robustness_section(small_results(CELLS, how=how))
    (table,) = [item for item in section.items if isinstance(item, Table)]
    assert section.lead == f"One configuration, trial {best}, is as good as each attack's own best, by isolation score."
    own = [row for row in table.rows if str(row[1]).startswith("its own best")]
    assert [row[1] for row in own] == [f"its own best (#{best})"] * 2
    default = [row[-1] for row in table.rows if row[1] == "paper default"]
    assert default == [pytest.approx(cost)] * 2
    told = " ".join(item.text for item in section.items if isinstance(item, Note))
    assert ("each by its worst seed" in told) is (how == "worst")


def test_an_attack_on_which_the_best_has_no_value_costs_nothing_that_is_known() -> None:
    cells = [
        cell(trial, attack, 0, tpr)
        for attack, both in (("a", (0.5, 1.0)), ("b", (0.9, 0.8)))
        for trial, tpr in enumerate(both)
    ]
    results = small_results([*cells, cell(0, "c", 0, 0.9), cell(1, "c", 0, float("nan"))])
    assert results.best == 1
    assert "gives up 0.050 of isolation score on average" in robustness_section(results).lead, "0 and 0.1, and not c"


def test_fronts_go_by_what_the_study_goes_by() -> None:
    cells = [*CELLS[:4], *(cell(1, attack, seed, 1.0, fpr) for attack in "ab" for seed, fpr in ((0, 0.0), (1, 0.5)))]
    for how, fpr in (("mean", 0.25), ("worst", 0.5)):
        (section,) = pareto.sections(small_results(cells, how=how))
        (scatter,) = [figure for figure in section.figures() if figure.name == "front-fpr-tpr"]
        assert isinstance(scatter, Scatter)
        assert scatter.front == ((0.0, 0.5), (fpr, 1.0))
        assert ("the worst it reaches of each" in scatter.caption) is (how == "worst")
