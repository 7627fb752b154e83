"""The last screen of every kind of study, from results written by hand. Run as a program it writes the golden texts."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import told_study
from written_study import write_study

from study.analysis.results import load_results
from study.cli.printed_commands import runnable
from study.driver.closing_files import closing_screen, write_page, write_summary, write_tables
from study.report.next_steps import Step
from study.report.sections import holdout
from study.report.sections.closing import Closing
from study.report.sections.joint_closing import joint_text, section_closing
from tracking.ui_address import ui_command

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "closing"
LOOK = [Step("every trial, in MLflow", ui_command("sqlite:////runs/mlflow.db"))]
Metrics = Mapping[str, float | None]

_FIXED = {"clean_rate": 0.2, "beta": 3.0, "channels_per_tap": 0.04, "rounds": 8, "ascent_weight": 1.0}


def _point(isolation_rate: float, statistic: str = "max") -> dict[str, object]:
    return {"isolation_rate": isolation_rate, **_FIXED, "channel_statistic": statistic}


def _reached(tpr: float, fpr: float, ca: float, asr: float) -> Metrics:
    return {"tpr": tpr, "fpr": fpr, "auroc": (1 + tpr - fpr) / 2, "ca": ca, "asr": asr}


def _score(cells: Mapping[object, Metrics]) -> float:
    values = [((m["tpr"] or 0) - (m["fpr"] or 0) + (m["ca"] or 0) - (m["asr"] or 0)) / 2 for m in cells.values()]
    return sum(values) / len(values)


def _cells(good: float, seeds: int = 1) -> dict[tuple[str, float, int], Metrics]:
    """Two attacks; a better trial finds more, and each seed differs a little."""
    return {
        (attack, 0.1, seed): _reached(good - 0.02 * at - 0.01 * seed, 0.02 * at, 0.9 + 0.01 * seed, 1.0 - good)
        for at, attack in enumerate(("badnets", "blended_random"))
        for seed in range(seeds)
    }


def _one(folder: Path) -> str:
    """What a study of one ledger ends with."""
    results = load_results(folder, folder.parent)
    closing = Closing(results)
    text = closing.text()
    write_summary(folder, text)
    write_tables(folder, results)
    write_page(folder, [results])
    return f"{text}\n\n{closing_screen('4 min 3 s', folder, [results], LOOK, [])}"


def _search(runs: Path, seeds: int, **options: object) -> str:
    attacks = {"attacks": ("badnets", "blended_random"), "seeds": tuple(range(seeds)), "sampler": "tpe"}
    trials = [_cells(good, seeds) for good in (0.8, 0.95, 0.95, 0.6)]
    points = {at: _point(0.01 * (at + 1), "mean" if at % 2 else "max") for at in range(1, 4)}
    told = [(_score(cells), cells) for cells in trials]
    return _one(write_study(runs / "mine", told, points=points, **attacks, **options))  # type: ignore[arg-type]


def one_seed(runs: Path) -> str:
    """A search with a single seed."""
    return _search(runs, 1)


def search(runs: Path) -> str:
    """A search with three seeds."""
    flagged = {0: {seed: 0.01 * seed for seed in range(3)}, 1: dict.fromkeys(range(3), 0.62)}
    return _search(runs, 3, clean_fpr=flagged, epochs=20.25)


def isolation_only(runs: Path) -> str:
    """No final model is trained: there is no CA and no ASR of one."""
    cells = [
        {cell: {"tpr": m["tpr"], "fpr": m["fpr"], "auroc": m["auroc"]} for cell, m in _cells(good).items()}
        for good in (0.8, 0.95)
    ]
    told = [(0.8, cells[0]), (0.95, cells[1])]
    options = {"until": "isolate", "objective": "isolation_score", "attacks": ("badnets", "blended_random")}
    return _one(write_study(runs / "mine", told, points={1: _point(0.02)}, **options))  # type: ignore[arg-type]


def nothing_works(runs: Path) -> str:
    """Every attack fails without a defense."""
    failed = list(_cells(0.8))
    return _one(write_study(runs / "mine", [(None, _cells(0.8)), (None, _cells(0.9))], failed=failed))


def ablation(runs: Path) -> str:
    """A figure of a paper, on a grid."""
    told = [(_score(cells), cells) for cells in (_cells(good, 2) for good in (0.8, 0.9, 0.95))]
    points = {1: {"rounds": 1}, 2: {"rounds": 5}}
    options = {"space": "pipd.rounds", "sampler": "grid", "seeds": (0, 1), "attacks": ("badnets", "blended_random")}
    return _one(write_study(runs / "mine", told, points=points, **options))  # type: ignore[arg-type]


def pareto(runs: Path) -> str:
    """Several objectives: a front and its knee."""
    options = {"attacks": ("badnets", "blended_random"), "seeds": (0,), "objective": "asr,ca"}
    return _one(told_study.write_study(runs / "mine", trials=16, rates=(0.1,), **options))  # type: ignore[arg-type]


def each_scenario(runs: Path) -> str:
    """A search for each scenario, in studies of their own."""
    closings = []
    for at, (cell, best) in enumerate(((("badnets", 0.1, 0), 0.9), (("blended_random", 0.1, 0), 0.7))):
        trials = [{cell: _reached(good, 0.0, 0.9, 1 - good)} for good in (0.8, best)]
        told = [(_score(cells), cells) for cells in trials]
        folder = write_study(
            runs / f"mine.{cell[0]}-0.1-s0", told, points={1: _point(0.02 + 0.01 * at)}, attacks=cell[:1]
        )
        closings.append(Closing(load_results(folder, runs)))
    return f"{joint_text(closings)}\n\n{closing_screen('4 min 3 s', runs / 'mine', [], LOOK, [])}"


def held_out(runs: Path) -> str:
    """What was tuned on other attacks, judged on the one that is held out."""
    search = [_cells(good) for good in (0.8, 0.9, 0.95)]
    judge = [{(attack, rate, 7): m for (attack, rate, _), m in _cells(good - 0.05).items()} for good in (0.8, 0.95)]
    points = {1: _point(0.02), 2: _point(0.03)}
    searched = write_study(runs / "mine.search", [(_score(c), c) for c in search], points=points, sampler="qmc")
    told = [(_score(c), c) for c in judge]
    judged = write_study(runs / "mine.judge", told, points={1: _point(0.03)}, sampler="qmc", seeds=(7,))
    both = [load_results(folder, runs) for folder in (searched, judged)]
    text = section_closing(holdout.section(*both, "attack"))
    return f"{text}\n\n{closing_screen('4 min 3 s', runs / 'mine', [], LOOK, [])}"


_SCREENS = (one_seed, search, isolation_only, nothing_works, ablation, pareto, each_scenario, held_out)
SCREENS: dict[str, Callable[[Path], str]] = {screen.__name__: screen for screen in _SCREENS}


def shown(name: str, place: Path) -> str:
    """A screen as it would be in a folder; the interpreter is called python."""
    before = Path.cwd()
    os.chdir(place)
    try:
        return SCREENS[name](Path("runs")).replace(runnable("python -m"), "python -m") + "\n"
    finally:
        os.chdir(before)


def main() -> None:
    """Writes the golden texts."""
    import tempfile

    for name in SCREENS:
        with tempfile.TemporaryDirectory() as place:
            (GOLDEN / f"{name}.txt").write_text(shown(name, Path(place)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())  # type: ignore[func-returns-value]
