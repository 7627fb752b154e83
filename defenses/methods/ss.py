"""SS: spectral signatures (Tran, Li and Madry, NeurIPS 2018).

A poisoned minority shifts the mean of its label's penultimate features, along the direction in which they vary most.
The score of a sample is how far it lies from that mean along the top singular vector; of each label, the share with the
highest scores is removed, and a new model is trained on what is left.

Followed: the paper for the score, whose scale per label (the median) is ours; BackdoorBench for the share, 15 % of
every label. The published code (MadryLab/backdoor_data_poisoning) removes 15 % of the label that it knows to be the
target; backdoor-toolbox removes 1.5 times the number of poisoned samples from every label, at most half, and is given
that number. ``score=uncentered_mad`` scores as the published code of cognitive distillation does, which QT's Table 1
probably used: the mean is not taken off what is projected, and all labels are compared by the distance from the median
in median absolute deviations. ``layer=layer3`` looks at the stage before the last (or the only one), averaged over
positions; it is no source's default.

References that are wrong: the published code, BackdoorBench, BackdoorBox and cognitive distillation project features
that are not centred (``uncentered_mad`` does so too); BackdoorBox gives positions within a label as positions in the
data; BackdoorBench extracts features of randomly augmented images.

Known failures: poison that makes up half of its label or more, as at a rate of 10 % of ten classes: the mean then lies
between the two groups, and past that at the poison. Where nothing is poisoned, as many samples are removed.

Stages: `standard_training`, `penultimate_features`, `layer3_features` (empty unless asked for), `spectral_signatures`
(not cached: seconds), `retraining`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.class_features import centred, principal_directions, samples_by_label
from defenses.config import param
from defenses.cost import FORWARD
from defenses.methods.no_defense import NoDefenseConfig
from defenses.models import load_model
from defenses.shared_stages import PENULTIMATE_FEATURES, STANDARD_TRAINING, lowest_mask, read_channels, retraining

SCOPES = ("all", "top_label")
SCORES = ("centered", "uncentered_mad")
LAYERS = ("penultimate", "layer3")


@dataclass(frozen=True)
class SSConfig(NoDefenseConfig):
    """Fields of plain training, and those of spectral signatures."""

    budget: float = param(0.15, "share of a label that is removed (BackdoorBench)", low=0.0, high=0.5)
    scope: str = param(
        "all", "removed from every label, or from the one whose features vary most along one direction", choices=SCOPES
    )
    vectors: int = param(1, "singular vectors that a sample is projected on (paper)", low=1)
    score: str = param(
        "centered", "squared distance from the label's mean (paper), or the published code's", choices=SCORES
    )
    layer: str = param(
        "penultimate", "whose features: the last layer's input (paper), or the stage before the last", choices=LAYERS
    )


def _layer3_features(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    if params.layer != "layer3":
        return {"features": np.zeros((0, 0), dtype=np.float32)}
    model = load_model(context.model, inputs["weights"]).to(context.device)
    return {"features": read_channels(context, model, params.layer, "mean")[0]}


LAYER3_FEATURES = Stage(
    name="layer3_features",
    run=_layer3_features,
    reads=("layer",),
    inputs={"weights": "standard_training.weights"},
    outputs=("features",),
    cost=lambda params, _: FORWARD if params.layer == "layer3" else 0.0,
)
"""What the stage before the last gives, averaged over positions: float32 [N, C]; [0, 0] where nobody asks for it."""


def _spectral_signatures(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    from threadpoolctl import threadpool_limits

    features, labels = inputs["layer3" if params.layer == "layer3" else "features"], context.dataset.labels
    with threadpool_limits(1):  # libraries' own threads are as many as there are cores, and add up in any order
        scores, spread = spectral_scores(features, labels, params.vectors, params.score)
    suspects = [max(spread, key=lambda label: spread[label])] if params.scope == "top_label" else list(spread)
    flagged = np.zeros(len(labels), dtype=bool)
    for label, members in samples_by_label(labels):
        if label in suspects:
            flagged[members] = lowest_mask(-scores[members], round(params.budget * len(members)))
    return {"scores": scores, "flagged": flagged}


def spectral_scores(
    features: NDArray[np.float32], labels: NDArray[np.int64], vectors: int, score: str
) -> tuple[NDArray[np.float64], dict[int, float]]:
    """Each sample's spectral signature.

    Args:
        features: float32 [N, D].
        labels: int64 [N].
        vectors: singular vectors that are used; fewer where a label has a lower rank.
        score: ``centered`` is in units of the label's median, ``uncentered_mad`` of the deviation over all labels.

    Returns:
        float64 [N], and of each label that samples have the standard deviation along its top singular vector.
    """
    scores, spread = np.zeros(len(labels)), {}
    for label, members in samples_by_label(labels):
        rows = centred(features[members])
        directions, values = principal_directions(rows, vectors)
        spread[label] = float(values[0]) / len(members) ** 0.5 if len(values) else 0.0
        if score == "centered":
            squares = np.square(rows @ directions.T).sum(axis=1)
            scores[members] = squares / _positive(float(np.median(squares)))
        else:
            scores[members] = np.linalg.norm(features[members] @ directions.T, axis=1)
    if score == "uncentered_mad":
        scores = np.abs(scores - np.median(scores))
        scores /= _positive(float(np.median(scores)))
    return scores, spread


def _positive(scale: float) -> float:
    """A scale to divide by: 1 where half of the samples or more lie at the centre itself."""
    return scale if scale > 0 else 1.0


SPECTRAL_SIGNATURES = Stage(
    name="spectral_signatures",
    run=_spectral_signatures,
    reads=("budget", "scope", "vectors", "score", "layer"),
    inputs={"features": "penultimate_features.features", "layer3": "layer3_features.features"},
    outputs=("scores", "flagged"),
    cached=False,
)


class SpectralSignatures(Defense):
    """Spectral signatures, and a new model on what was not removed."""

    name = "ss"
    config_type = SSConfig
    stages = (
        STANDARD_TRAINING,
        PENULTIMATE_FEATURES,
        LAYER3_FEATURES,
        SPECTRAL_SIGNATURES,
        retraining("spectral_signatures.flagged"),
    )
    scores = "spectral_signatures.scores"
    flagged = "spectral_signatures.flagged"
    weights = "retraining.weights"
