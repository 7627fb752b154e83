"""Numbers move only with a version: others need a new version, new golden files and a line in CHANGELOG.md.

A stored result of an older version would otherwise stand for the new one.
"""

import json

import golden_outputs as golden
import numpy as np
import pytest
from golden_outputs import GOLDEN, Arrays, golden_outputs

from defenses.training import streamed_images

pytestmark = pytest.mark.golden

REGENERATE = (
    "PYTHONPATH=.:tests/support python tests/support/golden_outputs.py writes them anew; "
    "say in CHANGELOG.md, 'Results changed', what moved"
)


@pytest.fixture(scope="module")
def now() -> tuple[Arrays, dict[str, int]]:
    return golden_outputs()


@pytest.fixture(scope="module")
def pinned() -> Arrays:
    with np.load(GOLDEN / "outputs.npz", allow_pickle=False) as stored:
        return dict(stored)


def test_versions_are_those_of_the_golden_files(now: tuple[Arrays, dict[str, int]]) -> None:
    assert now[1] == json.loads((GOLDEN / "versions.json").read_text()), REGENERATE


def test_nothing_is_left_out(now: tuple[Arrays, dict[str, int]], pinned: Arrays) -> None:
    assert set(now[0]) == set(pinned), REGENERATE
    trained = {name.removesuffix(".loss") for name in pinned if name.endswith(".loss")}
    assert {"pre_isolation", "selective_training", "pre_quarantine", "quarantine_training"} <= trained


def test_poisoned_images_are_as_they_were(now: tuple[Arrays, dict[str, int]], pinned: Arrays) -> None:
    for name in (name for name in pinned if name.startswith("poison.")):
        assert np.array_equal(now[0][name], pinned[name]), (
            f"{name} moved: raise the attack's version, or study.scenarios.poison.VERSION; {REGENERATE}"
        )


def test_trained_attacks_are_as_they_were(now: tuple[Arrays, dict[str, int]], pinned: Arrays) -> None:
    for name in (name for name in pinned if name.startswith("trained_poison.")):
        moved = np.abs(now[0][name].astype(float) - pinned[name]).mean()
        # On another processor a network's weights end up a little elsewhere, and some pixels round the other way.
        assert moved < 0.5, f"{name} moved by {moved:.2f} levels: raise the version of its part; {REGENERATE}"


def test_stages_give_what_they_gave(now: tuple[Arrays, dict[str, int]], pinned: Arrays) -> None:
    for name in (name for name in pinned if "poison." not in name):
        # Sums run in another order on another processor: 1e-3 is far above that, and far below a changed method.
        expected = pytest.approx(pinned[name].astype(float), rel=1e-3, abs=1e-6)
        assert now[0][name].astype(float) == expected, f"{name} moved: raise the stage's version; {REGENERATE}"


def test_streamed_images_change_no_bit(now: tuple[Arrays, dict[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_images, "fits", lambda size, device: False)
    monkeypatch.setattr(golden, "SETTINGS", {name: golden.SETTINGS[name] for name in ("pipd", "asd", "dbd")})
    given = {**golden.losses()[0], **golden.detected()[0]}
    assert len(given) > 20
    for name, values in given.items():
        assert np.array_equal(now[0][name], values, equal_nan=values.dtype.kind == "f"), name
