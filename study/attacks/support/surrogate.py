"""A classifier of the attacker's own, trained on the clean training images, and the steepest way to its errors.

Label-consistent poison comes from its gradients and the inverted trojan from its neurons. Neither paper's networks are
shipped, so one is trained here, adversarially by default (Madry et al., ICLR 2018): gradients of a robust network
transfer. Attacks whose surrogate options agree share one. Where we differ from the usual code: the attack within
adversarial training sees BatchNorm's running statistics and leaves them alone, as in TRADES.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import Outputs, StageContext, SuspectDataset
from defenses.config import param
from defenses.models import BLOCKS, ModelSpec, Normalised, build_model, load_model, spec_for_images
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights
from defenses.training.images import crop_padding, device_images, take, take_augmented, to_device
from defenses.training.loop import Recipe, fit, frozen_batch_statistics
from defenses.training.schedule import SCHEDULES
from study.attacks.api import AttackConfig
from study.attacks.support.fitting import FitContext
from study.attacks.support.networks import frozen
from study.datasets.images import Images

STAGE = "surrogate"
NORMS = ("l2", "linf")
_TINY = 1e-12  # keeps a gradient of zero from being divided by its norm
_PREFIX = "surrogate_"


@dataclass(frozen=True)
class SurrogateConfig(AttackConfig):
    """The surrogate: the ResNet-18 (Linf 8, step 2, 10 steps) whose weights BackdoorBench refers to.

    Its recipe is not stated there; ours is the plain training of PIPD, appendix B.2.
    """

    surrogate_model: str = param("resnet18", "the surrogate's network", choices=tuple(BLOCKS))
    surrogate_width: int = param(64, "channels of its first stage", low=1)
    surrogate_blocks: tuple[int, ...] = param((2, 2, 2, 2), "blocks of each of its stages", low=1)
    surrogate_epochs: int = param(200, "passes over the clean training set", low=1)
    surrogate_lr: float = param(0.1, "peak learning rate of SGD", low=1e-6, high=10.0)
    surrogate_schedule: str = param("step", "learning rate over the run", choices=SCHEDULES)
    surrogate_batch_size: int = param(128, "images a step", low=2)
    surrogate_momentum: float = param(0.9, "SGD momentum", low=0.0, high=1.0)
    surrogate_weight_decay: float = param(5e-4, "SGD weight decay", low=0.0, high=1.0)
    surrogate_augment: bool = param(True, "random flip and crop")
    surrogate_adversarial_steps: int = param(10, "PGD steps of adversarial training; 0 for plain training", low=0)
    surrogate_adversarial_norm: str = param("linf", "norm of adversarial training", choices=NORMS)
    surrogate_adversarial_epsilon: float = param(8.0, "its radius, in [0, 255] units", low=0.0, symbol="ε")
    surrogate_adversarial_step: float = param(2.0, "its step, in [0, 255] units", low=0.0)


SURROGATE_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "surrogate_width": 8,
        "surrogate_blocks": (1, 1, 1, 1),
        "surrogate_epochs": 6,
        "surrogate_schedule": "one_cycle",
        "surrogate_batch_size": 64,
        "surrogate_augment": False,
        "surrogate_adversarial_steps": 1,
        "surrogate_adversarial_epsilon": 1.0,
        "surrogate_adversarial_step": 1.25,
    },
    "small": {
        "surrogate_width": 16,
        "surrogate_blocks": (1, 1, 1, 1),
        "surrogate_epochs": 10,
        "surrogate_schedule": "one_cycle",
        "surrogate_adversarial_steps": 1,
        "surrogate_adversarial_epsilon": 2.0,
        "surrogate_adversarial_step": 2.5,
    },
}
"""What both attacks change under a preset, so that they share a surrogate: one step of 1.25 ε from a random start, the
fast adversarial training of Wong, Rice and Kolter (ICLR 2020), with a radius that a small network can learn."""


@dataclass(frozen=True)
class Ascent:
    """Projected gradient ascent of the cross-entropy with the true label (Madry et al., ICLR 2018).

    Attributes:
        norm: one of `NORMS`; of the whole image, all channels together.
        epsilon: radius of the ball around the image, in [0, 255] units.
        steps: how many; 0 changes nothing.
        step: length of one, in [0, 255] units: of the normalised gradient, or of its sign.
    """

    norm: str
    epsilon: float
    steps: int
    step: float

    def start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A random change float32 [n, C, H, W] within the ball: uniform for Linf, of uniform length for L2."""
        noise = torch.empty(images.shape, device=images.device).uniform_(-1, 1, generator=generator)
        if self.norm == "linf":
            return noise * self.epsilon
        length = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device)
        return noise / _lengths(noise) * length * self.epsilon

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        """Images that the model takes for another class, each on its own; the model gets no gradients.

        Args:
            model: logits [n, K] from images in [0, 255] units; in eval mode, or images would depend on each other.
            images: float32 [n, C, H, W] in [0, 255]; not changed.
            labels: int64 [n], the true ones.
            start: a first change, within the ball; none by default.

        Returns:
            float32 [n, C, H, W], in [0, 255] and within the ball.
        """
        at = images.detach() if start is None else (images + start).clamp(0, 255)
        for _ in range(self.steps):
            at = at.detach().requires_grad_()
            with torch.enable_grad():
                # Summed, not averaged: the gradient of an image then does not depend on how many there are.
                loss = functional.cross_entropy(model(at), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, at)
            at = self._within(images, at.detach() + self.step * self._direction(gradient))
        return at.detach()

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "linf" else gradient / _lengths(gradient)

    def _within(self, images: Tensor, at: Tensor) -> Tensor:
        """The nearest point of the ball, then of the cube: clipping moves towards the image, so never out again."""
        change = at - images
        if self.norm == "linf":
            change = change.clamp(-self.epsilon, self.epsilon)
        else:
            change = change * (self.epsilon / _lengths(change)).clamp(max=1)
        return (images + change).clamp(0, 255)


def _lengths(values: Tensor) -> Tensor:
    """L2 norm of each image, float32 [n, 1, 1, 1], > 0."""
    lengths: Tensor = torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True)
    return lengths.clamp(min=_TINY)


def surrogate_options(config: SurrogateConfig) -> dict[str, Any]:
    """The options that the surrogate depends on, as JSON can hold them."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name.startswith(_PREFIX)}


def penultimate_width(config: SurrogateConfig) -> int:
    """Neurons of the last layer but one."""
    return int(config.surrogate_width * 2 ** (len(config.surrogate_blocks) - 1))


def check_surrogate(config: SurrogateConfig) -> None:
    """Refuses training that would leave the ball's centre nowhere.

    Raises:
        UserError: adversarial training with a radius of 0.
    """
    if config.surrogate_adversarial_steps and not config.surrogate_adversarial_epsilon:
        raise UserError(
            "adversarial training needs a radius above 0, got surrogate_adversarial_epsilon=0: "
            "set surrogate_adversarial_steps=0 for plain training"
        )


def surrogate(images: Images, config: SurrogateConfig, context: FitContext) -> Normalised:
    """The surrogate, frozen, on the context's device; trained at most once a dataset, seed and surrogate options.

    It takes images [n, 3, H, W] in [0, 255], uint8 or float, and lets gradients through to float images.

    Raises:
        UserError: its training diverged.
    """
    spec = _spec(images, config)
    made = context.part(
        STAGE,
        images,
        {**surrogate_options(config), "num_classes": images.num_classes},
        lambda own: _train(images, spec, config, own),
    )
    return frozen(load_model(spec, made["weights"]), context.device)


def _spec(images: Images, config: SurrogateConfig) -> ModelSpec:
    """The network; it normalises with the mean and spread of the clean training images."""
    return spec_for_images(
        config.surrogate_model,
        config.surrogate_width,
        config.surrogate_blocks,
        images.num_classes,
        images.train_images,
    )


def _train(images: Images, spec: ModelSpec, config: SurrogateConfig, context: FitContext) -> Outputs:
    data = SuspectDataset.of(images.train_images, images.train_labels, images.num_classes)
    stage = StageContext(STAGE, data, spec, context.device, "fp32", context.seed, context.progress, context.checkpoint)
    model = build_model(spec, context.torch_seed(STAGE)).to(context.device)
    pixels, labels = device_images(data.images, context.device), to_device(data.labels, context.device)
    crops, starts = stage.generator("augment"), stage.generator("start")
    ascent = Ascent(
        config.surrogate_adversarial_norm,
        config.surrogate_adversarial_epsilon,
        config.surrogate_adversarial_steps,
        config.surrogate_adversarial_step,
    )
    padding = crop_padding(images.image_size)

    def loss(index: Tensor) -> Tensor:
        batch = take_augmented(pixels, index, padding, crops) if config.surrogate_augment else take(pixels, index)
        shown = batch.float()
        if ascent.steps:
            with frozen_batch_statistics(model):
                shown = ascent.perturb(model, shown, labels[index], ascent.start(shown, starts))
        return functional.cross_entropy(model(shown), labels[index])

    recipe = Recipe.of(config, "surrogate_")
    losses = fit(stage, model, len(labels), recipe, loss, kept={"augment": crops, "start": starts})
    return {"weights": cpu_weights(model), "series": {"loss": losses}}
