"""Surroundings that commands are run in: variables that are changed or missing, and a folder to stand in."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkout import PYTHONPATH

DEAD = "http://127.0.0.1:9"
"""Nobody listens there."""
NO_UTF8 = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""ASCII for files and streams. Python would take UTF-8 under LC_ALL=C, but not under other locales without it."""


@dataclass(frozen=True)
class Place:
    """What a command finds around it.

    Attributes:
        changed: variables.
        without: variables that are not set.
        cwd: where it stands.
    """

    changed: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    cwd: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in self.without}
        return kept | {"PYTHONPATH": PYTHONPATH} | dict(self.changed)

    def and_(self, other: "Place") -> "Place":
        """Both at once."""
        return Place({**self.changed, **other.changed}, (*self.without, *other.without), other.cwd or self.cwd)


ASCII = Place(NO_UTF8)
ASCII_STREAMS = Place({"PYTHONIOENCODING": "ascii:strict"})
LATIN_1 = Place({"PYTHONIOENCODING": "latin-1"})
PLAIN_C = Place({"LC_ALL": "C", "LANG": "C"})
NO_HOME = Place(without=("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"))
READ_ONLY_CWD = Place(cwd=Path("/proc"))  # root may write to any other folder
PROXIES = Place({name: DEAD for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY")})
EMPTY_VARIABLES = Place({f"MLFLOW_{name}": "" for name in ("TRACKING_URI", "HTTP_REQUEST_TIMEOUT", "ARTIFACT_ROOT")})
ALL = ASCII.and_(NO_HOME).and_(READ_ONLY_CWD).and_(PROXIES).and_(EMPTY_VARIABLES)
