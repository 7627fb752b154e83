"""The rules of `ecosystem.md` section 4.2, and faults F19, F20 and F23: what is read is data and stays in its place."""

import ast
import hashlib
import importlib.metadata
import io
import json
import os
import pickle
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets  # noqa: F401  # so that no time below is that of loading it
from checkout import ROOT
from modules import FILES, named, parsed
from packaging.version import Version
from small_study import save_npz, scenario_record
from study_folder import copy_study, fill_outbox
from watched_process import QUIET, WatchedRun

from defenses.registry import UserError
from defenses.storage.atomic_files import canonical
from defenses.storage.store import Store, _checksum, _sha256
from study import run
from study.cli.terminal import print_exception
from study.datasets.images import Images
from study.ledger.lock import study_lock
from study.ledger.records import read_scenario, write_record
from study.ledger.study_folder import check_no_links
from tracking import names
from tracking.delivery import deliver
from tracking.outbox import Outbox, Record

Refuse = Callable[..., str]
COMMANDS = (
    "study.run",
    "study.evaluate",
    "study.clean",
    "study.attacks",
    "study.status",
    "study.sync",
    "study.report",
    "study.analyze",
    "study.compare",
)


# What is imported and what may run


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What of a module could execute what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}.intersection(modules)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}:
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield name
        if (name.startswith("mlflow") and name.endswith("load_model")) or given.get("shell", "False") != "False":
            yield name
        if given.get("allow_pickle", "False") != "False" or (name == "np.load" and "allow_pickle" not in given):
            yield f"{name} with pickles"


def test_no_module_executes_what_it_reads() -> None:
    assert not {named(path): calls for path in FILES if (calls := list(forbidden(parsed(path))))}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import load",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.load(f)",
        "yaml.load(f)",
        "eval(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "mlflow.pytorch.load_model(x)",
    ],
)
def test_the_rule_sees(line: str) -> None:
    assert list(forbidden(ast.parse(line)))


@pytest.mark.parametrize(("package", "floor"), [("ray", "2.54"), ("mlflow", "3.10"), ("torch", "2.10")])
def test_versions_without_known_holes(package: str, floor: str) -> None:
    lowest = re.search(r">=([\d.]+)", (ROOT / "pyproject.toml").read_text().split(f'"{package}', 1)[1])
    assert lowest is not None
    assert Version(lowest.group(1)) >= Version(floor)
    assert Version(importlib.metadata.version(package)) >= Version(floor)


@pytest.mark.faults
@pytest.mark.parametrize("command", COMMANDS)
def test_f23_help_loads_nothing_heavy(command: str) -> None:
    module = "study.attacks.__main__" if command == "study.attacks" else command
    asked = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'ray', 'torch', 'mlflow', 'optuna', 'sklearn', 'pandas', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(f'{code} {sorted(heavy)}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout


@pytest.mark.faults
@pytest.mark.slow  # a time: other tests beside it would spoil it
def test_f23_times(tmp_path: Path) -> None:
    def fastest(*options: str) -> float:
        def once() -> float:
            started = time.perf_counter()
            command = [sys.executable, "-m", "study.run", *options]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120)
            return time.perf_counter() - started

        return min(once() for _ in range(5))

    assert fastest("--help") < 0.3
    assert fastest("--dry-run", "--out", str(tmp_path)) < 3
    assert not list(tmp_path.iterdir())


# A study for real


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.ray
def test_a_local_study_listens_on_loopback_alone(whole_study: WatchedRun) -> None:
    names_seen = " ".join(whole_study.sockets.values())
    assert all(part in names_seen for part in ("gcs_server", "raylet", "ray::", "python")), (
        "what opens sockets was seen"
    )
    elsewhere = {key: name for key, name in whole_study.sockets.items() if key[0] not in LOOPBACK}
    assert not elsewhere


@pytest.mark.ray
def test_telemetry_is_off_and_no_dashboard_serves(whole_study: WatchedRun) -> None:
    workers = [found for found in whole_study.workers.values() if "RAY_JOB_ID" in found or "RAY_RAYLET_PID" in found]
    assert workers
    for found in workers:
        assert {name: found.get(name) for name in QUIET} == QUIET
    dashboards = [line for line in whole_study.lines if "dashboard/dashboard.py" in line]
    assert all("--disable-frontend" in line for line in dashboards)  # Ray starts it, to serve nothing


@pytest.mark.ray
def test_nothing_but_progress_is_told(whole_study: WatchedRun) -> None:
    slow = re.compile(r".* \.\.\.$|.* so far(, |$)")  # signs of life, where something takes long
    lines = [line for line in whole_study.err.splitlines() if not slow.match(line)]
    told = [re.match(r"(shared stages|trials|clean control) \d+/(\d+)(, .* left)?: ", line) for line in lines]
    assert [line for line, match in zip(lines, told, strict=True) if not match] == []
    kinds = Counter((match[1], int(match[2])) for match in told if match)
    controls = kinds["clean control", 1] or kinds["clean control", 2]  # of the default, and of the best if another
    assert kinds == {("shared stages", 13): 13, ("trials", 3): 3, ("clean control", controls): controls}
    trials = [line for line in lines if line.startswith("trials ")]
    assert re.search(r"trials 3/3: #\d .*best .*\d of \d+ CPUs, \d+ of \d+ stages reused", trials[-1])
    assert "overall score" in whole_study.out
    assert not [word for word in ("ray", "Ray", "optuna", "WARNING", "INFO") if word in whole_study.out.split()]


@pytest.mark.ray
def test_no_pickle_and_no_html_but_the_report_is_written(whole_study: WatchedRun) -> None:
    written = [path for path in whole_study.folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    pages = [path for path in written if path.name == "report.html"]
    assert pages
    # MLflow serves it as well: whatever a name in it holds, its own policy runs no script but those that it names.
    assert all('http-equiv="Content-Security-Policy"' in path.read_text(encoding="utf-8") for path in pages)
    others = set(written) - set(pages)
    assert not [path for path in others if path.suffix in {".html", ".htm", ".svg", ".pkl", ".pickle", ".pt"}]


# F19: files that would execute something


class Payload:
    """Leaves a file when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.sentinel,)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A file that must not come to be."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "x")))
    assert (tmp_path / "x").exists()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a command, which must refuse in one line within a second, and gives the line."""
    # What is not refused would run: a study through its driver, a cell in this process.
    monkeypatch.setitem(sys.modules, "study.driver.driver", None)
    monkeypatch.setattr("study.scenarios.evaluation.evaluate_scenario", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def call(*arguments: str, main: Callable[..., int] = run.main, out: str = "") -> str:
        place = ["--out", out or str(tmp_path / "out")]
        started = time.thread_time()  # of the processor: a busy machine makes no refusal slow
        code = main([*arguments, *place])
        seconds = time.thread_time() - started
        printed = capsys.readouterr()
        assert code == 2
        assert seconds < 1
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        return line

    return call


YAMLS = {
    "apply": "attacks: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['SENTINEL']]\n",
    "system": "!!python/object/apply:os.system ['touch SENTINEL']\n",
    "new": "name: !!python/object/new:os.system ['touch SENTINEL']\n",
    "module": "name: !!python/module:antigravity\n",
    "aliases": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nattacks: [*b,*b,*b,*b]\n",
    "brackets": "attacks: " + "[" * 5000 + "\n",
    "digits": "trials: " + "1" * 5000 + "\n",
    "date": "trials: 2026-13-45\n",
    "nul": 'store: "a\\0b"\n',
    "nul in a list": 'attacks: ["bad\\0nets"]\n',
}


@pytest.mark.faults
@pytest.mark.parametrize("kind", YAMLS)
@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_f19_yaml(kind: str, command: str, refused: Refuse, sentinel: Path, tmp_path: Path) -> None:
    from study import evaluate

    path = tmp_path / "options.yaml"
    path.write_text(YAMLS[kind].replace("SENTINEL", str(sentinel)))
    main = {"run": run.main, "evaluate": evaluate.main}[command]
    line = refused("--config", str(path), main=main)
    assert len(line) < 1000


def pickled(sentinel: Path) -> dict[str, bytes]:
    """Malicious files by kind."""
    objects = np.array([Payload(sentinel)] * 4, dtype=object)
    npy, pt, member, bomb = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, objects, allow_pickle=True)
    torch.save({"weights": Payload(sentinel)}, pt)
    with zipfile.ZipFile(member, "w") as file:
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            file.writestr(name, pickle.dumps(Payload(sentinel)))
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**15},), }}"
    with zipfile.ZipFile(bomb, "w") as file:
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            text = header.ljust(117) + "\n"
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    return {
        "pickle": pickle.dumps(Payload(sentinel)),
        "npy": npy.getvalue(),
        "pt": pt.getvalue(),
        "members": member.getvalue(),
        "bomb": bomb.getvalue(),
        "eps": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({sentinel}) (w) file closefile\n".encode(),
        "cut": b"PK\x03\x04",
        "empty": b"",
    }


KINDS = ("pickle", "npy", "pt", "members", "bomb", "eps", "cut", "empty")


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_f19_files_of_images(kind: str, refused: Refuse, sentinel: Path, images: Images, tmp_path: Path) -> None:
    path = tmp_path / f"data.{kind}"
    path.write_bytes(pickled(sentinel)[kind])
    assert str(path) in refused("--dataset", f"npz:{path}")
    good = save_npz(tmp_path / "good.npz", images)
    assert str(path) in refused("--dataset", good, "--attacks", f"given:file={path}")
    assert str(path) in refused("--dataset", good, "--attacks", "blended_image", "--trigger-image", str(path))
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "a.png").write_bytes(path.read_bytes())
    assert str(photographs) in refused("--dataset", good, "--attacks", "refool", "--trigger-dir", str(photographs))
    for split in ("train", "test"):
        for name in ("x", "y"):
            (tmp_path / "folder" / split / name).mkdir(parents=True)
            (tmp_path / "folder" / split / name / "a.png").write_bytes(path.read_bytes())
    assert "a.png must be a readable image" in refused("--dataset", f"folder:{tmp_path / 'folder'}")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["train_images", "train_labels", "classes", "poison_mask", "original_labels"])
def test_f19_object_arrays(name: str, refused: Refuse, sentinel: Path, images: Images, tmp_path: Path) -> None:
    objects = np.array([Payload(sentinel)] * len(images.train_labels), dtype=object)
    dataset = save_npz(tmp_path / "data.npz", images, **{name: objects})
    attack = "given" if name in ("poison_mask", "original_labels") else "badnets"
    assert "no Python objects" in refused("--dataset", dataset, "--attacks", attack)


@pytest.mark.faults
def test_f19_no_ghostscript(sentinel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow would hand an EPS to a program; where there is one, it would run what the file says.
    from study.datasets.image_files import open_picture

    tool = tmp_path / "bin" / "gs"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ntouch {sentinel}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    picture = tmp_path / "a.png"
    picture.write_bytes(pickled(sentinel)["eps"])
    with pytest.raises(UserError, match="cannot identify"), open_picture(picture, "wrong") as opened:
        opened.convert("RGB")


def planted(store: Store, sentinel: Path, **changes: Any) -> Path:
    """An entry whose checksums are right and whose payload is not ours."""
    folder = store.folder("stage", "abc")
    folder.mkdir(parents=True)
    objects = np.array([Payload(sentinel)], dtype=object)
    np.save(folder / "x-payload.npy", objects, allow_pickle=True)
    meta: dict[str, Any] = {
        "format": 2,
        "built_seconds": 0.0,
        "digests": {"x": "0"},
        "files": {"x": "x-payload.npy"},
        "sha256": {"x-payload.npy": _sha256(folder / "x-payload.npy")},
        "describe": {},
        **changes,
    }
    (folder / "meta.json").write_text(json.dumps({**meta, "checksum": _checksum(meta)}))
    return folder


@pytest.mark.faults
def test_f19_a_planted_entry_of_the_store(store: Store, sentinel: Path) -> None:
    planted(store, sentinel)
    found = store.find("stage", "abc")
    assert found is not None
    with pytest.raises(ValueError, match=r"Python objects|Object arrays"):
        found.load("x")


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["pickle", "deep", "list", "wrong types"])
def test_f19_records_and_settings(
    kind: str, sentinel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from study.status import main as status

    folder = copy_study(tmp_path / "runs")
    path = next(folder.glob("points/*/badnets-0.1-s0.json"))
    record = json.loads(path.read_text())["record"] | {"metrics": "x", "stages": 3}
    checked = {"sha256": hashlib.sha256(canonical(record).encode()).hexdigest(), "record": record}
    content = {
        "pickle": pickle.dumps(Payload(sentinel)),
        "deep": b"[" * 100_000,
        "list": b"[]",
        "wrong types": json.dumps(checked).encode(),
    }[kind]
    path.write_bytes(content)
    assert read_scenario(path) is None
    (folder / "study.json").write_bytes(content)
    status([folder.name, "--out", str(folder.parent)])  # loads what it needs, once
    capsys.readouterr()
    started = time.thread_time()
    assert status([folder.name, "--out", str(folder.parent)]) == 0
    assert time.thread_time() - started < 1
    told = capsys.readouterr().out
    assert "Cannot be read" in told
    assert str(path) in told
    assert "study.json cannot be read" in told


# F20: names and links that lead elsewhere

NAMES = (
    "../../x",
    "/tmp/x",
    "<script>alert(1)</script>",
    "a\0b",
    "a\nb",
    "x" * 500,
    "..",
    ".",
    "",
    "a/b",
    "-x",
    "~root",
)


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_f20_names(name: str, refused: Refuse, tmp_path: Path) -> None:
    from study.status import main as status
    from study.sync import main as sync

    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    out = str(inside / "out")
    for option in ("--name", "--space", "--sampler", "--objective", "--attacks", "--dataset"):
        refused(f"{option}={name}", out=out)
    (inside / "out").mkdir(exist_ok=True)
    for main in (status, sync):
        refused("--", name, main=lambda a, main=main: main([*a[2:], *a[:2]]), out=out)
    written = {path for path in tmp_path.rglob("*") if not path.is_relative_to(inside / "out")}
    assert written == {tmp_path / "a", tmp_path / "a" / "b", inside}
    assert not list((inside / "out").iterdir())


@pytest.mark.faults
@pytest.mark.parametrize("name", ["a\x1b[2Jb", "<script>", "x\ny", "é" * 60])
def test_f20_classes_and_folders(name: str, refused: Refuse, images: Images, tmp_path: Path) -> None:
    # Names that a file system takes: told in one printable line.
    folder = tmp_path / name
    folder.mkdir()
    line = refused("--dataset", f"folder:{folder}")
    assert line.isprintable()
    line = refused("--dataset", f"npz:{folder}")
    assert line.isprintable()


def test_errors_are_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_exception(UserError("a\nb\x1b[31mc\x00"))
    assert capsys.readouterr().err == "error: a\\nb\\x1b[31mc\\x00\n"


@pytest.mark.faults
def test_f20_notes_hold_no_markup() -> None:
    note = names.as_note("<script>\n```\n<img src=x onerror=alert(1)>")
    assert note.startswith("```\n")
    assert note.count("```") == 2
    assert note.endswith("\n```")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is nobody's business, with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "x-payload.npy").write_text("mine")
    return folder


def untouched(outside: Path) -> bool:
    return {path.name: path.read_text() for path in outside.iterdir()} == {"mine.txt": "mine", "x-payload.npy": "mine"}


@pytest.mark.faults
@pytest.mark.parametrize("link", ["stage", "stage/abc"])
def test_f20_a_linked_entry_of_the_store(link: str, store: Store, outside: Path) -> None:
    place = store.root / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside)
    (outside / "abc").mkdir() if link == "stage" else None
    for act in (lambda: store.find("stage", "abc"), lambda: store.get_or_build("stage", "abc", dict)):
        with pytest.raises(UserError, match="is a link: remove it"):
            act()
    if link == "stage":
        (outside / "abc").rmdir()
    assert untouched(outside)


@pytest.mark.faults
@pytest.mark.parametrize("file", ["../../outside/x-payload.npy", "/etc/passwd"])
def test_f20_an_entry_that_names_files_elsewhere(file: str, store: Store, sentinel: Path, outside: Path) -> None:
    sha = _sha256(store.root / "stage" / "abc" / file) if file.startswith("/") else "0"
    planted(store, sentinel, files={"x": file}, sha256={file: sha})
    assert store.find("stage", "abc") is None


def test_a_store_may_borrow_the_stages_of_the_one_around_it(store: Store) -> None:
    store.get_or_build("stage", "abc", lambda: {"x": 1})
    inner = store.root / "measure_x"
    inner.mkdir()
    (inner / "stage").symlink_to(store.root / "stage")
    found, hit = Store(inner).get_or_build("stage", "abc", dict)
    assert hit
    assert found.load("x") == 1


@pytest.mark.faults
@pytest.mark.parametrize("link", ["points", "points/abc", "outbox.jsonl", "summary", "study.db", "study.json"])
def test_f20_a_linked_part_of_a_study(
    link: str, tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from study.sync import main as sync

    folder = copy_study(tmp_path / "runs")
    place = folder / link
    if place.is_dir():
        place.rename(tmp_path / "away")
    place.unlink(missing_ok=True)
    place.symlink_to(outside if "." not in link else outside / "mine.txt")
    with pytest.raises(UserError, match="must hold no links"):
        check_no_links(folder)
    assert sync([folder.name, "--out", str(folder.parent)]) == 2 or link in ("study.json", "study.db")
    assert untouched(outside)


@pytest.mark.faults
def test_f20_a_linked_lock_empties_nothing(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "lock").symlink_to(outside / "mine.txt")
    with pytest.raises(UserError, match="must be a plain file"), study_lock(tmp_path, "x"):
        pass
    assert untouched(outside)


class Taker:
    """MLflow, as far as delivering needs it."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def take(self, record: Record) -> str:
        self.taken.append(record.artifacts)
        return ""


@pytest.mark.faults
def test_f20_records_send_and_remove_nothing_outside_their_study(tmp_path: Path, outside: Path) -> None:
    folder = tmp_path / "mine"
    outbox, (own, _) = fill_outbox(folder)
    (folder / "linked").symlink_to(outside)
    for place in (outside, folder / ".." / "outside", folder, folder / "linked", Path("/")):
        taker = Taker()
        record = replace(next(outbox.pending())[0], artifacts=str(place), keep_artifacts=False)
        deliver(taker, outbox, record, 0)  # type: ignore[arg-type]
        assert taker.taken == [""], place
    assert untouched(outside)
    assert own.is_dir()


def test_own_records_are_delivered(tmp_path: Path) -> None:
    outbox, (own, _) = fill_outbox(tmp_path / "mine")
    record, position = next(found for found in outbox.pending() if found[0].artifacts)
    taker = Taker()
    deliver(taker, Outbox(outbox.path), record, position)  # type: ignore[arg-type]
    assert taker.taken == [str(own)]
    assert not own.exists()


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    record = scenario_record("a", {"tpr": 1, "fpr": None}, artifacts="x")
    write_record(tmp_path / "a.json", record)
    assert read_scenario(tmp_path / "a.json") == record
