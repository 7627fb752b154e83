"""SCALE-UP: predictions that survive multiplied pixels (Guo et al., ICLR 2023), without clean data or with some.

What a trained model says of an image with a trigger stays the same when all pixels are multiplied and clipped; of other
images it does not. A sample's score is the share of the scales at which the undefended model repeats its prediction
(scaled prediction consistency, SPC). Samples from a threshold on are removed, and a new model is trained on the rest.

Followed: BackdoorBox and backdoor-toolbox (scales 3, 5, 7, 9, 11, threshold 0.5, no noise); the published code
(JunfengGo/SCALE-UP) takes 1 to 11, of which 1 always agrees, and adds noise. SPC has few values; ours breaks ties by
the mean probability of the prediction over the scales, which never reverses two unequal SPCs. Pixels are multiplied in
[0, 1], clipped, and normalised afterwards.

References that are wrong: a threshold of the user's own makes BackdoorBox and backdoor-toolbox fail; BackdoorBox stops
after its first batch and multiplies images as they come, normalised or not; both leave wrongly classified samples out
of the AUROC. Here every sample is scored, and labels are not used.

Known failures: white squares and chequered corners. Multiplied, many benign images turn white in places, which the
model takes for the trigger: BackdoorBox's users report an AUROC of 0.45 on BadNets (its issues 75 and 84), and PIPD's
Table 2 has a TPR of 0.41 at an FPR of 0.41. Images that are black and white already, as digits are, hardly change: at
the default threshold three quarters of a clean set are flagged, and a faint blend fades sooner than the digit does.

With ``clean_images`` (the paper's data-limited setting) a sample's SPC counts in standard deviations above that of the
clean images with the same prediction; the threshold stays at 0.5, as in BackdoorBox. Both ports compare with all clean
images whatever their prediction, and clean SPC with labels where samples' SPC is compared with predictions. Here both
are predictions. A prediction that fewer than two clean images share is compared with all of them, as the ports do;
where the clean SPC does not vary, one step from an SPC to the next counts as the deviation. On digits 100 clean images
take the share of a clean set that is flagged from 78 to 31 %; the blend and the trojan square are missed with them too.

Stages: `standard_training`, `scaled_predictions`, `clean_scaled_predictions`, `scale_up` (not cached), `retraining`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.config import param
from defenses.cost import FORWARD
from defenses.methods.no_defense import NoDefenseConfig
from defenses.models import load_model
from defenses.shared_stages import STANDARD_TRAINING, retraining
from defenses.training.images import device_images
from defenses.training.inference import chunks, predict_array
from defenses.training.precision import autocast

SCALES = ("odd", "all")
TIE_BREAKERS = ("probability", "none")
FEWEST = 2  # clean images of a prediction: of one alone there is no deviation
Predictions = NDArray[np.int64]


@dataclass(frozen=True)
class ScaleUpConfig(NoDefenseConfig):
    """Fields of plain training, and SCALE-UP's."""

    scales: str = param("odd", "3, 5, 7 ... (BackdoorBox), or 1, 2, 3 ... (published code)", choices=SCALES)
    largest_scale: int = param(11, "the largest of them (published code)", low=3, high=255)
    input_noise: float = param(
        0.0, "noise added to each image first, from 0 to so much, in [0, 1] (published code: 0.02)", low=0.0, high=1.0
    )
    threshold: float = param(
        0.5,
        "SPC from which a sample is flagged; with clean images, standard deviations (BackdoorBox)",
        low=0.0,
        high=5.0,
        symbol="T",
    )
    tie_breaker: str = param(
        "probability",
        "what orders samples of equal SPC: the prediction's mean probability (ours)",
        choices=TIE_BREAKERS,
    )
    clean_images: int = param(0, "clean images that SPC is standardised by; 0 for none, which is data-free", low=0)


def scale_factors(scales: str, largest: int) -> list[int]:
    """The factors of one of `SCALES` up to the largest."""
    return list(range(3, largest + 1, 2) if scales == "odd" else range(1, largest + 1))


def _scaled_predictions(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device).eval()
    factors = scale_factors(params.scales, params.largest_scale)
    agreement, probability = _consistencies(model, context.dataset.images, factors, params.input_noise, context)
    return {"agreement": agreement, "probability": probability}


def _clean_scaled_predictions(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    factors, noise = scale_factors(params.scales, params.largest_scale), params.input_noise
    if params.clean_images == 0:
        nobody = np.zeros(0, dtype=np.int64)
        return {"agreement": np.zeros(0), "clean_predicted": nobody, "predicted": nobody}
    assert context.clean is not None
    model = load_model(context.model, inputs["weights"]).to(context.device).eval()
    clean, samples = (
        predict_array(model, images, context.device, context.precision).argmax(axis=1)
        for images in (context.clean.images, context.dataset.images)
    )
    agreement, _ = _consistencies(model, context.clean.images, factors, noise, context)
    return {"agreement": agreement, "clean_predicted": clean, "predicted": samples}


@torch.inference_mode()
def _consistencies(
    model: torch.nn.Module, images: NDArray[np.uint8], factors: list[int], noise: float, context: StageContext
) -> NDArray[np.float64]:
    """See `consistency`; of all images uint8 [N, H, W, 3], after noise from 0 to so much was added to each."""
    generator = context.generator("noise")
    parts = []
    for batch in chunks(device_images(images, context.device)):
        pixels = batch.float()
        if noise > 0:
            drawn = torch.rand(pixels.shape, generator=generator, device=context.device)
            pixels = (pixels + 255 * noise * drawn).clamp(max=255)
        parts.append(consistency(model, pixels, factors, context.precision))
    return np.concatenate(parts, axis=1)


def consistency(
    model: torch.nn.Module, pixels: torch.Tensor, factors: list[int], precision: str
) -> NDArray[np.float64]:
    """How firmly a model's predictions survive multiplied pixels.

    Args:
        model: in eval mode.
        pixels: float [n, 3, H, W], in [0, 255]: the model normalises after the product was clipped.
        factors: what pixels are multiplied by.

    Returns:
        float64 [2, n]: the share of the factors at which the prediction stays, and its mean probability over them.
    """

    def logits(scaled: torch.Tensor) -> torch.Tensor:
        with autocast(scaled.device, precision):
            outputs: torch.Tensor = model(scaled)
        return outputs.float()

    predicted = logits(pixels).argmax(dim=1)
    same, probability = torch.zeros(2, len(pixels), dtype=torch.float64, device=pixels.device)
    for factor in factors:
        scaled = logits((pixels * factor).clamp(max=255))
        same += scaled.argmax(dim=1) == predicted
        probability += scaled.softmax(dim=1).gather(1, predicted[:, None]).squeeze(1)
    return (torch.stack([same, probability]) / len(factors)).cpu().numpy()


def _scale_up(_context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    agreement = inputs["agreement"]
    step = 1 / len(scale_factors(params.scales, params.largest_scale))
    # Less than the step from one SPC to the next, so that it orders only samples of the same.
    ties = 0.5 * step * inputs["probability"] if params.tie_breaker == "probability" else 0.0
    mean: NDArray[np.float64] | float = 0.0
    deviation: NDArray[np.float64] | float = 1.0
    if len(inputs["clean_agreement"]):
        mean, deviation = clean_moments(inputs["clean_agreement"], inputs["clean_predicted"], inputs["predicted"], step)
    scores = (agreement + ties - mean) / deviation
    return {"scores": scores, "flagged": (agreement - mean) / deviation >= params.threshold - 1e-9}


def clean_moments(
    agreement: NDArray[np.float64], clean_predicted: Predictions, predicted: Predictions, step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the clean SPC that each sample is compared with: of its predicted class.

    Args:
        agreement: float64 [M], SPC of the clean images.
        clean_predicted: int64 [M], their predictions.
        predicted: int64 [N], the samples' predictions.
        step: the deviation where there is none.

    Returns:
        Twice float64 [N].
    """
    mean, deviation = np.empty((2, len(predicted)))
    for label in np.unique(predicted):
        alike = agreement[clean_predicted == label]
        reference = alike if len(alike) >= FEWEST else agreement
        counts = np.rint(reference / step)  # whole, so that equal ones have no deviation left by rounding
        mean[predicted == label] = counts.mean() * step
        deviation[predicted == label] = (counts.std() or 1.0) * step
    return mean, deviation


def _clean_cost(params: Params, n: int) -> float:
    """A pass over the samples for their predictions, and the clean images at every scale."""
    scales = 2 + len(scale_factors(params.scales, params.largest_scale))
    return FORWARD * (n + scales * params.clean_images) / n if params.clean_images else 0.0


SCALED_PREDICTIONS = Stage(
    name="scaled_predictions",
    run=_scaled_predictions,
    reads=("scales", "largest_scale", "input_noise"),
    inputs={"weights": "standard_training.weights"},
    outputs=("agreement", "probability"),
    cost=lambda params, _: FORWARD * (1 + len(scale_factors(params.scales, params.largest_scale))),
)
CLEAN_SCALED_PREDICTIONS = Stage(
    name="clean_scaled_predictions",
    run=_clean_scaled_predictions,
    reads=("scales", "largest_scale", "input_noise", "clean_images"),
    inputs={"weights": "standard_training.weights"},
    outputs=("agreement", "clean_predicted", "predicted"),
    clean_images="clean_images",
    cost=_clean_cost,
)
SCALE_UP = Stage(
    name="scale_up",
    run=_scale_up,
    reads=("scales", "largest_scale", "threshold", "tie_breaker"),
    inputs={
        "agreement": "scaled_predictions.agreement",
        "probability": "scaled_predictions.probability",
        "clean_agreement": "clean_scaled_predictions.agreement",
        "clean_predicted": "clean_scaled_predictions.clean_predicted",
        "predicted": "clean_scaled_predictions.predicted",
    },
    outputs=("scores", "flagged"),
    cached=False,
)


class ScaleUp(Defense):
    """SCALE-UP, and a new model on what it kept."""

    name = "scale_up"
    config_type = ScaleUpConfig
    stages = (STANDARD_TRAINING, SCALED_PREDICTIONS, CLEAN_SCALED_PREDICTIONS, SCALE_UP, retraining("scale_up.flagged"))
    scores = "scale_up.scores"
    flagged = "scale_up.flagged"
    weights = "retraining.weights"
