"""What a session runs: configurations of defenses on poisoned data, a stage at a time, the open questions first."""

import json
from dataclasses import dataclass, field
from typing import Any

from defenses import DEFENSES

SHARED_TRAINING = ("ac", "ss", "scale_up", "flare")
"""Defenses whose first stage is the undefended training: with its settings they take its model from the store."""


@dataclass(frozen=True)
class Cell:
    """One configuration on one scenario; fields that are not set have the paper's values.

    Attributes:
        question: what it is run to find out.
    """

    question: str
    defense: str
    attack: str
    rate: float
    seed: int = 0
    until: str | None = "isolate"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Tells it from all others, in every session."""
        return f"{self.defense} {self.attack}-{self.rate:g}-s{self.seed} {self.until or 'all'} " + json.dumps(
            self.settings, sort_keys=True
        )

    @property
    def stages(self) -> list[str]:
        """Its stages in order; with `name` each tells a line of the results."""
        return [stage.name for stage in DEFENSES[self.defense].stages_until(self.until)]


def pipd(question: str, attack: str, seed: int, epochs: int, **settings: Any) -> Cell:
    """PIPD's isolation at poison rate 0.05 after so many epochs of pre-isolation."""
    return Cell(question, "pipd", attack, 0.05, seed, settings={"pre_isolation_epochs": epochs, **settings})


def cells(undefended_epochs: int) -> list[Cell]:
    """In the order in which they are worth the time. Each question's first seed comes before any second seed."""
    training = {"epochs": undefended_epochs}
    attacks = (("badnets", 0.05), ("blended_random", 0.05), ("badnets", 0.1), ("blended_random", 0.1))
    chaos = "is it the length of pre-isolation or luck?"
    by_seed = [
        [
            pipd(chaos, "blended_random", seed, 12),
            pipd(chaos, "blended_random", seed, 30),
            Cell("which class is quarantined?", "qt", "blended_random", 0.1, seed),
            pipd("does LGA by sample release all poison?", "blended_random", seed, 12, granularity="sample"),
            pipd("does the mean lose the patch?", "badnets", seed, 12, channel_statistic="mean"),
            pipd(chaos, "badnets", seed, 30),
        ]
        for seed in range(3)
    ]
    undefended = [
        Cell("does the attack work?", "no_defense", attack, rate, until=None, settings=training)
        for attack, rate in attacks
    ]
    detectors = [
        Cell("do detectors find it?", defense, attack, rate, settings=training)
        for defense in SHARED_TRAINING
        for attack, rate in attacks[:2]
    ]
    return [*by_seed[0], *undefended, *by_seed[1], *detectors, *by_seed[2]]


def rehearsal() -> list[Cell]:
    """Of every kind one, in seconds on a CPU."""
    short = {"epochs": 1, "batch_size": 64}
    isolation = {"batch_size": 64, "taps": "blocks"}
    pre = {"pre_epochs": 1, "quarantine_epochs": 2, "dynamic_epochs": 1, "release_epochs": [], "batch_size": 64}
    return [
        pipd("rehearsal", "badnets", 0, 1, **isolation),
        Cell("rehearsal", "qt", "badnets", 0.1, settings=pre),
        Cell("rehearsal", "no_defense", "badnets", 0.05, until=None, settings=short),
        Cell("rehearsal", "ac", "badnets", 0.05, settings=short),
    ]
