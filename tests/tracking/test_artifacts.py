"""The files that go with a judged scenario."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tracking import artifacts, names

SCORES = np.array([0.25, 3.5, -1.0, 2.0])
FLAGGED = np.array([False, True, False, True])
LABELS = np.array([1, 0, 2, 0])
POISON = np.array([False, True, False, False])
FINGERPRINT = "f" * 64
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == PNG_SIGNATURE


def test_flags_as_a_table(tmp_path: Path) -> None:
    artifacts.write_flags(tmp_path, artifacts.Flags(FLAGGED, SCORES, LABELS, POISON, FINGERPRINT))
    assert (tmp_path / "flags" / "flagged.csv").read_text() == (
        "index,score,label,flagged,is_poison\n1,3.5,0,1,1\n3,2,0,1,0\n0,0.25,1,0,0\n2,-1,2,0,0\n"
    ), "what is most suspicious comes first"


def test_of_equal_scores_the_lowest_index_comes_first(tmp_path: Path) -> None:
    scores = np.array([0.5, np.inf, 0.5, -np.inf])
    artifacts.write_flags(tmp_path, artifacts.Flags(FLAGGED, scores, LABELS, POISON, FINGERPRINT))
    rows = (tmp_path / names.FLAGGED_CSV).read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "0", "2", "3"]
    assert artifacts.read_flags(tmp_path / names.SCORES_NPZ).labels.tolist() == LABELS.tolist(), "arrays stay in order"


def test_flags_as_arrays(tmp_path: Path) -> None:
    artifacts.write_flags(tmp_path, artifacts.Flags(FLAGGED, SCORES, LABELS, POISON, FINGERPRINT))
    with np.load(tmp_path / "flags" / "scores.npz", allow_pickle=False) as found:
        assert set(found.files) == {"scores", "flagged", "labels", "is_poison", "dataset_fingerprint"}
        assert found["scores"].tolist() == SCORES.tolist()
        assert found["flagged"].dtype == bool
        assert found["flagged"].tolist() == FLAGGED.tolist()
        assert found["labels"].tolist() == LABELS.tolist()
        assert found["is_poison"].tolist() == POISON.tolist()
        assert str(found["dataset_fingerprint"]) == FINGERPRINT


def test_covers_are_a_column_and_an_array(tmp_path: Path) -> None:
    covers = np.array([True, False, False, False])
    artifacts.write_flags(tmp_path, artifacts.Flags(FLAGGED, SCORES, LABELS, POISON, FINGERPRINT, covers))
    assert (tmp_path / names.FLAGGED_CSV).read_text().splitlines()[:2] == [
        "index,score,label,flagged,is_poison,is_cover",
        "1,3.5,0,1,1,0",
    ]
    flags = artifacts.read_flags(tmp_path / names.SCORES_NPZ)
    assert flags.is_cover is not None
    assert flags.is_cover.tolist() == covers.tolist()
    artifacts.write_flags(
        tmp_path, artifacts.Flags(FLAGGED, SCORES, LABELS, POISON, FINGERPRINT)
    )  # as before there were covers
    assert artifacts.read_flags(tmp_path / names.SCORES_NPZ).is_cover is None


def test_a_score_keeps_nine_digits(tmp_path: Path) -> None:
    artifacts.write_flags(tmp_path, artifacts.Flags(FLAGGED, SCORES / 3, LABELS, POISON, FINGERPRINT))
    with (tmp_path / names.FLAGGED_CSV).open() as file:
        found = {int(row["index"]): float(row["score"]) for row in csv.DictReader(file)}
    assert [found[index] for index in range(4)] == pytest.approx((SCORES / 3).tolist(), rel=1e-8)


def test_a_defense_without_scores_has_flags_alone(tmp_path: Path) -> None:
    artifacts.write_flags(tmp_path, artifacts.Flags(FLAGGED, None, LABELS, POISON, FINGERPRINT))
    lines = (tmp_path / names.FLAGGED_CSV).read_text().splitlines()
    assert lines[1:] == ["0,nan,1,0,0", "1,nan,0,1,1", "2,nan,2,0,0", "3,nan,0,1,0"]
    with np.load(tmp_path / names.SCORES_NPZ, allow_pickle=False) as found:
        assert "scores" not in found.files


def test_plots_are_pictures(tmp_path: Path) -> None:
    artifacts.write_plots(tmp_path, SCORES, FLAGGED, POISON, "badnets-0.1-s0")
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"score_histogram.png", "roc.png"}
    assert all(is_png(file) for file in (tmp_path / "plots").iterdir())


@pytest.mark.parametrize("everything", [False, True])
def test_one_class_has_no_roc(everything: bool, tmp_path: Path) -> None:
    artifacts.write_plots(tmp_path, SCORES, FLAGGED, np.full(4, everything), "clean-0-s0")
    assert is_png(tmp_path / names.HISTOGRAM_PNG)
    assert not (tmp_path / names.ROC_PNG).exists()


def test_nothing_is_drawn_without_scores(tmp_path: Path) -> None:
    artifacts.write_plots(tmp_path, None, FLAGGED, POISON, "badnets-0.1-s0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flagged", [np.zeros(4, dtype=bool), np.ones(4, dtype=bool)])
def test_plots_of_extreme_cases(flagged: np.ndarray, tmp_path: Path) -> None:
    # All scores equal, nothing or everything flagged: no cut to draw, and no warning turned error.
    artifacts.write_plots(tmp_path, np.ones(4), flagged, POISON, "badnets-0.1-s0")
    assert is_png(tmp_path / names.HISTOGRAM_PNG)
    assert is_png(tmp_path / names.ROC_PNG)


def test_the_preview_is_enlarged_pixel_by_pixel(tmp_path: Path) -> None:
    preview = np.zeros((24, 16, 3), dtype=np.uint8)  # three rows of two 8 px images
    preview[0, 0] = (255, 0, 0)
    artifacts.write_preview(tmp_path, preview)
    path = tmp_path / "attack" / "preview.png"
    assert is_png(path)
    with Image.open(path) as found:
        pixels = np.asarray(found)
    assert pixels.shape == (24 * 8, 16 * 8, 3)  # 8 px become 64
    assert (pixels[:8, :8] == (255, 0, 0)).all()
    assert pixels.astype(int).sum() == 255 * 64


def test_large_previews_keep_their_size_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    artifacts.write_preview(tmp_path / "none", np.zeros((0, 0, 3), dtype=np.uint8))
    assert not (tmp_path / "none").exists()
    artifacts.write_preview(tmp_path, np.zeros((300, 200, 3), dtype=np.uint8))
    with Image.open(tmp_path / names.PREVIEW_PNG) as found:
        assert found.size == (200, 300)
