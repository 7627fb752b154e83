"""Lines of results: one a measurement, each with the day, the machine and the versions that gave it."""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from defenses.numerics import describe_machine
from study.code_version import code_version


def append(path: Path, kind: str, values: dict[str, Any]) -> None:
    """Adds a line. Several processes may do so at once: a line is one write to the file's end.

    It begins on a line of its own also where a session that was cut off left the beginning of one.
    """
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    line = {"date": stamp, "kind": kind, **values, "machine": describe_machine(), **versions, "code": code_version()}
    begun = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, ("\n" * begun + json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a session that was cut off may have left the beginning of one."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def done(path: Path, kind: str) -> set[str]:
    """What need not be measured again, by name: all of a kind that gave something."""
    return {line["name"] for line in read(path) if line["kind"] == kind and "unfinished" not in line}
