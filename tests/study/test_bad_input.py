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
        *told, line = printed.err.splitlines()
        assert all(other.startswith("WARNING: ") for other in told)
        assert line.startswith("error: ")
        assert "Traceback" not in line
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--space", "pipdd"],
            ["unknown space 'pipdd'", "did you mean 'pipd'?", "no_defense, none, none_wide, pipd, pipd."],
        ),
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


@pytest.mark.parametrize(
    ("changes", "arguments", "parts"),
    [
        # Nothing but the target class in the test set: no image is left that could be drawn to it.
        ({"test_labels": np.zeros(64, np.int64)}, ["--objective", "asr"], ["no scenario tells asr", "another class"]),
        ({"test_labels": np.zeros(64, np.int64)}, ["--objective", "overall_score"], ["no scenario tells asr"]),
        (
            {"poison_mask": np.ones(128, bool)},
            ["--attacks", "given", "--objective", "fpr"],
            ["no scenario tells fpr", "every image is poisoned"],
        ),
        (
            {"poison_mask": np.ones(128, bool)},
            ["--attacks", "given", "--objective", "auroc"],
            ["no scenario tells auroc"],
        ),
        ({"poison_mask": np.ones(128, bool)}, ["--attacks", "given", "--until", "isolate"], ["cannot be measured"]),
    ],
)
def test_an_objective_that_the_data_cannot_tell_is_refused(
    changes: dict[str, np.ndarray], arguments: list[str], parts: list[str], refused: Run, images: Images, tmp_path: Path
) -> None:
    line = refused(*arguments, images=save_npz(tmp_path / "data.npz", images, **changes))
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--image-size", "16"], ["--image-size changes nothing", "npz"]),
        (["--keep-states", "all"], ["--keep-states changes nothing", "no training before its end"]),
        (
            ["--keep-states", "often", "--set", "read_epoch=2"],
            ["states that are kept must be grid", "got 'often'", "(--keep-states)"],
        ),
        (["--trigger-image", "p.png"], ["--trigger-image changes nothing", "blended_image"]),
        (["--attacks", "badnets", "sig", "--trigger-dir", "d"], ["--trigger-dir changes nothing", "refool"]),
        (["--store", "~nobody_of_this_name/store"], ["~nobody_of_this_name", "home folder"]),
        (["--attacks", "blended_image", "--trigger-image", "~nobody_of_this_name/p.png"], ["home folder"]),
    ],
)
def test_what_cannot_act_is_refused(arguments: list[str], parts: list[str], refused: Run) -> None:
    line = refused(*arguments)
    assert all(part in line for part in parts), line


def test_a_home_that_is_not_there_is_none_of_a_dataset(refused: Run) -> None:
    assert "home folder" in refused(images="npz:~nobody_of_this_name/data.npz")
    line = refused(out=Path("~nobody_of_this_name/runs"))
    assert all(part in line for part in ("~nobody_of_this_name", "home folder", "whole path"))


def test_a_field_that_nothing_reads_is_told(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--dry-run", "--dataset", dataset, "--out", str(tmp_path / "out")]
    assert main([*folders, "--until", "isolate", "--set", "selective_epochs=3", "rounds=2"]) == 0
    line = "warning: --set selective_epochs changes nothing: no stage of pipd reads it with --until isolate\n"
    assert capsys.readouterr().err == line
    assert main([*folders, "--download"]) == 0
    assert (
        capsys.readouterr().err == "warning: --download changes nothing with --dataset npz, which is not downloaded\n"
    )
    assert main([*folders, "--set", "selective_epochs=3"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*folders, "--space", "ac", "--set", "max_share=0.3", "rule=smaller", "dims=5"]) == 0
    line = "warning: --set max_share changes nothing: it acts where rule share or share_and_silhouette\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("name", ["store", "mlflow.db", "mlflow-artifacts", "latest"])
def test_a_name_of_the_tools_own_is_refused(name: str, refused: Run) -> None:
    assert "--name must be none of store, mlflow.db, mlflow-artifacts, latest" in refused("--name", name)


def test_a_name_whose_folder_is_something_else_is_refused(refused: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "photos").mkdir(parents=True)
    (out / "photos" / "cat.png").write_text("mine")
    (out / "notes").write_text("mine")
    assert "holds cat.png" in refused("--name", "photos")
    assert "is a file" in refused("--name", "notes")
    assert "folder of the store" in refused("--name", "kept", "--store", str(out / "kept"))
    assert "folder of the store" in refused("--name", "kept", "--store", str(out / "kept" / "below"))
    assert sorted(path.name for path in out.rglob("*")) == ["cat.png", "notes", "photos"]
