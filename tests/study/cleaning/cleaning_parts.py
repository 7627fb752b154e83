"""Votes made up by hand: 400 images of four classes, of which 30 of class 2 stand out."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.cleaning.canaries import Canaries, Planted
from study.cleaning.page import CleaningPage
from study.cleaning.pictures import Sheets
from study.cleaning.verdict import decide
from study.cleaning.votes import Vote, Votes

CLASSES = ("go", "left", "stop", "yield")
LABELS = np.repeat(np.arange(4), 100).astype(np.int64)
POISON = np.arange(200, 230)


def vote(rows: NDArray[np.int64], seed: int = 0, defense: str = "pipd", gap: float = 3.0) -> Vote:
    """One that flags these rows, whose scores lie this far above all others."""
    rng = np.random.default_rng(seed)
    flagged = np.isin(np.arange(len(LABELS)), rows)
    return Vote(defense, seed, flagged, rng.normal(0, 1, len(LABELS)).clip(-2, 2) + flagged * (4 + gap))


def votes(*rows: NDArray[np.int64], agreement: float = 0.5) -> Votes:
    return Votes(tuple(vote(part, seed) for seed, part in enumerate(rows)), LABELS, agreement)


def ids() -> tuple[str, ...]:
    return tuple(f"{CLASSES[label]}/{number:03}.png" for number, label in enumerate(LABELS))


def images(size: int = 16) -> NDArray[np.uint8]:
    """Noise with a bright patch where there is poison."""
    drawn = np.random.default_rng(0).integers(0, 200, (len(LABELS), size, size, 3)).astype(np.uint8)
    drawn[POISON, -4:, -4:] = 255
    return drawn


def planted(attack: str = "badnets", rate: float = 0.01, hits: int = 9, asr: float = 1.0, **changes: Any) -> Planted:
    values: dict[str, Any] = {
        "seed": 0,
        "target": "2 (stop)",
        "took": asr >= 0.9,
        "planted": 10,
        "alarms": 2,
        "others": 200,
    }
    return Planted(attack, rate, asr=asr, hits=hits, **{**values, **changes})


def canaries() -> Canaries:
    return Canaries((planted(), planted("blended_random", hits=4), planted("wanet", asr=0.3)), 0.05)


def told(ballot: Votes, planted_too: bool = True, **changes: Any) -> CleaningPage:
    values: dict[str, Any] = {
        "name": "signs",
        "classes": CLASSES,
        "votes": ballot,
        "verdict": decide(ballot, CLASSES),
        "sheets": Sheets(images(), ballot, CLASSES),
        "canaries": canaries() if planted_too else None,
        "without_canaries": "" if planted_too else "None were planted.",
        "done": (("data", "image folder"),),
        "notes": ("3 images had an alpha channel.",),
        "left_out": (("stop/empty.png", "it is empty"),),
        "command": "python -m study.clean signs --out DIR",
    }
    return CleaningPage(**{**values, **changes})


def written(folder: Path, text: str) -> Path:
    path = folder / "decisions.csv"
    path.write_text(text, encoding="utf-8")
    return path
