"""Samples that are flagged, falsely or not at all, as pictures: from the store and the flags alone; nothing is made."""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from told_study import key_of, write_study

from defenses.storage.store import Store
from study.analysis.results import Results, read_results
from study.datasets import DatasetSpec, load_dataset
from study.datasets.images import Images
from study.report.elements import Note, Picture
from study.report.sample_sheet import BENIGN, MOST, POISONED, draw_preview, draw_sheet, read_picture
from study.report.sections import pictures
from study.report.text import as_json, section_text
from tracking.artifacts import Flags, write_flags, write_preview

NAME = "badnets-0.1-s0"
FINGERPRINT = "f" * 64


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_dataset(DatasetSpec())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> Path:
    """A study of two trials and one scenario, its poisoned data in the store and its flags in its folder.

    The first 20 images are poisoned and white. The default flags 18 of them and two benign ones, the other trial all.
    """
    out = tmp_path_factory.mktemp("runs")
    folder = write_study(out / "mine", trials=2, attacks=("badnets",), rates=(0.1,), seeds=(0,))
    Store(out / "store").get_or_build("poison", key_of("poison", NAME), lambda: poisoned(digits))
    for trial, key in read_results(out, "mine").trials["key"].items():
        write_preview(folder / "points" / str(key) / NAME, np.full((96, 64, 3), 9, dtype=np.uint8))
        write_flags(folder / "points" / str(key) / NAME, flags_of(digits, missed=2 if trial == 0 else 0))
    return out


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Results:
    """The study in a place of its own, as one that was moved."""
    shutil.copytree(made, tmp_path / "runs")
    return read_results(tmp_path / "runs", "mine")


def poisoned(digits: Images) -> dict[str, Any]:
    labels = digits.train_labels.copy()
    labels[:20] = 0
    white = np.full((20, *digits.train_images.shape[1:]), 255, dtype=np.uint8)
    preview = np.zeros((96, 64, 3), dtype=np.uint8)
    return {"rows": np.arange(20), "images": white, "labels": labels, "fingerprint": FINGERPRINT, "preview": preview}


def flags_of(digits: Images, missed: int) -> Flags:
    count = len(digits.train_labels)
    poison, flagged = np.arange(count) < 20, np.arange(count) < 20 - missed
    flagged[100 : 100 + missed] = True
    scores = np.linspace(1, 0, count)
    return Flags(flagged, scores, poisoned(digits)["labels"], poison, FINGERPRINT)


def shown(results: Results) -> tuple[str, list[Picture], list[str]]:
    (section,) = pictures.sections(results)
    notes = [item.text for item in section.items if isinstance(item, Note)]
    return section.lead, list(section.pictures()), notes


def test_each_kind_of_sample_has_its_sheet(results: Results) -> None:
    best = results.best
    assert best is not None
    _, found, notes = shown(results)
    kinds = {0: ["flagged", "alarms", "misses"], 1: ["flagged"]}
    named = [f"pictures-0-trial-{trial}-{kind}" for trial in dict.fromkeys((best, 0)) for kind in kinds[trial]]
    assert [picture.name for picture in found] == ["pictures-0-attack", *named]
    captions = {picture.name: picture.caption for picture in found}
    assert "Misses, the lowest scores first: 2 of 2" in captions["pictures-0-trial-0-misses"]
    assert "False alarms, the highest scores first: 2 of 2" in captions["pictures-0-trial-0-alarms"]
    assert f"{MOST} of 20" in captions["pictures-0-trial-0-flagged"]
    assert any("20 of 1437 training images are flagged: 18 of 20 poisoned ones, 2 false alarms." in n for n in notes)
    assert not [note for note in notes if "store" in note]


def test_pictures_show_the_samples_as_the_defense_had_them(results: Results, digits: Images) -> None:
    from PIL import Image, ImageColor

    _, found, _ = shown(results)
    sheets = {picture.name.rpartition("-")[2]: picture for picture in found if "-trial-0-" in picture.name}
    opened = {name: np.asarray(Image.open(io.BytesIO(one.png)).convert("RGB")) for name, one in sheets.items()}
    for name, colour in (("misses", POISONED), ("alarms", BENIGN)):
        assert tuple(opened[name][0, 0]) == ImageColor.getrgb(colour)
    assert (opened["misses"][10, 10] == 255).all()  # the poisoned image, from the store
    alarm = opened["alarms"][3:67, 3:67]
    assert (alarm == digits.train_images[100].repeat(2, axis=0).repeat(2, axis=1)).all()  # the clean one, from the data
    assert all((picture.width, picture.height) == Image.open(io.BytesIO(picture.png)).size for picture in found)


def test_nothing_is_made_or_changed_for_a_picture(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.scenarios.stored_poison.poison", None)
    before = {path: path.stat().st_mtime_ns for path in results.folder.parent.rglob("*")}
    assert shown(results)[1]
    assert {path: path.stat().st_mtime_ns for path in results.folder.parent.rglob("*")} == before


def test_a_damaged_store_is_left_as_it_is(results: Results) -> None:
    (payload,) = (results.folder.parent / "store").rglob("*-images-payload.npy")
    payload.write_bytes(b"no array")
    _, found, notes = shown(results)
    assert [picture.name for picture in found] == ["pictures-0-attack"]
    assert any("does not have" in note for note in notes)
    assert (payload.parent / "meta.json").is_file()


def test_the_picture_of_received_data_is_one_row(results: Results) -> None:
    """Nobody has the clean images beside them: what three rows would be a third of is drawn as large as any image."""
    results.scenarios["attack"] = "given:file=/data/received.npz"  # as a study writes it
    _, found, _ = shown(results)
    (attack,) = [picture for picture in found if picture.name == "pictures-0-attack"]
    assert attack.caption == "Images that the file marks as poisoned."
    _, width, height = draw_preview(np.zeros((16, 96, 3), dtype=np.uint8), rows=1)
    assert draw_preview(np.zeros((48, 96, 3), dtype=np.uint8))[1:] == (width, 3 * height)


def test_without_the_store_the_stored_preview_is_shown(results: Results) -> None:
    (results.folder.parent / "store").rename(results.folder.parent / "gone")
    _, found, notes = shown(results)
    assert [picture.name for picture in found] == ["pictures-0-attack"]
    (told,) = [note for note in notes if "store" in note]
    assert "does not have this study's images" in told


def test_other_images_than_those_that_were_flagged_are_not_shown(results: Results, digits: Images) -> None:
    other = dataclasses.replace(flags_of(digits, 2), fingerprint="0" * 64)
    for path in results.folder.glob("points/*/*/flags"):
        write_flags(path.parent, other)
    assert [picture.name for picture in shown(results)[1]] == ["pictures-0-attack"]


def test_without_the_dataset_benign_images_are_left_out(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    from defenses.registry import UserError

    def gone(_: DatasetSpec) -> Images:
        raise UserError("it is not here")

    monkeypatch.setattr("study.datasets.load_dataset", gone)
    _, found, notes = shown(results)
    assert not [picture for picture in found if picture.name.endswith("alarms")]
    assert [picture for picture in found if picture.name.endswith("misses")]
    assert any("False alarms" in note and "not on this machine" in note for note in notes)


def test_nobody_knows_what_is_poisoned(results: Results, digits: Images) -> None:
    unknown = dataclasses.replace(flags_of(digits, 2), is_poison=None, scores=None)
    for path in results.folder.glob("points/*/*/flags"):
        write_flags(path.parent, unknown)
    _, found, notes = shown(results)
    assert [picture.name.rpartition("-")[2] for picture in found] == ["attack", "flagged"]
    assert "score" not in found[1].caption
    assert any("nobody knows which are poisoned" in note for note in notes)


def test_a_study_without_flags_and_pictures_says_so(results: Results, tmp_path: Path) -> None:
    for path in (results.folder.parent / "store", *results.folder.glob("points/*/*/")):
        shutil.rmtree(path)
    (section,) = pictures.sections(results)
    assert not section.answered
    assert not section.items


def test_files_that_were_sent_are_found_in_mlflow(results: Results) -> None:
    """Beside the database, wherever both lie now; without MLflow."""
    import sqlite3
    from contextlib import closing

    out = results.folder.parent
    runs = []
    for number, key in results.trials["key"].items():
        place = out / "mlflow-artifacts" / f"run{number}" / "artifacts"
        shutil.move(results.folder / "points" / str(key) / NAME, place)
        runs.append((f"run{number}", f"scenario/mine/abc/{key}/{NAME}"))
    records = [{"run": run, "parent": None, "name": "x", "time_ms": 0, "status": "FINISHED"} for _, run in runs]
    (results.folder / "outbox.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with closing(sqlite3.connect(out / "mlflow.db")) as database, database:
        database.execute("create table runs (run_uuid text, artifact_uri text, lifecycle_stage text)")
        database.execute("create table tags (run_uuid text, key text, value text)")
        for run, key in runs:
            database.execute("insert into runs values (?, '/nowhere/artifacts', 'active')", (run,))
            database.execute("insert into tags values (?, 'study.run_key', ?)", (run, key))
    assert len(shown(results)[1]) >= 4


def test_a_server_that_is_away_is_asked_once(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def away(*_: object) -> None:
        asked.append(1)
        raise ConnectionError("no route")

    monkeypatch.setattr("tracking.mlflow_log.fetch_artifact", away)
    keys = [str(key) for key in results.trials["key"]]
    for key in keys:
        shutil.rmtree(results.folder / "points" / key / NAME)
    records = [
        {"run": f"scenario/mine/abc/{key}/{NAME}", "parent": None, "name": "x", "time_ms": 0, "status": "FINISHED"}
        for key in keys
    ]
    (results.folder / "outbox.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = {**results.manifest.settings, "tracking_uri": "http://127.0.0.1:1"}
    moved = dataclasses.replace(results, manifest=dataclasses.replace(results.manifest, settings=settings))
    assert [picture.name for picture in shown(moved)[1]] == ["pictures-0-attack"]
    assert len(asked) == 1


def test_sheets_are_small(digits: Images) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (MOST, 32, 32, 3), dtype=np.uint8)
    content, width, _ = draw_sheet(noise, ["0"] * MOST, [True] * MOST)
    assert len(content) < 60_000
    assert width < 640
    large = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    assert draw_sheet(large, ["12"] * 2, [None, False])[1:] == (152, 90)
    assert len(draw_preview(rng.integers(0, 256, (3 * 224, 8 * 224, 3), dtype=np.uint8))[0]) < 120_000


def test_what_is_no_picture_is_not_shown() -> None:
    assert read_picture(b"no picture") is None
    assert read_picture(b"\x89PNG\r\n\x1a\n" + b"\0" * 40) is None
    content = draw_preview(np.zeros((96, 64, 3), dtype=np.uint8))[0]
    picture = read_picture(content)
    assert picture is not None
    assert picture.shape == (192, 128, 3)


def test_a_terminal_and_a_machine_are_told_of_pictures(results: Results) -> None:
    (section,) = pictures.sections(results)
    text = section_text(section)
    assert "[picture pictures-0-attack: The attack" in text
    assert "PNG" not in text
    items = json.loads(as_json(results, [section]))["sections"][0]["items"]
    kinds = [item["type"] for item in items]
    assert kinds.count("picture") == len(list(section.pictures()))
    assert all(isinstance(item["png"], str) for item in items if item["type"] == "picture")
