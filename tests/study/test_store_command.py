"""What a store holds and who uses it, what may go, and what must not, whatever runs or starts meanwhile."""

import hashlib
import io
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import empty_ledger
from study_folder import write_scenario
from test_imports import HEAVY, loaded

from defenses.storage import removal
from defenses.storage.atomic_files import DiskFull, canonical, full_disk_errors
from defenses.storage.inventory import ABOUT, STATES_KEY, Held, Kind, read_folder, read_store
from defenses.storage.remote import cache_folder
from defenses.storage.store import Store
from study import status
from study import store as command
from study.cli.sizes import format_size, parse_age, parse_size
from study.ledger.lock import study_lock
from study.ledger.store_removal import Wish, choose, remove_chosen
from study.ledger.store_studies import note_results_folder, read_uses, results_folders, wait_for_removal
from study.ledger.store_use import StoreUse
from study.ledger.used_stages import keep_used_stages, read_used_stages

KB = 1000


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def put(
    out: Path, stage: str, name: str, kilobytes: int = 1, about: dict[str, Any] | None = None, days: int = 0
) -> Path:
    """An entry as the library writes it, last used some days ago."""
    array = np.zeros(kilobytes * KB, dtype=np.uint8)
    Store(out / "store").get_or_build(stage, key(name), lambda: {"array": array}, about)
    return age(out / "store" / stage / key(name), days)


def put_poison(out: Path, name: str, seed: int = 0, attack: str = "badnets") -> str:
    """Poisoned data whose fingerprint is its name; gives what a manifest calls it."""
    scenario = {"attack": attack, "seed": seed, "dataset": "images"}
    named = hashlib.sha256(canonical(scenario | {"poison_rate": name}).encode()).hexdigest()
    about = {**scenario, "poison_rate": name, "numerics": {"threads": 1}}
    Store(out / "store").get_or_build("poison", key(name), lambda: {"fingerprint": name}, about)
    return named


def age(folder: Path, days: int) -> Path:
    for path in folder.iterdir():
        os.utime(path, (time.time() - 86400 * days,) * 2)
    return folder


def runs(uses: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """How a record names entries."""
    return [
        {"stage": stage, "key": key(of), "hit": True, "wall_seconds": 0.0, "built_seconds": 0.0} for stage, of in uses
    ]


def study(out: Path, name: str, uses: list[tuple[str, str]], data: list[str] | None = None, trials: int = 0) -> Path:
    """A study whose one record names entries; it has ended unless it was asked for trials."""
    folder = out / name
    folder.mkdir(parents=True)
    (folder / "study.db").write_bytes(empty_ledger("maximize"))
    settings = {"trials": trials, "name": name, "dataset": "digits"}
    known = {"settings": settings, "data": data or [key("its data")], "parts": [], "scenarios": []}
    (folder / "study.json").write_text(json.dumps(known))
    write_scenario(folder, "k0", "badnets-0.1-s0", stages=runs(uses))
    return folder


def look(out: Path) -> tuple[list[Path], StoreUse]:
    outs = results_folders(out / "store", out)
    return outs, StoreUse(out / "store", read_store(out / "store"), read_uses(out / "store", outs))


def chosen(out: Path, **wish: Any) -> list[tuple[str, str]]:
    """Stage and kind of what would go, in order."""
    _, use = look(out)
    return [(one.stage, one.kind.value) for one in choose(use, Wish(**wish))]


def there(out: Path) -> set[str]:
    return {one.stage for one in read_store(out / "store")}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two studies that share an entry, each with one of its own, and an entry that nobody uses."""
    out = tmp_path / "runs"
    for name in ("shared", "first", "second", "unused"):
        put(out, f"stage_{name}", name, kilobytes=2)
    study(out, "one", [("stage_shared", "shared"), ("stage_first", "first")])
    study(out, "two", [("stage_shared", "shared"), ("stage_second", "second")])
    return out


def show(out: Path, capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> str:
    assert command.main([*options, "--out", str(out)]) == code
    told = capsys.readouterr()
    return told.out if code in (0, 3) else told.err


def test_lists_by_stage_study_and_age(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = show(out, capsys)
    assert "no study uses 1 of them" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["stage_unused"][1] == "1"
    assert rows["stage_shared"][4] == "-"
    assert rows["one"][1:3] == ["ended", "2"]
    told = json.loads(show(out, capsys, "--json"))
    sizes = {part["stage"]: part["bytes"] for part in told["parts"]}
    one = next(known for known in told["studies"] if known["name"] == "one")
    assert one["bytes"] == sizes["stage_shared"] + sizes["stage_first"]
    assert one["alone_bytes"] == sizes["stage_first"]
    assert [part["stage"] for part in told["parts"] if part["unused"]] == ["stage_unused"]
    assert "one uses" in show(out, capsys, "one")


def test_what_no_study_uses_goes_and_the_rest_is_found(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (out / "store").rglob("*") if path.is_file()}
    assert "1 stage_unused" in show(out, capsys, "--unused", "--dry-run")
    assert {path: path.read_bytes() for path in (out / "store").rglob("*") if path.is_file()} == before
    assert "Removed 1 of 1" in show(out, capsys, "--unused", "--yes")
    assert not (out / "store" / "stage_unused" / key("unused")).exists()
    assert {stage for stage in there(out)} == {"stage_shared", "stage_first", "stage_second"}
    assert Store(out / "store").find("stage_first", key("first")) is not None
    assert "Nothing to remove" in show(out, capsys, "--unused", "--yes")


def test_nobody_is_asked_without_a_terminal(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = show(out, capsys, "--unused", code=2)
    assert len(error.strip().splitlines()) == 1
    assert "add --yes" in error
    for answer, left in (("n\n", True), ("\n", True), ("y\n", False)):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        show(out, capsys, "--unused")
        assert ("stage_unused" in there(out)) is left


def test_a_study_that_has_not_ended_keeps_what_it_might_ask_for(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    mine = put_poison(out, "mine")
    put_poison(out, "foreign")
    put_poison(out, "clean", attack="clean")
    for name, about in {
        "on_mine": {"dataset": "mine"},
        "on_foreign": {"dataset": "foreign"},
        "undescribed": None,
        "attack_part": {"dataset": "images"},
    }.items():
        put(out, name, name, about=about)
    partial = out / "store" / "unfinished" / key("partial")
    partial.mkdir(parents=True)
    (partial / "checkpoint-1.json").write_text('{"seconds": 3.5}')
    study(out, "open", [], data=[mine], trials=5)
    assert {stage for stage, _ in chosen(out, unused=True)} == {"on_foreign", "poison"}
    assert len(chosen(out, unused=True)) == 3  # the foreign data, what was computed on them, data of no seed of its own
    (out / "open" / "study.json").write_text(
        (out / "open" / "study.json").read_text().replace('"trials": 5', '"trials": 0')
    )
    gone = {stage for stage, _ in chosen(out, unused=True)}
    assert gone == {"on_mine", "on_foreign", "undescribed", "attack_part", "unfinished", "poison"}
    assert len([stage for stage, _ in chosen(out, unused=True) if stage == "poison"]) == 2  # not its own


def test_a_trained_part_of_an_attack_is_kept_while_the_rest_of_it_is_trained(tmp_path: Path) -> None:
    """The poison of another study, made of the same raw images, says nothing of whose the part is."""
    out = tmp_path / "runs"
    foreign = put_poison(out, "foreign")
    study(out, "ended", [], [foreign])
    study(out, "running", [], trials=3)  # nothing of its data is there yet
    put(out, "dynamic_mask", "mask", about={"dataset": "images"}, days=1)
    assert ("dynamic_mask", "entry") not in chosen(out, unused=True)


def test_the_clean_control_of_a_study_is_used(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    mine = put_poison(out, "mine", seed=3)
    put_poison(out, "clean", seed=3, attack="clean")
    put(out, "isolate", "isolate", about={"dataset": "clean"})
    folder = study(out, "ended", [], data=[mine])
    known = json.loads((folder / "study.json").read_text())
    known["parts"] = [{"name": "a", "attack": "badnets", "poison_rate": 0.1, "seed": 3}]
    (folder / "study.json").write_text(json.dumps(known))
    assert chosen(out, unused=True) == []


@pytest.mark.parametrize("damage", ["{", "[]", '{"settings": {"trials": 0}}'])
def test_nothing_is_unused_where_a_study_cannot_say_what_it_uses(
    out: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "one" / "study.json").write_text(damage)
    assert chosen(out, unused=True) == []
    assert "What one uses is not known, so nothing is unused" in show(out, capsys)


def test_a_damaged_record_makes_a_study_one_that_has_not_ended(out: Path) -> None:
    put(out, "undescribed", "new")
    assert ("undescribed", "entry") in chosen(out, unused=True)
    (out / "one" / "points" / "k0" / "badnets-0.1-s0.json").write_text("{")
    assert chosen(out, unused=True) == []


def test_a_running_study_keeps_what_it_uses_whatever_is_asked_for(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with study_lock(out / "one", "one"):
        assert {stage for stage, _ in chosen(out)} == set()  # what is undescribed might be asked for
        assert "running study uses it" in show(out, capsys, "--stage", "stage_first", "--yes")
        assert "running studies use the rest" in show(out, capsys, "--down-to", "0", "--yes") or there(out)
    assert there(out) == {"stage_shared", "stage_first", "stage_second", "stage_unused"}


def test_a_study_that_starts_in_the_middle_keeps_what_it_uses(out: Path) -> None:
    outs, use = look(out)
    wanted = choose(use, Wish(down_to=0))
    assert wanted[0].stage == "stage_unused"
    locks = []

    def start(one: Held) -> None:
        """The study takes its lock, as a driver does, after the first part is gone."""
        if one is wanted[1]:
            locks.append(study_lock(out / "one", "one"))
            locks[0].__enter__()
            wait_for_removal(out / "store")

    removed = remove_chosen(out / "store", outs, use, wanted, start)
    locks[0].__exit__(None, None, None)
    assert (removed.gone, removed.kept) == (1, 3)
    assert there(out) == {"stage_shared", "stage_first", "stage_second"}


def test_a_study_of_no_manifest_yet_stops_the_removal(out: Path) -> None:
    (out / "new").mkdir()
    with study_lock(out / "new", "new"):
        assert chosen(out) == []
    assert len(chosen(out)) == 4


def test_what_was_used_since_it_was_listed_stays(out: Path) -> None:
    outs, use = look(out)
    wanted = choose(use, Wish(unused=True))
    time.sleep(0.02)
    assert Store(out / "store").find("stage_unused", key("unused")) is not None
    assert remove_chosen(out / "store", outs, use, wanted, lambda _: None).kept == 1


def test_a_command_that_has_the_store_open_keeps_what_it_used_lately(out: Path) -> None:
    age(out / "store" / "stage_first" / key("first"), days=1)
    opened = Store(out / "store")
    assert opened.find("stage_unused", key("unused")) is not None
    outs, use = look(out)
    wanted = choose(use, Wish(stages=frozenset({"stage_unused", "stage_first"})))
    assert remove_chosen(out / "store", outs, use, wanted, lambda _: None).gone == 1
    assert "stage_unused" in there(out)
    del opened
    assert remove_chosen(out / "store", outs, use, wanted, lambda _: None).gone == 2


def test_down_to_takes_unused_first_then_what_is_cheap_for_its_size(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    for name, kilobytes, days in (("dear", 1, 9), ("cheap", 50, 1), ("young", 1, 2), ("old", 1, 30)):
        put(out, name, name, kilobytes, days=days)
    for name in ("dear", "cheap"):  # as long as each other to build, and one is much larger
        path = out / "store" / name / key(name) / "meta.json"
        stat = path.stat()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"built_seconds": 60.0}))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    leftover = out / "store" / "old" / key("old") / "1234-array-payload.npy"
    leftover.write_bytes(b"x" * KB)
    study(out, "one", [("dear", "dear"), ("cheap", "cheap")])
    order = [("old", "leftover"), ("old", "entry"), ("young", "entry"), ("cheap", "entry"), ("dear", "entry")]
    assert chosen(out, down_to=0) == order
    size = sum(one.bytes for one in read_store(out / "store"))
    assert chosen(out, down_to=size - 500) == order[:1]
    assert chosen(out, down_to=size - KB - 1) == order[:2]
    assert chosen(out, down_to=size) == []
    assert chosen(out, older_seconds=86400 * 8.5) == [order[1], order[4]]
    assert chosen(out, stages=frozenset({"young"})) == [order[2]]


def test_states_of_a_training_are_used_with_what_was_read_of_it(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    about = {"stage": "train", "dataset": "d", "params": {"lr": 0.1}, "trajectory": True}
    states = out / "store" / "train" / key("states")
    states.mkdir(parents=True)
    (states / ABOUT).write_text(json.dumps(about))
    (states / "epoch-2.json").write_text('{"seconds": 4.0}')
    (states / "epoch-2-abcd.safetensors").write_bytes(b"x" * KB)
    read = {"stage": "train", "dataset": "d", "params": {"lr": 0.1, "read_epoch": 2}}
    put(out, "train", "read", about=read)
    put(out, "train", "other", about=read | {"params": {"lr": 0.2, "read_epoch": 2}})
    study(out, "one", [("train", "other")])
    assert sorted(chosen(out, unused=True)) == [("train", "entry"), ("train", "states of a training")]
    study(out, "two", [("train", "read")])
    assert chosen(out, unused=True) == []
    held = next(one for one in read_folder(states) if one.kind is Kind.STATES)
    assert (held.built_seconds, held.bytes > KB) == (4.0, True)


def test_studies_elsewhere_that_use_the_store_count(out: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    folder = study(other, "three", [("stage_unused", "unused")])
    assert chosen(out, unused=True) == [("stage_unused", "entry")]
    note_results_folder(out / "store", other)
    settings = json.loads((folder / "study.json").read_text())
    settings["settings"]["store"] = str(out / "store")
    (folder / "study.json").write_text(json.dumps(settings))
    assert chosen(out, unused=True) == []
    other.rename(tmp_path / "not mounted")
    assert chosen(out, unused=True) == []  # what its studies use is not known
    assert not (out / "store" / ".results" / "x").exists()


def _build(root: str, started: Any, seconds: float) -> None:
    def build() -> dict[str, Any]:
        started.set()
        time.sleep(seconds)
        return {"array": np.arange(10)}

    artifact, _ = Store(Path(root)).get_or_build("built", key("built"), build)
    assert artifact.load("array").sum() == 45


def test_what_is_being_built_stays_and_its_builder_ends_well(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "store"
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    builder = context.Process(target=_build, args=(str(root), started, 0.5))
    builder.start()
    assert started.wait(60)
    folder = root / "built" / key("built")
    (folder / "dead-array-payload.npy").write_bytes(b"x")
    while builder.is_alive():
        for one in read_folder(folder):
            if one.kind is not Kind.ENTRY:  # a whole one may go between its being built and its being read
                removal.remove(root, one)
        time.sleep(0.005)
    builder.join()
    assert builder.exitcode == 0


def test_builders_and_removals_at_the_same_time_leave_a_whole_entry_or_none(tmp_path: Path) -> None:
    """Threads stand for processes: the locks are of open files, and each has its own."""
    root = tmp_path / "store"

    def build_often() -> bool:
        for _ in range(40):
            artifact, _ = Store(root).get_or_build("built", key("built"), lambda: {"array": np.arange(10)})
            assert artifact.digests
        return True

    removed = 0
    with ThreadPoolExecutor(2) as pool:
        builders = [pool.submit(build_often) for _ in range(2)]
        while not all(builder.done() for builder in builders):
            for one in read_folder(root / "built" / key("built")):
                removed += removal.remove(root, one) is not None
    assert all(builder.result() for builder in builders)
    assert removed
    Store(root).get_or_build("built", key("built"), lambda: {"array": np.arange(10)})
    assert [one.kind for one in read_store(root)] == [Kind.ENTRY]


def test_an_interruption_leaves_no_half_of_an_entry(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink
    calls: list[Path] = []

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", interrupted)
    assert command.main(["--unused", "--yes", "--out", str(out)]) == 130
    assert calls[0].name == "meta.json"
    assert there(out) == {"stage_shared", "stage_first", "stage_second"}


def test_verify_names_what_is_damaged_and_writes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "every file is as it was written" in show(out, capsys, "--verify")
    folder = out / "store" / "stage_first" / key("first")
    payload = next(folder.glob("*.npy"))
    payload.write_bytes(payload.read_bytes()[:-1] + b"\1")
    next((out / "store" / "stage_second" / key("second")).glob("*.npy")).unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "store").rglob("*")}
    text = show(out, capsys, "--verify", code=3)
    assert f"stage_first/{key('first')}: {payload.name} was changed" in text
    assert "stage_second/" in text
    assert "stage_shared" not in text
    assert {path: path.stat().st_mtime_ns for path in (out / "store").rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--down-to", "much"], "must be a size such as 500MB or 2GB, got 'much'"),
        (["--older-than", "-3d"], "expected one argument"),
        (["--older-than", "3 moons"], "must be an age such as 12h, 30d or 8w"),
        (["--yes"], "--yes goes with what is to be removed"),
        (["--dry-run"], "--dry-run goes with what is to be removed"),
        (["--stage", "nothing", "--yes"], "--stage must name stages that the store holds"),
        (["--store", "s3://bucket/store"], "a store must be a folder for this command, got s3://bucket/store"),
        (["--store", "/nowhere/at/all"], "there is none in /nowhere/at/all"),
        (["--verify", "--unused"], "--verify only reads"),
        (["one", "--unused"], "NAME shows what one study uses"),
        (["unknown"], "unknown study 'unknown'"),
    ],
)
def test_bad_input_is_one_line(out: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = command.main([*options, "--out", str(out)])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    error_lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("error") or "error:" in line
    ]
    assert len(error_lines) == 1
    assert says in error_lines[0]


def test_loads_nothing_heavy(out: Path) -> None:
    modules, done = loaded("study.store", "--out", str(out), heavy=(*HEAVY, "numpy"))
    assert done.returncode == 0, done.stderr
    assert modules == set()


def test_a_full_disk_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"free some \(python -m study\.store shows"), full_disk_errors(tmp_path):
        raise OSError(28, "No space left on device")


def test_sizes_and_ages() -> None:
    assert [format_size(n) for n in (0, 999, 1000, 9_994_000, 45_100_000_000)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "9.99 MB",
        "45.1 GB",
    ]
    assert [parse_size(text) for text in ("0", "2GB", "1.5 MiB", "7b")] == [0, 2 * 10**9, 1572864, 7]
    assert [parse_age(text) for text in ("90min", "30d")] == [5400.0, 2592000.0]


def test_status_tells_a_study_s_share(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = out / "store" / "stage_first" / key("states")
    states.mkdir()
    (states / "epoch-1.json").write_text("{}")
    (states / "epoch-1-ab.safetensors").write_bytes(b"x" * KB)
    Store(out / "store").get_or_build(
        "stage_first", key("read"), lambda: {"array": np.zeros(3)}, how={STATES_KEY: key("states")}
    )
    study(out, "three", [("stage_first", "read")])
    sizes = {(one.stage, one.key): one.bytes for one in read_store(out / "store")}
    of_three = sizes["stage_first", key("read")] + sizes["stage_first", key("states")]
    for _ in ("from the records", "from a summary"):
        assert status.main(["--json", "--out", str(out)]) == 0
        told = {known["name"]: known["store"] for known in json.loads(capsys.readouterr().out)}
        assert told["three"] == {"bytes": of_three, "alone_bytes": of_three}
        first = sizes["stage_first", key("first")]
        assert told["one"] == {"bytes": first + sizes["stage_shared", key("shared")], "alone_bytes": first}
        for name in ("one", "two", "three"):
            keep_used_stages(out / name)
    assert status.main(["one", "--out", str(out)]) == 0
    assert f"Its trials use {format_size(told['one']['bytes'])} of the store" in capsys.readouterr().out
    _, use = look(out)
    listed = {known["name"]: known["alone_bytes"] for known in command.as_json(out / "store", use)["studies"]}
    assert listed == {name: share["alone_bytes"] for name, share in told.items()}


def test_a_summary_that_is_older_than_the_records_is_passed_over(out: Path) -> None:
    keep_used_stages(out / "one")
    write_scenario(out / "one", "k1", "badnets-0.1-s0", stages=runs([("new", "k")]))
    used = read_used_stages(out / "one")
    assert used is not None
    assert ("new", key("k")) in used.names
    assert read_used_stages(out / "one", most=1) is None


def test_this_machine_s_copy_of_a_store_behind_a_url_is_its_studies_store(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = cache_folder("s3://bucket/store")
    copy.parent.mkdir(parents=True)
    (out / "store").rename(copy)
    for name in ("one", "two"):
        known = json.loads((out / name / "study.json").read_text())
        known["settings"]["store"] = "s3://bucket/store"
        (out / name / "study.json").write_text(json.dumps(known))
    use = StoreUse(copy, read_store(copy), read_uses(copy, results_folders(copy, out)))
    assert [one.stage for one in choose(use, Wish(unused=True))] == ["stage_unused"]


def test_what_a_process_that_measured_memory_has_left_goes_once_no_study_runs(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = out / "store" / "measure_x"
    left.mkdir()
    (left / "stage_first").symlink_to(out / "store" / "stage_first")
    (left / "isolate").mkdir()
    (left / "isolate" / "file").write_bytes(b"x" * KB)
    with study_lock(out / "one", "one"):
        assert "Nothing to remove" in show(out, capsys, "--stage", "measure_x", "--yes")
    show(out, capsys, "--stage", "measure_x", "--yes")
    assert not left.exists()
    assert "stage_first" in there(out)
