"""How long a study took by the clock: its shared stages, then its trials. Its ledger tells, and is left as it is."""

import datetime
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from study.ledger.snapshot import LOST, REASON, SHARED_SECONDS


@dataclass(frozen=True)
class Clock:
    """Seconds by the clock, over all starts of the study.

    Attributes:
        shared: that the stages took which all trials share; None in a study that is too old to tell.
        trials: in which at least one trial ran; None where the ledger does not tell.
    """

    shared: float | None = None
    trials: float | None = None


def read_clock(ledger: Path) -> Clock:
    """What a ledger tells of time; nothing where it cannot be read."""
    try:
        address = f"file:{quote(str(ledger.resolve()))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as database:
            known = dict(database.execute("select key, value_json from study_user_attributes").fetchall())
            rows = database.execute("select number, datetime_start, datetime_complete from trials").fetchall()
        lost = {number for number, *_ in rows if json.loads(known.get(f"{REASON}/{number}", '""')) == LOST}
        shared = known.get(SHARED_SECONDS)
        spans = [
            (_seconds(start), _seconds(end)) for number, start, end in rows if start and end and number not in lost
        ]
        return Clock(None if shared is None else float(json.loads(shared)), _covered(spans))
    except (sqlite3.Error, OSError, ValueError, TypeError):
        return Clock()


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _covered(spans: list[tuple[float, float]]) -> float | None:
    """How long at least one of the spans was open; None where there is none."""
    total, reached = 0.0, -1.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total if spans else None
