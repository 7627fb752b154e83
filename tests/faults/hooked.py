"""The real command with one fault built in: `python -m faults.hooked HOOK OPTIONS…`."""

import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def kill_before_tell(nth: str) -> None:
    """Dies when the nth result is on disk and the ledger has not been told."""
    from study.driver.driver import StudyDriver

    StudyDriver.finish_trial = _instead(StudyDriver.finish_trial, int(nth), die)  # type: ignore[method-assign]


def kill_before_fail(nth: str) -> None:
    """Dies in the sweep, when the nth interrupted point is queued again and its trial has not failed yet."""
    from study.ledger.ledger import Ledger
    from study.ledger.snapshot import LOST

    def lost(_ledger: Ledger, _number: int, reason: str) -> bool:
        return reason == LOST

    Ledger._fail = _instead(Ledger._fail, int(nth), die, lost)  # type: ignore[method-assign]


def break_settle(nth: str) -> None:
    """The driver's bookkeeping fails at the nth result, before the ledger is told."""
    from study.driver.driver import StudyDriver

    def fail() -> None:
        raise OSError(28, "No space left on device")

    StudyDriver.finish_trial = _instead(StudyDriver.finish_trial, int(nth), fail)  # type: ignore[method-assign]


def only_sweep(_: str) -> None:
    """Opens the study, which sweeps what an earlier driver left, and runs nothing."""
    from study.driver.driver import StudyDriver

    StudyDriver.run = lambda _: os._exit(0)  # type: ignore[method-assign]


def runner(name: str) -> None:
    """Workers run this class of `faults.runners`."""
    from faults import runners
    from study.driver import driver, tune_runner

    driver.run_trials = functools.partial(tune_runner.run_trials, runner=getattr(runners, name))


def two_cores(_: str) -> None:
    """Ray counts two cores, however many there are."""
    import ray

    ray.init = functools.partial(ray.init, num_cpus=2)


def die() -> None:
    """As a kill from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def _instead(
    function: Callable[..., Any], nth: int, fault: Callable[[], None], counts: Callable[..., bool] = lambda *_: True
) -> Any:
    """A method before which something happens, the nth time that it counts."""
    calls = itertools.count(1)

    def instead(*arguments: Any) -> Any:
        if counts(*arguments) and next(calls) == nth:
            fault()
        return function(*arguments)

    return instead


if __name__ == "__main__":
    hook, _, argument = sys.argv[1].partition("=")
    globals()[hook.replace("-", "_")](argument)

    from study.run import main

    sys.exit(main(sys.argv[2:]))
