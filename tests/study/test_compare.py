"""`python -m study.compare`: pairs, what is left out, and an answer that claims no more than the data do."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from written_study import Metrics, write_study

from study import compare
from study.analysis.results import read_results

Cells = dict[tuple[str, float, int], Metrics]
SEEDS = (0, 1, 2)
ATTACKS = ("badnets", "blended_random", "trojan_square")


def cells(attacks: tuple[str, ...] = ATTACKS, seeds: tuple[int, ...] = SEEDS, **metrics: float) -> Cells:
    """The same on every scenario, up to the seed's own shift."""
    usual = {"tpr": 0.9, "fpr": 0.1, "ca": 0.8, "asr": 0.2} | metrics
    return {(a, 0.1, s): {name: value + s / 1000 for name, value in usual.items()} for a in attacks for s in seeds}


def answer(out: Path, *words: str) -> dict[str, Any]:
    assert compare.main([*words, "--out", str(out), "--json", str(out / "answer.json")]) == 0
    found: dict[str, Any] = json.loads((out / "answer.json").read_text())
    return found


def verdicts(found: Mapping[str, Any], stratum: str | None = None) -> dict[str, str]:
    return {one["metric"]: one["verdict"] for one in found["differences"] if one["stratum"] == stratum}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, however its lines are broken."""
    return " ".join(capsys.readouterr().out.split())


def refusal(out: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert compare.main([*words, "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom study.compare import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "NAME:best" in done.stdout


def test_two_defenses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "mine", [(0.9, cells())])
    write_study(tmp_path / "other", [(0.5, cells(asr=0.6, ca=0.75, tpr=0.9))], space="qt")
    found = answer(tmp_path, "mine", "other")
    assert verdicts(found) == {"tpr": "equal", "fpr": "equal", "ca": "A", "asr": "A"}
    asr = next(one for one in found["differences"] if one["metric"] == "asr" and one["stratum"] is None)
    assert asr["mean"] == pytest.approx(-0.4)
    assert asr["p"] == 2.0**-8
    assert asr["corrected"] == 2 * 2.0**-8
    assert (len(found["pairs"]), found["left_out"]) == (9, {})
    text = said(capsys)
    assert text.startswith("[uses ground truth]: from labels that say which images are poisoned")
    assert "mine (the paper's default) against other (the paper's default) ===" in text
    assert "A (pipd, the paper's default) is better by CA (0.801 against 0.751), ASR (0.201 against 0.601)." in text
    assert "They are equal on every scenario by TPR, FPR." in text
    assert "model resnet18 against preact_resnet18" in text, "each space has its own network, and that is told"
    assert "A minus B on each attack and rate" in text


def test_identical_studies_are_not_separated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        write_study(tmp_path / name, [(0.9, cells())])
    assert set(verdicts(answer(tmp_path, "one", "two")).values()) == {"equal"}
    text = said(capsys)
    assert "better by" not in text
    assert "Note well: " not in text, "nothing differs, nothing is left out, nothing was picked"


def test_what_is_not_separated_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "one", [(0.9, cells(("badnets",)))])
    write_study(tmp_path / "two", [(0.9, cells(("badnets",), ca=0.7))])
    assert verdicts(answer(tmp_path, "one", "two", "--metric", "ca")) == {"ca": "not tested"}
    text = said(capsys)
    assert "The data do not separate them by CA." in text
    # One test: 2^(1-n) < 0.05 first at n = 6, and 3 pairs differ.
    assert "3 of 3 pairs differ, with which p cannot fall below 0.25" in text
    assert "about 3 more seeds would be needed" in text
    mixed: Cells = {("badnets", 0.1, seed): {"ca": 0.8 + (-1) ** seed * 0.01 * seed} for seed in range(9)}
    write_study(tmp_path / "up", [(0.9, mixed)])
    write_study(tmp_path / "flat", [(0.9, {cell: {"ca": 0.805} for cell in mixed})])
    assert verdicts(answer(tmp_path, "up", "flat", "--metric", "ca")) == {"ca": "not separated"}
    assert "their signs do not agree well enough. The data do not separate them." in said(capsys)


def test_two_configurations_of_one_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = {1: {"rounds": 5}}
    write_study(tmp_path / "mine", [(0.5, cells()), (0.9, cells(ca=0.95)), (None, {})], points=points)
    found = answer(tmp_path, "mine:default", "mine:best")
    assert [(found[side]["trial"], found[side]["oracle"]) for side in "ab"] == [(0, False), (1, True)]
    assert verdicts(found)["ca"] == "B"
    raw = capsys.readouterr().out
    text = " ".join(raw.split())
    assert "the best of 2 trials by overall score, trial 1" in text
    assert "Note well: B was picked with ground truth on these very scenarios, which flatters it" in text
    rounds = next(line for line in raw.splitlines() if line.startswith("rounds"))
    assert rounds.split() == ["rounds", "8", "5"]
    same = answer(tmp_path, "mine:1", "mine", "--rule", "best")
    assert set(verdicts(same).values()) == {"equal"}


def test_the_best_of_many_is_held_to_its_luck_however_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine pairs have p 0.004, which the best of 20 that are alike reaches by luck: the report says the same."""
    write_study(tmp_path / "mine", [(0.5, cells()), (0.9, cells(ca=0.81)), *[(0.4, cells())] * 19])
    for best in ("mine:best", "mine:1"):
        given = answer(tmp_path, "mine:default", best, "--metric", "ca")
        assert (given["b"]["oracle"], given["picked_of"], verdicts(given)) == (True, 20, {"ca": "not separated"})
        assert "Each p is taken 20 times" in said(capsys)
    (other,) = answer(tmp_path, "mine:1", "mine:2", "--metric", "ca")["differences"][:1]
    assert other["corrected"] == pytest.approx(20 * 2.0**-8)


def test_what_holds_on_these_seeds_alone_is_said_so_in_the_lead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fourteen pairs of two seeds, all of one sign: one seed's difference is large, so two seeds do not tell."""
    attacks = tuple(f"attack{number}" for number in range(7))
    ours: Cells = {(attack, 0.1, seed): {"ca": 0.5 + (0.01, 0.4)[seed]} for attack in attacks for seed in (0, 1)}
    write_study(tmp_path / "one", [(0.9, ours)])
    write_study(tmp_path / "two", [(0.9, {cell: {"ca": 0.5} for cell in ours})])
    given = answer(tmp_path, "one", "two", "--metric", "ca")
    assert verdicts(given) == {"ca": "A"}
    assert given["differences"][0]["holds_over_seeds"] is False
    assert "is better on these scenarios, which leaves open what other seeds give, by CA" in said(capsys)


def test_where_no_seed_has_every_attack_the_lead_names_the_attack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = {**cells(("badnets",), tuple(range(7)), ca=0.9), **cells(("sig",), (8, 9))}
    write_study(tmp_path / "one", [(0.9, ours)])
    write_study(tmp_path / "two", [(0.9, {cell: {**each, "ca": 0.8} for cell, each in ours.items()})])
    answer(tmp_path, "one", "two", "--metric", "ca")
    text = said(capsys)
    assert "nothing is said over all of them. A (pipd, the paper's default) is better by CA on badnets-0.1" in text
    assert "The data do not separate them" not in text.split("What is compared")[0]


def test_one_common_seed_does_not_hide_what_was_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = {**cells(("badnets",), tuple(range(8)), ca=0.9), **cells(("sig",), (0,))}
    write_study(tmp_path / "one", [(0.9, ours)])
    write_study(tmp_path / "two", [(0.9, {cell: {**each, "ca": 0.8} for cell, each in ours.items()})])
    given = answer(tmp_path, "one", "two", "--metric", "ca")
    assert verdicts(given, "badnets-0.1") == {"ca": "A"}
    text = said(capsys)
    assert "One seed only has a result on every attack and rate, so over all of them there is no interval" in text
    assert "One seed only has every attack at work" in text


def test_other_test_images_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clean reserve is taken of the test set, so that CA and ASR of the same weights differ."""
    write_study(tmp_path / "one", [(0.9, cells())], clean_fingerprint="a" * 64)
    write_study(tmp_path / "two", [(0.9, cells())], clean_fingerprint="b" * 64, clean_reserve=100)
    given = answer(tmp_path, "one", "two")
    assert len(given["other_test_images"]) == 9
    assert given["settings_that_differ"] == {"clean_reserve": ["0", "100"]}
    assert "CA and ASR are measured on other test images in A than in B" in said(capsys)
    assert answer(tmp_path, "one", "one")["other_test_images"] == []


def test_failed_runs_are_told_whichever_side_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags_nobody: Cells = {cell: {"tpr": None, "fpr": None, "ca": 0.8, "asr": 0.9} for cell in cells()}
    write_study(tmp_path / "none", [(0.9, flags_nobody)], space="no_defense", objective="asr")
    write_study(tmp_path / "low", [(0.9, cells(tpr=0.2))])
    for sides in (("none", "low"), ("low", "none")):
        answer(tmp_path, *sides, "--metric", "ca")
        assert "Runs that failed" in said(capsys)


def test_poisoned_data_that_nobody_can_tell_apart_are_not_paired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "one", [(0.9, cells())], fingerprint="")
    write_study(tmp_path / "two", [(0.9, cells())], fingerprint="")
    assert "nothing tells whether its poisoned data are the same" in refusal(tmp_path, capsys, "one", "two")


def test_numbers_on_standard_output(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["one", "one", "--out", str(made), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["a"]["study"] == "one"


def test_best_goes_by_the_objective_s_direction(tmp_path: Path) -> None:
    trials = [(0.2, cells(asr=0.2)), (0.1, cells(asr=0.1)), (0.3, cells(asr=0.3))]
    write_study(tmp_path / "mine", trials, objective="asr")
    assert answer(tmp_path, "mine", "mine", "--rule", "best")["a"]["trial"] == 1


def test_failed_attacks_and_scenarios_of_one_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "one", [(0.9, cells())], failed=[("badnets", 0.1, 1)])
    write_study(tmp_path / "two", [(0.9, {**cells(), **cells(("sig",), (0,))})])
    found = answer(tmp_path, "one", "two")
    assert found["left_out"] == {
        "badnets-0.1-s1": "its attack failed undefended in A",
        "sig-0.1-s0": "only B has it",
    }
    assert len(found["pairs"]) == 8
    overall = next(one for one in found["differences"] if one["stratum"] is None)
    assert (overall["pairs"], overall["seeds"]) == (6, 2), "seed 1 lacks an attack, so it cannot stand for all"
    text = said(capsys)
    assert (
        "Note well: Left out: badnets-0.1-s1 (its attack failed undefended in A), sig-0.1-s0 (only B has it)." in text
    )


def test_one_seed_has_no_interval_and_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attacks = tuple(f"attack{number}" for number in range(12))
    write_study(tmp_path / "one", [(0.9, cells(attacks, (0,)))])
    write_study(tmp_path / "two", [(0.9, cells(attacks, (0,), asr=0.9))])
    found = answer(tmp_path, "one", "two", "--metric", "asr")
    assert verdicts(found) == {"asr": "not tested"}
    assert all(one["low"] is one["high"] is one["p"] is None for one in found["differences"])
    text = said(capsys)
    assert "One seed only: nothing tells how far another would move these numbers." in text
    assert "About 1 more seed would be needed in both studies." in text
    assert "better" not in text.replace("A minus B", "")


def test_other_settings_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "one", [(0.9, cells())], width=16)
    write_study(tmp_path / "two", [(0.9, cells())], width=32)
    found = answer(tmp_path, "one", "two")
    assert found["settings_that_differ"] == {"width": ["16", "32"]}
    assert "Note well: The studies differ in more than what is compared (A against B): width 16 against 32." in (
        said(capsys)
    )


def test_what_cannot_be_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        write_study(tmp_path / name, [(0.9, cells()), (0.8, cells(tpr=0.8))])
    keys = read_results(tmp_path, "two").trials["key"]
    for number, broken in enumerate(tmp_path / "two" / "points" / keys[trial] for trial in (1, 0)):
        (broken / "badnets-0.1-s0.json").write_text("{")
        if number == 0:
            assert answer(tmp_path, "one", "two")["left_out"] == {}
            told = f"Note well: 1 file of B cannot be read and is left out, first {broken / 'badnets-0.1-s0.json'}."
            assert told in said(capsys)
    assert compare.main(["one", "two", "--out", str(tmp_path)]) == 2
    assert "error: study 'two' has no trial with a result on every scenario" in capsys.readouterr().err


def test_markdown(tmp_path: Path) -> None:
    write_study(tmp_path / "one_", [(0.9, cells())])
    write_study(tmp_path / "two_", [(0.9, cells(ca=0.7))])
    place = tmp_path / "new" / "answer.md"
    words = ["one_", "two_", "--out", str(tmp_path), "--markdown", str(place)]
    assert compare.main(words) == 0
    text = place.read_text()
    assert text.startswith("# Comparison\n\n")
    assert "\n\n## one\\_ (the paper's default) against two\\_ (the paper's default) (ground truth)\n\nA (pipd" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    assert all(len({line.replace("\\|", "").count("|") for line in lines}) == 1 for lines in tables)
    assert "python -m study.compare one_ two_" in text


def test_no_common_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "one", [(0.9, cells(("badnets",)))])
    write_study(tmp_path / "two", [(0.9, cells(("sig",)))])
    told = refusal(tmp_path, capsys, "one", "two")
    assert "no scenario to compare: of 6, each is left out (only A has it; only B has it)" in told
    write_study(tmp_path / "else", [(0.9, cells(("badnets",)))], fingerprint="e" * 64)
    assert "its poisoned data are not the same in A and B" in refusal(tmp_path, capsys, "one", "else")


def test_all_attacks_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        write_study(tmp_path / name, [(0.9, cells())], failed=list(cells()))
    assert "(its attack failed undefended)" in refusal(tmp_path, capsys, "one", "two")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one", "onn"], "unknown study 'onn'"),
        (["one", "one:worst"], "stands default, best or the number of a trial, got 'worst'"),
        (["one", "one:2"], "trial 2 of study 'one' is fail: only complete ones"),
        (["one", "one:77"], "trial 77 of study 'one' is not there"),
        (["one", "one", "--rule", "oracle"], "--rule must be default or best, got 'oracle'"),
        (["one", "one", "--metric", "acc"], "unknown objective 'acc'"),
        (["one", "one", "--metric", "auroc"], "no scenario defines auroc in both studies"),
        (["one", "bare"], "study 'bare' has no complete trial with the paper's default"),
        (["one", "broken"], "study 'broken' has no result yet"),
        (["one"], "the following arguments are required: B"),
        (
            ["one", "one", "--json", "x", "--markdown", "./x"],
            "--json and --markdown must name two files, got x for both",
        ),
        (["one", "one", "--metric", "flagged_share"], "flagged_share makes no defense better or worse"),
        (["one", "one", "--json", "."], "--json must name a file that can be written, got the folder ."),
        (["one", "one", "--markdown", "{out}/one/study.db/x"], "--markdown must name a file that can be written"),
    ],
)
def test_bad_input(words: list[str], message: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(made, capsys, *(word.replace("{out}", str(made)) for word in words))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies")
    write_study(out / "one", [(0.5, cells()), (0.9, cells(ca=0.95)), (None, {})])
    write_study(out / "bare", [(0.5, cells())], default=False)
    write_study(out / "broken", [(None, {})])
    return out


def test_a_study_without_a_complete_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "one", [(None, cells())])
    told = refusal(tmp_path, capsys, "one", "one")
    assert "no trial with a result on every scenario" in told
    assert f"python -m study.status one --out {tmp_path}" in told


def test_a_field_that_one_study_searched_and_the_other_left_alone_has_both_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "left", [(0.9, cells())], space="pipd.table2")
    write_study(tmp_path / "set", [(0.9, cells())], space="pipd.table2", set={"rounds": "3"})
    points = {1: {"channel_statistic": "mean"}}
    write_study(
        tmp_path / "searched", [(0.5, cells()), (0.9, cells(ca=0.95))], space="pipd.channel_statistic", points=points
    )
    answer(tmp_path, "left", "searched:best")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("channel_statistic ")] == [
        ["channel_statistic", "max", "mean"]
    ]
    assert not any(line.startswith("rounds ") for line in lines)
    answer(tmp_path, "left", "set")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("rounds ")] == [["rounds", "8", "3"]]
