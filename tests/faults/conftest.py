"""F24: whatever a test in this folder injects, nothing that it started is left."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from study_process import STARTED, make_workplace

from faults.leftovers import MARK, owned

Measured = Callable[[str, object], None]
"""The fixture `record_property`: what a test measured, by the number of its fault."""

_PATIENCE = 75.0
"""Seconds. When a driver is killed, workers go at once; Ray's agents first wait 60 s for a server that is gone."""


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """F24: no process that the test started is there when it is over; what is left is killed, and the test fails."""
    word = uuid.uuid4().hex
    monkeypatch.setenv(MARK, word)
    STARTED.clear()
    yield
    deadline = time.monotonic() + _PATIENCE
    while (left := owned(word, STARTED)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"{_PATIENCE:g} s after the test these were still running: {left}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset that trains in an instant; the studies of a file share a store."""
    return make_workplace(tmp_path_factory.mktemp("workplace"), train=64, test=16)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what the tests measured."""
    reports = [report for group in ("passed", "failed") for report in terminalreporter.getreports(group)]
    for name, value in sorted(found for report in reports if report.when == "call" for found in report.user_properties):
        terminalreporter.write_line(f"measured {name}: {value}")
