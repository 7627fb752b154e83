"""Scores, their mean over scenarios, and what is refused as an objective."""

import pytest
from desk import Outcome

from defenses import DEFENSES
from defenses.registry import UserError
from study.config.objectives import aggregate, direction, scores
from study.planning import measurable
from study.planning.measurable import EVERYTHING, check_objective

WHOLE: dict[str, float | None] = {"tpr": 0.9, "fpr": 0.1, "ca": 0.8, "asr": 0.3}


def test_scores_of_a_whole_scenario() -> None:
    found = scores(WHOLE)
    assert found["isolation_score"] == pytest.approx(0.8)  # 0.9 - 0.1
    assert found["defense_score"] == pytest.approx(0.5)  # 0.8 - 0.3
    assert found["overall_score"] == pytest.approx(0.65)  # the mean of the two
    assert {name: found[name] for name in WHOLE} == WHOLE


@pytest.mark.parametrize(
    ("missing", "undefined"),
    [
        ("tpr", {"isolation_score", "overall_score"}),
        ("fpr", {"isolation_score", "overall_score"}),
        ("ca", {"defense_score", "overall_score"}),
        ("asr", {"defense_score", "overall_score"}),
    ],
)
def test_a_score_is_undefined_when_a_part_is(missing: str, undefined: set[str]) -> None:
    made = {"isolation_score", "defense_score", "overall_score"}
    as_none = scores({**WHOLE, missing: None})
    left_out = scores({name: value for name, value in WHOLE.items() if name != missing})
    for found in (as_none, left_out):
        assert {name for name in made if found[name] is None} == undefined


def test_zero_is_a_value_and_not_undefined() -> None:
    found = scores(dict.fromkeys(WHOLE, 0.0))
    assert [found[f"{kind}_score"] for kind in ("isolation", "defense", "overall")] == [0.0, 0.0, 0.0]


def test_the_mean_leaves_out_failed_attacks_and_what_is_undefined() -> None:
    outcomes = [
        Outcome({"tpr": 1.0, "fpr": 0.0, "auroc": None}),
        Outcome({"tpr": 0.5, "fpr": 0.25, "auroc": None}),
        Outcome({"tpr": None, "fpr": 0.5, "auroc": None}),  # the clean control has no TPR, but an FPR
        Outcome({"tpr": 0.0, "fpr": 1.0, "auroc": 0.0}, attack_failed=True),  # would pull every mean down
    ]
    found = aggregate(outcomes)
    assert found.counted == 3
    assert found.metrics["tpr"] == 0.75
    assert found.metrics["fpr"] == 0.25
    assert found.metrics["auroc"] is None
    assert found.metrics["isolation_score"] == pytest.approx((1.0 + 0.25) / 2)
    assert found.metrics["defense_score"] is None


def test_nothing_is_left_when_every_attack_failed() -> None:
    found = aggregate([Outcome(WHOLE, attack_failed=True)])
    assert found.counted == 0
    assert found.metrics.get("overall_score") is None


def test_direction_is_down_for_what_a_defender_wants_small() -> None:
    assert {name for name in (*measurable.MAXIMISED, *measurable.MINIMISED) if direction(name) == "minimize"} == {
        "fpr",
        "asr",
    }


@pytest.mark.parametrize(
    ("name", "until", "defense", "parts"),
    [
        ("isolaton_score", None, "pipd", ["'isolaton_score'", "did you mean 'isolation_score'?", "known: tpr"]),
        ("", None, "pipd", ["unknown objective ''"]),
        ("ca", "isolate", "pipd", ["'ca'", "--until isolate", "isolation_score"]),
        ("asr", "isolate", "pipd", ["--until isolate"]),
        ("overall_score", "isolate", "qt", ["--until isolate"]),
        ("tpr", None, "no_defense", ["no_defense flags nothing", "'tpr'", "defense_score"]),
        ("overall_score", None, "no_defense", ["no_defense flags nothing", "defense_score"]),
        ("fpr", "isolate", "no_defense", ["flags nothing", "--until isolate"]),
    ],
)
def test_what_cannot_be_measured_is_refused(name: str, until: str | None, defense: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        check_objective(name, until, DEFENSES[defense])
    message = str(refused.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


@pytest.mark.parametrize("name", [*measurable.MAXIMISED, *measurable.MINIMISED])
def test_every_objective_is_accepted_where_it_is_measured(name: str) -> None:
    check_objective(name, None, DEFENSES["qt"])
    if name not in {"ca", "ca_folded", "asr", "defense_score", "overall_score"}:
        check_objective(name, "isolate", DEFENSES["qt"])


def test_folded_accuracy_is_refused_for_a_plain_model() -> None:
    with pytest.raises(UserError, match="ca_folded"):
        check_objective("ca_folded", None, DEFENSES["pipd"])


@pytest.mark.parametrize(
    "measured", [EVERYTHING, frozenset({"fpr", "ca"}), frozenset({"ca"}), frozenset({"ca", "asr"})], ids=sorted
)
@pytest.mark.parametrize("until", [None, "isolate"])
@pytest.mark.parametrize("defense", sorted(DEFENSES))
def test_the_way_out_that_is_offered_works(defense: str, until: str | None, measured: frozenset[str]) -> None:
    refused = 0
    for name in (*measurable.MAXIMISED, *measurable.MINIMISED):
        try:
            check_objective(name, until, DEFENSES[defense], measured)
        except UserError as error:
            refused += 1
            offered = str(error).rpartition("use ")[2].split(" or ")
            kept = None if "leave out --until isolate" in str(error) else until
            for other in offered:
                check_objective(other, kept, DEFENSES[defense], measured)
    assert (refused == 0) is (defense == "qt" and until is None and measured == EVERYTHING)


def test_a_defense_that_flags_nothing_is_told_so_first() -> None:
    with pytest.raises(UserError, match="flags nothing"):
        check_objective("defense_score", "isolate", DEFENSES["no_defense"])
