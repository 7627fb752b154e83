"""What is read of plantings: who was planted is known, several methods vote, and one has nothing planted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
from cleaning_parts import CLASSES, LABELS, POISON, vote

from defenses.registry import UserError
from study.cleaning.estimate import all_epochs
from study.cleaning.options import parse_clean
from study.cleaning.planting import choose_plantings, planting_minutes, read_plantings
from study.config.config import StudyConfig, resolve
from study.planning.plan import make_plan
from study.report import run_files
from tracking.artifacts import Flags

SCENARIOS = {
    "clean-0-s3": ("clean", 0.0, None, False),
    "badnets-0.05-s3": ("badnets", 0.05, 1.0, False),
    "wanet-0.05-s3": ("wanet", 0.05, 0.2, True),
    "badnets-0.01-s3": ("badnets", 0.01, 0.95, False),
}


def study(defense: str, flagged: np.ndarray) -> Any:
    """Stands for a study of one method that flags the same images in every scenario."""
    rows = {
        name: {"attack": attack, "poison_rate": rate, "seed": 3, "attack_failed": failed, "asr_undefended": asr}
        for name, (attack, rate, asr, failed) in SCENARIOS.items()
    }
    return SimpleNamespace(
        scenarios=pandas.DataFrame.from_dict(rows, orient="index"),
        complete=pandas.DataFrame({"key": ["a"]}),
        manifest=SimpleNamespace(scenario_parts=lambda _: SimpleNamespace(target="2 (stop)")),
        defense=defense,
        space=defense,
        folder="folder",
        rows=flagged,
        evaluations=pandas.DataFrame({"built_seconds": [30.0, 90.0]}),
    )


COVERS = np.flatnonzero(~np.isin(np.arange(len(LABELS)), POISON))[:7]


@pytest.fixture(params=[False])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags as the studies left them; of every scenario but the clean one the same images were planted.

    Its parameter is whether it is known which images are covers.
    """

    class Files:
        def __init__(self, results: Any) -> None:
            self.flagged = vote(results.rows)

        def flags(self, _trial: int, scenario: str) -> Flags | None:
            planted = not scenario.startswith("clean")
            truth, cover = (np.isin(np.arange(len(LABELS)), rows) & planted for rows in (POISON, COVERS))
            known = cover if request.param else None
            return Flags(self.flagged.flagged, self.flagged.scores, LABELS, truth, "fingerprint", known)

    monkeypatch.setattr(run_files, "RunFiles", Files)


@pytest.mark.usefixtures("files")
def test_what_became_of_each_planting() -> None:
    canaries = read_plantings([[study("pipd", np.append(POISON[:27], [0, 1]))]], 0.5, CLASSES)
    assert [(one.attack, one.rate) for one in canaries.planted] == [
        ("badnets", 0.01),
        ("badnets", 0.05),
        ("wanet", 0.05),
    ]
    first = canaries.planted[0]
    assert (first.hits, first.planted, first.alarms, first.others) == (27, 30, 2, 370)
    assert [one.took for one in canaries.planted] == [True, True, False]
    assert [rate.tpr for rate in canaries.counted] == [0.9, 0.9]
    assert canaries.null == pytest.approx(29 / 400)
    assert canaries.null_classes == ("stop",)
    assert "without the flagged images, and with nothing planted, a run finds images of class stop" in canaries.caution


@pytest.mark.parametrize("files", [True], indirect=True)
@pytest.mark.usefixtures("files")
def test_covers_are_no_images_into_which_nothing_was_planted() -> None:
    """They carry the trigger too: who finds them has found what was planted, and no false alarm."""
    canaries = read_plantings([[study("pipd", np.append(POISON, COVERS))]], 0.5, CLASSES)
    assert {(one.hits, one.alarms, one.others) for one in canaries.planted} == {
        (len(POISON), 0, len(LABELS) - len(POISON) - len(COVERS))
    }
    assert {look.flagged for look in canaries.unplanted if look.planted} == {0}


@pytest.mark.usefixtures("files")
def test_several_methods_vote_on_each_planting() -> None:
    both = [[study("pipd", POISON), study("flare", POISON[:12])]]
    assert [one.hits for one in read_plantings(both, 0.5, CLASSES).planted] == [12, 12, 12]
    assert [one.hits for one in read_plantings(both, 0.0, CLASSES).planted] == [30, 30, 30]


def test_flags_that_cannot_be_read_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "RunFiles", lambda _: SimpleNamespace(flags=lambda *_: None))
    with pytest.raises(UserError, match="what pipd flagged of the canaries must lie in folder"):
        read_plantings([[study("pipd", POISON)]], 0.5, CLASSES)


def test_the_cost_is_that_of_the_search() -> None:
    run = study("pipd", POISON)
    assert planting_minutes([run], scenarios=7, lanes=2) == pytest.approx(3.5)
    assert planting_minutes([run, run], scenarios=7, lanes=1) == pytest.approx(14.0)


@pytest.mark.parametrize(
    ("options", "plantings"),
    [
        ({}, (3, 60.0)),
        ({"canary_limit": 50.0}, (2, 40.0)),
        ({"canary_limit": 10.0}, (0, 20.0)),
        ({"canaries": "run", "seeds": (0, 1)}, (2, 40.0)),
        ({"canaries": "run", "plantings": 1}, (1, 20.0)),
        ({"plantings": 2}, (2, 40.0)),
        ({"plantings": 2, "canary_limit": 30.0}, (0, 40.0)),  # what was asked for is not cut
    ],
)
def test_as_many_plantings_as_the_limit_allows(options: dict[str, Any], plantings: tuple[int, float]) -> None:
    config = parse_clean({"data": "data", "out": "out", **options})
    assert choose_plantings(config, lambda count: 20.0 * count) == plantings


def test_the_cost_of_seeing_an_attack_work_comes_on_top() -> None:
    """90 s in 9 epochs, and the preset's 10 epochs without a defense: 100 s for each planted attack."""
    run = study("pipd", POISON)
    run.config = SimpleNamespace(preset="smoke")
    rows = [("poison", 1.0, None), ("pre_isolation", 80.0, 8.0), ("isolate", 10.0, 1.0)]
    run.stages = pandas.DataFrame(rows, columns=["stage", "built_seconds", "epoch_equivalents"])
    assert planting_minutes([run], scenarios=7, lanes=1, attacked=6) == pytest.approx(7.0 + 10.0)
    run.stages.loc[0, "stage"] = "undefended"  # the method trains that model itself
    assert planting_minutes([run], scenarios=7, lanes=1, attacked=6) == pytest.approx(7.0)


def test_what_a_dry_run_counts(tmp_path: Path) -> None:
    plans = [
        make_plan(resolve(StudyConfig, {"space": space, "until": "isolate", "out": tmp_path}), "cpu", 0.0, "fp32")
        for space in ("pipd", "ss", "flare")
    ]
    pipd, ss, flare = plans
    plain = 10  # epochs of the preset
    assert all_epochs([pipd], attacked=True) == pytest.approx(all_epochs([pipd]) + plain)
    assert all_epochs([ss], attacked=True) == all_epochs([ss]) > plain  # it begins with that model
    assert all_epochs([ss, flare]) == pytest.approx(all_epochs([ss]) + all_epochs([flare]) - plain)
