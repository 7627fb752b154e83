"""Completion of `backdoor-study`, asked for as a shell's function asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import PYTHONPATH, ROOT
from study_folder import copy_study

from study.__main__ import COMMANDS

pytest.importorskip("argcomplete")

PATHS = os.pathsep.join(filter(None, (PYTHONPATH, os.environ.get("PYTHONPATH"))))
ASK = """
import sys
from study.__main__ import main
code = main()
sys.exit(code)
"""
QUICK = """
import os, sys
def leave(code, end=os._exit):
    end(9 if {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'sklearn'} & set(sys.modules) else code)
os._exit = leave
"""


def complete(line: str, folder: Path) -> list[str]:
    """What the line may go on with."""
    answer = folder / "answer"
    answer.unlink(missing_ok=True)
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\v",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(
        [sys.executable, "-c", QUICK + ASK],
        env={**os.environ, "PYTHONPATH": PATHS, **asked},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 9, "something heavy was loaded"
    assert (done.stdout, done.stderr) == ("", "")
    words = answer.read_text() if answer.exists() else ""
    return [word.strip() for word in words.split("\v") if word.strip()]


@pytest.mark.parametrize(
    ("line", "known", "unknown"),
    [
        ("", set(COMMANDS), {"--space"}),
        ("run --pr", {"--preset", "--precision", "--pruner"}, {"--json", "--space"}),
        ("run --dataset ", {"digits", "cifar10", "npz:", "folder:"}, set()),
        ("evaluate --attack tro", {"trojan_square", "trojan_inversion"}, {"badnets"}),
        ("run --space qt --set ", {"pre_quarantine_ratio="}, {"beta="}),
        ("compare --rule ", {"default", "best"}, set()),
    ],
)
def test_words_are_completed(line: str, known: set[str], unknown: set[str], tmp_path: Path) -> None:
    words = set(complete(f"backdoor-study {line}", tmp_path))
    assert known <= words
    assert not unknown & words


def test_studies_are_completed_by_name(tmp_path: Path) -> None:
    for name in ("mine", "minor", "other"):
        copy_study(tmp_path / "runs", name)
    assert complete(f"backdoor-study status --out {tmp_path / 'runs'} mi", tmp_path) == ["mine", "minor"]
    assert "latest" in complete(f"backdoor-study report --out {tmp_path / 'runs'} ", tmp_path)


def test_without_argcomplete_no_command_is_run(tmp_path: Path) -> None:
    script = "import sys\nsys.modules['argcomplete'] = None\n" + ASK
    done = subprocess.run(
        [sys.executable, "-c", script, "attacks", "--list"],
        env={**os.environ, "PYTHONPATH": PATHS, "_ARGCOMPLETE": "1", "COMP_LINE": "", "COMP_POINT": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
