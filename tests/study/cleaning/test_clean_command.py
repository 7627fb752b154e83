"""`python -m study.clean`: what it refuses, in one line and before anything is trained; and how Python calls it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import study.clean as command
from defenses.registry import UserError
from study.cleaning.options import CleanConfig, choose_preset, parse_clean


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight images of two classes."""
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "data" / f"c{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(path)
    return tmp_path / "data"


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What the command says, with which it is refused."""
    assert command.main([str(word) for word in words]) == 2
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in shown.err
    return lines[-1]


def test_data_and_a_folder_must_be_named(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    assert "DATA is not" in refusal(capsys)
    assert "--out DIR is not" in refusal(capsys, data)
    assert "there is nothing at" in refusal(capsys, tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "unknown option --ouput: did you mean '--out'?" in refusal(capsys, data, "--ouput", tmp_path / "out")


def test_results_and_data_lie_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in data.rglob("*"))
    for out in (data, data / "cleaned", data / "c0" / "deep"):
        assert "--out must lie outside of the data, which are not touched" in refusal(capsys, data, "--out", out)
    assert "--out must not hold the data" in refusal(capsys, data, "--out", tmp_path)
    link = tmp_path / "link"
    link.symlink_to(data)
    assert "--out must lie outside of the data" in refusal(capsys, data, "--out", link / "cleaned")
    assert "--store must lie outside of the data" in refusal(
        capsys, data, "--out", tmp_path / "out", "--store", data / "store"
    )
    monkeypatch.chdir(data)
    assert "--store must lie outside of the data" in refusal(capsys, ".", "--out", tmp_path / "out")
    file = tmp_path / "file"
    file.touch()
    assert "--out must be a folder, and" in refusal(capsys, data, "--out", file, "--store", tmp_path / "store")
    assert sorted(path.name for path in data.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--defense", "pidp"], "did you mean 'pipd'?"),
        (["--defense", "no_defense"], "--defense names a method that flags images, and no_defense flags none"),
        (["--defense", "pipd.rounds"], "makes a paper's table anew"),
        (["--defense", "flare", "flare"], "--defense: each value is given once"),
        (["--agreement", "2"], "--agreement: Input should be less than or equal to 1, got 2"),
        (["--canary-limit", "0"], "--canary-limit: Input should be greater than 0"),
        (["--canaries", "some"], "--canaries: Input should be 'auto', 'run' or 'none'"),
        (["--seeds", "0", "0"], "--seeds: each value is given once, and 0 is there more than once"),
        (["--set", "betta=1"], "did you mean 'beta'?"),
        (["--from", "nothing"], "--from names a study in runs, or the path of a study's folder, got 'nothing'"),
        (["--preset", "huge"], "--preset"),
        (["--plantings", "0"], "--plantings: Input should be greater than or equal to 1"),
        (["--image-size", "4"], "--image-size"),
        (["--apply", "x.csv", "--defense", "flare"], "looks for nothing, so --defense changes nothing: leave it out"),
        (["--apply", "x.csv", "--dry-run"], "so --dry-run changes nothing"),
        (["--apply", "x.csv", "--preset", "small"], "--preset changes nothing with --apply, unless --retrain"),
        (["--canaries", "none", "--canary-limit", "5"], "--canary-limit changes nothing with --canaries none"),
        (["--plantings", "4"], "--plantings must be at most 3, since each has one of --seeds, got 4"),
        (["--defense", "asd"], "--defense asd needs 100 clean images, which are taken from the test set, and"),
    ],
)
def test_every_wrong_option_is_one_line(
    words: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    assert message in refusal(capsys, data, *where, *words)


def test_apply_makes_the_cleaned_set_anew(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "mine.csv", tmp_path / "out"
    table.write_text("id,decision\nc0/0.png,drop\nc1/3.png,keep\n", encoding="utf-8")
    where = [str(data), "--out", str(out), "--store", str(tmp_path / "store"), "--apply", str(table)]
    assert command.main(where) == 0
    assert "7 images kept, 1 dropped" in capsys.readouterr().out
    kept = {path.relative_to(out / "cleaned").as_posix() for path in (out / "cleaned").rglob("*.png")}
    assert kept == {f"c{number % 2}/{number}.png" for number in range(1, 8)}
    table.write_text("id,decision\nc0/9.png,drop\n", encoding="utf-8")
    assert "an id must be one of the data's" in refusal(capsys, *where)
    assert {path.relative_to(out / "cleaned").as_posix() for path in (out / "cleaned").rglob("*.png")} == kept


def test_a_dry_run_starts_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = [str(data), "--out", str(out), "--store", str(tmp_path / "store"), "--width", "4", "--dry-run"]
    assert command.main([*words, "--defense", "flare"]) == 0
    text = " ".join(capsys.readouterr().out.split())  # lines are broken where the path is long
    for part in (
        "8 images of 2 classes to look through, no test set",
        "preset smoke, since there are only 8 images and no GPU",
        "No clean images are needed.",
        "on this machine",
        "planted into copies of the data",
    ):
        assert part in text
    assert not list(out.glob("*/flare*"))


def test_from_python_it_is_a_function(data: Path, tmp_path: Path) -> None:
    from study import clean

    shutil.copytree(data, tmp_path / "copy")
    table = tmp_path / "mine.csv"
    table.write_text("id,decision\nc0/0.png,drop\n", encoding="utf-8")
    done = clean(tmp_path / "copy", tmp_path / "out", store=tmp_path / "store", apply=table)  # type: ignore[operator]
    assert done.kept.tolist() == [False, *[True] * 7]
    with pytest.raises(UserError, match="--agreement"):
        clean(data, tmp_path / "out", agreement=3)  # type: ignore[operator]
    with pytest.raises(UserError, match="--nothing"):
        clean(data, tmp_path / "out", nothing=3)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("asked", "samples", "gpu", "preset"),
    [
        (None, 2000, False, "smoke"),
        (None, 2001, False, "small"),
        (None, 100, True, "paper"),
        ("small", 10, True, "small"),
    ],
)
def test_the_preset_follows_data_and_device(asked: str | None, samples: int, gpu: bool, preset: str) -> None:
    config = parse_clean({"data": "data", "out": "out", "preset": asked})
    assert isinstance(config, CleanConfig)
    assert choose_preset(config, samples, gpu)[0] == preset
