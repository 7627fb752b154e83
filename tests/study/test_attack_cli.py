"""`python -m study.attacks` and `python -m study.attack_table`: lists, pictures and tables, with and without typos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import make_images
from small_study import save_npz

from study import attack_table
from study.attack_table import Trial, markdown, read_trials
from study.attacks import ATTACKS
from study.attacks.__main__ import main
from study.attacks.groups import GROUPS


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (*ATTACKS, *GROUPS):
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    assert max(map(len, lines)) <= 130


def test_the_picture_has_a_row_for_each_attack(tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", make_images())
    out = tmp_path / "sheet.png"
    given = ["--dataset", dataset, "--attacks", "badnets", "sig", "refool", "clean", "--out", str(tmp_path)]
    assert main(["--preview", str(out), *given]) == 0
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (34 + 3 * (64 + 14), 170 + 4 * (4 * 67 + 14) + 14, 3)
    badnets_difference = sheet[34 : 34 + 64, 170 + 2 * 282 : 170 + 2 * 282 + 64]
    assert (badnets_difference[:52, :52] == 0).all()  # only the 3 x 3 patch at the bottom right differs
    assert badnets_difference[52:, 52:].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to do: give --list, or --preview OUT.png"),
        (["--preview", "x.png", "--attacks", "badnet"], "did you mean 'badnets'?"),
        (["--preveiw", "x.png"], "did you mean '--preview'?"),
        (["--preview", "/proc/none/x.png"], "the place of --preview must be a folder that can be written"),
        (["--preview", "{folder}"], "--preview must name a file, got the folder"),
    ],
)
def test_bad_input_is_one_line(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([text.replace("{folder}", str(tmp_path)) for text in given]) == 2
    found = capsys.readouterr().err.strip()
    assert message in found
    assert "\n" not in found


def trial(scenario: str, failed: bool = False, **metrics: float) -> Trial:
    names = ("tpr", "fpr", "auroc", "ca", "asr", "ca_undefended", "asr_undefended")
    return Trial(scenario, failed, {name: metrics.get(name) for name in names})


def test_the_table_takes_each_scenarios_best_and_averages_over_seeds() -> None:
    known = {"ca_undefended": 0.9, "asr_undefended": 1.0, "fpr": 0.0, "asr": 0.0, "ca": 0.8}
    trials = [
        trial("badnets-0.1-s0", tpr=0.5, **known),
        trial("badnets-0.1-s0", tpr=1.0, **known),
        trial("badnets-0.1-s1", tpr=0.8, **known),
    ]
    lines = markdown({"pipd": trials}).splitlines()
    assert lines[2] == "| badnets-0.1 | undefended |  |  |  | 0.900 ± 0.000 | 1.000 ± 0.000 |"
    # Bests 1.0 and 0.8: mean 0.9, standard deviation sqrt(2 * 0.01 / 1) = 0.1414
    assert lines[3] == "| | pipd | 0.900 ± 0.141 | 0.000 ± 0.000 |  | 0.800 ± 0.000 | 0.000 ± 0.000 |"


def test_attacks_that_failed_are_marked() -> None:
    trials = [trial("wanet-0.1-s0", failed=True, tpr=0.1), trial("wanet-0.1-s1", tpr=0.1)]
    assert markdown({"pipd": trials}).splitlines()[2].startswith("| wanet-0.1 †1/2 | undefended |")


def test_the_table_runs_the_studies_and_reads_their_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    class Done:
        returncode = 0

    def run(command: list[str]) -> Done:
        commands.append(command[3:])
        names = "scenario,attack_failed,tpr,fpr,auroc,ca,asr,ca_undefended,asr_undefended"
        for folder in tmp_path.glob("*-smoke-*"):
            assert folder.is_dir()
        from study.config.config import StudyConfig, resolve

        name = resolve(StudyConfig, {"space": command[4], "out": tmp_path, "seeds": ("0", "1")}).study_name
        (tmp_path / name / "summary").mkdir(parents=True)
        (tmp_path / name / "summary" / "results.csv").write_text(f"{names}\nsig-0.1-s0,0,1,0,,0.9,0.1,0.9,1\n")
        return Done()

    monkeypatch.setattr(attack_table.subprocess, "run", run)
    assert attack_table.main(["--spaces", "pipd", "qt", "--seeds", "0", "1", "--out", str(tmp_path)]) == 0
    assert commands == [["--space", name, "--seeds", "0", "1", "--out", str(tmp_path)] for name in ("pipd", "qt")]
    assert capsys.readouterr().out.count("| 1.000 | 0.000 |") == 2


def test_an_undefined_metric_stays_undefined(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("scenario,attack_failed,tpr,fpr,auroc,ca,asr,ca_undefended,asr_undefended\nx-s0,1,,,,0.5,,0.5,\n")
    (found,) = read_trials(path)
    assert found.attack_failed
    assert (found.metrics["tpr"], found.metrics["ca"]) == (None, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--spaces", "pipdd"], "did you mean 'pipd'?"),
        (["--name", "x"], "leave out --name and --space"),
        (["--seedz", "1"], "did you mean '--seeds'?"),
    ],
)
def test_a_wrong_table_is_refused(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack_table.main(given) == 2
    assert message in capsys.readouterr().err
