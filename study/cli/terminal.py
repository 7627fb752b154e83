"""What a person sees: lines, errors and aligned tables. What moves is in `study.cli.bar`."""

import io
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TextIO

from tqdm import tqdm

_WIDEST = 110  # of a paragraph
_OPTIONS = {
    "field": "--set {}=VALUE",
    "width": "--width",
    "blocks": "--blocks",
    "states": "--keep-states",
    "store": "--store",
    "place": "--store, --out",
    "tracking": "--tracking-uri",
}
"""What a rule of the library is about -> the option of a command that sets it."""


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
    _put(lambda to: tqdm.write(printable(text), file=to), stream)


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


def printable(text: str) -> str:
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


def wrap(text: str) -> str:
    """A paragraph in lines that the terminal holds, and that are pleasant to read; no word is broken."""
    wide = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    return textwrap.fill(text, wide, break_long_words=False, break_on_hyphens=False)


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


def rough(seconds: float) -> str:
    """An estimate for people, with no more digits than it deserves: ``7 s``, ``45 s``, ``2 min 30 s``, ``14 min``."""
    step = 1 if seconds < 20 else 5 if seconds < 60 else 10 if seconds < 180 else 60
    return duration(max(1, round(seconds / step) * step)).removesuffix(" 0 s")
