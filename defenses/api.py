"""The contract between a defense and everything around it: what it sees, what it declares, what it returns."""

import hashlib
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses.class_features import round_by_round
from defenses.config import Config
from defenses.models import ModelSpec
from defenses.seeds import SeedPart, derive_seed, generator
from defenses.storage.checkpoint import Checkpoint

Weights = dict[str, Tensor]
Outputs = dict[str, Any]
"""What a stage gives, by name: numpy arrays, `Weights`, or anything JSON can hold."""


def fingerprint(images: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int) -> str:
    """sha256 over images, labels, their shapes and the number of classes.

    Args:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
    """
    digest = hashlib.sha256(json.dumps([images.shape, num_classes]).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class SuspectDataset:
    """All that a defense ever sees: images and labels as they were received.

    Attributes:
        images: uint8 [N, H, W, 3]; may be a memory map larger than the memory, and is never written to.
        labels: int64 [N], in [0, num_classes); some may be the attacker's.
        num_classes: K.
        fingerprint: sha256 of all of the above; see `fingerprint`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    num_classes: int
    fingerprint: str

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int) -> Self:
        """The dataset of images uint8 [N, H, W, 3] and labels int64 [N], with its fingerprint computed."""
        return cls(images, labels, num_classes, fingerprint(images, labels, num_classes))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class CleanReserve:
    """Clean images with their true labels, for the methods that need some beside what they defend.

    Attributes:
        images: uint8 [M, H, W, 3].
        labels: int64 [M], in [0, num_classes), ordered so that every beginning of the reserve has as many images of
            each class as there are, give or take one.
        num_classes: K.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    num_classes: int

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int) -> Self:
        """The reserve of images uint8 [M, H, W, 3] and labels int64 [M] in any order: the first of each class first."""
        order = round_by_round(labels)
        if np.array_equal(order, np.arange(len(order))):  # a copy of a memory map would lie in memory
            return cls(images, labels, num_classes)
        return cls(images[order], labels[order], num_classes)

    def first(self, count: int) -> Self:
        """Its first `count` images; of reserves of the same data a smaller one is the beginning of a larger one."""
        return type(self)(self.images[:count], self.labels[:count], self.num_classes)

    @property
    def fingerprint(self) -> str:
        """sha256 of all of it; see `fingerprint`."""
        return fingerprint(self.images, self.labels, self.num_classes)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class StageRun:
    """How one stage of a run came to be: read from the store or built, and what it cost.

    Attributes:
        built_seconds: what building it took whenever that was; the method's honest cost.
        wall_seconds: what this run spent on it, waiting and loading included.
        epoch_equivalents: what it declares to cost (`Stage.cost`); None where nobody said, as in older records.
        of_defense: it is a part of the defense; False for what only the attack or the judge needs, None where nobody
            said.
        step: how its training steps were taken (``eager``, ``captured`` or ``compiled``); None where none was.
        training: names the training of which this is the state after an epoch: `built_seconds` is then all that it took
            up to there. Empty for everything else.
        spent_epochs: of the epoch-equivalents those that this run computed: none of what was read from the store, and
            of a training that is read early those after the state that it went on from; None where nobody said.
    """

    stage: str
    key: str
    hit: bool
    wall_seconds: float
    built_seconds: float
    epoch_equivalents: float | None = None
    of_defense: bool | None = None
    step: str | None = None
    training: str = ""
    spent_epochs: float | None = None


@dataclass(frozen=True)
class Snapshots:
    """A model's weights before a stage's first epoch and after each.

    Attributes:
        stage: the stage that kept them.
        digest: of their content.
        load: reads all of them, which is as much memory as the model once for each epoch.
        model: the network that they fit.
    """

    stage: str
    digest: str
    load: Callable[[], list[Weights]]
    model: ModelSpec


@dataclass(frozen=True)
class DefenseResult:
    """What a defense gives back. Checked on construction.

    Attributes:
        scores: float64 [N], finite, higher = more suspicious; None when the defense does not score.
        flagged: bool [N]; None when the defense does not flag.
        model: the model it would deploy, taking uint8 images; None when the run stopped before.
        sample_losses: float [N], of a model trained on all samples; None when the defense has no such model.
        train_loss: per epoch of the final model; empty when the run stopped before.
        stages: every stage that took part.
        series: per-epoch or per-round values, by ``stage.name``.
        flagged_series: bool [steps, N] by ``stage.name``: the flags as they developed.
        snapshots: the model as it developed; None where nobody asked for them.
    """

    scores: NDArray[np.float64] | None
    flagged: NDArray[np.bool_] | None
    model: nn.Module | None
    sample_losses: NDArray[np.floating] | None = None
    train_loss: Sequence[float] = ()
    stages: tuple[StageRun, ...] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    flagged_series: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    snapshots: Snapshots | None = None

    def __post_init__(self) -> None:
        if self.scores is not None and not np.isfinite(self.scores).all():
            bad = int((~np.isfinite(self.scores)).sum())
            raise ValueError(f"scores must be finite, but {bad} of {len(self.scores)} are not")
        if self.flagged is not None and self.flagged.dtype != np.bool_:
            raise ValueError(f"flags are a mask of bools, got {self.flagged.dtype}")
        if self.scores is not None and self.flagged is not None and self.scores.shape != self.flagged.shape:
            raise ValueError(f"scores {self.scores.shape} and flags {self.flagged.shape} must have one shape")


class Progress(Protocol):
    """Told after every epoch or round of a stage."""

    def __call__(self, stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Step `step` of `steps` is done, and gave these values."""


def silent(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True)
class StageContext:
    """What a stage may use besides its inputs and the config fields that it reads.

    Attributes:
        checkpoint: keeps its epochs; a stage that loops on its own loops over `Checkpoint.epochs`.
        clean: as many clean images as its `Stage.clean_images` says; None for a stage that needs none.
        step: how training steps are taken, one of `STEP_MODES` of `defenses.training.captured_step`.
        how: filled by the stage: how it was computed where that is no part of its key, such as its steps.
    """

    stage: str
    dataset: SuspectDataset
    model: ModelSpec
    device: torch.device
    precision: str
    seed: int
    progress: Progress
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    clean: CleanReserve | None = None
    step: str = "auto"
    how: dict[str, str] = field(default_factory=dict)

    def generator(self, *role: SeedPart) -> torch.Generator:
        """A generator on the stage's device; the same for the same base seed, stage and role."""
        return generator(self.device, self.seed, self.stage, *role)

    def derive(self, *role: SeedPart) -> int:
        """An integer seed for libraries that take one, in [0, 2**32)."""
        return derive_seed(self.seed, self.stage, *role) % 2**32


@dataclass(frozen=True)
class Trajectory:
    """The fields by which a stage's training is read before its end: each epoch of one training is a result.

    Attributes:
        epochs: how long the training is, which its schedule is over; of several fields that say so the last phase's.
        read: the epoch after which it is read, at most that; None for the end.
        schedule: its learning rate; where that has no end, a training that is read early is a shorter one.
        counted: fields -> how many epochs are run, where that is not what `epochs` says: a training of several phases,
            or one of which a budget runs a part. Its states are then those of one such training alone.
    """

    epochs: str
    read: str
    schedule: str
    counted: Callable[[Any], int] | None = None

    def length(self, fields: Any) -> int:
        """How many epochs a training has, which is the last that can be read.

        Args:
            fields: a config, or those fields of it that the stage reads.
        """
        return int(getattr(fields, self.epochs) if self.counted is None else self.counted(fields))


Params = types.SimpleNamespace
"""The config fields that a stage reads, and no others: touching another one is an AttributeError."""


@dataclass(frozen=True)
class Stage:
    """One step of a defense, cached by what it depends on and by nothing else.

    Attributes:
        name: part of the key; the defense's name is not, so defenses share stages.
        run: the work: (context, inputs by local name, params) -> outputs by name.
        reads: the config fields it is handed.
        inputs: local name -> ``"stage.output"``; their content digests are part of the key.
        outputs: the names that `run` must give.
        version: raise it when the same inputs would give other numbers.
        cached: False for a stage that is cheaper to run than to store.
        clean_images: the config field, one of `reads`, that says how many images of the clean reserve it is handed.
            Their content is part of the key; at 0 it is handed none.
        cost: (params, N) -> epoch-equivalents, the passes forward and backward over the N samples that it makes, of
            which a forward pass alone is a third; None for a stage that runs no network. Beside the fields that the
            stage reads, `params` has ``share_flagged``: of its input ``flagged``, 0 where it has no such input.
        trajectory: for a stage whose training may be read before its end: `run` then sees fewer epochs of
            `StageContext.checkpoint`, and trainings to several epochs share what they can (`defenses.trajectories`).
    """

    name: str
    run: Callable[[StageContext, Outputs, Params], Outputs]
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    cached: bool = True
    clean_images: str | None = None
    cost: Callable[[Params, int], float] | None = None
    trajectory: Trajectory | None = None

    @property
    def parents(self) -> set[str]:
        """Names of the stages it takes inputs from."""
        return {source.partition(".")[0] for source in self.inputs.values()}


def stage_params(stage: Stage, config: Config) -> dict[str, Any]:
    """The config fields that a stage reads."""
    return {name: getattr(config, name) for name in stage.reads}


class Defense:
    """One defense: a Config, stages in order, and where in their outputs the result lies.

    Subclasses set the class attributes; everything else (running, caching, planning) follows from them.

    Attributes:
        scores, flagged, weights, losses: ``"stage.output"`` of the result's parts, or None.
        snapshots: ``"stage.output"`` of weights by ``"epoch.name"``, empty where they are not wanted, or None.
        heads: outputs of the final model per class; 2 for Quarantine Training.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[Config]] = Config
    stages: ClassVar[tuple[Stage, ...]]
    scores: ClassVar[str | None] = None
    flagged: ClassVar[str | None] = None
    weights: ClassVar[str | None] = None
    losses: ClassVar[str | None] = None
    snapshots: ClassVar[str | None] = None
    heads: ClassVar[int] = 1

    def __init__(self, config: Config | None = None) -> None:
        self.config = self.config_type() if config is None else config
        if not isinstance(self.config, self.config_type):
            raise TypeError(f"{self.name} takes a {self.config_type.__name__}, got {type(self.config).__name__}")

    @classmethod
    def outputs(cls, num_classes: int) -> int:
        """Outputs of the final model for so many classes."""
        return cls.heads * num_classes

    @classmethod
    def stages_until(cls, until: str | None) -> tuple[Stage, ...]:
        """All stages, or, for ``"isolate"``, those up to the one that flags."""
        if until is None or cls.flagged is None:
            return cls.stages
        last = cls.flagged.partition(".")[0]
        index = [stage.name for stage in cls.stages].index(last)
        return cls.stages[: index + 1]
