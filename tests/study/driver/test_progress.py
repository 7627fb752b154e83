"""What a person sees while a study runs, and the codes with which commands end."""

import importlib
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_study import save_npz, scenario_record, small_plan

from defenses.registry import UserError
from study import run
from study.cli import bar as bar_module
from study.cli.bar import Bar
from study.cli.options import Parser, add_options, given_options
from study.cli.terminal import library_logs_enabled, show_logs
from study.config.config import StudyConfig, resolve
from study.config.identity import NOT_IDENTITY
from study.datasets.images import Images
from study.driver.progress import TrialProgress, describe_scenario, describe_start
from study.ledger.manifest import Manifest
from study.ledger.trial_row import TrialRow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that a test moves."""
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(bar_module.time, "monotonic", lambda: found.now)
    return found


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    return lambda: capsys.readouterr().err.splitlines()


def open_screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal, and what it is sent. No fixture: pytest takes standard error for itself once those are made."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    made = Screen()
    monkeypatch.delenv("COLUMNS", raising=False)  # a runner of tests may say how wide its own terminal is
    monkeypatch.setattr("sys.stderr", made)
    return made


def steps(bar: Bar, count: int, clock: SimpleNamespace, seconds: float) -> None:
    for number in range(count):
        clock.now += seconds
        bar.advance(1, f"step {number}")


def test_few_steps_have_a_line_each(clock: SimpleNamespace, told: Callable[[], list[str]]) -> None:
    steps(Bar(6, "trials"), 6, clock, 10)
    assert told() == [
        "trials 1/6, about 50 s left: step 0",
        "trials 2/6, about 40 s left: step 1",
        "trials 3/6, about 30 s left: step 2",
        "trials 4/6, about 20 s left: step 3",
        "trials 5/6, about 10 s left: step 4",
        "trials 6/6: step 5",
    ]


@pytest.mark.parametrize("total", [21, 100, 1000, 5000])
def test_many_steps_have_some_twenty_lines(total: int, clock: SimpleNamespace, told: Callable[[], list[str]]) -> None:
    steps(Bar(total, "trials"), total, clock, 0.1)
    lines = told()
    assert 10 <= len(lines) <= 22
    assert lines[0].startswith("trials 1/")
    assert lines[-1] == f"trials {total}/{total}: step {total - 1}"


def test_long_steps_are_told_by_time(clock: SimpleNamespace, told: Callable[[], list[str]]) -> None:
    steps(Bar(1000, "trials"), 12, clock, 300)  # an hour
    assert len(told()) == 12  # a step of five minutes has a line
    steps(Bar(10_000, "trials"), 5_000, clock, 60)  # three days and a half
    assert len(told()) < 150  # the longer it takes, the fewer


def test_what_is_left_counts_from_where_it_went_on(clock: SimpleNamespace, told: Callable[[], list[str]]) -> None:
    steps(Bar(12, "trials", initial=10), 1, clock, 7)
    assert told() == ["trials 11/12, about 7 s left: step 0"]


def test_what_was_done_before_moves_the_bar_and_tells_no_pace(clock: SimpleNamespace) -> None:
    """Of a trial of 8 scenarios 7 were judged before a kill; the eighth takes ten minutes."""
    bar = Bar(40, "trials", parts=8, part_unit="scenarios done")
    clock.now += 5
    for _ in range(7):
        bar.skip(1)
    clock.now += 600
    bar.first_took(600)
    bar.move()
    assert bar.moved == 8
    assert bar.left_seconds() == pytest.approx(39 * 8 * 600)


def test_what_a_trial_read_back_is_behind_it(start: Any) -> None:
    progress, _ = start(2)
    progress.read_back("k0", progress._plan.scenarios[0].name)
    assert (progress._bar.moved, progress._done["k0"]) == (1, 1)


def test_every_line_when_asked(clock: SimpleNamespace, told: Callable[[], list[str]]) -> None:
    steps(Bar(100, "trials", every_line=True), 100, clock, 0.1)
    assert len(told()) == 100


def test_a_terminal_has_one_line(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    screen = open_screen(monkeypatch)
    bar = Bar(3, "trials")
    bar.note("best 0.5 (#0), 1 of 2 CPUs")
    steps(bar, 3, clock, 1)
    bar.close()
    assert screen.getvalue().count("\n") == 1
    assert re.search(r"trials: 100%\|[█#]+\| 3/3 \[00:03, best 0\.5 \(#0\), 1 of 2 CPUs", screen.getvalue())


def test_a_bar_moves_by_the_parts_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    bar = Bar(4, "trials", initial=1, parts=3, part_unit="scenarios done")
    bar.move()
    bar.note("two run")
    bar.advance(1, "", parts=2)  # the rest of that trial
    bar.advance(1)  # one that failed at its first scenario
    bar.close()
    shown = screen.getvalue()
    assert "trials:  33%|###3      | 4/12 scenarios done" in shown.replace("█", "#").replace("▎", "3")
    assert "9/12 scenarios done" in shown


class Ledger:
    """As much of one as the progress looks at."""

    def __init__(self) -> None:
        self.found: list[TrialRow] = []

    def rows(self) -> list[TrialRow]:
        return self.found

    def front(self) -> list[TrialRow]:
        return sorted((row for row in self.found if row.values), key=lambda row: -row.values[0])[:1]


@pytest.fixture
def start(images: Images, tmp_path: Path) -> Callable[..., tuple[TrialProgress, Ledger]]:
    plan = small_plan(save_npz(tmp_path / "data.npz", images), tmp_path, name="mine")

    def make(trials: int, verbose: int = 0) -> tuple[TrialProgress, Ledger]:
        config = plan.config.model_copy(update={"trials": trials, "verbose": verbose})
        ledger = Ledger()
        progress = TrialProgress(replace(plan, config=config), ledger, trials, lambda: "1 of 2 CPUs")  # type: ignore[arg-type]
        return progress, ledger

    return make


def row(number: int, value: float | None, reason: str = "") -> TrialRow:
    state = "complete" if value is not None else "fail"
    return TrialRow(
        number, state, {"beta": 3.0}, f"k{number}", (value,) if value is not None else (), reason, number == 0
    )


def test_a_line_tells_where_a_study_stands(start: Any, told: Callable[[], list[str]]) -> None:
    progress, ledger = start(4)
    ledger.found.append(row(0, 0.5))
    progress.scenario("k0", scenario_record("badnets-0.1-s0", {"tpr": 1.0}))
    progress.settled(ledger.found[-1])
    (line,) = told()
    shown = "#0 overall score 0.5000, best 0.5000 (#0), 1 of 2 CPUs, 1 of 2 stages reused"
    assert re.fullmatch(rf"trials 1/4(, .* left)?: {re.escape(shown)}", line)


def test_failures_are_told_but_not_without_end(start: Any, told: Callable[[], list[str]]) -> None:
    progress, ledger = start(400)
    for number in range(50):
        ledger.found.append(row(number, None, "badnets: Traceback\n  line\nRuntimeError: it broke"))
        progress.settled(ledger.found[-1])
    warnings = [line for line in told() if line.startswith("warning: ")]
    assert warnings[:5] == [f"warning: trial #{number} failed: RuntimeError: it broke" for number in range(5)]
    assert len(warnings) == 6
    assert warnings[5].startswith("warning: more trials fail; to see why:  python -m study.status mine --out ")


def test_verbose_tells_every_scenario_and_trial(start: Any, told: Callable[[], list[str]]) -> None:
    progress, ledger = start(50, verbose=1)
    for number in range(3):
        ledger.found.append(row(number, 0.5))
        progress.scenario(f"k{number}", scenario_record("badnets-0.1-s0", {"tpr": 1.0, "asr": 0.25}))
        progress.settled(ledger.found[-1])
    lines = told()
    assert len(lines) == 6
    assert lines[0].startswith("#0 badnets-0.1-s0: TPR 1.000, FPR -, AUROC -, CA -, ASR 0.250; took 0 s, 1 of 2 stages")
    assert "(beta 3)" in lines[1]


def test_verbose_tells_what_was_found_first(start: Any, images: Images, tmp_path: Path) -> None:
    plan = small_plan(save_npz(tmp_path / "data.npz", images), tmp_path)
    shown = describe_start(plan, tmp_path, "sqlite:///x.db", "0 of 2 CPUs")
    for part in (
        "128 to train and 64 to test, 16 px, 4 classes",
        "0 of 2 CPUs",
        "fp32",
        "sqlite:///x.db",
        "badnets-0.1-s0",
    ):
        assert part in shown
    assert str(plan.environment.store) in shown
    assert "-" in describe_scenario("#1", scenario_record("x", {}))


def options_of(*words: str) -> StudyConfig:
    parser = Parser(allow_abbrev=False)
    add_options(parser, StudyConfig)
    return resolve(StudyConfig, given_options(parser.parse_args(words), StudyConfig))


def test_verbose_is_no_other_study() -> None:
    assert [options_of(*words).verbose for words in ([], ["-v"], ["-vv"], ["--verbose", "-v"])] == [0, 1, 2, 2]
    assert options_of("-v").identity == options_of().identity
    assert "verbose" in NOT_IDENTITY
    with pytest.raises(UserError, match="--verbose"):
        options_of("-vvv")
    loud = options_of("-v", "--trials", "7")
    manifest = Manifest(loud.identity, (), loud.model_dump(mode="json"))
    go_on = manifest.resume_command(Path("runs"))
    assert "--trials 7" in go_on
    assert "verbose" not in go_on


def test_a_study_goes_on_with_the_values_that_were_named() -> None:
    named = options_of("--sampler", "grid", "--resolution", "beta=0,1.5", "rounds=3")
    words = Manifest(named.identity, (), named.model_dump(mode="json")).resume_command(Path("runs")).split()
    assert words[words.index("--resolution") + 1 :][:2] == ["beta=0,1.5", "rounds=3"]


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_libraries_are_heard_from_the_second_v_on(root_logger: None, told: Callable[[], list[str]]) -> None:
    for verbose, heard in ((0, []), (1, []), (2, ["INFO: hello"])):
        show_logs(verbose)
        logging.getLogger("library").info("hello")
        assert told() == heard
        assert library_logs_enabled() == (verbose == 2)
    show_logs()
    logging.getLogger("library").warning("this matters")
    assert told() == ["WARNING: this matters"]


@pytest.mark.parametrize(
    ("module", "codes"),
    [
        ("study.run", "0 2 3 130 143"),
        ("study.evaluate", "0 2 130"),
        ("study.attacks.__main__", "0 2 130"),
        ("study.status", "0 2"),
        ("study.sync", "0 2 4 130"),
        ("study.report.__main__", "0 2"),
        ("study.analyze", "0 2"),
        ("study.compare", "0 2"),
    ],
)
def test_help_tells_the_exit_codes(module: str, codes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main(["--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    told_of = re.findall(r"\b\d+(?= )", shown.partition("Exit codes: ")[2])
    assert set(codes.split()) <= set(told_of)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, images: Images, tmp_path: Path) -> Callable[[Callable[[], str]], int]:
    """Runs the command with a session that does as a test says; the exit code."""
    import study.driver.driver

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(run, "leave_at_once", leave)
    dataset = save_npz(tmp_path / "data.npz", images)

    def call(act: Callable[[], str]) -> int:
        class StudyDriver:
            def __init__(self, *_arguments: object) -> None:
                self.run = act

            def close(self, *_arguments: object) -> None:
                pass

            def closing_lines(self, took: str) -> str:
                return took

        monkeypatch.setattr(study.driver.driver, "StudyDriver", StudyDriver)
        run._terminated.clear()
        try:
            return run.main(["--dataset", dataset, "--out", str(tmp_path / "out"), "--precision", "fp32"])
        except SystemExit as end:
            return int(str(end.code))

    return call


def test_each_exit_code(session: Any, root_logger: None, capsys: pytest.CaptureFixture[str]) -> None:
    import signal

    def interrupted() -> str:
        raise KeyboardInterrupt

    def terminated() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal comes first")

    def refused() -> str:
        raise UserError("a rule, a value, a way out")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    found = {}
    try:
        for act in (lambda: "", lambda: "nothing works", refused, interrupted, terminated):
            code = session(act)
            found[code] = capsys.readouterr()
            signal.signal(signal.SIGINT, before[signal.SIGINT])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        run._terminated.clear()
    assert list(found) == [0, 3, 2, 130, 143]
    assert found[0].err == ""
    assert found[3].err == "error: nothing works\n"
    assert found[2].err == "error: a rule, a value, a way out\n"
    assert "the same command goes on from here" in found[130].out


def test_lists_may_have_spaces_and_strays_are_named() -> None:
    assert options_of("--attacks", "badnets , sig", " clean ").attacks == ("badnets", "sig", "clean")
    with pytest.raises(UserError, match="'pipd' alone"):
        options_of("pipd")


def test_work_goes_on_when_nobody_reads_any_more(tmp_path: Path) -> None:
    done = tmp_path / "done"
    work = (
        "from pathlib import Path; import sys; from study.cli.terminal import print_error, print_line; "
        "print_line('first'); sys.stdin.readline(); print_line('second'); "
        "print_line('third'); print_error('fourth'); Path(sys.argv[1]).touch()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", work, str(done)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
    assert process.returncode == 0
    assert done.is_file()
