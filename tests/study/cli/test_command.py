"""How a command ends: its exit code and its one line, with the option that a rule of the library is about."""

import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import PYTHONPATH, ROOT

from defenses.config import Config, param
from defenses.models import ModelSpec
from defenses.registry import UserError
from study.cli.command import EXIT_BAD_INPUT, EXIT_INTERRUPTED, run_command
from study.cli.terminal import print_error, print_line


def refuse() -> int:
    raise UserError("a store must be writable,\nand is not", about="store")


def interrupt() -> int:
    raise KeyboardInterrupt


def test_windows_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert run_command(lambda: 0) == EXIT_BAD_INPUT
    assert "Linux and macOS" in capsys.readouterr().err


def test_each_end_has_its_code_and_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: 4) == 4
    assert capsys.readouterr() == ("", "")
    assert run_command(refuse) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == "error: a store must be writable,\\nand is not (--store)\n"
    assert run_command(interrupt, "stopped; go on with the same command") == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "stopped; go on with the same command\n"


def test_a_field_is_named_by_the_option_that_sets_it(capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Epochs(Config):
        epochs: int = param(1, "how many", low=1)

    assert run_command(lambda: Epochs(epochs=1.5) and 0) == EXIT_BAD_INPUT  # type: ignore[arg-type]
    assert capsys.readouterr().err.endswith("got 1.5: give it such a value (--set epochs=VALUE)\n")
    assert run_command(lambda: ModelSpec("resnet18", 0, (1,), 10, 32) and 0) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.endswith("got 0: give it one (--width)\n")


def test_what_an_error_is_about_survives_a_worker() -> None:
    assert pickle.loads(pickle.dumps(UserError("no", about="width"))).about == "width"


@pytest.mark.parametrize("path", sorted((ROOT / "defenses").rglob("*.py")), ids=lambda path: path.name)
def test_the_library_names_no_option(path: Path) -> None:
    assert not re.search(r"[\"' (]--[a-z]", path.read_text())


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "? beta, ?"), ("latin-1", "? beta, \xe9"), ("utf-8", "β beta, é")]
)
def test_what_a_stream_cannot_say_is_replaced(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    monkeypatch.setattr("sys.stdout", streams[0])
    monkeypatch.setattr("sys.stderr", streams[1])

    def work() -> int:
        print_line("β beta, é")
        print_error("β beta, é")
        return 0

    assert run_command(work) == 0
    for stream in streams:
        assert stream.buffer.getvalue().decode(encoding) == f"{shown}\n"  # type: ignore[attr-defined]


def test_a_closed_stream_takes_what_is_printed_and_no_file_its_number(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom study.cli.command import run_command\nfrom study.cli.terminal import print_line\n"
        "def work():\n    with open(sys.argv[1], 'w') as file:\n        print_line('lost')\n"
        "        print('lost as well')\n        file.write(str(file.fileno()))\n    return 0\n"
        "sys.exit(run_command(work))"
    )
    path = tmp_path / "file"
    command = [sys.executable, "-c", script, str(path)]
    shell = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        timeout=60,
    )
    assert shell.returncode == 0
    assert int(path.read_text(encoding="utf-8")) > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_output_that_cannot_be_written_is_told_and_refused() -> None:
    words = [sys.executable, "-m", "study.attacks", "--list"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            words,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
        )
    assert ended.returncode == EXIT_BAD_INPUT
    (line,) = [line for line in ended.stderr.splitlines() if not line.endswith(" ...")]  # on a slow machine
    assert line.startswith("error: standard output takes nothing more (No space left on device)")


def test_json_is_no_traceback_where_its_reader_left() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from study.cli.command import run_command; from study.cli.terminal import print_raw; "
    code += "sys.exit(run_command(lambda: print_raw('{}') or 0))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
