"""The last screen of each kind of study is a text that somebody read and found good."""

from pathlib import Path

import pytest
from closing_screens import GOLDEN, SCREENS, shown


@pytest.mark.parametrize("name", SCREENS)
def test_the_last_screen(name: str, tmp_path: Path) -> None:
    golden = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert shown(name, tmp_path) == golden, "read the new text; python tests/support/closing_screens.py keeps it"


@pytest.mark.parametrize("name", SCREENS)
def test_it_fits_a_terminal_and_repeats_nothing(name: str) -> None:
    lines = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("    ")]
    assert max(len(line) for line in lines if line not in commands) <= 120
    text = [line.strip() for line in lines if line.strip(" -")]
    for word in ("oracle", "judged", "the store", "instrument"):
        assert not [line for line in text if word in line]


def test_every_kind_has_a_screen() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SCREENS)
