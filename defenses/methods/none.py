"""NONE: non-linearity of backdoor neurons (Wang et al., NeurIPS 2022).

A channel that a backdoor uses fires, for images of the target class, far outside the range that it has for images that
are surely not of that class. In each tap the channel that does so most is a detector; samples that fire the detectors
are flagged. The channels that do so most are reset, and the model is fine-tuned on the samples that were not flagged.

Public code consulted: RU-System-Software-and-Security/NONE. Its first step is the undefended model, which is
`standard_training` here and shared with every defense that starts from it. Where we differ:

- Each tap resets its own channels. In four blocks of the last stage the code does not clear its list of indices, and
  resets there whatever earlier layers had on it as well.
- Flags lie strictly above the break; theirs include the largest value of the lower class.
- Any residual network (also pre-activation), any number of classes; theirs are fixed. Classes are handled in one pass
  over the activations, which the code loops over once a channel and class.
- Weight decay is a field that acts; its option does not.
- Rounds after the first (the code's remedy for natural backdoors) go through the samples that were not flagged before,
  or the backdoor would be learned anew. Scores and flags are those of the first round, of the undefended model: later
  ones come from a model that the backdoor's channels are gone from.

Known failure: the break always splits, so a clean set loses samples too: up to half of them where scores have one mode.
`minimum_gap` flags nothing where the scores leave too little empty space at the break; it is off by default.
Whole-image triggers can be invisible to the spatial maximum, as they are to PIPD; see `channel_statistic`.

Stages: `standard_training`, `channel_activations` (PIPD's, on the undefended model), `predictions`, `none_isolation`
(not cached: seconds), `none_cleaning`.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.config import param
from defenses.cost import FORWARD
from defenses.cuts import CLUSTERINGS
from defenses.cuts.variance import explained_variance
from defenses.methods.no_defense import NoDefenseConfig
from defenses.methods.pipd.isolation import RunningMoments, break_gap, choose_channels
from defenses.models import load_model
from defenses.models.channel_reset import reset_channels
from defenses.models.taps import CHANNEL_STATISTICS, tap_names
from defenses.registry import UserError
from defenses.shared_stages import CHANNEL_ACTIVATIONS, PREDICTIONS, STANDARD_TRAINING, cpu_weights, read_channels
from defenses.training.images import device_images
from defenses.training.inference import predict_logits
from defenses.training.loop import Recipe
from defenses.training.schedule import SCHEDULES
from defenses.training.unlearning import finetune

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class NONEConfig(NoDefenseConfig):
    """The fields of the undefended model, and NONE's hyperparameters with the defaults of the authors' README."""

    taps: str = param(
        "convolutions", "which channels are read and reset (code)", choices=("convolutions", "all_convolutions")
    )
    channel_statistic: str = param("max", "how a map becomes a number (code)", choices=tuple(CHANNEL_STATISTICS))
    weak_probability: float = param(0.1, "below it an image is surely not of a class", low=1e-6, high=1.0, symbol="λ_l")
    strong_probability: float = param(0.9, "above it an image is surely of a class", low=1e-6, high=1.0, symbol="λ_h")
    beta: float = param(3.0, "standard deviations above the mean of those not of the class (code)", low=0.0)
    detector_channels: float | int = param(
        1, "channels of a tap that score: a count, or a share in (0, 1]", low=1e-6, share_or_count=True
    )
    reset_channels: float | int = param(
        0.03,
        "channels of a tap that are reset: a share in (0, 1], or a count",
        low=1e-6,
        symbol="ρ",  # noqa: RUF001
        share_or_count=True,
    )
    minimum_gap: float = param(
        0.0, "flags nothing where the empty space at the break is smaller, in standard deviations; 0 for off", low=0.0
    )
    rounds: int = param(1, "rounds of detection, reset and fine-tuning (10 for natural backdoors)", low=1)
    finetuning_epochs: int = param(20, "epochs on the samples not flagged, a round; 0 for none", low=0, symbol="E_2")
    finetuning_lr: float = param(1e-4, "their peak learning rate", low=1e-7, high=10.0)
    finetuning_schedule: str = param("constant", "their learning rate over the epochs (not given)", choices=SCHEDULES)
    finetuning_augment: bool = param(True, "flip and crop")
    finetuning_weight_decay: float = param(1e-4, "their weight decay (the code's of its first step)", low=0.0, high=1.0)


@dataclass(frozen=True)
class Detection:
    """How channels and samples are picked; see `NONEConfig`."""

    weak_probability: float
    strong_probability: float
    beta: float
    detector_channels: float | int
    minimum_gap: float

    @classmethod
    def of(cls, params: Params) -> "Detection":
        """As the fields of a `NONEConfig` have it."""
        return cls(
            params.weak_probability,
            params.strong_probability,
            params.beta,
            params.detector_channels,
            params.minimum_gap,
        )


def weak_moments(activations: NDArray[np.float32], weak: Mask) -> list[RunningMoments]:
    """Mean and standard deviation of each channel over the samples that are surely not of a class, for each class.

    Most samples are such for the same classes, all but their own. Each row is read once, with those that it shares its
    classes with, and the moments of these groups are merged for each class.

    Args:
        activations: float32 [N, channels].
        weak: bool [N, K].
    """
    patterns, group = np.unique(weak, axis=0, return_inverse=True)
    classes = [RunningMoments(activations.shape[1]) for _ in range(weak.shape[1])]
    for number, pattern in enumerate(patterns):
        members = RunningMoments(activations.shape[1])
        members.add(activations, np.flatnonzero(group.reshape(-1) == number))
        for label in np.flatnonzero(pattern):
            classes[label].merge(members)
    return classes


def discrepancies(
    activations: NDArray[np.float32], probabilities: Scores, how: Detection
) -> tuple[Scores, NDArray[np.int64]]:
    """By how much each channel fires beyond its range, for the class that it does so most for.

    Args:
        activations: float32 [N, channels].
        probabilities: float64 [N, K], the model's.

    Returns:
        float64 [channels], and the classes that were compared, int64: those with samples on both sides.

    Raises:
        UserError: there is no such class.
    """
    strong, weak = probabilities > how.strong_probability, probabilities < how.weak_probability
    compared = np.flatnonzero(strong.any(axis=0) & weak.any(axis=0))
    if len(compared) == 0:
        raise UserError(
            f"NONE needs a class that some samples surely are of (probability above {how.strong_probability:g}) and "
            f"others surely not (below {how.weak_probability:g}), and none of {probabilities.shape[1]} is one (highest "
            f"probability {probabilities.max():.3g} of {len(probabilities)} samples): train for longer, or lower "
            "strong_probability",
            about="field strong_probability",
        )
    moments = weak_moments(activations, weak[:, compared])
    largest = np.full(activations.shape[1], -np.inf)
    for label, own in zip(compared, moments, strict=True):
        peak = activations[np.flatnonzero(strong[:, label])].max(axis=0).astype(np.float64)
        np.maximum(largest, peak - (own.mean + how.beta * own.std), out=largest)
    return largest, compared


@dataclass(frozen=True)
class Detected:
    """What a round finds.

    Attributes:
        scores: float64 [N], the sum of the detectors.
        flagged: bool [N].
        discrepancy: float64 [channels]; see `discrepancies`.
        values: per round, for curves.
    """

    scores: Scores
    flagged: Mask
    discrepancy: Scores
    values: Mapping[str, float]


def detect(
    activations: NDArray[np.float32], tap_sizes: list[int], logits: NDArray[np.float32], how: Detection
) -> Detected:
    """Picks channels and samples.

    Args:
        activations: float32 [N, channels].
        tap_sizes: channels of each tap; they sum to ``channels``.
        logits: float32 [N, K].

    Raises:
        UserError: no class is predicted strongly; see `discrepancies`.
    """
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    discrepancy, compared = discrepancies(activations, probabilities, how)
    detectors = choose_channels(discrepancy, tap_sizes, how.detector_channels)
    scores = activations[:, detectors].sum(axis=1, dtype=np.float64)
    flagged = CLUSTERINGS["fisher_jenks"](scores, 0)
    gap = break_gap(scores, flagged)
    if gap < how.minimum_gap:
        flagged = np.zeros_like(flagged)
    values = {
        "flagged_share": float(flagged.mean()),
        "explained_variance": explained_variance(scores, flagged),
        "break_gap": gap,
        "classes_compared": float(len(compared)),
    }
    return Detected(scores, flagged, discrepancy, values)


def _isolate(_context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    detected = detect(inputs["activations"], inputs["tap_sizes"], inputs["logits"], Detection.of(params))
    return {
        "scores": detected.scores,
        "flagged": detected.flagged,
        "discrepancy": detected.discrepancy,
        "series": {name: [value] for name, value in detected.values.items()},
    }


def _cleaning(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    images = device_images(context.dataset.images, context.device)
    # What later rounds need is read even where there are none: a field that is read is one that the stage's key holds.
    taps, statistic = params.taps, params.channel_statistic
    how, recipe = Detection.of(params), Recipe.of(params, "finetuning_")
    flagged, discrepancy = np.asarray(inputs["flagged"]), np.asarray(inputs["discrepancy"])
    series: dict[str, list[float]] = {"loss": [], "left_out_share": []}
    for number in range(1, params.rounds + 1):
        apart = context if number == 1 else replace(context, stage=f"{context.stage} round {number}")
        if number > 1:
            activations, tap_sizes = read_channels(context, model, taps, statistic)
            logits = predict_logits(model, images, context.precision).cpu().numpy()
            detected = detect(activations[~flagged], tap_sizes, logits[~flagged], how)
            flagged, discrepancy = flagged.copy(), detected.discrepancy
            flagged[~flagged] = detected.flagged
        _check_kept(flagged)
        reset = choose_channels(discrepancy, inputs["tap_sizes"], params.reset_channels)
        reset_channels(model, tap_names(model, taps), _by_tap(reset, inputs["tap_sizes"]))
        series["left_out_share"].append(float(flagged.mean()))
        series["loss"] += finetune(apart, model, flagged, recipe, params.finetuning_augment, frozen_statistics=True)
    return {"weights": cpu_weights(model), "series": {name: values for name, values in series.items() if values}}


def _check_kept(flagged: Mask) -> None:
    kept = int((~flagged).sum())
    if kept < 2:
        raise UserError(
            f"NONE must keep at least 2 samples to fine-tune on, but {int(flagged.sum())} of {len(flagged)} are "
            "flagged: take fewer rounds, or set minimum_gap",
            about="field rounds",
        )


def _by_tap(channels: NDArray[np.int64], tap_sizes: list[int]) -> list[list[int]]:
    """Positions over all taps, int64 [chosen], as positions in each tap."""
    starts = np.cumsum([0, *tap_sizes])
    return [
        (channels[(channels >= start) & (channels < end)] - start).tolist() for start, end in itertools.pairwise(starts)
    ]


def _cleaning_cost(params: Params, _n: int) -> float:
    """At most so much: what later rounds flag, they do not fine-tune on."""
    finetuned = params.finetuning_epochs * (1 - params.share_flagged)
    read_anew = 2 * FORWARD * (params.rounds - 1)
    return float(params.rounds * finetuned + read_anew)


_DETECTION = (
    "weak_probability",
    "strong_probability",
    "beta",
    "detector_channels",
    "minimum_gap",
)
UNDEFENDED_CHANNELS = replace(CHANNEL_ACTIVATIONS, inputs={"weights": "standard_training.weights"})
"""PIPD's stage on the undefended model."""
NONE_ISOLATION = Stage(
    name="none_isolation",
    run=_isolate,
    reads=_DETECTION,
    inputs={
        "activations": "channel_activations.activations",
        "tap_sizes": "channel_activations.tap_sizes",
        "logits": "predictions.logits",
    },
    outputs=("scores", "flagged", "discrepancy", "series"),
    cached=False,
)
NONE_CLEANING = Stage(
    name="none_cleaning",
    run=_cleaning,
    reads=(
        *_DETECTION,
        "reset_channels",
        "taps",
        "channel_statistic",
        "rounds",
        "finetuning_epochs",
        "finetuning_lr",
        "finetuning_schedule",
        "finetuning_augment",
        "finetuning_weight_decay",
        "batch_size",
        "momentum",
    ),
    inputs={
        "weights": "standard_training.weights",
        "tap_sizes": "channel_activations.tap_sizes",
        "flagged": "none_isolation.flagged",
        "discrepancy": "none_isolation.discrepancy",
    },
    outputs=("weights", "series"),
    cost=_cleaning_cost,
)


class NONE(Defense):
    """Non-linearity of backdoor neurons: detect, reset, fine-tune."""

    name = "none"
    config_type = NONEConfig
    stages = (STANDARD_TRAINING, UNDEFENDED_CHANNELS, PREDICTIONS, NONE_ISOLATION, NONE_CLEANING)
    scores = "none_isolation.scores"
    flagged = "none_isolation.flagged"
    weights = "none_cleaning.weights"
    losses = "predictions.sample_losses"
