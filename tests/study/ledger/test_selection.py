"""The rules that choose a trial, against records worked out by hand."""

import subprocess
import sys

import pytest

from study.config.objectives import Direction
from study.ledger.selection import (
    Candidate,
    best_name,
    best_or_knee,
    best_over_all,
    best_per_scenario,
    by_number,
    front,
    knee,
    mean_best,
    over_scenarios,
    paper_default,
    visible,
    worst_case_best,
)

NAN = float("nan")
UP: tuple[Direction] = ("maximize",)
DOWN: tuple[Direction] = ("minimize",)
ASR_CA: tuple[Direction, Direction] = ("minimize", "maximize")


def trials(*values: tuple[float | None, ...] | None, states: dict[int, str] | None = None) -> list[Candidate]:
    """A trial each, complete unless said otherwise."""
    return [Candidate(number, (states or {}).get(number, "complete"), value) for number, value in enumerate(values)]


def on_scenarios(*reached: dict[str, float | None], states: dict[int, str] | None = None) -> list[Candidate]:
    """A trial each, with one value a scenario."""
    return [
        Candidate(number, (states or {}).get(number, "complete"), scenarios={name: (v,) for name, v in of.items()})
        for number, of in enumerate(reached)
    ]


def number(trial: Candidate | None) -> int | None:
    return None if trial is None else trial.number


def test_loads_nothing_heavy() -> None:
    script = (
        "import sys\nimport study.ledger.selection\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# One objective


def test_the_best_over_all_and_of_equals_the_first_number() -> None:
    reached = trials((0.25,), (0.75,), (0.75,), (0.5,))
    assert number(best_over_all(reached, UP)) == 1
    assert number(best_over_all(reached[::-1], UP)) == 1, "the number decides, not the order in which trials are given"
    assert number(best_over_all(reached, DOWN)) == 0
    assert number(best_or_knee(reached, UP)) == 1
    assert number(knee(reached, UP)) == 1, "of one objective the front is the best"


@pytest.mark.parametrize("undefined", [(None,), (NAN,), (), None, (float("inf"),)])
def test_an_undefined_objective_is_never_the_best(undefined: tuple[float | None, ...] | None) -> None:
    assert number(best_over_all(trials(undefined, (-1.0,)), UP)) == 1
    assert number(best_over_all(trials(undefined, (-1.0,)), DOWN)) == 1
    assert best_over_all(trials(undefined), UP) is None
    assert best_over_all([], UP) is None


@pytest.mark.parametrize("state", ["pruned", "fail", "running", "waiting"])
def test_a_trial_that_is_not_complete_wins_by_no_rule(state: str) -> None:
    would_win = Candidate(0, state, (1.0,), True, {"a": (1.0,), "b": (1.0,)})
    other = Candidate(1, "complete", (0.5,), True, {"a": (0.5,), "b": (0.25,)})
    both = [would_win, other]
    for rule in (best_over_all, best_or_knee, knee, mean_best, worst_case_best):
        assert number(rule(both, UP)) == 1, rule.__name__
    assert [trial.number for trial in front(both, UP)] == [1]
    assert best_per_scenario(both, "maximize") == {"a": 1, "b": 1}
    assert visible({"gap": both}, {"gap": {"a": 0.0, "b": 0.0}}, {"a": "a", "b": "b"}) == {"a": 1, "b": 1}
    assert number(paper_default(both)) == 1
    assert by_number(both, 0) is None
    assert number(by_number(both, 1)) == 1
    two = [Candidate(0, state, (0.0, 1.0)), Candidate(1, "complete", (0.5, 0.5))]
    assert number(knee(two, ASR_CA)) == 1


# Several objectives


def test_on_a_front_where_every_sum_of_ranks_ties_the_knee_is_nearest_to_the_ideal_point() -> None:
    """Ranks by ASR are 1 2 3 and by CA 3 2 1: each sum is 4. Scaled to the front, trial 2 is the nearest by far."""
    reached = trials((0.0, 0.5), (0.5, 1.0), (0.125, 0.875))
    assert [trial.number for trial in front(reached, ASR_CA)] == [0, 1, 2]
    assert number(knee(reached, ASR_CA)) == number(best_or_knee(reached, ASR_CA)) == 2
    assert best_over_all(reached, ASR_CA) is None, "a front has no best"
    assert (best_name(UP), best_name(ASR_CA)) == ("best", "knee of the front")


def test_the_knee_does_not_depend_on_the_unit_of_an_objective() -> None:
    reached = [(0.0, 0.90), (0.25, 0.98), (1.0, 1.00)]
    assert number(knee(trials(*reached), ASR_CA)) == 1
    assert number(knee(trials(*((asr, 100 * ca) for asr, ca in reached)), ASR_CA)) == 1


def test_of_trials_that_are_as_near_the_first_number_is_the_knee() -> None:
    assert number(knee(trials((0.25, 1.0), (0.0, 0.75)), ASR_CA)) == 0  # the two ends of a front: both at distance 1
    equal = trials((1.0, 1.0), (0.1, 0.3), (0.1, 0.3), (0.0, 0.0))
    assert [trial.number for trial in front(equal, ASR_CA)] == [0, 1, 3]
    assert number(knee(equal, ASR_CA)) == 1
    # (0.1, 0.7) and (0.3, 0.9), mirrored: their distances differ in the last bit, and are the same.
    mirrored = trials((0.1, 0.7), (0.3, 0.9), (0.0, 0.0), (1.0, 1.0))
    assert number(knee(mirrored, ASR_CA)) == 0


def test_an_objective_that_does_not_vary_on_the_front_counts_nothing() -> None:
    assert number(knee(trials((0.5, 0.5), (0.5, 0.75), (0.5, 0.25)), ASR_CA)) == 1
    assert number(knee(trials((0.5, 0.5)), ASR_CA)) == 0


def test_a_trial_without_all_objectives_is_on_no_front() -> None:
    reached = trials((0.0, None), (NAN, 1.0), (0.75, 0.25), (0.0,))
    assert [trial.number for trial in front(reached, ASR_CA)] == [2]
    assert number(knee(reached, ASR_CA)) == 2
    assert knee(reached[:2], ASR_CA) is None


# Scenarios


def test_the_mean_and_the_worst_case_choose_differently() -> None:
    reached = on_scenarios({"a": 1.0, "b": 0.25}, {"a": 0.625, "b": 0.5}, {"a": 0.5, "b": 0.5})
    assert number(mean_best(reached, UP)) == 0
    found = worst_case_best(reached, UP)
    assert found is not None
    assert (found.number, found.values) == (1, (0.5,)), "of equals the first"
    assert number(worst_case_best(reached, UP, ["a"])) == 0
    assert number(mean_best(reached, UP, ["b"])) == 1
    assert number(worst_case_best(reached, DOWN)) == 2, "where less is better, the worst is the largest"
    assert mean_best(reached, UP, ["elsewhere"]) is None


def test_the_worst_case_of_several_objectives_is_the_worst_of_each() -> None:
    steady = Candidate(0, "complete", scenarios={"a": (0.25, 0.75), "b": (0.25, 0.75)})
    uneven = Candidate(1, "complete", scenarios={"a": (0.0, 0.5), "b": (0.5, 1.0)})
    assert over_scenarios(uneven, ASR_CA, "worst").values == (0.5, 0.5)
    assert over_scenarios(uneven, ASR_CA, "mean").values == (0.25, 0.75)
    assert number(worst_case_best([uneven, steady], ASR_CA)) == 0


def test_what_a_scenario_leaves_undefined_is_passed_over() -> None:
    reached = on_scenarios({"a": None, "b": 0.75}, {"a": 0.5, "b": 0.5}, {"a": NAN, "b": None})
    assert number(mean_best(reached, UP)) == 0
    assert number(worst_case_best(reached, UP)) == 0
    assert mean_best(reached[2:], UP) is None


def test_equal_means_are_equal_in_whatever_order_they_are_summed() -> None:
    forth, back = {"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 0.3, "b": 0.2, "c": 0.1}
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    assert number(mean_best(on_scenarios(forth, back), UP)) == 0
    assert number(mean_best(on_scenarios(back, forth), UP)) == 0


def test_each_scenario_has_its_own_best() -> None:
    reached = on_scenarios({"a": 0.5, "b": 0.25, "c": None}, {"a": 0.75, "b": 0.25}, {"a": 0.75, "b": NAN, "d": 0.0})
    assert best_per_scenario(reached, "maximize") == {"a": 1, "b": 0, "d": 2}
    assert best_per_scenario(reached, "minimize") == {"a": 0, "b": 0, "d": 2}
    assert best_per_scenario(reached, "maximize", ["b", "c"]) == {"b": 0}


# Without ground truth


def test_visible_trusts_the_signal_that_chose_best_on_the_other_attacks() -> None:
    gap = on_scenarios({"a": 1.0, "b": 2.0, "c": 0.0}, {"a": 0.0, "b": 0.0, "c": 2.0})
    focus = on_scenarios({"a": 0.0, "b": 0.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 0.0})
    regrets = {"gap": {"a": 0.0, "b": 0.0, "c": 0.5}, "focus": {"a": 0.5, "b": 0.5, "c": 0.0}}
    attacks = {"a": "a", "b": "b", "c": "c"}
    # On b and c both lose 0.25, so the first is trusted for a, and likewise for b; on a and b the gap loses nothing.
    assert visible({"gap": gap, "focus": focus}, regrets, attacks) == {"a": 0, "b": 0, "c": 1}
    regrets["gap"]["c"] = 0.75
    assert visible({"gap": gap, "focus": focus}, regrets, attacks) == {"a": 1, "b": 1, "c": 1}
    assert visible({}, {}, attacks) == {}


def test_with_one_attack_all_its_scenarios_decide_and_an_undefined_regret_is_passed_over() -> None:
    gap = on_scenarios({"a0": 1.0, "a1": 1.0}, {"a0": 0.0, "a1": 0.0})
    focus = on_scenarios({"a0": 0.0, "a1": 0.0}, {"a0": 1.0, "a1": 1.0})
    regrets = {"gap": {"a0": 0.5, "a1": NAN}, "focus": {"a0": NAN, "a1": 0.25}}
    assert visible({"gap": gap, "focus": focus}, regrets, {"a0": "a", "a1": "a"}) == {"a0": 1, "a1": 1}
    regrets["focus"] = {"a0": NAN, "a1": NAN}  # nothing is known of it: it is trusted last
    assert visible({"focus": focus, "gap": gap}, regrets, {"a0": "a", "a1": "a"}) == {"a0": 0, "a1": 0}


def test_the_paper_s_default_needs_no_value() -> None:
    known = [
        Candidate(0, "complete", (1.0,)),
        Candidate(1, "complete", None, True),
        Candidate(2, "complete", None, True),
    ]
    assert number(paper_default(known)) == 1
    assert paper_default(known[:1]) is None
    assert by_number(known, 7) is None


def test_means_that_differ_by_rounding_alone_are_equal() -> None:
    trials = [
        Candidate(
            0, "complete", ((0.3 + 0.2 + 0.1) / 3,), scenarios=dict(zip("abc", ((0.3,), (0.2,), (0.1,)), strict=True))
        ),
        Candidate(
            1, "complete", ((0.1 + 0.2 + 0.3) / 3,), scenarios=dict(zip("abc", ((0.1,), (0.2,), (0.3,)), strict=True))
        ),
    ]
    assert trials[0].values != trials[1].values, "the sums differ in their last digit"
    assert best_or_knee(trials, ("maximize",)) is trials[0]
    chosen = mean_best(trials, ("maximize",))
    assert chosen is not None
    assert chosen.number == 0
