"""The study that a person means: by its name, the beginning of it, its folder, or as the latest."""

import os
from pathlib import Path

import pytest

from defenses.registry import UserError
from study.ledger.study_folder import locate


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Four studies, one of them a hold-out with its two; the second was written to last."""
    for age, name in enumerate(("pipd-wide", "qt-small", "held", "held.search", "held.judge")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "study.json").write_text("{}")
        os.utime(folder / "study.json", (1000 + age, 1000 + age))
    os.utime(tmp_path / "runs" / "qt-small" / "study.json", (5000, 5000))
    (tmp_path / "runs" / "store").mkdir()
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pipd-wide", "pipd-wide"),
        ("pi", "pipd-wide"),
        ("latest", "qt-small"),
        ("held", "held"),
        ("hel", "held"),  # the whole, not one of its parts
        ("held.s", "held.search"),
        ("nobody", "nobody"),  # which `find_study` refuses, with the nearest
        ("store", "store"),
    ],
)
def test_a_name(out: Path, name: str, meant: str) -> None:
    assert locate(out, name) == (out, meant)


def test_a_folder(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in (str(out / "qt-small"), f"{out}/qt-small/"):
        assert locate(tmp_path / "elsewhere", named) == (out, "qt-small")
    monkeypatch.chdir(out / "qt-small")
    assert locate(tmp_path / "elsewhere", ".") == (out, "qt-small")
    assert locate(Path(".."), "../held") == (out, "held")


def test_what_several_begin_with_is_refused_with_all_of_them(out: Path) -> None:
    (out / "pipd-deep").mkdir()
    (out / "pipd-deep" / "study.db").touch()
    with pytest.raises(UserError, match="'pipd' begins the names of 2 studies, pipd-deep, pipd-wide"):
        locate(out, "pipd")


@pytest.mark.parametrize("name", ["runs/none", "/no/such/study", "a/\0"])
def test_a_folder_without_a_study_is_refused(out: Path, name: str) -> None:
    with pytest.raises(UserError, match="no study lies in"):
        locate(out, name)


def test_a_study_that_is_called_latest_cannot_be_made_but_one_of_before_is_found(out: Path) -> None:
    (out / "latest").mkdir()
    (out / "latest" / "study.json").write_text("{}")
    os.utime(out / "latest" / "study.json", (1, 1))
    assert locate(out, "latest") == (out, "qt-small")
    assert locate(out, str(out / "latest")) == (out, "latest")
