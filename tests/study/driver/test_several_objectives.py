"""Several objectives: what they are told as, their front, what a trial fails for, and what the summary shows."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import BAD, GOOD, Desk, Outcome, judged, rows_of
from small_study import empty_ledger, save_npz, small_plan

from defenses.registry import UserError
from search_spaces.space import Choice, Float, SearchSpace
from study.config.config import StudyConfig, resolve
from study.config.objectives import Direction, Goal, aggregate, parse_objectives
from study.datasets.images import Images
from study.ledger.ledger import Ledger
from study.ledger.selection import best_over_all, pareto_front
from study.report.sections.joint_closing import joint_text

SPACE = SearchSpace("toy", "pipd", {"beta": Float(0.0, 6.0, "why"), "statistic": Choice(("max", "mean"), "why")})
BOTH: tuple[Direction, Direction] = ("minimize", "maximize")


def test_objectives_as_they_are_written() -> None:
    assert parse_objectives("asr:min,ca:max") == ("asr", "ca")
    assert parse_objectives("asr, ca") == ("asr", "ca")
    assert parse_objectives("overall_score") == ("overall_score",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("asr:max", ["'asr:max'", "a lower asr is better", "write asr:min"]),
        ("ca,tpr:min", ["'tpr:min'", "a higher tpr is better", "write tpr:max"]),
        ("asr:down", ["min or max", "'asr:down'", "write asr:min"]),
        ("asr:", ["min or max", "write asr:min"]),
        ("asr,ca,asr:min", ["stands once", "'asr'"]),
        ("asr,acc", ["unknown objective 'acc'"]),
        ("asr,", ["unknown objective ''"]),
    ],
)
def test_what_contradicts_itself_is_refused(text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        resolve(StudyConfig, {"objective": text})
    assert all(part in str(refused.value) for part in parts), str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_direction_that_is_written_out_makes_no_other_study() -> None:
    def identity(objective: str) -> str:
        return resolve(StudyConfig, {"objective": objective}).identity

    assert identity("asr:min,ca:max") == identity("asr, ca")
    assert len({identity("asr"), identity("asr,ca"), identity("ca,asr")}) == 3


def test_the_worst_scenario_is_the_worst_by_each_metric() -> None:
    outcomes = [
        Outcome({"tpr": 0.9, "fpr": 0.1, "ca": 0.8, "asr": 0.3}),
        Outcome({"tpr": None, "fpr": 0.4, "ca": 0.9, "asr": 0.1}),
        Outcome({"tpr": 0.0, "fpr": 1.0, "ca": 0.0, "asr": 1.0}, attack_failed=True),
    ]
    found = aggregate(outcomes, "worst").metrics
    assert {name: found[name] for name in ("tpr", "fpr", "ca", "asr")} == {
        "tpr": 0.9,
        "fpr": 0.4,
        "ca": 0.8,
        "asr": 0.3,
    }
    assert found["defense_score"] == pytest.approx(0.5)  # of the first, where both are worse; not 0.8 - 0.3 by chance
    assert Goal(("asr", "ca"), "worst").values(outcomes) == (0.3, 0.8)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["asr", "ca"])
@pytest.mark.parametrize("position", [0, 1])
def test_what_is_not_finite_is_never_passed_over(broken: float, name: str, position: int) -> None:
    values = [0.5, 0.5]
    values[position] = broken
    outcomes = [Outcome({name: value}) for value in values]
    for how in ("mean", "worst"):
        found = aggregate(outcomes, how).metrics[name]  # type: ignore[arg-type]
        assert found is not None
        assert not math.isfinite(found)


@pytest.mark.parametrize(
    ("values", "front"),
    [
        ([], []),
        ([(0.5, 0.5)], [0]),
        ([(0.5, 0.5), (0.4, 0.6)], [1]),  # less of the first and more of the second
        ([(0.4, 0.6), (0.5, 0.7), (0.5, 0.6)], [0, 1]),
        ([(0.4, 0.6), (0.4, 0.6), (0.4, 0.5)], [0]),  # of equals the first; as good in one and worse in the other
        ([(0.9, 0.1), (0.1, 0.1), (0.1, 0.9)], [2]),
    ],
)
def test_the_front(values: list[tuple[float, float]], front: list[int]) -> None:
    assert pareto_front(values, BOTH) == front


def test_the_front_of_many_is_what_its_definition_says() -> None:
    values = [((7 * i) % 31 / 31, (11 * i) % 29 / 29) for i in range(120)]
    beaten = {
        i
        for i, (asr, ca) in enumerate(values)
        for j, (other_asr, other_ca) in enumerate(values)
        if other_asr <= asr and other_ca >= ca and ((other_asr, other_ca) != (asr, ca) or j < i)
    }
    assert pareto_front(values, BOTH) == [i for i in range(120) if i not in beaten]


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[..., Ledger]:
    """Opens a ledger of ASR and CA, as each driver does."""
    path = tmp_path / "study.db"
    path.write_bytes(empty_ledger(BOTH))

    def open_ledger(sampler: str = "random") -> Ledger:
        return Ledger(path, "toy", SPACE, BOTH, sampler, 0, 12, lambda point: repr(sorted(point.items())))

    return open_ledger


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.5, math.nan), "objectives must be finite numbers, got 0.5, nan"),
        ((math.inf, 0.5), "objectives must be finite numbers, got inf, 0.5"),
        ((None, 0.5), "objectives must be finite numbers, got None, 0.5"),
        ((0.5, "0.5"), "objectives must be finite numbers, got 0.5, '0.5'"),
        ((0.5, 0.5, 0.5), "this study has 2 objectives, got 3 values"),
        ((0.5,), "this study has 2 objectives, got 1 values"),
        (0.5, "this study has 2 objectives, got 1 values"),
    ],
)
def test_one_bad_objective_fails_the_trial_with_its_reason(
    values: Any, reason: str, reopen: Callable[..., Ledger]
) -> None:
    ledger = reopen()
    number, _, _ = ledger.ask()
    ledger.tell(number, (values, ""))
    (row,) = reopen().rows()
    assert (row.state, row.values, row.value, row.reason) == ("fail", (), None, reason)
    assert ledger.front() == []


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
def test_every_sampler_takes_several_objectives_and_goes_on_after_a_kill(
    sampler: str, reopen: Callable[..., Ledger]
) -> None:
    points = []
    for start in (0, 8):
        ledger = reopen(sampler)
        assert ledger.recover_interrupted(lambda _: None) == (0, 1 if start else 0)
        for step in range(start, start + 8):
            number, point, _ = ledger.ask()
            points.append(tuple(point.values()))
            ledger.tell(number, ((point["beta"], point["beta"] ** 2), "") if step % 5 else (None, "broken"))
        ledger.ask()  # and then the driver is killed
    assert len(set(points)) == 16
    rows = [row for row in reopen().rows() if row.values]
    assert all(row.values == (row.point["beta"], row.point["beta"] ** 2) for row in rows)
    assert best_over_all(reopen().rows(), BOTH) is None, "a front has no best"
    # More of the one is more of the other: no trial beats another.
    assert len(reopen().front()) == len(rows) == 12


@pytest.fixture
def make(images: Images, tmp_path: Path) -> Callable[..., Desk]:
    """Studies of two attacks and two objectives, with the default queued."""
    dataset = save_npz(tmp_path / "data.npz", images)

    def desk(**options: Any) -> Desk:
        given = {"attacks": ("badnets", "blended_random"), "objective": "asr:min,ca:max", **options}
        plan = small_plan(dataset, tmp_path / "out", **given)
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        found = Desk(plan, folder)
        found.ledger.enqueue_default(plan.default_point)
        return found

    return desk


def test_the_summary_shows_the_front_beside_the_default(make: Callable[..., Desk]) -> None:
    desk = make()
    for asr, ca in ((0.5, 0.5), (0.0, 0.75), (0.25, 1.0), (0.25, 0.5)):
        desk.trial(judged(1.0, 0.0, ca, asr), judged(1.0, 0.0, ca, asr))
    summary = desk.closing()
    text = summary.text()
    # Both lie at an end of the front, as far from the ideal: the first.
    sentence = (
        "Of 4 trials 2 are beaten by no other in ASR and CA; trial 1 is nearest to the ideal: ASR 0.000 and CA 0.750; "
        "the paper's default has 0.500 and 0.500."
    )
    assert " ".join(text.split()).startswith(sentence)
    assert [line.split() for line in text.splitlines() if line.startswith(("trial  ", "ASR   ", "CA   "))] == [
        ["trial", "paper", "default", "#1", "#2"],
        ["ASR", "0.5000", "0.0000", "0.2500"],
        ["CA", "0.5000", "0.7500", "1.0000"],
    ]
    joint = " ".join(joint_text([summary]).split())
    assert joint.startswith(f"{BAD}: {sentence}"), "where each scenario is a study of its own"
    models = ["paper default", "front (#1)", "front (#2)"]
    assert [row[1] for row in rows_of(text, "scenario")] == ["undefended", *models] * 2 + models
    assert "best (#" not in text
    metrics = summary.metrics()
    assert (metrics["front"], metrics["best/objective/asr"], metrics["best/objective/ca"]) == (2.0, 0.0, 1.0)
    assert (metrics["paper_default/objective/asr"], metrics["paper_default/ca"]) == (0.5, 0.5)
    assert "best/asr" not in metrics
    lines = list(csv.DictReader(io.StringIO(desk.csv())))
    assert [(line["objective/asr"], line["objective/ca"]) for line in lines[2:4]] == [("0.0", "0.75")] * 2
    trials = {record.run: record for record in desk.records() if record.run.startswith("trial/") and record.metrics}
    second = trials[desk.told.trial_run(desk.ledger.rows()[1].key)].metrics
    assert (second["asr"], second["ca"]) == (0.0, 0.75)
    assert not [name for name in second if "objective" in name], "each has its own name"


def test_an_objective_that_no_scenario_defines_fails_the_trial(make: Callable[..., Desk]) -> None:
    desk = make()
    row = desk.trial(judged(1.0, 0.0, 0.5, None), judged(1.0, 0.0, 0.5, None))
    assert (row.state, row.reason) == ("fail", "asr is undefined on every scenario")
    assert desk.closing().text() == (
        "No trial is complete: 1 failed.\n\n1 trial failed, trial 0: asr is undefined on every scenario"
    )


def test_the_worst_scenario_decides_when_it_is_asked_for(make: Callable[..., Desk]) -> None:
    desk = make(objective="ca", aggregate="worst")
    desk.trial(judged(1.0, 0.0, 0.75, 0.0), judged(1.0, 0.0, 0.75, 0.0))
    desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(1.0, 0.0, 0.5, 0.25))  # as good on average
    text = desk.closing().text()
    assert text.startswith("The paper's default is the best of 2 trials: CA 0.750 on its worst scenario.")
    assert [row.value for row in desk.ledger.rows()] == [0.75, 0.5]
    assert rows_of(text, "scenario")[-1][-2:] == ["0.750", "0.000"]
    assert [row[0] for row in rows_of(text, "scenario") if row[0]] == [BAD, GOOD, "worst of each"]
