"""What an attack may use while it is fitted, and where the parts that must be trained are kept."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from defenses.api import Outputs, Progress, StageRun, silent
from defenses.numerics import numerics
from defenses.seeds import SeedPart, derive_seed, generator
from defenses.storage.atomic_files import canonical
from defenses.storage.checkpoint import Checkpoint
from defenses.storage.store import Store
from study.datasets.images import Images


@dataclass(frozen=True)
class FitContext:
    """Where an attack is fitted.

    Attributes:
        seed: of the scenario.
        target_label: the attacker's class; most triggers do not depend on it.
        device: of the networks.
        store: keeps trained parts; None trains them anew.
        progress: told after every epoch of a part.
        runs: the parts that took part so far, with what they cost.
        checkpoint: keeps the epochs of the part that is being built.
    """

    seed: int
    target_label: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None
    progress: Progress = silent
    runs: list[StageRun] = field(default_factory=list)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    def part(
        self,
        stage: str,
        images: Images,
        depends_on: Mapping[str, Any],
        build: Callable[["FitContext"], Outputs],
        version: int = 1,
    ) -> Outputs:
        """A trained part of an attack, built once a dataset, seed, options and machine, whatever the poison rate.

        Args:
            stage: its name; attacks that name the same one with the same options share it.
            images: the clean data; their fingerprint is part of the key.
            depends_on: options that change the result, as JSON can hold them.
            build: gives outputs by name (arrays, or weights by parameter name); its context is this one, with the
                part's own checkpoint.
            version: raise it when the same inputs would give other numbers.
        """
        identity = {
            "stage": stage,
            "version": version,
            "options": dict(depends_on),
            "seed": self.seed,
            "dataset": images.fingerprint,
            "numerics": numerics(self.device),
        }
        key = hashlib.sha256(canonical(identity).encode()).hexdigest()
        started = time.perf_counter()
        if self.store is None:
            outputs = build(self)
            seconds = time.perf_counter() - started
            self.runs.append(StageRun(stage, key, False, seconds, seconds))
            return outputs
        store = self.store

        def build_on() -> Outputs:
            return build(dataclasses.replace(self, checkpoint=store.checkpoint(stage, key)))

        artifact, hit = store.get_or_build(stage, key, build_on, identity)
        seconds = time.perf_counter() - started
        self.runs.append(StageRun(stage, key, hit, seconds, artifact.built_seconds))
        return {name: artifact.load(name) for name in artifact.files}

    def generator(self, *role: SeedPart) -> torch.Generator:
        """A torch generator on the device; the same for the same seed and role."""
        return generator(self.device, self.seed, *role)

    def torch_seed(self, *role: SeedPart) -> int:
        """A seed for initialising a network: use within `torch.random.fork_rng`."""
        return derive_seed(self.seed, *role)
