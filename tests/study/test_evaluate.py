"""`python -m study.evaluate`, whole: what it prints, what it writes, what it needs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from small_study import save_npz

from defenses.training.captured_step import STEP_MODES
from study.config.config import StudyConfig
from study.datasets.images import Images
from study.evaluate import EvaluateConfig, main
from tracking.artifacts import read_flags

TINY = ("pre_isolation_epochs=2", "pre_isolation_lr=0.01", "selective_epochs=1", "batch_size=32")
CACHED = {
    "poison",
    "standard_training",
    "undefended",
    "pre_isolation",
    "channel_activations",
    "selective_training",
}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, images: Images) -> list[str]:
    """Small images, a small network, and one store for all tests of this file."""
    folder = tmp_path_factory.mktemp("evaluate")
    return [
        *("--dataset", save_npz(folder / "data.npz", images)),
        *("--out", str(folder / "out")),
        *("--width", "4", "--blocks", "1,1", "--precision", "fp32", "--device", "cpu"),
        *("--set", *TINY),
    ]


@pytest.fixture(scope="module")
def report(options: list[str]) -> dict[str, Any]:
    """What a first run writes."""
    path = Path(options[3]).parent / "reports" / "first.json"
    assert main([*options, "--json", str(path)]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_report_holds_the_whole_result(report: dict[str, Any]) -> None:
    assert set(report) == {
        "scenario",
        "defense",
        "config",
        "metrics",
        "attack_failed",
        "series",
        "stages",
        "data",
        "environment",
        "clean_reserve",
        "wall_seconds",
        "cost",
        "clean_control",
    }
    assert report["clean_reserve"] == 0
    assert report["scenario"] == {
        "attack": "badnets",
        "poison_rate": 0.1,
        "target_label": 0,
        "seed": 0,
        "preset": "smoke",
    }
    assert report["defense"] == "pipd"
    assert (report["config"]["pre_isolation_epochs"], report["config"]["rounds"]) == (2, 8)
    wanted = {"tpr", "fpr", "auroc", "ca", "asr", "ca_undefended", "asr_undefended"}
    assert wanted <= set(report["metrics"])
    assert all(0 <= report["metrics"][name] <= 1 for name in wanted)
    assert len(report["series"]["pre_isolation.loss"]) == 2
    assert report["series"]["isolate.tpr"][-1] == report["metrics"]["tpr"]
    assert {stage["stage"] for stage in report["stages"]} == CACHED | {"isolate"}
    assert not any(stage["hit"] for stage in report["stages"])
    assert report["data"]["n_poison"] == 12  # floor(0.1 * 128)
    assert report["environment"]["model"] == "resnet18"
    assert (report["environment"]["width"], report["environment"]["blocks"]) == (4, [1, 1])


def test_a_second_run_finds_everything_stored(
    report: dict[str, Any], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*options, "--json", "-"]) == 0
    printed = capsys.readouterr()
    again = json.loads(printed.out)  # nothing else may stand on standard output
    assert again["metrics"] == report["metrics"]
    assert again["series"] == report["series"]
    assert {stage["stage"] for stage in again["stages"] if stage["hit"]} == CACHED
    assert [stage["key"] for stage in again["stages"]] == [stage["key"] for stage in report["stages"]]


def test_the_table_for_people(report: dict[str, Any], options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(options) == 0
    title, blank, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("pipd on badnets-0.1-s0: attack badnets, poison rate 0.1, seed 0, target class 0, npz:")
    assert (title.endswith("data.npz, preset smoke"), blank) == (True, "")
    assert lines[0].split() == ["model", "TPR", "FPR", "AUROC", "CA", "ASR"]
    found = report["metrics"]
    assert lines[2].split() == [
        "undefended",
        "-",
        "-",
        "-",
        f"{found['ca_undefended']:.4f}",
        f"{found['asr_undefended']:.4f}",
    ]
    assert lines[3].split() == ["pipd", *(f"{found[name]:.4f}" for name in ("tpr", "fpr", "auroc", "ca", "asr"))]
    assert ("ATTACK FAILED" in lines[4]) == report["attack_failed"]
    assert "pre_isolation 0 s (reused)" in " ".join(lines)


def test_what_is_flagged_of_clean_data_and_the_cost_stand_beside_the_result(
    report: dict[str, Any], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    control, cost = report["clean_control"], report["cost"]
    assert control["scenario"] == "clean-0-s0"
    assert [stage["stage"] for stage in control["stages"]] == [
        "poison",
        "pre_isolation",
        "channel_activations",
        "isolate",
    ]
    own = [stage for stage in report["stages"] if stage["of_defense"]]
    assert {stage["stage"] for stage in own} == {
        "pre_isolation",
        "channel_activations",
        "isolate",
        "selective_training",
    }
    assert cost["built_epochs"] == pytest.approx(2 + 1 / 3 + 1 / 3 + 1)  # two epochs of LGA, two readings, one epoch
    assert cost["spent_epochs"] == cost["built_epochs"]
    assert cost["built_seconds"] == pytest.approx(sum(stage["built_seconds"] for stage in own))
    capsys.readouterr()
    assert main([*options, "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["clean_control"]["fpr_clean"] == control["fpr_clean"]
    assert (again["cost"]["built_epochs"], again["cost"]["spent_epochs"]) == (cost["built_epochs"], 0.0)
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert f"FPR when nothing is poisoned: {control['fpr_clean']:.4f}" in printed
    assert "Cost of pipd: 3.7 epoch-equivalents" in printed
    assert ("flags more than half of the samples when nothing is poisoned" in printed) == (control["fpr_clean"] > 0.5)


@pytest.mark.parametrize("left_out", [["--clean-control", "none"], ["--attack", "clean"], ["--defense", "no_defense"]])
def test_no_control_is_run_where_it_is_left_out_or_makes_no_sense(
    left_out: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = options if left_out[0] != "--defense" else [*options[: options.index("--set")], "--set", "epochs=1"]
    capsys.readouterr()
    assert main([*given, *left_out, "--until", "isolate", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["clean_control"] is None


def test_a_failed_attack_is_said_aloud(
    report: dict[str, Any], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report["metrics"]["asr_undefended"] < 1
    for floor, failed in (("1", True), ("0", False)):
        capsys.readouterr()
        assert main([*options, "--asr-floor", floor, "--until", "isolate"]) == 0
        printed = capsys.readouterr().out
        assert ("ATTACK FAILED" in printed) is failed
        assert printed.splitlines()[5].split()[-2:] == ["-", "-"], "no final model, so no CA and no ASR"


def test_two_answers_in_one_file_are_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(tmp_path / "one.csv")
    assert main([*options, "--json", one, "--flags", one]) == 2
    assert "--json and --flags must name two files" in capsys.readouterr().err
    assert not Path(one).exists()


def test_no_folder_of_results_is_made_where_there_are_none(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # --out is "runs" here
    where = options.index("--out")
    stored = ["--store", str(Path(options[where + 1]) / "store")]
    assert main([*options[:where], *stored, *options[where + 2 :], "--until", "isolate"]) == 0
    assert not list(tmp_path.iterdir())


def test_flags_are_written_as_a_study_writes_them(options: list[str], tmp_path: Path) -> None:
    wanet = [*options, "--attack", "wanet", "--until", "isolate"]  # it has covers
    assert main([*wanet, "--flags", str(tmp_path / "f.csv"), "--json", str(tmp_path / "r.json")]) == 0
    assert main([*wanet, "--flags", str(tmp_path / "f.npz")]) == 0
    flags, metrics = read_flags(tmp_path / "f.npz"), json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert flags.is_poison is not None
    assert flags.is_cover is not None
    assert (flags.is_poison.sum(), flags.is_cover.sum()) == (12, 25)  # of 128, each rounded by itself
    table = np.genfromtxt(tmp_path / "f.csv", delimiter=",", names=True)
    assert table.dtype.names == ("index", "score", "label", "flagged", "is_poison", "is_cover")
    assert list(table["score"]) == sorted(table["score"], reverse=True)
    table = np.sort(table, order="index")
    for column, array in (("flagged", flags.flagged), ("is_poison", flags.is_poison), ("is_cover", flags.is_cover)):
        np.testing.assert_array_equal(table[column] == 1, array)
    # All metrics of covers follow from the file.
    apart, both = ~(flags.is_poison | flags.is_cover), flags.is_poison | flags.is_cover
    assert metrics["fpr_covers_excluded"] == pytest.approx(flags.flagged[apart].mean())
    assert metrics["tpr_covers_poison"] == pytest.approx(flags.flagged[both].mean())


def test_the_clean_control_takes_no_rate(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "--attack", "clean", "--until", "isolate", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scenario"]["poison_rate"] == 0
    assert (found["metrics"]["tpr"], found["metrics"]["asr_undefended"]) == (None, None)
    assert found["metrics"]["fpr"] is not None


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (["--defense", "pipdd"], ["unknown defense 'pipdd'", "did you mean 'pipd'?"]),
        (["--attack", "badnet"], ["unknown attack 'badnet'", "did you mean 'badnets'?"]),
        (["--attack", "sig", "--poison-rate", "0.3"], ["sig", "38", "32"]),  # 0.3 * 128 of 32
        (["--poison-rate", "0"], ["--poison-rate", "(0, 0.5]"]),
        (["--target-label", "4"], ["--target-label", "[0, 3]"]),
        (["--set", "round=3"], ["'round'", "did you mean 'rounds'?"]),
        (["--flags", "flags.txt"], ["--flags", ".csv or .npz", "flags.txt"]),
        (["--flags", "/proc/none/flags.csv"], ["--flags", "/proc/none"]),
        (["--defense", "no_defense", "--flags", "flags.csv"], ["--flags", "no_defense flags nothing"]),
        (["--threads", "0"], ["--threads", "got 0"]),
        (["--spaces", "pipd"], ["unknown option --spaces"]),
    ],
)
def test_wrong_input_is_one_line_and_2(
    wrong: list[str], parts: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*options, *wrong]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in parts), line
    assert printed.out == ""


def test_a_report_that_cannot_be_written_is_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--until", "isolate", "--json", str(tmp_path)]) == 2
    assert "--json" in capsys.readouterr().err


def test_a_whole_run_needs_no_ray_mlflow_or_optuna(report: dict[str, Any], options: list[str], tmp_path: Path) -> None:
    # In a process of its own: other tests of this one have loaded them.
    code = (
        "import json, sys\n"
        "from study.evaluate import main\n"
        "code = main(json.loads(sys.argv[1]))\n"
        "heavy = {'ray', 'mlflow', 'optuna'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else code)\n"
    )
    elsewhere = [str(tmp_path / "out") if option == options[3] else option for option in options]
    arguments = [*elsewhere, "--threads", "1", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert not any(stage["hit"] for stage in found["stages"])
    taken = {stage["stage"]: stage["step"] for stage in found["stages"] if stage["step"]}
    assert taken == dict.fromkeys(("standard_training", "pre_isolation", "selective_training"), "eager")
    assert found["metrics"] == report["metrics"], "another process and another store give the same numbers"


@pytest.mark.slow
def test_other_threads_take_nothing_from_the_store_that_they_did_not_build(
    options: list[str], report: dict[str, Any], tmp_path: Path
) -> None:
    """Their sums are others, and what they decide can be the opposite: so they are other cells."""
    path = tmp_path / "two.json"
    assert main([*options, "--threads", "2", "--json", str(path)]) == 0
    other = json.loads(path.read_text(encoding="utf-8"))
    assert not any(stage["hit"] for stage in other["stages"])
    assert not {stage["key"] for stage in other["stages"]} & {stage["key"] for stage in report["stages"]}
    assert "1 thread," in report["data"]["computed_on"]
    assert "2 threads," in other["data"]["computed_on"]


def test_how_steps_are_taken_is_an_option_of_both_commands_and_changes_no_identity() -> None:
    assert get_args(StudyConfig.model_fields["step"].annotation) == STEP_MODES
    assert get_args(EvaluateConfig.model_fields["step"].annotation) == STEP_MODES
    assert StudyConfig(step="eager").identity == StudyConfig().identity


def test_a_study_and_a_cell_train_on_the_same_threads_by_default() -> None:
    study, cell = StudyConfig(), EvaluateConfig()
    assert study.threads == cell.threads == 1
    assert study.cpus == 1
    assert StudyConfig(threads=2).cpus == 2
    assert StudyConfig(threads=2).identity != study.identity
    assert StudyConfig(cpus_per_trial=2).identity == study.identity
    assert StudyConfig(cpus_per_trial=2).threads == 1
