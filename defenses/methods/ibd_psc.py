"""IBD-PSC: predictions that survive amplified parameters (Hou et al., ICML 2024).

Where the weights and biases of a network's last BatchNorm layers are multiplied, what it says of benign images changes
sooner than what it says of images with a trigger. A sample's score (parameter-oriented scaling consistency, PSC) is the
mean probability that networks with k, k + 1 ... amplified layers give to the prediction of the network itself; k is the
smallest number at which the network errs on more than a share of clean images. Samples above a threshold are flagged,
and a new model is trained on the rest. The labels of the training data are not used.

Two ways to choose k: 100 clean images with labels, the authors' number and our default, or none (``clean_images=0``):
then an error is an image of the training set of which the amplified network says something else than the network, among
500 of them. Poison that stays makes that share smaller, so that 0.6 stands for 0.67 of clean images at a rate of 10 %.

Followed: BackdoorBox (factor 1.5, five networks, error above 0.6, threshold 0.9). Where it and backdoor-toolbox are
wrong, and we differ:

- k may be all layers; theirs is none where the error never gets so high. We then try the factors 2, 3, 5 and 8, and
  at last amplify all layers by the largest.
- The networks are those with k to k + n - 1 amplified layers; theirs start at k + 1, and where layers end they repeat
  the last one. Here fewer are averaged.
- A hook multiplies outputs, in eval mode; they copy the model for each network and batch.
- Every sample is scored; they leave out those whose prediction is not their label, and one stops after its first batch.

Known failures: users report an AUROC of 0.7 on BadNets (BackdoorBox's issue 89), and in FLARE's table it misses BadNets
where each class has a target of its own. A network with amplified layers says one class of nearly everything, and
benign images of that class score high: on digits, where all of 12 layers must be amplified, three eighths of a clean
set are flagged and badnets has an AUROC of 0.88; a faint blend loses to that class altogether (0.15).

Stages: `standard_training`, `psc_curve`, `psc`, `ibd_psc` (not cached), `retraining`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.config import param
from defenses.cost import FORWARD
from defenses.methods.no_defense import NoDefenseConfig
from defenses.models import Normalised, load_model
from defenses.models.amplification import amplified, batch_norms
from defenses.shared_stages import STANDARD_TRAINING, retraining
from defenses.training.images import device_images, to_device
from defenses.training.inference import predict_logits
from defenses.training.streamed_images import DeviceImages

FALLBACK_FACTORS = (2.0, 3.0, 5.0, 8.0)
REACHABLE = 0.9  # of what a network errs on that says one class of everything, where all are as common
MOST_SUSPECTS = 500
"""Images of the training set that stand in for clean ones where there are none: their error is known to 2 %."""
_LAYERS = 20  # of ResNet-18: as many passes over the images that k is chosen by, at most for one factor


@dataclass(frozen=True)
class IBDPSCConfig(NoDefenseConfig):
    """Fields of plain training, and those of IBD-PSC."""

    clean_images: int = param(100, "clean images with labels; at 0 the training set stands in for them (ours)", low=0)
    amplification: float = param(
        1.5, "what weights and biases are multiplied by (BackdoorBox)", low=1.0, high=100.0, symbol="ω"
    )
    networks: int = param(5, "networks with ever more amplified layers that are averaged", low=1, symbol="n")
    error_floor: float = param(
        0.6, "the first of them errs on more than so many clean images", low=0.0, high=1.0, symbol="ξ"
    )
    threshold: float = param(0.9, "PSC above which a sample is flagged (BackdoorBox)", low=0.0, high=1.0, symbol="T")


@dataclass(frozen=True)
class Start:
    """Where the averaged networks start.

    Attributes:
        layers: amplified layers of the first, k.
        factor: what they are multiplied by.
        errors: of one layer, two layers ... up to k.
    """

    layers: int
    factor: float
    errors: list[float]


def choose_start(model: Normalised, images: Tensor, wanted: Tensor, params: Params, precision: str) -> Start:
    """The fewest amplified layers with which a network errs on more than a share of images; else all of them.

    What is amplified too much says one class of everything. Of few classes that errs on less than the share, which is
    then nine tenths of it (ours; of ten classes 0.81).

    Args:
        model: on the images' device.
        images: uint8 [n, H, W, 3].
        wanted: int64 [n], what a network that does not err says.
        params: `amplification` and `error_floor`.
    """
    largest = len(batch_norms(model))
    errors: list[float] = []
    factor = params.amplification
    for factor in (params.amplification, *(other for other in FALLBACK_FACTORS if other > params.amplification)):
        errors = []
        for layers in range(1, largest + 1):
            with amplified(model, layers, factor):
                logits = predict_logits(model, images, precision)
            errors.append(float((logits.argmax(dim=1) != wanted).double().mean()))
            if errors[-1] > min(params.error_floor, REACHABLE * (1 - 1 / logits.shape[1])):
                return Start(layers, factor, errors)
    return Start(largest, factor, errors)


def _psc_curve(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    if params.clean_images > 0:
        assert context.clean is not None
        images, wanted = (to_device(array, context.device) for array in (context.clean.images, context.clean.labels))
    else:
        n = len(context.dataset)
        chosen = np.linspace(0, n - 1, min(n, MOST_SUSPECTS)).round().astype(np.int64)
        images = to_device(context.dataset.images[chosen], context.device)
        wanted = predict_logits(model, images, context.precision).argmax(dim=1)
    start = choose_start(model, images, wanted, params, context.precision)
    return {"layers": start.layers, "factor": start.factor, "errors": np.array(start.errors)}


def consistency(
    model: Normalised, images: DeviceImages, layers: range, factor: float, precision: str
) -> NDArray[np.float64]:
    """PSC: the probability that amplified networks give to the prediction of the network itself, on average.

    Args:
        model: on the images' device.
        images: uint8 [N, H, W, 3].
        layers: how many are amplified, of each network.
        factor: what they are multiplied by.

    Returns:
        float64 [N].
    """
    predicted = predict_logits(model, images, precision).argmax(dim=1)[:, None]

    def probabilities() -> Iterator[Tensor]:
        for last in layers:
            with amplified(model, last, factor):
                logits = predict_logits(model, images, precision)
            yield logits.double().softmax(dim=1).gather(1, predicted).squeeze(1)

    mean: NDArray[np.float64] = torch.stack(list(probabilities())).mean(dim=0).cpu().numpy()
    return mean


def _psc(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    first = inputs["layers"]
    layers = range(first, min(first + params.networks, len(batch_norms(model)) + 1))
    images = device_images(context.dataset.images, context.device)
    return {"psc": consistency(model, images, layers, inputs["factor"], context.precision)}


def _ibd_psc(_context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    return {"scores": inputs["psc"], "flagged": inputs["psc"] > params.threshold}


PSC_CURVE = Stage(
    name="psc_curve",
    version=2,
    run=_psc_curve,
    reads=("clean_images", "amplification", "error_floor"),
    inputs={"weights": "standard_training.weights"},
    outputs=("layers", "factor", "errors"),
    clean_images="clean_images",
    cost=lambda params, n: FORWARD * _LAYERS * (params.clean_images or min(n, MOST_SUSPECTS)) / n,
)
PSC = Stage(
    name="psc",
    run=_psc,
    reads=("networks",),
    inputs={
        "weights": "standard_training.weights",
        "layers": "psc_curve.layers",
        "factor": "psc_curve.factor",
    },
    outputs=("psc",),
    cost=lambda params, _n: FORWARD * (1 + params.networks),
)
IBD_PSC = Stage(
    name="ibd_psc",
    run=_ibd_psc,
    reads=("threshold",),
    inputs={"psc": "psc.psc"},
    outputs=("scores", "flagged"),
    cached=False,
)


class IBDPSC(Defense):
    """IBD-PSC, and a new model on what it kept."""

    name = "ibd_psc"
    config_type = IBDPSCConfig
    stages = (STANDARD_TRAINING, PSC_CURVE, PSC, IBD_PSC, retraining("ibd_psc.flagged"))
    scores = "ibd_psc.scores"
    flagged = "ibd_psc.flagged"
    weights = "retraining.weights"
