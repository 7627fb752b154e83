"""What signals without ground truth choose, and what that costs, against cases worked out by hand."""

from typing import Any

import pytest
from small_results import small_results

from study.analysis.results import Results
from study.analysis.signal_quality import judge_signals, oracle_scores, oracle_trials, regrets, visible_trials
from study.config.objectives import Goal
from study.report.elements import Cell, Note, Section, Table
from study.report.sections import label_free
from tracking import names

GAP, FOCUS = names.signal("cut_gap"), names.signal("class_focus")


def cell(trial: int, attack: str, tpr: float, gap: float, focus: float, **other: Any) -> dict[str, Any]:
    return {"trial": trial, "attack": attack, "tpr": tpr, "fpr": 0.0, GAP: gap, FOCUS: focus, **other}


THREE_ATTACKS = (
    cell(0, "a", 0.2, 1.0, 0.9),
    cell(1, "a", 0.9, 2.0, 0.8),
    cell(2, "a", 0.5, 1.5, 0.1),
    cell(0, "b", 0.1, 1.0, 0.9),
    cell(1, "b", 0.6, 2.0, 0.8),
    cell(2, "b", 0.8, 3.0, 0.1),
    cell(0, "c", 1.0, 1.0, 0.9),
    cell(1, "c", 0.7, 2.0, 0.8),
    cell(2, "c", 0.0, 3.0, 0.1),
)
"""On a and b the gap chooses well and the focus badly; on c it is the other way round."""


def three_attacks(**changes: Any) -> Results:
    return small_results(THREE_ATTACKS, **changes)


def test_a_signal_is_not_judged_by_itself() -> None:
    """Where nobody knows the poison a study goes by the flagged share, which is least where nothing is found."""
    assert judge_signals(three_attacks())
    assert judge_signals(three_attacks(goal=Goal((names.FLAGGED_SHARE,)))) == []


def test_the_oracle_takes_the_best_of_each_scenario() -> None:
    assert oracle_trials(three_attacks()) == {"a-0.1-s0": 1, "b-0.1-s0": 2, "c-0.1-s0": 0}


def test_regret_is_what_the_best_has_more() -> None:
    scores = oracle_scores(three_attacks())
    lost = regrets(scores, {"a-0.1-s0": 0, "b-0.1-s0": 2, "c-0.1-s0": 1})
    assert lost.to_dict() == pytest.approx({"a-0.1-s0": 0.7, "b-0.1-s0": 0.0, "c-0.1-s0": 0.3})


def test_signals_are_ranked_by_their_regret() -> None:
    gap, focus = judge_signals(three_attacks())
    assert (gap.signal, focus.signal) == (GAP, FOCUS)
    assert gap.regret.to_dict() == pytest.approx({"a-0.1-s0": 0.0, "b-0.1-s0": 0.0, "c-0.1-s0": 1.0})
    assert focus.regret.to_dict() == pytest.approx({"a-0.1-s0": 0.7, "b-0.1-s0": 0.7, "c-0.1-s0": 0.0})
    assert gap.correlation.to_dict() == pytest.approx({"a-0.1-s0": 1.0, "b-0.1-s0": 1.0, "c-0.1-s0": -1.0})
    assert focus.correlation["a-0.1-s0"] == pytest.approx(-0.5)  # ranks 3 2 1 against 1 3 2


def test_the_rule_visible_trusts_what_worked_on_the_other_attacks() -> None:
    # For a: on b and c the gap's mean regret is 0.5, the focus's 0.35, so the focus is trusted, and it takes trial 0.
    # For b: likewise 0.5 against 0.35. For c: on a and b the gap never errs, so it is trusted, and it takes trial 2.
    results = three_attacks()
    assert visible_trials(results, judge_signals(results)) == {"a-0.1-s0": 0, "b-0.1-s0": 0, "c-0.1-s0": 2}


def test_with_one_attack_its_own_scenarios_decide_and_the_answer_says_so() -> None:
    rows = [cell(0, "a", 0.2, 1.0, 0.9), cell(1, "a", 0.9, 2.0, 0.8)]
    results = small_results(rows)
    assert visible_trials(results, judge_signals(results)) == {"a-0.1-s0": 1}
    few = label_free.section(results)
    assert few is not None
    assert (few.answered, few.items) == (False, ())
    assert few.lead.startswith("2 trials are too few")
    more = [cell(trial, "a", 0.1, 0.5, trial / 10) for trial in (2, 3, 4)]
    section = label_free.section(small_results([*rows, *more]))
    assert section is not None
    assert any("One attack works" in getattr(item, "text", "") for item in section.items)


def test_an_attack_that_failed_decides_nothing() -> None:
    rows = [
        cell(0, "a", 0.2, 1.0, 0.9),
        cell(1, "a", 0.9, 2.0, 0.8),
        cell(0, "c", 1.0, 1.0, 0.9, attack_failed=True),
        cell(1, "c", 0.0, 2.0, 0.8, attack_failed=True),
    ]
    assert list(oracle_scores(small_results(rows))) == ["a-0.1-s0"]
    assert judge_signals(small_results(rows))[0].signal == GAP


def test_a_lower_objective_is_better_where_it_is_minimised() -> None:
    rows = [
        {"trial": 0, "attack": "a", "ca": 0.9, "asr": 0.1, GAP: 1.0},
        {"trial": 1, "attack": "a", "ca": 0.9, "asr": 0.6, GAP: 2.0},
    ]
    results = small_results(rows, objective="asr")
    assert oracle_trials(results) == {"a-0.1-s0": 0}
    assert judge_signals(results)[0].regret["a-0.1-s0"] == pytest.approx(0.5)


def test_the_best_single_configuration_is_best_in_the_mean_or_in_the_worst() -> None:
    assert three_attacks().best == 1  # means 0.433, 0.733, 0.433
    two = [cell(0, "a", 1.0, 1, 1), cell(0, "b", 0.3, 1, 1), cell(1, "a", 0.6, 1, 1), cell(1, "b", 0.5, 1, 1)]
    assert small_results(two).best == 0
    assert small_results(two, how="worst").best == 1
    assert small_results(two).best_on(["b-0.1-s0"]) == 1


def test_the_table_of_rules_shows_what_each_reaches() -> None:
    worse = [cell(trial, attack, 0.0, 0.5, 0.0) for trial in (3, 4) for attack in "abc"]  # fewer than five say nothing
    section = label_free.section(small_results([*THREE_ATTACKS, *worse]))
    assert section is not None
    (rules,) = [item for item in section.items if isinstance(item, Table) and item.name == "rules"]
    found = {row[0]: (row[5], row[6]) for row in rules.rows}
    assert found["paper default"] == (pytest.approx((0.2 + 0.1 + 1.0) / 3), pytest.approx((0.7 + 0.7 + 0) / 3))
    assert found["own best"] == (pytest.approx(0.9), pytest.approx(0.0))
    assert found["visible"] == (pytest.approx((0.2 + 0.1 + 0.0) / 3), pytest.approx(0.8))


def test_one_trial_or_none_that_differs_has_no_such_answer() -> None:
    assert label_free.section(small_results([cell(0, "a", 0.2, 1.0, 0.9)])) is None
    silent = [{"trial": number, "attack": "a", "tpr": 1.0, "fpr": 0.0} for number in (0, 1)]
    assert label_free.section(small_results(silent)) is None


def told(cells: list[dict[str, Any]]) -> Section:
    section = label_free.section(small_results(cells))
    assert section is not None
    return section


def signals(section: Section) -> dict[object, dict[str, Cell]]:
    """Rows of the table of signals, by signal."""
    (table,) = [item for item in section.items if isinstance(item, Table) and item.name == "signals"]
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


@pytest.mark.parametrize(("trials", "ranked"), [(4, False), (9, False), (10, True)])
def test_a_correlation_takes_ten_different_values(trials: int, ranked: bool) -> None:
    """Of four trials whose objective differs in the third digit Spearman is 1; the rest are tied with the worst."""
    near = [cell(n, "a", 0.95 + n / 1000, 1.0 + n, 0.1 * (n % 3)) for n in range(trials)]
    rest = [cell(n, "a", 0.95, 1.0, 0.0) for n in range(trials, 12)]
    results = small_results([*near, *rest])
    gap = next(one for one in judge_signals(results) if one.signal == GAP)
    assert gap.correlation["a-0.1-s0"] == pytest.approx(1.0), "what was told before"
    assert gap.known_correlation.isna().all() is not ranked
    section = told([*near, *rest])
    row = signals(section)["cut_gap"]
    if ranked:
        assert row["median correlation"] == "1.00"
        assert "rank correlation with isolation score is 1.00" in section.lead
    else:
        assert "median correlation" not in row, "all would be dashes"
        assert "correlation with" not in section.lead
        assert "A correlation takes at least 10 different values" in notes(section)


def notes(section: Section) -> str:
    return " ".join(item.text for item in section.items if isinstance(item, Note))


def test_a_signal_that_is_the_same_everywhere_chooses_nothing() -> None:
    """Before, it was told to take the first trial by its number, which is the paper's default."""
    rows = [cell(n, "a", 0.9 - n / 10, 1.0, 0.1 * n) for n in range(6)]
    constant = next(one for one in judge_signals(small_results(rows)) if one.signal == GAP)
    assert constant.regret["a-0.1-s0"] == 0.0, "of the first trial, by luck"
    section = told(rows)
    gap = signals(section)["cut_gap"]
    assert (gap["mean regret"], gap["worst regret"]) == (None, None)
    assert "class_focus" in section.lead
    assert "cut_gap" not in section.lead


def test_an_objective_that_is_the_same_everywhere_cannot_be_chosen_by() -> None:
    section = told([cell(n, "a", 0.9, 1.0 + n, 0.1 * n) for n in range(6)])
    assert (section.answered, section.items) == (False, ())
    assert section.lead == (
        "All 6 trials have the same isolation score on each scenario, so it does not matter which is chosen."
    )


def test_a_signal_stands_beside_a_trial_at_random() -> None:
    rows = [cell(n, "a", n / 10, n, 0.3 * (n % 2)) for n in range(6)]  # regrets of a random one: mean 0.25
    section = told(rows)
    assert "cut_gap, of 2 signals, chooses best" in section.lead
    assert "costs 0.000 of isolation score on average, and a trial at random 0.250" in section.lead
    worse = told([cell(n, "a", n / 10, -n, 0.3 * (n % 2 == 0)) for n in range(6)])
    assert worse.lead.startswith("No signal chooses better than chance"), worse.lead
    assert worse.uses_labels


def test_a_signal_that_differs_nowhere_is_not_trusted() -> None:
    """It would "prefer" the first trial, the paper's default, which here happens to be the best on both attacks."""
    rows = [
        cell(trial, attack, tpr, 1.0, trial / 10)
        for attack in ("a", "b")
        for trial, tpr in enumerate((0.9, 0.2, 0.3, 0.8, 0.1, 0.85))
    ]
    results = small_results(rows)
    assert visible_trials(results, judge_signals(results)) == {"a-0.1-s0": 5, "b-0.1-s0": 5}, "by the focus"


def test_clean_data_are_no_other_attack() -> None:
    """Nothing is chosen on them, so that no signal can have been right there."""
    tpr = (0.1, 0.2, 0.9, 0.3, 0.4)
    attacked = [
        cell(trial, "a", one, 1.0 - trial / 10, 1.0 if trial == 2 else trial / 10) for trial, one in enumerate(tpr)
    ]
    clean = [{**cell(trial, "clean", float("nan"), trial / 7, trial / 9), "fpr": 0.5} for trial in range(5)]
    results = small_results([*attacked, *clean])
    assert visible_trials(results, judge_signals(results))["a-0.1-s0"] == 2, "by the focus, which is right on a"
    section = label_free.section(results)
    assert section is not None
    assert any("One attack works" in getattr(item, "text", "") for item in section.items)
    rules = next(item for item in section.items if isinstance(item, Table) and item.name == "rules")
    assert {row[2] for row in rules.rows} == {0.0}, "the FPR on clean data is in no rule's mean"
