"""What a person sees: lines, bars and aligned tables, with or without a terminal."""

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from study.cli.numbers import format_number

_LINES = 20  # of a bar where there is no terminal, however long it is
_OPTIONS = {
    "field": "--set {}=VALUE",
    "width": "--width",
    "blocks": "--blocks",
    "store": "--store",
    "place": "--store, --out",
    "tracking": "--tracking-uri",
}
"""What a rule of the library is about -> the option of a command that sets it."""

_SILENT_SECONDS = 600.0  # at most, where steps take long


def open_closed_streams() -> None:
    """Gives a process that was started with a closed stream (``>&-``) one that nobody reads.

    Otherwise the next file that is opened, such as the ledger, would get the stream's number, and what a library prints
    would be written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # the lowest number that is free is taken
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def replace_unencodable() -> None:
    """Shows a question mark for what the encoding of a stream cannot say, such as β under an ASCII locale.

    Python would raise an error for it on standard output. On standard error it writes an escape by itself.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def print_line(text: str = "") -> None:
    """A line on standard output, above any bar."""
    _write(text, sys.stdout)


def print_error(text: str) -> None:
    """A line on standard error, above any bar."""
    _write(text, sys.stderr)


def print_raw(text: str) -> None:
    """Text on standard output as it is, for programs that read it."""
    _put(lambda stream: stream.write(text), sys.stdout)


def _write(text: str, stream: TextIO) -> None:
    """A line, at once."""
    _put(lambda to: tqdm.write(_printable(text), file=to), stream)


class _Unwritable(io.TextIOWrapper):
    """What stands for a stream that takes nothing more."""


def _put(write: Callable[[TextIO], object], stream: TextIO) -> None:
    """Writes at once. Where a stream takes nothing more the work goes on unseen: it is kept on disk anyway.

    A reader that left (``| head``) has what it wanted; what else goes wrong is told.
    """
    try:
        write(stream)
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:  # a full disk, a terminal that is gone
        _silence(stream)
        if stream is sys.stdout:
            sys.stdout = _Unwritable(open(os.devnull, "wb"), encoding="utf-8")  # noqa: SIM115
            print_error(f"error: standard output takes nothing more ({error.strerror}): what follows is not shown")


def _silence(stream: TextIO) -> None:
    """What a stream still holds, and what is printed later, goes nowhere, also as Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def output_is_lost() -> bool:
    """Whether standard output failed, other than by a reader that had enough."""
    return isinstance(sys.stdout, _Unwritable)


def print_exception(error: Exception) -> None:
    """An error in one line, whatever the names in it hold, with the option that it is about."""
    print_error("error: " + str(error).replace("\n", "\\n") + option_hint(error))


def option_hint(error: Exception) -> str:
    """The option that a rule of the library is about, in brackets with a space before; empty where none is.

    The library's messages name no option: who calls it from Python has none.
    """
    what, _, name = getattr(error, "about", "").partition(" ")
    option = _OPTIONS.get(what, "").format(name)
    return f" ({option})" if option else ""


def _printable(text: str) -> str:
    """The text without what would command a terminal: names of files and classes come from anywhere."""
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def last_line(text: str) -> str:
    """Of a traceback, what was raised; of one line, the line."""
    return (text.strip().splitlines() or ["no reason is known"])[-1].strip()


class _Lines(logging.Handler):
    """Shows log records as lines above any bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        print_error(self.format(record))


def show_logs(verbose: int = 0) -> None:
    """Shows what is logged, as lines: warnings, and the libraries' own chatter from the second ``-v`` on."""
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbose > 1 else logging.WARNING, force=True)


def library_logs_enabled() -> bool:
    """Whether the libraries' own logs are to be seen."""
    return logging.getLogger().isEnabledFor(logging.INFO)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns padded to their widest entry; the first `left` are aligned left, the rest right."""
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            str(cell).ljust(width) if column < left else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Bar:
    """A progress bar; without a terminal, lines instead: every step, or some twenty of many steps.

    Args:
        every_line: without a terminal, a line a step however many there are.
        parts: of each step, by which the bar moves in a terminal.
        part_unit: what they are called there.
    """

    def __init__(
        self,
        total: int,
        label: str,
        initial: int = 0,
        unit: str = "it",
        every_line: bool = False,
        parts: int = 1,
        part_unit: str = "",
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._tty = sys.stderr.isatty()
        self._initial = self._count = self._shown = initial
        self._parts = parts
        self._gap = 1 if every_line else max(1, -(-(total - initial) // _LINES))
        self._started = self._last = time.monotonic()
        self._bar: Any = tqdm(
            total=total * parts,
            initial=initial * parts,
            desc=label,
            unit=unit,
            file=sys.stderr,
            disable=not self._tty,
            dynamic_ncols=True,
            smoothing=0.1,
            bar_format="{desc}: {percentage:3.0f}%|{bar:10}| {n:g}/{total:g}"
            + (f" {part_unit}" if parts > 1 else "")
            + " [{elapsed}, {remaining} left{postfix}]",
        )

    def note(self, text: str) -> None:
        """What is shown behind the bar."""
        self._bar.set_postfix_str(text)

    def move(self, parts: int = 1) -> None:
        """Moves the bar by parts of a step."""
        self._bar.update(parts)

    def advance(self, step: int = 1, line: str = "", parts: int | None = None) -> None:
        """Moves on; without a terminal, `line` is printed when it is not empty and it is time for one.

        Args:
            parts: of the step that the bar has not moved by yet; all of them by default.
        """
        self._count += step
        self._bar.update(step * self._parts if parts is None else parts)
        if not self._tty and line and self._due():
            self._shown, self._last = self._count, time.monotonic()
            print_error(f"{self._label} {self._count}/{self._total}{self._left()}: {line}")

    def _due(self) -> bool:
        """The first step and the last, and between them by their number, or by time where they take long."""
        first = self._shown == self._initial
        enough = self._count - self._shown >= self._gap
        return first or enough or self._count >= self._total or time.monotonic() - self._last >= _SILENT_SECONDS

    def _left(self) -> str:
        """What it will still take, once that can be told."""
        gone = time.monotonic() - self._started
        left = self._total - self._count
        return f", {duration(gone / (self._count - self._initial) * left)} left" if left > 0 and gone >= 1 else ""

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class EpochProgress:
    """A `defenses.api.Progress` that draws one bar a stage."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._stage = ""

    def __call__(self, stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Told after every epoch."""
        if stage != self._stage:
            self.close()
            self._bar, self._stage = Bar(steps, stage, unit="epoch"), stage
        shown = ", ".join(f"{name} {format_number(value, 4)}" for name, value in values.items())
        assert self._bar is not None
        self._bar.note(shown)
        self._bar.advance(1, shown or "done")
        if step == steps:
            self.close()

    def close(self) -> None:
        """Ends the bar of the current stage."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, ""
