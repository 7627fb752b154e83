"""What a driver says of its work while it is at it, and what is left of that when it is gone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.ledger import activity
from study.ledger.activity import ENDED, STAGES, TRIALS, ActivityFile, read_activity


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that a test moves."""
    moved = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(time=lambda: moved.now, monotonic=lambda: moved.now)
    monkeypatch.setattr(activity, "time", fake)
    return moved


def test_what_is_said_is_on_disk_within_seconds(tmp_path: Path, clock: SimpleNamespace) -> None:
    assert read_activity(tmp_path) is None, "a study of before"
    file = ActivityFile(tmp_path)
    file.tell(STAGES, 0, 12, ["poison of badnets-0.1-s0"])
    path = tmp_path / "activity.json"
    written = path.stat().st_mtime_ns
    for done in range(1, 5):
        clock.now += 1
        file.tell(STAGES, done, 12, [f"stage {done}"], 60.0 - done, at_least=True)
    assert path.stat().st_mtime_ns == written, "not every second"
    clock.now += 1
    file.tell(STAGES, 5, 12, ["stage 5"], 55.0)
    known = read_activity(tmp_path)
    assert known is not None
    assert (known.phase, known.done, known.total, known.now) == (STAGES, 5, 12, ("stage 5",))
    assert (known.left_seconds, known.at_least) == (55.0, False)
    clock.now += 20
    assert known.left(alive=True) == 35, "time goes on since it was said"
    assert known.elapsed(alive=True) == 25
    assert (known.left(alive=False), known.elapsed(alive=False)) == (55, 5)
    file.tell(TRIALS, 0, 30)
    assert getattr(read_activity(tmp_path), "phase", "") == TRIALS, "another phase is said at once"


def test_time_adds_up_over_drivers_however_they_ended(tmp_path: Path, clock: SimpleNamespace) -> None:
    file = ActivityFile(tmp_path)
    clock.now += 100
    file.end()
    clock.now += 5000
    killed = ActivityFile(tmp_path)
    clock.now += 50
    killed.tell(TRIALS, 1, 2)
    clock.now += 3  # not on disk any more
    clock.now += 5000
    last = ActivityFile(tmp_path)
    clock.now += 7
    last.end()
    known = read_activity(tmp_path)
    assert known is not None
    assert (known.phase, known.now) == (ENDED, ())
    assert known.spent(alive=False) == 100 + 50 + 7


@pytest.mark.parametrize(
    "change",
    [None, {"process": "x"}, {"started": None}, {"done": -1}, {"left_seconds": "soon"}, {"now": 3}, {"unheard": 1}],
)
def test_a_damaged_file_says_nothing(change: dict[str, object] | None, tmp_path: Path) -> None:
    ActivityFile(tmp_path).tell(STAGES, 1, 2, left_seconds=3.0)
    path = tmp_path / "activity.json"
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    assert read_activity(tmp_path) is None
    assert ActivityFile(tmp_path) is not None, "the next driver writes it anew"
    assert read_activity(tmp_path) is not None


def test_a_folder_that_takes_nothing_stops_no_study(tmp_path: Path) -> None:
    file = ActivityFile(tmp_path / "gone")
    file.tell(STAGES, 1, 2)
    file.end()
    assert not (tmp_path / "gone").exists()


def test_a_study_that_an_earlier_version_began_does_not_claim_to_know_what_it_took(tmp_path: Path) -> None:
    (tmp_path / "points" / "a1").mkdir(parents=True)
    ActivityFile(tmp_path).end()
    ActivityFile(tmp_path).end()
    activity = read_activity(tmp_path)
    assert activity is not None
    assert not activity.whole
