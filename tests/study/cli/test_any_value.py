"""Any option with any value, of every command: it works or is refused in one line, and nothing is written elsewhere.

The property is the interface's, so no test here names an error. What would start work is cut off: a command that gets
as far has accepted its input.
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_study import save_npz
from study_folder import copy_study

import study.report.__main__
from study import analyze, compare, evaluate, run, status, sync
from study.attacks import __main__ as attacks
from study.cli.options import Parser, add_options
from study.config.config import StudyConfig
from study.datasets.images import Images

Main = Callable[[list[str]], int]
OUT = "out"


class Accepted(Exception):
    """A command accepted its input and would begin to work."""


ODD = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                " ",
                "-",
                "--",
                "-1",
                "0",
                "1",
                "2",
                "0-4",
                "4-0",
                "1_0",
                "0x10",
                "1e999",
                "nan",
                "inf",
                "-0.0",
                "1.5",
            ),
            *(
                "true",
                "none",
                "null",
                "auto",
                "pipd",
                "badnets",
                "badnets@2",
                "badnets@",
                "badnets:",
                "badnets:variant",
            ),
            *("badnets:variant=", ":", "=", "a=b", "rounds=", "rounds=x", "=3", "rounds=1,2", "x" * 300, "9" * 5000),
            *(
                "~",
                "~nobody_of_this_name",
                "~nobody_of_this_name/x",
                ".",
                "..",
                "../escape",
                "/",
                "/dev/null",
                "/dev/full",
            ),
            *("/proc/self/mem", "/no/such/place", "mine", "mine:best", "mine:0", "mine:999", "mine:", ":best", "a\nb"),
            *(
                "\x1b[2J",
                "\udcff",
                "ü",
                "\u0663",
                "%s",
                "{0}",
                "$HOME",
                "*",
                "'",
                '"',
                "\\",
                "file://x",
            ),
            *("npz", "npz:", "npz:.", "npz:/dev/null", "folder:", "folder:.", "folder:/dev/null", "cifar10", "digits"),
            *(
                "http://",
                "https://[",
                "s3://",
                "://",
                "sqlite:///",
                "given",
                "given:file=",
                "refool",
                "sig@0.5:cap=true",
            ),
        ]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12),
)
"""What a process can be given as a word: no NUL, and no half of a character."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Path:
    """A folder with a data file and a stopped study."""
    folder = tmp_path_factory.mktemp("any value")
    save_npz(folder / "data.npz", images)
    copy_study(folder / OUT)
    return folder


@pytest.fixture
def cut_off(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing trains, nothing is sent, and the working folder and the home folder are watched."""

    def accepted(*_: object, **__: object) -> Any:
        raise Accepted

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(run, "_study", lambda config: run._dry_run(config))
    monkeypatch.setattr("study.scenarios.evaluation.evaluate_scenario", accepted)
    monkeypatch.setattr("study.preview._blocks", accepted)
    monkeypatch.setattr("tracking.mlflow_log.Sender", accepted)
    monkeypatch.setattr("study.report.html.page", accepted)
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("HOME", str(workplace))
    return workplace


def options_of(*models: Any) -> list[str]:
    parser = Parser(add_help=False)
    for model in models:
        add_options(parser, model)
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    return [option for option in known if option not in ("--download", "--out")]


def holds(main: Main, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and 2, or no complaint; and nothing new beside the folder of results."""
    before = outside(folder)
    capsys.readouterr()
    try:
        code = main(words)
    except Accepted:
        code = 0
    except SystemExit as stopped:  # --help
        code = int(stopped.code or 0)
    printed = capsys.readouterr()
    command = shlex.join(words)
    assert "Traceback" not in printed.err + printed.out, command
    assert code in (0, 2, 3, 4), command
    if code == 2:
        complaints = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(complaints) == 1, f"{command}\n{printed.err}"
        assert printed.err.splitlines()[-1] == complaints[0], f"{command}\n{printed.err}"
    if "--store" not in words:  # which names a folder beside
        assert outside(folder) == before, command


def outside(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if folder / OUT not in (path, *path.parents)}


QUICK = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SMALL = ["--dataset", "npz:data.npz", "--out", OUT, "--width", "4", "--blocks", "1"]


@QUICK
@given(pairs=st.lists(st.tuples(st.sampled_from(options_of(StudyConfig)), ODD), min_size=1, max_size=2))
@example(pairs=[("--trials", "0-4")])
@example(pairs=[("--out", "~nobody_of_this_name")])
@example(pairs=[("--name", "store")])
def test_a_study(pairs: list[tuple[str, str]], cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given_once = dict(pairs)
    base = [word for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if pair[0] not in given_once for word in pair]
    holds(run.main, [*base, *(word for pair in given_once.items() for word in pair)], cut_off, capsys)


@QUICK
@given(pairs=st.lists(st.tuples(st.sampled_from(options_of(evaluate.EvaluateConfig)), ODD), min_size=1, max_size=2))
def test_a_cell(pairs: list[tuple[str, str]], cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given_once = dict(pairs)
    base = [word for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if pair[0] not in given_once for word in pair]
    holds(evaluate.main, [*base, *(word for pair in given_once.items() for word in pair)], cut_off, capsys)


@settings(QUICK, max_examples=60)
@given(option=st.sampled_from(options_of(StudyConfig)), value=ODD)
def test_the_attacks(option: str, value: str, cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = [word for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if pair[0] != option for word in pair]
    holds(attacks.main, [*base, "--preview", f"{OUT}/attacks.png", option, value], cut_off, capsys)


READERS: dict[str, tuple[Main, list[list[str]]]] = {
    "status": (status.main, [["{}"], ["mine", "--out", "{}"], ["{}", "--out", OUT, "--json"]]),
    "sync": (
        sync.main,
        [["{}", "--out", OUT], ["mine", "--out", "{}"], ["mine", "--out", OUT, "--tracking-uri", "{}"]],
    ),
    "analyze": (
        analyze.main,
        [["{}", "--out", OUT], ["mine", "--out", "{}"], ["mine", "--out", OUT, "--metric", "{}"]],
    ),
    "compare": (
        compare.main,
        [
            ["{}", "mine", "--out", OUT],
            ["mine", "{}", "--out", OUT],
            ["mine:0", "mine:1", "--out", OUT, "--rule", "{}"],
        ],
    ),
    "report": (
        study.report.__main__.main,
        [["{}", "--out", OUT, "-o", f"{OUT}/x.html"], ["mine", "--out", "{}", "-o", f"{OUT}/x.html"]],
    ),
}


@pytest.mark.parametrize("name", READERS)
@settings(QUICK, max_examples=40)
@given(which=st.integers(0, 2), value=ODD)
def test_what_reads_a_study(
    name: str, which: int, value: str, cut_off: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, forms = READERS[name]
    words = [word.replace("{}", value) for word in forms[which % len(forms)]]
    holds(main, words, cut_off, capsys)


YAML = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            *(
                "",
                "{}",
                "[]",
                "1",
                "a",
                ": :",
                "- a",
                "trials: [",
                "trials: 0-4",
                "trials: *x",
                "a: &a [*a]",
                "? [a]\n: b",
            ),
            *(
                "trials: !!python/name:os.system",
                "set: 3",
                "set: {a: {b: c}}",
                "set: [a]",
                "seeds: {}",
                "blocks: [[1]]",
            ),
            *(
                "poison_rates: .inf",
                "poison_rates: [1e-1, 1e-1]",
                "name: [a]",
                "out: 3",
                "store: {a: b}",
                "\t",
                "\ufeff",
            ),
            *(
                "trials: 1\n---\ntrials: 2",
                "<<: {trials: 1}",
                "trials: 1\ntrials: 2",
                "%YAML 9.9\n---\n",
                "verbose: -1",
            ),
        ]
    ),
    st.builds(
        lambda name, value: f"{name}: {value}", st.sampled_from(list(StudyConfig.model_fields)), st.text(max_size=8)
    ),
)


@QUICK
@given(text=YAML)
def test_a_file(text: str, cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cut_off / OUT / "study.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    holds(run.main, ["--config", str(path), "--dry-run", *SMALL[:2]], cut_off, capsys)
