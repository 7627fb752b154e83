"""What moves while a command works: it fits the terminal, whatever it says, and is never still."""

import contextlib
import fcntl
import os
import re
import struct
import sys
import termios
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from study.cli import bar as bar_module
from study.cli.bar import Bar, EpochProgress, columns, fit, shorten, working
from study.cli.terminal import print_error, rough

LONG = (
    "standard_training 12/60 adaptive_blend.cover_ratio_0.2.pieces_16.threshold_0.15-0.0123456789-s9223372036854775807"
)


class Terminal:
    """Standard error as a terminal of some width; what was sent to it."""

    def __init__(self, wide: int) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, wide, 0, 0))
        os.set_blocking(self._ours, False)
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self._sent = b""

    def text(self) -> str:
        """All that was sent so far."""
        self.stream.flush()
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._ours, 65536):
                self._sent += part
        return self._sent.decode()

    def lines(self) -> list[str]:
        """Each drawing of a line, and each line."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text()) if line.strip()]

    def close(self) -> None:
        """Gives both ends back."""
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def terminals(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Opens a terminal for standard error."""
    monkeypatch.delenv("COLUMNS", raising=False)
    opened: list[Terminal] = []

    def make(wide: int) -> Terminal:
        opened.append(Terminal(wide))
        monkeypatch.setattr(sys, "stderr", opened[-1].stream)
        return opened[-1]

    yield make
    for terminal in opened:
        monkeypatch.undo()
        terminal.close()


@pytest.mark.parametrize("wide", [20, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(wide: int, terminals: object) -> None:
    terminal: Terminal = terminals(wide)  # type: ignore[operator]
    stages = Bar(15, "shared stages", estimates=False)
    stages.note(LONG, LONG.replace("standard_training", "pre_isolation"), left="about 2 min 30 s left")
    stages.advance(1, LONG)
    stages.close()
    trials = Bar(50, "trials", parts=12, part_unit="scenarios done")
    trials.note("best 0.9876 (#49)", "3 failed", "2 of 2 CPUs, 1 of 1 GPUs", "1234 of 5678 stages reused")
    trials.advance(1)
    trials.close()
    with EpochProgress("running pipd") as epochs:
        epochs("selective_training", 1, 8, {f"value_{number}": 0.123456 for number in range(20)})
    with working(f"reading {LONG}"):
        time.sleep(1.2)
    lines = terminal.lines()
    assert len(lines) >= 10
    assert max(map(len, lines)) < wide, "a full line wraps in some terminals"
    if wide >= 60:
        assert any("about 2 min 30 s left" in line for line in lines)
        assert any("left, standard_training" in line for line in lines) or wide < 80
        assert any("best 0.9876 (#49)" in line for line in lines)
        assert any(line.endswith("…]") for line in lines) or wide > 100
    if wide == 200:
        assert any(LONG in line and "%|" in line for line in lines)


def test_no_line_is_wider_where_the_terminal_has_ascii_alone(terminals: object) -> None:
    terminal: Terminal = terminals(60)  # type: ignore[operator]
    terminal.stream.reconfigure(encoding="ascii", errors="backslashreplace")  # type: ignore[attr-defined]
    stages = Bar(15, "shared stages", estimates=False)
    stages.note(LONG, left="about 2 min left")
    stages.close()
    assert max(map(len, terminal.lines())) < 60
    assert any(line.endswith("~]") for line in terminal.lines())


def test_columns_of_the_environment_count_where_they_are_fewer(
    terminals: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal: Terminal = terminals(100)  # type: ignore[operator]
    for given, wide in (("70", 70), ("300", 100), ("wide", 100), ("0", 100)):
        monkeypatch.setenv("COLUMNS", given)
        assert columns(terminal.stream) == wide


def test_lines_are_printed_above_the_bar(terminals: object) -> None:
    terminal: Terminal = terminals(80)  # type: ignore[operator]
    bar = Bar(2, "trials")
    print_error("warning: something")
    bar.close()
    assert "warning: something" in terminal.lines()


def test_the_seconds_move_on_while_nothing_else_does(terminals: object) -> None:
    terminal: Terminal = terminals(80)  # type: ignore[operator]
    bar = Bar(2, "shared stages", estimates=False)
    time.sleep(2.3)
    bar.close()
    assert {re.search(r"\d\d:\d\d", line)[0] for line in terminal.lines()} >= {"00:00", "00:01", "00:02"}  # type: ignore[index]


def test_work_leaves_no_line_in_a_terminal(terminals: object) -> None:
    terminal: Terminal = terminals(80)  # type: ignore[operator]
    with working("reading 300 trials"):
        time.sleep(1.2)
    assert any("reading 300 trials [00:01]" in line for line in terminal.lines())
    assert terminal.text().endswith("\r")
    assert terminal.text().split("\r")[-2].strip() == ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that a test moves, in which nothing ticks by itself."""
    moved = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(bar_module.time, "monotonic", lambda: moved.now)
    monkeypatch.setattr(bar_module, "_TICK_SECONDS", 3600.0)
    monkeypatch.setattr(bar_module, "_SHOWN_AFTER_SECONDS", 2.0)
    return moved


def test_without_a_terminal_long_silence_has_a_line_a_minute(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = Bar(15, "shared stages", estimates=False)
    bar.note("standard_training 3/60 badnets-0.1-s0", "pre_isolation 1/30 sig-0.1-s0", left="about 5 min left")
    for _ in range(180):
        clock.now += 1
        bar.tick()
    lines = capsys.readouterr().err.splitlines()
    named = "standard_training 3/60 badnets-0.1-s0"
    assert lines == [
        f"shared stages 0/15, about 5 min left: {minutes} min 0 s so far, {named}" for minutes in (1, 2, 3)
    ]
    for _ in range(6 * 3600):
        clock.now += 1
        bar.tick()
    assert 40 <= len(capsys.readouterr().err.splitlines()) <= 100, "the longer it takes, the fewer"


def test_without_a_terminal_work_has_a_line_once_it_is_long(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    spinner = bar_module._Spinner("reading 300 trials")
    told = {}
    for second in range(1, 136):
        clock.now += 1
        if second == 130:
            spinner.say("drawing 34 figures")
        spinner.tick()
        if text := capsys.readouterr().err:
            told[second] = text
    spinner.close()
    assert told == {
        2: "reading 300 trials ...\n",
        60: "reading 300 trials ..., 1 min 0 s so far\n",
        120: "reading 300 trials ..., 2 min 0 s so far\n",
        132: "drawing 34 figures ...\n",
    }


def test_what_is_left_counts_down_between_the_parts(clock: SimpleNamespace) -> None:
    bar = Bar(4, "trials", parts=3)
    assert bar.left_seconds() is None, "nothing is known yet"
    clock.now += 30
    bar.move(3)
    assert bar.left_seconds() == 90
    clock.now += 5
    assert bar.left_seconds() == 85
    clock.now += 500
    assert bar.left_seconds() == pytest.approx(81), "no more than the part that is under way"
    bar.move(9)
    assert bar.left_seconds() is None


def test_starting_workers_tells_no_pace(clock: SimpleNamespace) -> None:
    bar = Bar(4, "trials", parts=2)
    clock.now += 40
    bar.first_took(5.0)
    bar.move(2)
    assert bar.left_seconds() == pytest.approx(6 * 2.5)
    clock.now += 10
    bar.first_took(1.0)  # not the first any more
    bar.move(2)
    assert bar.left_seconds() == pytest.approx(4 * 15 / 4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (7.4, "7 s"), (43, "45 s"), (59, "1 min"), (149, "2 min 30 s"), (840, "14 min"), (7811, "2 h 10 min")],
)
def test_estimates_have_no_more_digits_than_they_deserve(seconds: float, text: str) -> None:
    assert rough(seconds) == text


def test_what_does_not_fit_is_cut_by_importance() -> None:
    details = ["00:31", "about 2 min left", "standard_training badnets-0.1-s0", "more"]
    assert fit("stages: 1/9", details, None) == f"stages: 1/9 [{', '.join(details)}]"
    assert fit("stages: 1/9", details, 60) == "stages: 1/9 [00:31, about 2 min left, standard_training ba…]"
    assert fit("stages: 1/9", details, 40) == "stages: 1/9 [00:31, about 2 min left]"
    assert fit("stages: 1/9", details, 5) == "stag…"
    assert fit("stages", [], 20) == "stages"
    assert shorten("abc", 3) == "abc"


def test_a_stage_that_goes_on_from_a_checkpoint_is_told_as_it_is(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with EpochProgress("running pipd") as epochs:
        for step in (57, 58, 60):
            epochs("standard_training", step, 60, {"loss": 0.5})
            clock.now += 10
    assert capsys.readouterr().err.splitlines() == [
        "standard_training 57/60: loss 0.5000",
        "standard_training 58/60, about 20 s left: loss 0.5000",
        "standard_training 60/60: loss 0.5000",
    ]


def test_what_is_left_goes_by_the_later_half_of_the_parts(clock: SimpleNamespace) -> None:
    bar = Bar(100, "trials")
    for _ in range(16):  # train what the others share
        clock.now += 20
        bar.advance()
    assert bar.left_seconds() == 84 * 20, "all that there is"
    for _ in range(16):
        clock.now += 1
        bar.advance()
    assert bar.left_seconds() == 68
    clock.now += 30
    bar.advance(40)  # they ended together
    assert bar.left_seconds() == pytest.approx(28 * 30 / 40)


def test_a_pace_is_not_told_by_few_parts_that_ended_together(clock: SimpleNamespace) -> None:
    bar = Bar(100, "trials")
    clock.now += 60
    for _ in range(8):
        bar.advance()
    assert bar.left_seconds() == 92 * 60 / 8


def test_parts_that_build_for_the_others_are_counted_alone(clock: SimpleNamespace) -> None:
    bar = Bar(30, "trials", parts=2, building=4)
    clock.now += 100
    bar.move(built=1)
    assert (bar.builds, bar.left_seconds(), bar._left_text()) == (True, 300, "over 5 min left")
    bar.move()  # what another one built is there
    assert bar.left_seconds() == 300, "it tells nothing of those that build"
    clock.now += 300
    bar.move(2, built=2)
    bar.move(built=1)
    assert (bar.builds, bar.left_seconds()) == (False, None), "nothing is known of the others"
    clock.now += 2
    bar.move()
    assert (bar.left_seconds(), bar._left_text()) == (2 * 54, "about 1 min 50 s left")
