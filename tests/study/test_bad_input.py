"""`python -m study.run` on input that cannot work: exit code 2, one line, and nothing started."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import save_npz

from study.datasets.images import Images
from study.run import main

Run = Callable[..., str]


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not refused would start Ray: importing the driver is an error here. No GPU, wherever this runs."""
    monkeypatch.setitem(sys.modules, "study.driver.driver", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Images) -> str:
    """128 training images in 4 classes of 32."""
    return save_npz(tmp_path_factory.mktemp("bad input") / "data.npz", images)


@pytest.fixture
def refused(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command, with good images unless told otherwise, and gives its one line."""

    def run(*arguments: str, images: str = dataset, out: Path = tmp_path / "out") -> str:
        assert main(["--dataset", images, "--out", str(out), *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        assert "Traceback" not in line
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--space", "pipdd"], ["unknown space 'pipdd'", "did you mean 'pipd'?", "known: no_defense, pipd"]),
        (["--attacks", "badnets", "blend_random"], ["unknown attack 'blend_random'", "did you mean 'blended_random'?"]),
        (["--attacks", "badnets:varient=white3"], ["'varient'", "did you mean 'variant'?"]),
        (["--attacks", "badnets:variant=grid4"], ["variant must be one of", "'grid4'", "did you mean 'grid3'?"]),
        (["--attacks", "badnets:variant"], ["name:option=value", "'badnets:variant'"]),
        (["--set", "round=3"], ["no field 'round'", "did you mean 'rounds'?"]),
        (["--set", "rounds=0"], ["rounds must lie in [1, inf]", "got 0"]),
        (["--set", "epsilon_init=0.2"], ["PIPDConfig has no field 'epsilon_init'"]),  # another defense's
        (["--poison-rates", "0.6"], ["--poison-rates", "(0, 0.5]", "0.6"]),
        (["--poison-rates", "0"], ["--poison-rates", "(0, 0.5]"]),
        (["--poison-rates", "0.001"], ["0.001", "128", "less than one image", "larger rate"]),
        # 38 of 128 are more than the 32 of a class; 0.25 of 128 are 32.
        (["--attacks", "sig", "--poison-rates", "0.3"], ["sig", "38", "32", "0.25", "sig:cap=true"]),
        (["--target-label", "4"], ["--target-label", "[0, 3]", "got 4"]),
        (["--gpus-per-trial", "0.5"], ["--gpus-per-trial 0.5", "this machine has none", "--address"]),
        (["--objective", "isolaton_score"], ["unknown objective", "did you mean 'isolation_score'?"]),
        (["--objective", "ca", "--until", "isolate"], ["'ca'", "--until isolate", "isolation_score"]),
        (["--space", "no_defense", "--objective", "tpr"], ["no_defense flags nothing", "defense_score"]),
        (["--train-size", "2"], ["--train-size", "2", "4", "128"]),
        (["--train-size", "129"], ["--train-size", "128", "129"]),
        (["--config", "/no/such/file.yaml"], ["--config", "/no/such/file.yaml"]),
        (["--trial", "3"], ["unknown option --trial", "did you mean '--trials'?"]),
        (["--name", "../escape"], ["--name", "'../escape'"]),
    ],
)
def test_wrong_options(arguments: list[str], parts: list[str], refused: Run, tmp_path: Path) -> None:
    line = refused(*arguments)
    assert all(part in line for part in parts), line
    assert not [path for path in tmp_path.rglob("*") if path != tmp_path / "out"], "nothing is left behind"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digit", ["unknown dataset 'digit'", "did you mean 'digits'?"]),
        ("npz", ["'npz' needs a path", "npz:PATH"]),
        ("npz:", ["'npz' needs a path"]),
        ("npz:/no/such/file.npz", ["/no/such/file.npz"]),
        ("folder:/no/such/folder", ["/no/such/folder"]),
    ],
)
def test_wrong_datasets(name: str, parts: list[str], refused: Run, tmp_path: Path) -> None:
    line = refused(images=name)
    assert all(part in line for part in parts), line
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train_labels": None}, ["train_labels is missing", "it holds train_images"]),
        ({"train_images": np.zeros((128, 16, 16, 3), np.float32)}, ["train_images must be uint8", "float32"]),
        ({"train_labels": np.zeros(128, np.float64)}, ["train_labels must be integers", "float64"]),
        ({"train_labels": np.zeros(127, np.int64)}, ["equally many", "128 and 127"]),
        ({"test_labels": np.full(64, -1)}, ["test labels must lie in", "-1"]),
        ({"train_images": np.zeros((128, 16, 12, 3), np.uint8)}, ["square", "12"]),
        ({"train_images": np.zeros((128, 4, 4, 3), np.uint8)}, ["at least 8 px"]),
        ({"test_images": np.zeros((64, 32, 32, 3), np.uint8)}, ["one size"]),
        ({"train_labels": np.array([None] * 128)}, ["no Python objects"]),  # would need unpickling
    ],
)
def test_wrong_arrays(
    changes: dict[str, np.ndarray | None], parts: list[str], refused: Run, images: Images, tmp_path: Path
) -> None:
    line = refused(images=save_npz(tmp_path / "data.npz", images, **changes))
    assert all(part in line for part in parts), line
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_is_no_npz(refused: Run, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_text("not a zip file")
    assert str(path) in refused(images=f"npz:{path}")


def test_a_place_below_a_file(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    line = refused(out=tmp_path / "file" / "runs")
    assert line.startswith("error: --out must be a folder that can be written, got ")
    line = refused("--store", str(tmp_path / "file" / "store"))
    assert line.startswith("error: --store must be a folder that can be written, got ")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_same_holds_for_a_dry_run(refused: Run, tmp_path: Path) -> None:
    refused("--dry-run", "--attacks", "badnet")
    refused("--dry-run", "--target-label", "4")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_leaves_no_trace(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--dataset", dataset, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "nothing is started" in printed.out
    assert printed.err == ""
    assert not (tmp_path / "out").exists()


def test_good_input_gets_past_all_checks(dataset: str, tmp_path: Path) -> None:
    # Proof that the guard of this file works, and that the tests above are not refused for another reason.
    with pytest.raises(ImportError, match=r"study\.driver"):
        main(["--dataset", dataset, "--out", str(tmp_path / "out"), "--attacks", "sig", "--poison-rates", "0.25"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model", "resnet81"], "did you mean 'resnet18'?"),
        (["--blocks", "0"], "--blocks"),
        (["--blocks", ","], "--blocks"),
        (["--attacks", "blended_image", "--trigger-image", "/no/such/picture.png"], "/no/such/picture.png"),
        (["--attacks", "badnets:variant=grid30"], "62 px"),
    ],
)
def test_what_only_a_worker_would_notice_is_refused_before(arguments: list[str], part: str, refused: Run) -> None:
    assert part in refused(*arguments)


def test_an_objective_that_no_scenario_defines_is_refused(refused: Run) -> None:
    assert "no scenario tells tpr" in refused("--attacks", "clean", "--objective", "isolation_score")
