"""What moves while a command works: bars and a sign of life, cut to the width of the terminal.

Without a terminal they are lines: for steps that end, and now and then while one takes long.
"""

import os
import sys
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import itemgetter
from typing import TextIO

from tqdm import tqdm

from study.cli.numbers import format_number
from study.cli.terminal import duration, print_error, printable, rough

_LINES = 20  # of a bar where there is no terminal, however many steps it has
_TICK_SECONDS = 1.0
_FIRST_GAP_SECONDS = 60.0  # between two lines without a terminal, at first
_GAP_SHARE = 1 / 20  # of the time that has gone by, later: an hour has some forty lines, a day a hundred
_SHOWN_AFTER_SECONDS = 2.0  # what is over sooner says nothing
_GRAPH_COLUMNS = 100  # narrower terminals need the room for words
_PACE_PARTS = 16  # at least, by whose pace what is left is told; of fewer some may have ended together
_LEAST = 8  # characters of a text that is worth showing cut
_SPINNER = "|/-\\"
_GRAPH = 10  # characters
_BLOCKS, _DIGITS = " ▏▎▍▌▋▊▉█", " 123456789#"  # how full a character is; the digits for terminals that have no blocks


def columns(stream: TextIO) -> int | None:
    """How wide a terminal is, by its own account and by the variable COLUMNS; None where neither says."""
    known = []
    with suppress(OSError, ValueError):  # no terminal of the system's
        known.append(os.get_terminal_size(stream.fileno()).columns)
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit():
        known.append(int(given))
    return min((width for width in known if width > 0), default=None)


def shorten(text: str, width: int) -> str:
    """A text in at most so many characters; what is cut off is marked by an ellipsis."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def fit(head: str, details: list[str], width: int | None) -> str:
    """``head [first, second, third]``, as much of it as fits: the first detail that does not is cut, the rest left out.

    Args:
        width: columns; None for no limit.
    """
    details = [detail for detail in details if detail]
    if width is None:
        return f"{head} [{', '.join(details)}]" if details else head
    room = width - len(head) - len(" []")
    shown: list[str] = []
    for detail in details:
        left = room - len(", ".join([*shown, ""]))
        if len(detail) > left:
            shown += [shorten(detail, left)] if left >= _LEAST else []
            break
        shown.append(detail)
    return shorten(f"{head} [{', '.join(shown)}]" if shown else head, width)


def _unicode() -> bool:
    """Whether standard error takes more than ASCII."""
    return (getattr(sys.stderr, "encoding", None) or "").lower().startswith("utf")


def _graph(share: float) -> str:
    """How much of it is done, as a bar of ten characters."""
    levels = _BLOCKS if _unicode() else _DIGITS
    whole, part = divmod(int(min(1.0, share) * _GRAPH * (len(levels) - 1)), len(levels) - 1)
    return (levels[-1] * whole + levels[part] * (whole < _GRAPH)).ljust(_GRAPH)


class _Line(tqdm):  # type: ignore[type-arg]
    """A line of a terminal that is drawn anew in its place, and gives way to lines that are printed."""

    monitor_interval = 0  # of tqdm's own thread, which has nothing to look after here

    def __init__(self, render: Callable[[int | None], str], leave: bool) -> None:
        self._render = render
        super().__init__(file=sys.stderr, leave=leave, mininterval=0, miniters=1)

    def __str__(self) -> str:
        wide = columns(sys.stderr)
        text = printable(self._render(None if wide is None else wide - 1))  # a full line would wrap in some terminals
        return text if _unicode() else text.replace("…", "~")  # an escape would be wider


class _Ticking:
    """Something that is looked at each second until it is closed or nobody holds it any more."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        threading.Thread(target=_tick, args=(weakref.ref(self), self._closed), name="progress", daemon=True).start()

    def tick(self) -> None:
        """A second has gone by."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing moves any more."""
        self._closed.set()


def _tick(reference: "weakref.ref[_Ticking]", closed: threading.Event) -> None:
    while not closed.wait(_TICK_SECONDS):
        ticking = reference()
        if ticking is None:
            return
        try:
            ticking.tick()
        except (OSError, ValueError):  # standard error takes nothing more
            return
        del ticking


class Bar(_Ticking):
    """A progress bar; without a terminal, lines instead: every step, or some twenty of many steps, and signs of life.

    Args:
        every_line: without a terminal, a line a step however many there are.
        parts: of each step, by which the bar moves in a terminal.
        part_unit: what they are called there.
        estimates: whether what is left is told from the steps so far; else `left` says what there is to be said.
        building: parts still to come that build what the others share: until they are done they alone count in what
            is left, and their pace says nothing of the others.
    """

    def __init__(
        self,
        total: int,
        label: str,
        initial: int = 0,
        every_line: bool = False,
        parts: int = 1,
        part_unit: str = "",
        estimates: bool = True,
        building: int = 0,
    ) -> None:
        self._label, self._total, self._unit = label, total, part_unit if parts > 1 else ""
        self._initial = self._count = self._shown = initial
        self._parts, self._moved, self._estimates, self._building = parts, initial * parts, estimates, building
        self._built = self._skipped = 0
        self._gap = 1 if every_line else max(1, -(-(total - initial) // _LINES))
        self._started = self._last = time.monotonic()
        self._moves = [(self._counted, self._started)]  # how far it was with what counts, and since when
        self._details: list[str] = []
        self._left = ""
        self._line = _Line(self.render, leave=True) if sys.stderr.isatty() else None
        super().__init__()

    def note(self, *details: str, left: str = "") -> None:
        """What is shown behind the bar, the most important first.

        Args:
            left: how long it will still take, of a bar that does not estimate that itself.
        """
        self._details, self._left = list(details), left
        self._draw()

    def _draw(self) -> None:
        line = self._line  # another thread may close it
        if line is not None:
            line.refresh()

    def move(self, parts: int = 1, built: int = 0) -> None:
        """Moves the bar by parts of a step, of which some built what others share."""
        building, self._moved, self._built = self.builds, self._moved + parts, self._built + built
        if building and not self.builds:
            self._moves.clear()
        if not self.builds or built:
            self._moves.append((self._counted, time.monotonic()))
        self._draw()

    def skip(self, parts: int, built: int = 0) -> None:
        """Moves the bar by parts that were done before it was there: they tell no pace."""
        before = self._counted
        self._moved, self._built, self._skipped = self._moved + parts, self._built + built, self._skipped + parts
        self._moves = [(at + self._counted - before, when) for at, when in self._moves]
        self._draw()

    def first_took(self, seconds: float) -> None:
        """The first part took so long: what went by before it, such as starting workers, tells no pace."""
        if self._moved == self._initial * self._parts + self._skipped:
            self._moves = [(self._counted, max(self._started, time.monotonic() - seconds))]

    def advance(self, step: int = 1, line: str = "", parts: int | None = None, built: int = 0) -> None:
        """Moves on; without a terminal, `line` is printed when it is not empty and it is time for one.

        Args:
            parts: of the step that the bar has not moved by yet; all of them by default.
            built: how many of them build what the others share, or would have.
        """
        self._count += step
        self.move(step * self._parts if parts is None else parts, built)
        if self._line is None and line and self._due():
            self._print(line)

    def tick(self) -> None:
        """The seconds move on; without a terminal, a line where none has come for long."""
        if self._line is not None:
            self._draw()
        elif time.monotonic() - self._last >= self._silence():
            self._print(f"{duration(time.monotonic() - self._started)} so far", *self._details[:1])

    def _print(self, *texts: str) -> None:
        self._shown, self._last = self._count, time.monotonic()
        left = self._left_text()
        head = f"{self._label} {self._count}/{self._total}{f', {left}' if left else ''}"
        print_error(f"{head}: {', '.join(text for text in texts if text)}")

    def _due(self) -> bool:
        """The first step and the last, and between them by their number, or by time where they take long."""
        first = self._shown == self._initial
        enough = self._count - self._shown >= self._gap
        return first or enough or self._count >= self._total or time.monotonic() - self._last >= self._silence()

    def _silence(self) -> float:
        return max(_FIRST_GAP_SECONDS, (time.monotonic() - self._started) * _GAP_SHARE)

    @property
    def moved(self) -> int:
        """Parts of all steps that are done."""
        return self._moved

    @property
    def parts(self) -> int:
        """Parts of all steps."""
        return self._total * self._parts

    @property
    def builds(self) -> bool:
        """Whether the parts that build for the others are not done yet: what is left is more than is told."""
        return self._built < self._building

    @property
    def _counted(self) -> int:
        """Parts that are done of those that count in what is left."""
        return self._built if self.builds else self._moved

    def left_seconds(self) -> float | None:
        """What it will still take at the pace of the later half of the parts so far; None before that is known."""
        left, (moved, moved_at) = (self._building if self.builds else self.parts) - self._counted, self._moves[-1]
        later = moved - max((moved - self._moves[0][0]) // 2, _PACE_PARTS)
        paced, paced_from = self._moves[max(0, bisect_right(self._moves, later, key=itemgetter(0)) - 1)]
        if left <= 0 or moved == paced or moved_at - paced_from < 1:
            return None
        each = (moved_at - paced_from) / (moved - paced)
        under_way = min((time.monotonic() - moved_at) / each, 0.9)  # of the part that is not done yet
        return each * (left - under_way)

    def _left_text(self) -> str:
        if not self._estimates:
            return self._left
        seconds = self.left_seconds()
        return "" if seconds is None else f"{'over' if self.builds else 'about'} {rough(seconds)} left"

    def render(self, width: int | None) -> str:
        """The line of a terminal of so many columns."""
        moved, total = self._moved, self.parts
        head = f"{moved}/{total}{f' {self._unit}' if self._unit else ''}"
        if width is None or width >= _GRAPH_COLUMNS:
            share = moved / max(1, total)
            head = f"{100 * share:3.0f}%|{_graph(share)}| {head}"
        elapsed = tqdm.format_interval(time.monotonic() - self._started)
        return fit(f"{self._label}: {head}", [elapsed, self._left_text(), *self._details], width)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        super().close()
        if self._line is not None:
            self._line.close()
            self._line = None


class _Spinner(_Ticking):
    """A sign of life for work whose end nobody can tell."""

    def __init__(self, what: str) -> None:
        self._line: _Line | None = None
        self._turn = 0
        self.say(what)
        super().__init__()

    def say(self, what: str) -> None:
        """Something else is done from now on."""
        self._what, self._started, self._lines = what, time.monotonic(), 0
        line = self._line
        if line is not None:
            line.refresh()

    def tick(self) -> None:
        """The seconds move on."""
        gone = time.monotonic() - self._started
        self._turn += 1
        if sys.stderr.isatty():
            if self._line is None:
                self._line = _Line(self.render, leave=False)
            self._line.refresh()
        elif gone >= _SHOWN_AFTER_SECONDS and not self._lines:
            self._lines = 1
            print_error(f"{self._what} ...")
        elif self._lines and gone >= _FIRST_GAP_SECONDS * self._lines:
            self._lines += 1
            print_error(f"{self._what} ..., {duration(gone)} so far")

    def render(self, width: int | None) -> str:
        """The line of a terminal of so many columns."""
        head = f"{_SPINNER[self._turn % len(_SPINNER)]} {self._what}"
        return fit(head, [tqdm.format_interval(time.monotonic() - self._started)], width)

    def close(self) -> None:
        """Leaves no line behind."""
        super().close()
        if self._line is not None:
            self._line.close()


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Shows that something is being done, where it takes more than a moment.

    In a terminal a line with the seconds, which goes away again; else one line after two seconds, and one a minute.
    Gives what to call when something else begins: ``say("drawing 34 figures")``.

    Args:
        what: is being done: ``reading 300 trials``.
    """
    spinner = _Spinner(what)
    try:
        yield spinner.say
    finally:
        spinner.close()


class EpochProgress:
    """A `defenses.api.Progress` that draws one bar a stage.

    Args:
        between: what is being done while no stage counts its epochs.
    """

    def __init__(self, between: str) -> None:
        self._between, self._stage = between, ""
        self._shown: Bar | _Spinner | None = None

    def __enter__(self) -> "EpochProgress":
        self._shown = _Spinner(self._between)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        """To be called after every epoch."""
        shown = ", ".join(f"{name} {format_number(value, 4)}" for name, value in values.items())
        if stage != self._stage or not isinstance(self._shown, Bar):
            self._close()
            self._shown, self._stage = Bar(steps, stage, initial=step), stage  # when it began nobody knows
        self._shown.advance(step - self._shown.moved, shown or "done")
        self._shown.note(shown)
        if step == steps:
            self._close()
            self._shown = _Spinner(self._between)

    def _close(self) -> None:
        if self._shown is not None:
            self._shown.close()
