"""Where the values come from that look for poison: the paper, or the best trial of a study."""

from pathlib import Path

import pytest
from told_study import write_study

from defenses.registry import UserError
from study.analysis.results import read_results
from study.cleaning.options import parse_clean
from study.cleaning.settings import Settings, choose_settings


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study called mine in the usual place."""
    write_study(tmp_path / "runs" / "mine", trials=8, sampler="tpe", rates=(0.1,), seeds=(0,))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def chosen(**options: object) -> Settings:
    return choose_settings(parse_clean({"data": "data", "out": "out", **options}))


def test_the_papers_values_are_the_usual_ones() -> None:
    assert chosen() == Settings(("pipd",), "the values of the method's paper")
    assert chosen(defense=("flare", "ac")).spaces == ("flare", "ac")


def test_a_study_gives_its_best_trial_by_a_rule_that_is_named(runs: Path) -> None:
    results = read_results(runs, "mine")
    settings = chosen(from_study="mine")
    assert settings.spaces == (results.space,)
    assert f"trial {results.best}" in settings.how
    assert "overall score" in settings.how
    assert settings.how.endswith("in study mine")
    point = results.points[results.best or 0]
    assert {name: settings.options["set"][name] for name in point} == {
        name: str(value) for name, value in point.items()
    }
    assert settings.options["preset"] == results.config.preset


def test_another_trial_and_the_path_of_a_study(runs: Path) -> None:
    assert "trial 2" in chosen(from_study="mine:2").how
    assert "the paper's default" in chosen(from_study="mine:default").how
    assert chosen(from_study=str(runs / "mine")) == chosen(from_study="mine")


def test_what_names_no_trial_is_refused(runs: Path) -> None:
    with pytest.raises(UserError, match="got 'min_': did you mean 'mine'"):
        chosen(from_study="min_")
    with pytest.raises(UserError, match="trial 99 of study 'mine' is not there"):
        chosen(from_study="mine:99")
    with pytest.raises(
        UserError, match="--from takes the settings of pipd from study 'mine', and --defense names flare"
    ):
        chosen(from_study="mine", defense=("flare",))
