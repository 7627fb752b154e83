"""How many trials it takes to say what matters, where some hyperparameters act in some trials alone."""

import pytest

from search_spaces import SEARCH_SPACES
from search_spaces.conditions import where, where_above
from search_spaces.space import Choice, Float, Int, SearchSpace, acting_shares
from study.config.config import StudyConfig
from study.config.sampling import least_trials
from study.planning.few_trials import few_trials


def note(space: SearchSpace, trials: int, sampler: str = "qmc") -> str:
    return few_trials(space, StudyConfig.model_validate({"space": "ac", "trials": trials, "sampler": sampler}))


def test_shares_of_a_space_in_which_fields_act() -> None:
    assert acting_shares(SEARCH_SPACES["ac"].ranges) == pytest.approx(
        {"dims": 2 / 3, "max_share": 2 / 3, "min_silhouette": 1 / 3}
    )
    chain = {
        "rule": Choice(("all", "some"), "w"),
        "limit": Int(1, 3, "w", when=where("rule", "some")),
        "passed": Choice((0, 1), "w", when=where_above("limit", 1)),
        "share": Float(0.0, 1.0, "w"),
        "beside": Int(1, 2, "w", when=where_above("share", 0.75)),
    }
    assert acting_shares(chain) == pytest.approx({"limit": 1 / 2, "passed": 1 / 3, "beside": 1 / 4})
    assert acting_shares(SEARCH_SPACES["pipd"].ranges) == {}


def test_least_trials_by_hand() -> None:
    assert least_trials(6) == 31
    assert least_trials(6, 1 / 3) == 91
    assert least_trials(6, 1 / 3, given=2) == 92
    assert least_trials(0) == 1


def test_a_study_is_told_which_trials_are_too_few() -> None:
    space = SEARCH_SPACES["ac"]
    assert "30 trials are too few to compute which of 6 hyperparameters matter" in note(space, 30)
    assert note(space, 31).startswith("min_silhouette acts in about 33 % of the trials, and 31 are too few")
    assert "from about 91 on (--trials 91)" in note(space, 90)
    assert note(space, 91) == ""
    assert note(space, 31, "tpe") == ""
