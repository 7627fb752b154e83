"""A full disk in the middle of Ray Tune, which would take it for a trial's own failure and try the trial again."""

from collections.abc import Callable
from typing import Any

from defenses.files import DiskFull


class DiskGuard:
    """Keeps what was told of a full disk until Ray Tune has come to its end.

    Attributes:
        told: the error's line; empty as long as there is room.
    """

    def __init__(self) -> None:
        self.told = ""

    def guard(self, call: Callable[..., None]) -> Callable[..., None]:
        """The call, which no longer raises `DiskFull`."""

        def guarded(*arguments: Any) -> None:
            try:
                call(*arguments)
            except DiskFull as error:
                self.told = str(error)

        return guarded

    def check(self) -> None:
        """Raises what was kept."""
        if self.told:
            raise DiskFull(self.told)
