"""The books and the closing tables, on trials written by hand."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from desk import BAD, GOOD, Desk, judged, rows_of
from small_study import save_npz, small_plan

from defenses.signals import SIGNALS
from study.analysis.finding import _gained
from study.analysis.paired_tests import Difference
from study.cli.terminal import duration, table
from study.datasets.images import Images
from study.driver.driver import why_no_result
from study.ledger.records import TrialRecord, write_record
from study.ledger.result_reader import NO_ATTACK
from study.ledger.snapshot import LOST
from study.report.sections import summary
from study.report.sections.closing import Closing
from tracking import names

MakeDesk = Callable[..., Desk]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Images) -> str:
    """Small images in a file."""
    return save_npz(tmp_path_factory.mktemp("summary") / "data.npz", images)


@pytest.fixture
def make(dataset: str, tmp_path: Path) -> MakeDesk:
    """Studies of two attacks, `BAD` and `GOOD`, with the default queued."""

    def desk(**options: Any) -> Desk:
        plan = small_plan(dataset, tmp_path / "out", **{"attacks": ("badnets", "blended_random"), **options})
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        found = Desk(plan, folder)
        found.ledger.enqueue_default(plan.default_point)
        return found

    return desk


def test_nothing_has_finished(make: MakeDesk) -> None:
    desk = make()
    summary = desk.closing()
    assert summary.text() == "No trial has finished yet."
    assert summary.metrics() == {"trials": 0.0}
    assert len(desk.csv().splitlines()) == 1


def test_the_paper_s_default_stands_beside_the_best(make: MakeDesk) -> None:
    desk = make()
    desk.trial(judged(0.5, 0.25, 0.75, 0.5), judged(0.25, 0.25, 0.75, 1.0))
    best = desk.trial(judged(1.0, 0.0, 0.875, 0.125), judged(0.5, 0.0, 0.75, 0.25))
    # (0.25 + 0.25) / 2 and (0 - 0.25) / 2, their mean is 0.0625; then (1 + 0.75) / 2 and (0.5 + 0.5) / 2.
    assert [row.value for row in desk.ledger.rows()] == pytest.approx([0.0625, 0.6875])
    text = desk.closing().text()
    # 0.6875 - 0.0625
    assert text.startswith(
        "Trial 1 is the best of 2: overall score 0.688, 0.625 better than the paper's default; one seed"
    )
    assert rows_of(text, "scenario") == [
        [BAD, "undefended", "-", "-", "-", "0.900", "1.000"],
        ["", "paper default", "0.500", "0.250", "0.500", "0.750", "0.500"],
        ["", "best (#1)", "1.000", "0.000", "1.000", "0.875", "0.125"],
        [GOOD, "undefended", "-", "-", "-", "0.900", "1.000"],
        ["", "paper default", "0.250", "0.250", "0.250", "0.750", "1.000"],
        ["", "best (#1)", "0.500", "0.000", "0.500", "0.750", "0.250"],
        ["mean of all", "paper default", "0.375", "0.250", "0.375", "0.750", "0.750"],
        ["", "best (#1)", "0.750", "0.000", "0.750", "0.812", "0.188"],
    ]
    points = {row[0]: row[1:] for row in rows_of(text, "hyperparameter")}
    assert set(points) == {"p isolation_rate", "q clean_rate", "β beta", "K channels_per_tap", "T rounds"} | {
        "λ ascent_weight",
        "channel_statistic",
    }
    assert points["T rounds"] == ["8", str(best.point["rounds"]), "1 to 12"]
    assert points["β beta"] == ["3", f"{best.point['beta']:.3g}", "[0, 6]"]


def test_what_set_gives_is_not_called_the_paper_s(make: MakeDesk) -> None:
    desk = make(set={"beta": "1.7", "rounds": "8", "gamma": "0.5"})  # the paper's rounds and gamma
    desk.trial(judged(0.5, 0.25, 0.75, 0.5), judged(0.25, 0.25, 0.75, 1.0))
    assert "Every trial, the paper default too, has values of --set that are not the paper's: beta 1.7 (paper 3)." in (
        " ".join(desk.closing().text().split())
    )


def test_a_setting_that_is_all_set_is_not_the_paper_s_default(make: MakeDesk) -> None:
    fields = {"isolation_rate": "0.01", "clean_rate": "0.2", "beta": "1.7", "channels_per_tap": "0.04", "rounds": "8"}
    desk = make(set={**fields, "ascent_weight": "1", "channel_statistic": "max"})
    desk.trial(judged(0.5, 0.25, 0.75, 0.5), judged(0.25, 0.25, 0.75, 1.0))
    text = desk.closing().text()
    assert text.startswith("The setting of --set, the only trial,")
    assert {row[1] for row in rows_of(text, "scenario")} == {"undefended", "as set"}


def test_the_default_is_in_the_table_when_it_is_the_best(make: MakeDesk) -> None:
    desk = make()
    desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(1.0, 0.0, 1.0, 0.0))
    desk.trial(judged(0.5, 0.0, 1.0, 0.0), judged(1.0, 0.0, 1.0, 0.0))
    models = [row[1] for row in rows_of(desk.closing().text(), "scenario")]
    assert models == ["undefended", "paper default, the best"] * 2 + ["paper default, the best"]


def test_a_scenario_shows_its_own_best_when_it_is_another_trial(make: MakeDesk) -> None:
    desk = make()
    desk.trial(judged(0.5, 0.0, 0.5, 0.5), judged(0.5, 0.0, 0.5, 0.5))
    desk.trial(judged(0.75, 0.0, 0.75, 0.0), judged(0.75, 0.0, 0.75, 0.0))  # best on average
    desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(0.0, 0.0, 0.0, 1.0))  # best on the first alone
    found = rows_of(desk.closing().text(), "scenario")
    assert [row[1] for row in found[:4]] == ["undefended", "paper default", "best (#1)", "best here (#2)"]
    assert found[3][2:] == ["1.000", "0.000", "1.000", "1.000", "0.000"]
    assert [row[1] for row in found[4:7]] == ["undefended", "paper default", "best (#1)"]


def test_a_failed_attack_is_marked_and_left_out_of_the_means(make: MakeDesk) -> None:
    desk = make()
    for _ in range(2):
        row = desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(0.0, 0.5, 0.5, 0.5), failed=(GOOD,))
        assert row.value == 1.0, "the failed attack counts neither for nor against"
    summary = desk.closing()
    text = summary.text()
    assert summary.attack_failures() == [GOOD]
    assert f"{GOOD} (attack fails)" in [row[0] for row in rows_of(text, "scenario")]
    assert [row[2:] for row in rows_of(text, "scenario") if row[0] == "mean of all"] == [
        ["1.000", "0.000", "1.000", "1.000", "0.000"]
    ]
    assert "The attack does not work on blended_random-0.1 (ASR without a defense below 0.9)" in text
    assert summary.metrics() == {
        "trials": 2.0,
        **{f"{who}/{name}": value for who in ("best", "paper_default") for name, value in ALL_WON.items()},
    }


ALL_WON = {"objective": 1.0, "tpr": 1.0, "fpr": 0.0, "auroc": 1.0, "ca": 1.0, "asr": 0.0}


def test_what_is_undefined_is_a_dash(make: MakeDesk) -> None:
    desk = make(attacks=("badnets", "clean"))
    desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(None, 0.25, 0.5, None))
    found = rows_of(desk.closing().text(), "scenario")
    assert found[2:4] == [
        ["clean-0-s0", "undefended", "-", "-", "-", "0.900", "-"],
        ["", "paper default", "-", "0.250", "-", "0.500", "-"],
    ]


def test_one_scenario_needs_no_mean(make: MakeDesk) -> None:
    desk = make(attacks=("badnets",))
    desk.trial(judged(1.0, 0.0, 1.0, 0.0))
    assert "mean of all" not in desk.closing().text()


def test_lower_is_better_for_what_is_minimised(make: MakeDesk) -> None:
    desk = make(attacks=("badnets",), objective="asr")
    for asr in (0.5, 0.25, 0.75):
        desk.trial(judged(1.0, 0.0, 1.0, asr))
    text = desk.closing().text()
    assert text.startswith("Trial 1 is the best of 3: ASR 0.250, 0.250 better than the paper's default; one seed")
    assert "best here" not in text


def test_a_space_without_ranges_says_so(make: MakeDesk) -> None:
    desk = make(space="no_defense", attacks=("badnets",))
    desk.trial({"ca": 0.5, "asr": 1.0, "ca_undefended": 0.5, "asr_undefended": 1.0})
    text = desk.closing().text()
    assert text.startswith("The paper's default, the only trial, reaches")
    assert rows_of(text, "scenario") == [[BAD, "undefended, paper default", "0.500", "1.000"]], "nothing twice"
    assert "hyperparameter" not in text


def test_failed_trials_are_counted_with_the_first_reason(make: MakeDesk) -> None:
    desk = make(attacks=("badnets",))
    desk.trial(judged(1.0, 0.0, 1.0, 0.0))
    desk.failure("Traceback (most recent call last):\n  in f\nValueError: no good")
    desk.failure("another reason")
    text = desk.closing().text()
    assert text.startswith("The paper's default, the only trial,")
    assert "2 trials failed, the first, trial 1: ValueError: no good" in text


def test_a_study_whose_every_trial_failed_says_why_and_one_with_a_result_does_not(make: MakeDesk) -> None:
    desk = make()
    assert why_no_result(desk.ledger.rows()) == ""
    desk.failure("Traceback\nRuntimeError: broken")
    desk.ledger.ask()  # one that is still running
    assert why_no_result(desk.ledger.rows()) == "every trial failed; the last one said: RuntimeError: broken"
    desk.trial(judged(1.0, 0.0, 0.9, 0.1), judged(1.0, 0.0, 0.9, 0.1))
    assert why_no_result(desk.ledger.rows()) == ""


def test_an_interrupted_trial_is_no_failed_one(make: MakeDesk) -> None:
    desk = make(attacks=("badnets",))
    desk.ledger.ask()  # and then the driver was killed
    desk.ledger.recover_interrupted(desk.reader.outcome)
    desk.trial(judged(1.0, 0.0, 1.0, 0.0))
    assert [row.reason for row in desk.ledger.rows()] == [LOST, ""]
    results = desk.closing().results
    assert "failed" not in desk.closing().text()
    assert results.trials["state"].tolist() == ["interrupted", "complete"]
    assert results.trials["key"].nunique() == 1, "the second runs what the first began"
    assert set(results.evaluations["trial"]) == {1}, "whose records are those of both"
    (summed,) = summary.sections(results)
    told = str(summed)
    assert "1 interrupted" in told
    assert "1 failed" not in told


def test_a_record_that_was_damaged_later_is_no_end(make: MakeDesk) -> None:
    desk = make()
    desk.trial(judged(0.5, 0.0, 0.5, 0.5), judged(0.5, 0.0, 0.5, 0.5))
    row = desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(1.0, 0.0, 1.0, 0.0))
    (desk.reader.points / row.key / f"{GOOD}.json").write_text("{")
    text = desk.closing().text()
    assert text.startswith("The paper's default, the only trial,"), (
        "as in the report: a trial that cannot be read whole counts nowhere"
    )
    assert "The files of trial 1 cannot be read any more" in text
    shown = {(rows[0], rows[1]): rows[2:] for rows in rows_of(text, "scenario")}
    assert shown[BAD, "undefended"][3:] == shown[GOOD, "undefended"][3:] == ["0.900", "1.000"]
    assert not [model for _, model in shown if "#1" in model]
    assert desk.closing().metrics()["best/tpr"] == 0.5


def test_the_only_trial_is_not_whole_without_a_scenario_that_no_trial_can_be_read_on(make: MakeDesk) -> None:
    desk = make()
    row = desk.trial(judged(0.5, 0.0, 0.5, 0.5), judged(0.5, 0.0, 0.5, 0.5))
    (desk.reader.points / row.key / f"{GOOD}.json").write_text("{")
    text = desk.closing().text()
    assert "0.500" not in text, "half of its scenarios are no mean of all"
    assert "The files of trial 0 cannot be read any more" in text
    assert "best/tpr" not in desk.closing().metrics()


def test_the_csv_has_a_line_a_trial_and_scenario(make: MakeDesk) -> None:
    desk = make(attacks=("badnets", "clean"), objective="fpr")
    row = desk.trial(judged(1.0, 0.0, 0.5, 0.25), judged(None, 0.125, 0.5, None), failed=(BAD,))
    text = desk.csv()
    found = list(csv.DictReader(io.StringIO(text)))
    assert text.splitlines()[0].split(",") == [
        "trial",
        "paper_default",
        "stopped_early",
        "objective",
        *desk.plan.space.ranges,
        "scenario",
        "repeat",
        "attack_failed",
        "failed_run",
        *names.METRICS,
        *map(names.signal, SIGNALS),
        "built_seconds",
        "wall_seconds",
        "defense_built_epochs",
        "defense_spent_epochs",
        "defense_built_seconds",
        "defense_spent_seconds",
        "fpr_clean",
    ]
    assert len(found) == 2
    assert [line["fpr_clean"] for line in found] == ["0.125", "0.125"]  # of the study's own clean scenario
    assert [line["scenario"] for line in found] == [BAD, "clean-0-s0"]
    assert [line["attack_failed"] for line in found] == ["1", "0"]
    assert {(line["trial"], line["paper_default"], line["objective"]) for line in found} == {("0", "1", "0.125")}
    assert (found[0]["tpr"], found[1]["tpr"], found[1]["fpr"]) == ("1.0", "", "0.125")
    assert {name: found[0][name] for name in row.point} == {name: str(value) for name, value in row.point.items()}
    assert (found[0]["built_seconds"], found[0]["wall_seconds"]) == ("1.75", "0.5")  # 1.5 + 0.25


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (3600, "1 h 0 min"), (7805, "2 h 10 min")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_table_is_aligned() -> None:
    assert table(["name", "CA"], [["a", "0.5"], ["longer", "-"]]) == (
        "name     CA\n------  ---\na       0.5\nlonger    -"
    )


def test_the_outcome_of_a_point(make: MakeDesk) -> None:
    desk = make()
    key = "0123"
    assert desk.reader.outcome(key) is None, "not begun"
    desk.write(key, {}, [judged(1.0, 0.0, 1.0, 0.0)])
    assert desk.reader.outcome(key) is None, "a scenario is missing"
    desk.write(key, {}, [judged(1.0, 0.0, 1.0, 0.0), judged(0.5, 0.0, 0.5, 0.5)])
    assert desk.reader.outcome(key) == (0.625, "")  # (1 + 0.25) / 2
    desk.write(key, {}, [judged(1.0, 0.0, 1.0, 0.0)] * 2, failed=(BAD, GOOD))
    assert desk.reader.outcome(key) == (None, NO_ATTACK)
    desk.write(key, {}, [{"ca": 0.5}] * 2)
    assert desk.reader.outcome(key) == (None, "overall_score is undefined on every scenario")
    write_record(desk.reader.points / key / "result.json", TrialRecord(key, {}, [], "broken"))
    assert desk.reader.outcome(key) == (None, "broken")
    (desk.reader.points / key / "result.json").write_text("{")
    assert desk.reader.outcome(key) is None, "a damaged result is no result"


def test_a_trial_without_a_result_fails_with_what_is_known(make: MakeDesk) -> None:
    desk = make()
    for error, reason in (("the worker process died", "the worker process died"), ("", "the trial left no result")):
        number, _, key = desk.ledger.ask()
        row = desk.settlement.finish_trial(number, key, error)
        assert (row.state, row.reason) == ("fail", reason)
    assert desk.settlement.failures_at_start == 2
    desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(1.0, 0.0, 1.0, 0.0))
    desk.failure("broken")
    assert desk.settlement.failures_at_start == 2, "after a success no failure is one at the start"


def test_what_may_change_when_a_study_goes_on_is_a_tag(make: MakeDesk) -> None:
    for trials in (12, 20):  # MLflow refuses a param that changed
        desk = make(trials=trials)
        desk.told.study_begins(desk.plan.config.model_dump(mode="json"))
    before, after = desk.records()
    assert before.run == after.run
    assert before.params == after.params
    assert before.params["space"] == "pipd"
    assert [record.tags["study.setting.trials"] for record in (before, after)] == ["12", "20"]


def test_everything_is_passed_on_once(make: MakeDesk) -> None:
    desk = make()
    row = desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(None, 0.5, 0.5, None))
    for _ in range(2):
        desk.settlement.finish_scenario(row.key, BAD)
        desk.settlement.catch_up()
    after = Desk(desk.plan, desk.folder)  # the next driver
    after.settlement.catch_up()
    records = after.records()
    final = [record.run for record in records if record.status != "RUNNING"]
    bad, good = (desk.told.scenario_run(row.key, name) for name in (BAD, GOOD))
    trial = desk.told.trial_run(row.key)
    assert sorted(final) == sorted([bad, good, trial])
    runs = [record.run for record in records]
    for position, record in enumerate(records):  # MLflow needs the parent's run before the child's
        assert record.parent in {*runs[:position], after.told.study_run}
    by_run = {record.run: record for record in records}
    assert "tpr" not in by_run[good].metrics, "what is undefined is not logged"
    assert by_run[trial].metrics["objective"] == row.value
    assert by_run[trial].metrics["fpr"] == 0.25
    study = desk.plan.config.study_name
    assert by_run[trial].name == f"{study} #0 paper default"
    assert by_run[bad].name == f"{study} #0 paper default {BAD}"
    opened = next(record for record in records if record.run == trial)
    assert opened.name == by_run[trial].name, "it is called so from the start"


def test_studies_that_share_a_database_share_no_run(make: MakeDesk) -> None:
    books = [make(name=name).told for name in ("one", "two")]
    assert len({book.trial_run("k") for book in books}) == len({book.scenario_run("k", BAD) for book in books}) == 2


def test_a_default_that_came_later_keeps_its_numbers() -> None:
    """After a kill in the first trial the paper's default has another number, and one of the front may come before."""
    results = SimpleNamespace(default=3, front=[1, 3, 4], best=1, ranges={"beta": None}, complete=range(5))
    compared = Closing._compared(SimpleNamespace(results=results, _several=True))  # type: ignore[arg-type]
    assert compared == [("paper default, on the front", 3), ("front (#1)", 1), ("front (#4)", 4)]


def difference(seeds: int, verdict: Any, p: float = 0.001, low: float = 0.3, mean: float = 0.4) -> Difference:
    high = 2 * mean - low
    return Difference("tpr", None, 2 * seeds, seeds, 2 * seeds, 0.6, 0.2, mean, low, high, p, 0.0001, verdict=verdict)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (difference(6, "A"), ", more than chance explains over 6 seeds"),
        (
            difference(2, "A", low=-1.0),
            ", on these scenarios more than chance explains; over 2 seeds it stays open what",
        ),
        (difference(6, "A", p=0.02), ", which over 6 seeds cannot be told from the luck of the best of 20"),
        (
            difference(2, "A", mean=0.3),
            ", more than chance explains over 2 seeds with every attack at work (0.300 on their 4 scenarios)",
        ),
        (difference(6, "not separated"), ", which over 6 seeds cannot be told from chance"),
    ],
)
def test_more_than_chance_is_more_than_other_seeds_and_picking_explain(found: Difference, told: str) -> None:
    """Of 20 null trials the best has p below 0.02 with a chance of up to 0.4."""
    assert _gained(0.4, found, True, 20).startswith(f"0.400 better than the paper's default{told}")


@pytest.mark.parametrize(
    ("tested", "found", "told"),
    [
        (True, None, "0.400 better than the paper's default; that is not tested, since no seed has every attack"),
        (True, difference(6, "A"), "0.400 better than the paper's default, more than chance explains over 6 seeds"),
        (False, difference(6, "A"), "; that is of the worst scenario of each, which no test tells from chance"),
        (False, difference(1, "not tested"), "; one seed cannot tell that from chance"),
    ],
)
def test_only_the_mean_is_tested(tested: bool, found: Difference | None, told: str) -> None:
    assert told in _gained(0.4, found, tested, 20)
    assert _gained(0.0, found, tested, 20) == "as the paper's default"
