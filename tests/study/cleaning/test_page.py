"""The page of a cleaning, from made-up votes."""

import re
import time

import numpy as np
import pytest
from cleaning_parts import CLASSES, POISON, canaries, told, votes

from study.cleaning.page import build_page
from study.cleaning.pictures import Sheets, enlarged, histogram
from study.cleaning.votes import Vote, Votes


@pytest.fixture(autouse=True)
def without_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of plotting library, which no reader sees, take most of the time of these tests."""
    if "quick" not in request.node.name:
        monkeypatch.setattr("study.report.plotly_figures.library", lambda: "")


def words(page: str) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_the_verdict_comes_first_and_quotes_the_canaries() -> None:
    page = words(build_page(told(votes(POISON, POISON, POISON))))
    verdict = "30 images of class stop share something that others lack: look at them."
    assert verdict in page
    assert page.index(verdict) < page.index("On your data a 1 % patch would have been found with TPR 0.90")
    assert page.index("Flagged as class stop: 12 of 30") < page.index("Classes with flagged images.")
    for part in ("stop/empty.png", "3 images had an alpha channel.", "python -m study.clean signs --out DIR"):
        assert part in page


def test_nothing_found_and_no_canaries() -> None:
    page = words(build_page(told(votes(*[np.empty(0, dtype=np.int64)] * 3), planted_too=False)))
    assert "Nothing found: no run flags any image." in page
    assert "None were planted." in page
    assert "Borderline: kept, the nearest to the cut first: 12 of 20" in page


def test_the_page_fetches_nothing_and_is_small_and_quick() -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    labels = rng.integers(0, 4, count)
    flagged = np.arange(count) < 2000
    ballot = Votes(
        tuple(Vote("pipd", seed, flagged, rng.normal(0, 1, count) + 5 * flagged) for seed in range(3)), labels
    )
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    started = time.process_time()
    page = build_page(told(ballot, sheets=Sheets(images, ballot, CLASSES)))
    assert time.process_time() - started < 10
    assert len(page.encode()) < 8 << 20
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=(?!["'](data:|#))""", outside)


@pytest.mark.parametrize("rows", [POISON, np.arange(0, 400, 10), np.arange(96), np.empty(0, dtype=np.int64)])
def test_the_code_s_own_words_are_not_on_the_page(rows: np.ndarray) -> None:
    text = words(build_page(told(votes(rows, rows, rows)))) + words(build_page(told(votes(rows), planted_too=False)))
    assert not re.search(r"\b(oracles?|judged?|instruments?|cells?|(is|are|was|were) told)\b", text, re.IGNORECASE)


def test_names_are_text() -> None:
    hostile = "<script>alert(1)</script>"
    page = build_page(
        told(votes(POISON), name=hostile, classes=(hostile, *CLASSES[1:]), left_out=((hostile, hostile),))
    )
    assert hostile not in page


def test_the_difference_of_means_shows_the_patch() -> None:
    ballot = votes(POISON, POISON)
    picture = Sheets(told(ballot).sheets.images, ballot, CLASSES).difference(2)
    assert picture is not None
    assert Sheets(told(ballot).sheets.images, ballot, CLASSES).difference(0) is None
    patch = np.zeros((16, 16, 3))
    patch[-4:, -4:] = 100
    shown = enlarged(patch)
    assert (shown[-1, -1] == 255).all()
    assert (shown[0, 0] == 128).all()
    assert (enlarged(np.zeros((2, 2, 3))) == 128).all()


def test_the_histogram_counts_all() -> None:
    ballot = votes(POISON)
    _, kept, hits = histogram(ballot.scores, ballot.flagged)
    assert (kept.sum(), hits.sum()) == (370, 30)
    middles, kept, hits = histogram(np.zeros(5), np.zeros(5, dtype=bool))
    assert kept.sum() == 5
    assert hits.sum() == 0
    assert np.isfinite(middles).all()


def test_every_planted_attack_is_in_the_table() -> None:
    page = words(build_page(told(votes(POISON))))
    assert all(rate.attack in page for rate in canaries().rates)


@pytest.mark.parametrize("count", [1, 3])
def test_few_images_of_a_class(count: int) -> None:
    labels = np.array([0] * count + [1] * 20)
    ballot = Votes((Vote("pipd", 0, np.arange(count + 20) < count, None),), labels)
    images = np.zeros((count + 20, 8, 8, 3), dtype=np.uint8)
    assert "In pictures" in build_page(told(ballot, sheets=Sheets(images, ballot, CLASSES)))
