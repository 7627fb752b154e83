"""Which controls a study has. What one gives is held by the tests of `study.evaluate` and of the command."""

import pytest

from study.scenarios.clean_control import clean_scenarios
from study.scenarios.scenario import Scenario

POISONED = tuple(Scenario(attack, 0.1, 3, seed, "smoke") for attack in ("badnets", "sig") for seed in (0, 5))


def test_there_is_one_a_seed_with_the_same_target_and_preset() -> None:
    assert clean_scenarios("pipd", POISONED) == tuple(Scenario("clean", 0.0, 3, seed, "smoke") for seed in (0, 5))
    assert [scenario.name for scenario in clean_scenarios("ac", POISONED)] == ["clean-0-s0", "clean-0-s5"]


@pytest.mark.parametrize("defense", ["no_defense", "pipd_fault_ratio", "qt_backdoor_class"])
def test_there_is_none_where_nothing_is_flagged_or_the_poison_must_be_known(defense: str) -> None:
    assert clean_scenarios(defense, POISONED) == ()


def test_there_is_none_of_data_that_others_poisoned() -> None:
    given = Scenario("given:file=set.npz", 0.0, 0, 0, "smoke")
    assert clean_scenarios("pipd", (given,)) == ()
    assert clean_scenarios("pipd", (given, *POISONED[:1])) == clean_scenarios("pipd", POISONED[:1])
