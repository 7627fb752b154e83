"""The outbox: nothing acknowledged is lost, nothing half-written is read."""

import json
import os
import threading
from pathlib import Path

import pytest

from tracking.outbox import Outbox, Record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """In a folder that does not exist yet."""
    return tmp_path / "study" / "outbox.jsonl"


def record(number: int, status: str = "RUNNING") -> Record:
    return Record(f"trial/{number}", "study/x", f"trial {number}", 1000 + number, metrics={"tpr": 0.5}, status=status)


WHOLE = Record(
    run="scenario/k/badnets-0.1-s0",
    parent="trial/k",
    name="badnets é",
    time_ms=123,
    params={"beta": "3.0"},
    tags={"study.kind": "scenario"},
    metrics={"tpr": 0.1},
    series={"isolate.tpr": [0.5, 0.75]},
    artifacts="/tmp/a folder",
    keep_artifacts=True,
    status="FINISHED",
)


def pending(outbox: Outbox) -> list[Record]:
    return [found for found, _ in outbox.pending()]


def test_an_empty_outbox(path: Path) -> None:
    outbox = Outbox(path)
    assert (pending(outbox), outbox.sent, outbox.finished()) == ([], 0, set())


def test_records_come_back_in_order_and_whole(path: Path) -> None:
    outbox = Outbox(path)
    outbox.append(WHOLE)
    outbox.append(record(1))
    assert pending(outbox) == [WHOLE, record(1)]
    assert pending(outbox) == [WHOLE, record(1)], "looking takes nothing"
    assert pending(Outbox(path)) == [WHOLE, record(1)], "a new process sees the same"


def test_what_is_marked_is_not_pending(path: Path) -> None:
    outbox = Outbox(path)
    for number in range(3):
        outbox.append(record(number))
    marks = [mark for _, mark in outbox.pending()]
    outbox.mark(marks[0])
    assert pending(outbox) == [record(1), record(2)]
    assert pending(Outbox(path)) == [record(1), record(2)]
    outbox.mark(marks[2])
    assert pending(outbox) == []
    assert outbox.sent == path.stat().st_size
    outbox.append(record(3))
    assert pending(outbox) == [record(3)]


def test_a_crash_between_taking_and_marking_replays(path: Path) -> None:
    outbox = Outbox(path)
    for number in range(3):
        outbox.append(record(number))
    taken = []
    for found, mark in outbox.pending():
        taken.append(found)
        if found == record(1):
            break  # killed after it was taken, before it was marked
        outbox.mark(mark)
    replayed = pending(Outbox(path))
    assert taken + replayed == [record(0), record(1), record(1), record(2)]


def test_what_is_appended_while_it_is_read_is_read_as_well(path: Path) -> None:
    outbox = Outbox(path)
    outbox.append(record(0))
    seen = []
    for found, _ in outbox.pending():
        seen.append(found)
        if len(seen) == 1:
            outbox.append(record(1))
    assert seen == [record(0), record(1)]


@pytest.mark.parametrize("length", [1, 10, -2, -1])
def test_an_unfinished_last_line_is_cut(length: int, path: Path) -> None:
    outbox = Outbox(path)
    outbox.append(record(0))
    whole = path.read_bytes()
    outbox.append(WHOLE)
    line = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + line[:length])  # -1 leaves all of it but the end of the line
    assert pending(outbox) == [record(0)], "a reader does not take what may still be being written"
    after = Outbox(path)
    assert path.read_bytes() == whole
    after.append(record(1))
    assert pending(after) == [record(0), record(1)]


def test_a_first_line_that_is_unfinished_is_cut(path: Path) -> None:
    Outbox(path)
    path.write_bytes(b'{"run": "tri')
    after = Outbox(path)
    assert path.read_bytes() == b""
    after.append(record(0))
    assert pending(after) == [record(0)]


def test_finished_runs_are_known_sent_or_not(path: Path) -> None:
    outbox = Outbox(path)
    outbox.append(record(0))
    outbox.append(record(1, "FINISHED"))
    outbox.append(record(2))
    outbox.append(record(2, "FAILED"))
    outbox.mark(next(mark for _, mark in outbox.pending()))
    assert outbox.finished() == {"trial/1", "trial/2"}
    assert Outbox(path).finished() == {"trial/1", "trial/2"}


def test_a_record_is_on_the_disk_when_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    outbox = Outbox(path)
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    outbox.append(record(0))
    assert synced == [path.stat().st_size]


def test_nan_is_refused_and_leaves_nothing_behind(path: Path) -> None:
    outbox = Outbox(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        outbox.append(Record("trial/0", None, "x", 0, metrics={"tpr": float("nan")}))
    assert pending(outbox) == []
    assert not path.exists() or path.read_bytes() == b""


def test_two_threads_keep_lines_whole(path: Path) -> None:
    outbox = Outbox(path)
    each = 25

    def write(thread: int) -> None:
        for number in range(each):
            # Longer than a buffer of 8 KiB: without a lock the parts of two lines would mix.
            outbox.append(Record(f"trial/{thread}-{number}", None, "x" * 20_000, number))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().splitlines()
    assert [len(json.loads(line)["name"]) for line in lines] == [20_000] * (2 * each)
    runs = [found.run for found in pending(outbox)]
    assert sorted(runs) == sorted(f"trial/{thread}-{number}" for thread in range(2) for number in range(each))
    for thread in range(2):  # each thread's own order is kept
        own = [run for run in runs if run.startswith(f"trial/{thread}-")]
        assert own == [f"trial/{thread}-{number}" for number in range(each)]
