"""`python -m study.attacks`: lists and pictures, with and without typos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import make_images
from small_study import save_npz

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
        (["--preview", "{folder}/x.png", "--attacks", "clean"], "and clean puts none: name another with --attacks"),
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


def test_attacks_that_train_are_drawn_when_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unasked, every attack was trained, for minutes and without a word."""
    dataset = save_npz(tmp_path / "data.npz", make_images())
    out, given = tmp_path / "sheet.png", ["--dataset", dataset, "--out", str(tmp_path), "--train-size", "64"]
    fitted: list[str] = []
    for attack in (kind for kind in map(ATTACKS.__getitem__, ATTACKS) if kind.trained):
        monkeypatch.setattr(attack, "fit", lambda self, images, context: fitted.append(self.name) or {})
        monkeypatch.setattr(attack, "apply", lambda self, images, index, state, split: images)
    assert main(["--preview", str(out), *given]) == 0
    printed = capsys.readouterr().out
    trained = sorted(name for name in ATTACKS if ATTACKS[name].trained)
    assert fitted == []
    told = printed.partition("to draw them:  --attacks ")[2].split()
    assert [name.partition(":")[0] for name in told] == trained
    assert main(["--preview", str(out), *given, "--attacks", *told]) == 0
    assert set(fitted) == set(trained)
    assert "left out" not in capsys.readouterr().out
