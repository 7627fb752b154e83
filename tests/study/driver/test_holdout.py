"""What is held out, what is chosen without it, and what that is worth: by hand."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from small_results import small_results
from study_folder import make_study, write_settings
from study_process import command, make_workplace, run, states, wait_for

from defenses.registry import UserError
from study import status
from study.analysis.results import Results, read_results
from study.config.config import StudyConfig, resolve
from study.config.objectives import Goal
from study.ledger.grid import Points
from study.planning.holdout_rules import check_holdout, judge_seeds
from study.report.elements import Note, Table
from study.report.sections import holdout
from study.report.sections.holdout import Fold, folds, to_judge
from study.scenarios.scenario import Scenario


def cells(values: dict[str, list[float]], seed: int = 0, failed: str = "") -> list[dict[str, Any]]:
    """TPR by attack and trial; FPR is 0, so that the isolation score is the TPR."""
    return [
        {
            "trial": trial,
            "attack": attack,
            "seed": seed,
            "tpr": tpr,
            "fpr": 0.0,
            "ca": 0.9,
            "asr": 0.1,
            "ca_undefended": 0.95,
            "asr_undefended": 0.2 if attack == failed else 1.0,
            "attack_failed": attack == failed,
        }
        for attack, of_trials in values.items()
        for trial, tpr in enumerate(of_trials)
    ]


SEARCHED = {"a": [0.5, 1.0, 0.2, 0.6], "b": [0.5, 0.1, 0.9, 0.7], "c": [0.5, 0.2, 0.9, 0.8]}
POINTS = [{"beta": 3.0}, {"beta": 1.0}, {"beta": 2.0}, {"beta": 4.0}]


def search(failed: str = "", **changes: Any) -> Results:
    return small_results(cells(SEARCHED, failed=failed), points=POINTS, **changes)


def judgement(values: dict[str, list[float]], failed: str = "", seeds: tuple[int, ...] = (1,)) -> Results:
    """Trials 0, 1, 2 of the judgement have the points of trials 0, 2, 1 of the search."""
    found = [cell for seed in seeds for cell in cells(values, seed, failed)]
    return small_results(found, points=[POINTS[0], POINTS[2], POINTS[1]], given_points=True)


def test_each_attack_is_held_out_once_and_never_decides_its_own_setting() -> None:
    # Without a: means over b and c are 0.5, 0.15, 0.9, 0.75. Without b: over a and c 0.5, 0.6, 0.55, 0.7.
    # Without c: over a and b 0.5, 0.55, 0.55, 0.65.
    assert folds(search(), "attack") == [Fold("a", 2, 1), Fold("b", 3, 2), Fold("c", 3, 2)]


def test_a_default_that_is_the_best_elsewhere_is_no_comparison_won_or_lost() -> None:
    """Its values are the default's, up to the order in which they are added."""
    searched = small_results(cells({"a": [0.9, 0.1], "b": [0.9, 0.1]}))
    judged = small_results(cells({"a": [0.1 + 0.2, 0.1], "b": [0.3, 0.1]}, seed=1), given_points=True)
    section = holdout.section(searched, judged, "attack")
    assert (
        "tuned is better on 0, equal on 2 and worse on 0 (on 2 the tuned setting is the paper's default)"
        in section.lead
    )
    assert section.uses_labels


def test_what_the_held_out_attack_did_changes_nothing() -> None:
    other = small_results(cells({**SEARCHED, "a": [0.0, 0.0, 0.0, 1.0]}), points=POINTS)
    assert folds(other, "attack")[0].tuned == folds(search(), "attack")[0].tuned


def test_an_attack_that_failed_tunes_nothing_and_is_no_fold_to_win() -> None:
    found = folds(search(failed="a"), "attack")
    assert found[0] == Fold("a", 2, None)
    assert found[1].tuned == 2  # by c alone


def test_the_paper_s_default_is_judged_first_and_every_choice_once() -> None:
    assert to_judge(search(), "attack") == [0, 2, 1, 3]


def test_a_rate_is_held_out_with_all_its_attacks() -> None:
    rows = [
        {"trial": trial, "attack": "a", "poison_rate": rate, "tpr": tpr, "fpr": 0.0}
        for rate, values in {0.05: [0.9, 0.1], 0.1: [0.2, 0.8]}.items()
        for trial, tpr in enumerate(values)
    ]
    assert folds(small_results(rows), "rate") == [Fold("0.05", 1, 0), Fold("0.1", 0, 1)]


def test_with_new_seeds_all_scenarios_tune() -> None:
    assert folds(search(), "seed") == [Fold("new seeds", 3, 3)]  # means 0.5, 0.43, 0.67, 0.7


def tables(section: Any) -> dict[tuple[str, str], tuple[Any, ...]]:
    (table,) = [item for item in section.items if isinstance(item, Table)]
    found, label = {}, ""
    for row in table.rows:
        label = row[0] or label
        found[label, row[1]] = row[2:]
    return found


def test_the_table_tells_what_tuning_is_worth_on_the_unseen() -> None:
    searched = small_results(cells({"a": [0.5, 1.0, 0.2], "b": [0.5, 0.1, 0.9]}), points=POINTS[:3])
    assert folds(searched, "attack") == [Fold("a", 2, 1), Fold("b", 1, 2)]
    judged = judgement({"a": [0.4, 0.3, 0.8], "b": [0.6, 0.9, 0.2]})
    section = holdout.section(searched, judged, "attack")
    rows = tables(section)
    score, seen, gap = rows["a", "tuned without it (#2)"][4:]
    assert (score, seen, gap) == (pytest.approx(0.3), pytest.approx(0.9), pytest.approx(0.6))
    assert rows["a", "paper default (#0)"][4] == pytest.approx(0.4)
    assert rows["a", "tuned on it (#1)"][4] == pytest.approx(0.8)
    assert rows["b", "tuned without it (#1)"][4:] == pytest.approx((0.2, 0.8, 0.6))
    mean = rows["mean of 2", "tuned without it"]
    assert mean[4:] == pytest.approx((0.25, 0.85, 0.6))
    assert rows["mean of 2", "paper default"][4] == pytest.approx(0.5)
    assert rows["mean of 2", "tuned on it"][4] == pytest.approx(0.85)
    assert "reaches isolation score 0.250 and the paper's default 0.500" in section.lead
    assert "better on 0, equal on 0 and worse on 2" in section.lead
    assert "What it loses from seen to unseen is 0.600 on average" in section.lead


def test_spread_is_shown_over_the_seeds_of_the_judgement() -> None:
    searched = small_results(cells({"a": [0.5, 1.0, 0.2], "b": [0.5, 0.1, 0.9]}), points=POINTS[:3])
    one = cells({"a": [0.4, 0.3, 0.8], "b": [0.6, 0.9, 0.2]}, seed=1)
    two = cells({"a": [0.6, 0.3, 0.8], "b": [0.6, 0.9, 0.2]}, seed=2)
    judged = small_results([*one, *two], points=[POINTS[0], POINTS[2], POINTS[1]])
    rows = tables(holdout.section(searched, judged, "attack"))
    assert rows["a", "paper default (#0)"][0] == "0.500 ± 0.141"


def test_an_attack_that_fails_in_the_judgement_is_named_and_left_out_of_the_means() -> None:
    judged = judgement({"a": [0.4, 0.3, 0.8], "b": [0.6, 0.9, 0.2]}, failed="a")
    searched = small_results(cells({"a": [0.5, 1.0, 0.2], "b": [0.5, 0.1, 0.9]}), points=POINTS[:3])
    section = holdout.section(searched, judged, "attack")
    assert ("a ATTACK FAILED", "undefended") in tables(section)
    assert ("mean of 1", "paper default") in tables(section)
    texts = [item.text for item in section.items if isinstance(item, Note)]
    assert any("Left out of the means" in text and "a" in text for text in texts)
    assert any("One new seed" in text for text in texts)


def test_a_group_without_the_objective_is_no_fold_to_win() -> None:
    """Clean data have no TPR: its FPR stands in its rows, and in no mean beside settings that were tuned on attacks."""
    known = {"clean": [None, None, None], "b": [0.6, 0.9, 0.2], "c": [0.6, 0.8, 0.7]}
    judged = judgement(known)  # type: ignore[arg-type]
    searched = small_results(
        cells({"clean": [None] * 3, "b": [0.5, 0.1, 0.9], "c": [0.5, 0.1, 0.9]}),  # type: ignore[list-item]
        points=POINTS[:3],
    )
    section = holdout.section(searched, judged, "attack")
    assert "(mean over 2); tuned is better on 2, equal on 0 and worse on 0" in section.lead
    assert ("mean of 2", "paper default") in tables(section)
    assert ("clean", "undefended") in tables(section)
    texts = [item.text for item in section.items if isinstance(item, Note)]
    assert "Left out of the means, since they have no isolation score: clean." in texts


def test_nothing_is_said_when_no_attack_works() -> None:
    searched = small_results(cells({"a": [0.5, 1.0, 0.2]}, failed="a"), points=POINTS[:3])
    judged = judgement({"a": [0.4, 0.3, 0.8]}, failed="a")
    assert "nothing can be said" in holdout.section(searched, judged, "attack").lead


SCENARIOS = tuple(Scenario(attack, 0.1, 0, 0) for attack in ("badnets", "sig"))
GOAL = Goal(("overall_score",))


def config(**options: Any) -> StudyConfig:
    return resolve(StudyConfig, options)


def test_holding_out_brings_a_sampler_that_does_not_learn() -> None:
    assert config(holdout="attack").sampler == "qmc"
    assert config(holdout="attack", sampler="random").sampler == "random"
    assert config().sampler == "tpe"
    check_holdout(config(holdout="attack"), GOAL, SCENARIOS)


@pytest.mark.parametrize(
    ("options", "scenarios", "message"),
    [
        ({"holdout": "attack", "sampler": "tpe"}, SCENARIOS, "tpe learns from every scenario"),
        ({"holdout": "attack"}, SCENARIOS[:1], "give several --attacks"),
        ({"holdout": "rate"}, SCENARIOS, "give several --poison-rates"),
        ({"holdout": "attack", "per_scenario": True}, SCENARIOS, "leave out --per-scenario"),
        ({"holdout": "attack", "pruner": "asha"}, SCENARIOS, "leave out --per-scenario and --pruner"),
        ({"holdout": "attack", "seeds": (0, 1), "judge_seeds": (1, 2)}, SCENARIOS, "--seeds has 1 too"),
        ({"judge_seeds": (1,)}, SCENARIOS, "changes nothing without --holdout"),
    ],
)
def test_what_cannot_be_held_out_is_refused(options: dict[str, Any], scenarios: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_holdout(config(**options), GOAL, scenarios)


def test_several_objectives_have_no_best() -> None:
    with pytest.raises(UserError, match="one --objective"):
        check_holdout(config(holdout="attack"), Goal(("asr", "ca")), SCENARIOS)


def test_seeds_of_the_judgement_follow_those_of_the_search() -> None:
    assert judge_seeds(config(holdout="attack", seeds=(0, 3))) == (4, 5)
    assert judge_seeds(config(holdout="attack", judge_seeds=(7,))) == (7,)


def test_given_points_are_a_grid_in_their_order() -> None:
    points = Points(({"beta": 1.0, "rounds": 2}, {"beta": 3.0, "rounds": 1}))
    assert points.size == 2
    assert list(points.points(5)) == [{"beta": 1.0, "rounds": 2}, {"beta": 3.0, "rounds": 1}]
    assert {"beta": 3.0, "rounds": 1} in points
    assert {"beta": 3.0, "rounds": 2} not in points
    assert {"beta": 3.0} not in points, "a point has all of its fields"


def test_status_shows_a_held_out_study_as_the_two_that_it_is_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "unseen.search")
    write_settings(tmp_path / "unseen", holdout="attack", name="unseen")
    assert status.main(["unseen", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("unseen: stopped, nobody runs it\n6 trials: 2 done, 1 failed")
    assert "unseen.search" in shown
    assert "missing" not in shown
    make_study(tmp_path / "unseen.judge")
    assert status.main(["unseen", "--out", str(tmp_path)]) == 0
    assert "12 trials: 4 done, 2 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_held_out_study_goes_on_after_a_kill_and_is_extended(tmp_path: Path) -> None:
    """Through the command: a search, a judgement on new seeds, and a longer search whose choices are judged as well."""
    workplace = make_workplace(tmp_path)
    options = ("--name", "unseen", "--holdout", "attack", "--until", "isolate")
    search, judge = (workplace / "runs" / f"unseen.{part}" for part in ("search", "judge"))
    process = subprocess.Popen(
        command(workplace, *options, "--trials", "4"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: list(judge.glob("points/*/*-s1.json")) or process.poll() is not None)
    process.kill()
    process.wait(timeout=30)
    first = run(workplace, *options, "--trials", "4")
    assert first.returncode == 0, first.stderr
    assert states(search) == {"COMPLETE": 4}
    judged = states(judge)["COMPLETE"]
    assert 1 <= judged <= 5  # the default, and for each of two attacks what was tuned without it and on it
    assert {path.name for path in judge.glob("points/*/*-s*.json")} == {
        "badnets-0.1-s1.json",
        "trojan_square-0.1-s1.json",
    }
    assert "On an attack that the search never saw" in first.stdout
    again = run(workplace, *options, "--trials", "8")
    assert again.returncode == 0, again.stderr
    assert states(search) == {"COMPLETE": 8}
    assert states(judge)["COMPLETE"] >= judged
    found = read_results(workplace / "runs", "unseen")
    assert found.holdout_results is not None
    assert set(found.holdout_results.seeds) == {1}
    assert "8 configurations, drawn by qmc" in notes_of(holdout.section(found, found.holdout_results, "attack"))


def notes_of(section: Any) -> str:
    return " ".join(item.text for item in section.items if isinstance(item, Note))
