"""Dynamic, or input-aware (Nguyen and Tran, NeurIPS 2020): each image has a trigger of its own.

First the mask generator is trained alone; then, with masks fixed, the pattern generator together with a classifier
that must answer an image's own trigger with the target label, and ignore the trigger of another image. Poisoning is
static, as in backdoor-toolbox: generators in eval mode, and by default no images with the trigger of another.

Where we differ from the public code:

- It zeroes only the classifier's gradients in the joint stage, so those of the pattern generator add up over the
  whole run. Here both are zeroed at every step.
- Pairs for the diversity losses are made within a batch, and the images are not augmented.
- The classifier is our PreActResNet-18.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import MultiStepLR

from defenses.api import Outputs, Weights
from defenses.models import ModelSpec, build_model
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights
from defenses.storage.state_codec import Part
from defenses.training.images import device_images, take, to_device
from defenses.training.loop import TrainingDiverged
from study.attacks.api import COVER, Attack, Pixels, State
from study.attacks.support.dynamic_config import (
    ALL_OPTIONS,
    MASK_OPTIONS,
    SHORT_JOINT_STAGE,
    DynamicConfig,
    check_lengths,
)
from study.attacks.support.dynamic_networks import EncoderDecoder, TriggerNetworks, alikeness, triggers
from study.attacks.support.fitting import FitContext
from study.attacks.support.networks import frozen, seeded, shuffled
from study.attacks.support.pixels import to_uint8
from study.datasets.images import Images

MASK_STAGE, PATTERN_STAGE = "dynamic_mask", "dynamic_pattern"
FEWEST_IMAGES = 4  # a joint batch holds an image with its own trigger, one with another's, and that other
_DECAY = 0.1


class Dynamic(Attack):
    """A trigger of its own for each image, and covers that carry the trigger of another."""

    name = "dynamic"
    config_type = DynamicConfig
    config: DynamicConfig
    trained = (MASK_STAGE, PATTERN_STAGE)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {
            "widths": (8, 16, 32),
            "batch_size": 64,
            "mask_epochs": 9,
            "mask_milestones": (6, 8),
            **SHORT_JOINT_STAGE,
        },
        "small": {
            "widths": (16, 32, 64),
            "mask_epochs": 5,
            "mask_milestones": (3, 4),
            **SHORT_JOINT_STAGE,
        },
    }

    def check(self, images: Images) -> None:
        """Refuses images that the generators cannot be trained on.

        Raises:
            UserError: their sides cannot be halved once a level, they are too few, or an option has not as many values
                as it needs.
        """
        check_lengths(self.config)
        step, size = 2 ** len(self.config.widths), images.image_size
        if size % step:
            fewer = next((levels for levels in range(len(self.config.widths), 0, -1) if not size % 2**levels), 0)
            ways = [f"images of {max(step, size // step * step)} px (--image-size, where --dataset can be resized)"]
            if fewer:
                ways.append(f"fewer levels (dynamic:widths={','.join(map(str, self.config.widths[:fewer]))})")
            raise UserError(
                f"dynamic needs images whose side is divisible by {step}, got {size} px: use {' or '.join(ways)}"
            )
        if len(images.train_images) < FEWEST_IMAGES:
            raise UserError(
                f"dynamic needs at least {FEWEST_IMAGES} training images, got {len(images.train_images)}: use more"
            )

    def fit(self, images: Images, context: FitContext) -> State:
        """Both generators, frozen; and for covers the training images, each with the one whose trigger it gets."""
        config = self.config
        options = {name: getattr(config, name) for name in MASK_OPTIONS}
        mask: Weights = context.part(MASK_STAGE, images, options, lambda own: train_mask(config, images, own))["mask"]
        options = {name: getattr(config, name) for name in ALL_OPTIONS} | images.classes_beyond_labels
        options["target_label"] = context.target_label
        trained = context.part(PATTERN_STAGE, images, options, lambda own: train_pattern(config, images, own, mask))
        return {
            "networks": _with_weights(config, context, mask, trained["pattern"]),
            "images": images.train_images,
            "partner": _partners(len(images.train_images), self.rng(context.seed, "partners")),
        }

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`. A cover gets the trigger of its partner among the training images."""
        sources = state["images"][state["partner"][index]] if split == COVER else images
        masks, patterns = triggers(state["networks"], sources)
        values = images.astype(np.float32)
        values += (patterns - values) * masks
        return to_uint8(values, self.config.quantise)


def _partners(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each of some images another one, int64 [count]; every image is the partner of one."""
    order = rng.permutation(count)
    partner = np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def _networks(config: DynamicConfig, context: FitContext) -> TriggerNetworks:
    """Both generators with their initial weights, to be trained."""

    def build(role: str, outputs: int) -> nn.Module:
        network = seeded(
            lambda: EncoderDecoder(outputs, config.widths, config.norm_momentum), context.seed, "dynamic", role
        )
        return network.to(memory_format=torch.channels_last).to(context.device)

    return TriggerNetworks(build("mask", 1), build("pattern", 3), config.mean, config.std, config.sharpness)


def _with_weights(config: DynamicConfig, context: FitContext, mask: Weights, pattern: Weights) -> TriggerNetworks:
    """Both generators as they were trained, frozen."""
    networks = _networks(config, context)
    for network, weights in ((networks.mask, mask), (networks.pattern, pattern)):
        network.load_state_dict(weights)
        frozen(network, context.device)
    return networks


def _adam(network: nn.Module, lr: float, config: DynamicConfig) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(config.betas[0], config.betas[1]))


# --- stage 1: the mask ------------------------------------------------------------------------------------------------


def train_mask(config: DynamicConfig, images: Images, context: FitContext) -> Outputs:
    """The mask generator's weights, as ``mask``, and the loss of each epoch, as ``history``."""
    networks = _networks(config, context)
    optimiser = _adam(networks.mask, config.mask_lr, config)
    schedule = MultiStepLR(optimiser, list(config.mask_milestones), _DECAY)

    def step(batch: Tensor, index: Tensor) -> dict[str, Tensor]:
        return mask_step(networks, optimiser, batch, config)

    trained = {"mask": networks.mask}
    history = _epochs(MASK_STAGE, config.mask_epochs, step, trained, [schedule], images, config.batch_size, context)
    return {"mask": cpu_weights(networks.mask), "history": history}


def mask_step(
    networks: TriggerNetworks, optimiser: torch.optim.Optimizer, batch: Tensor, config: DynamicConfig
) -> dict[str, Tensor]:
    """One step of stage 1: masks of small area that differ where images do. Each image is paired with the next.

    Args:
        batch: float32 [n, 3, H, W] in [0, 1].
    """
    masks, inputs = networks.masks(batch), networks.normalised(batch)
    area = functional.relu(masks - config.mask_density).mean()
    alike = alikeness(inputs, inputs.roll(1, 0), masks, masks.roll(1, 0))
    loss = config.density_weight * area + config.diversity_weight * alike
    _descend(loss, optimiser)
    return {"loss": loss.detach(), "mean_mask": masks.detach().mean()}


def _descend(loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
    """A step of all optimisers along this loss alone: what earlier steps left in the gradients is dropped first."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for optimiser in optimisers:
        optimiser.step()


def _epochs(
    stage: str,
    epochs: int,
    step: Callable[[Tensor, Tensor], dict[str, Tensor]],
    networks: Mapping[str, nn.Module],
    schedules: list[MultiStepLR],
    images: Images,
    batch_size: int,
    context: FitContext,
) -> dict[str, list[float]]:
    """Runs a stage; the mean of what its steps give, by name and epoch.

    Args:
        step: from a batch float32 [n, 3, H, W] in [0, 1] and the positions of its images.
        networks, schedules: what the steps change, and with what rate; the schedules' optimisers take the steps.

    Raises:
        TrainingDiverged: at the end of the first epoch of which something is not finite.
    """
    data = device_images(images.train_images, context.device)
    shuffle = context.generator("dynamic", stage, "batches")
    history: dict[str, list[float]] = {}
    parts: dict[str, Part] = {**networks, "batches": shuffle, "history": history}
    for number, schedule in enumerate(schedules):
        parts |= {f"schedule {number}": schedule, f"optimiser {number}": schedule.optimizer}
    for epoch in context.checkpoint.epochs(epochs, parts):
        steps = [step(take(data, part).float() / 255, part) for part in shuffled(len(data), batch_size, shuffle)]
        values = {name: float(torch.stack([one[name] for one in steps]).mean()) for name in steps[0]}
        for name, value in values.items():
            history.setdefault(name, []).append(value)
        if not math.isfinite(values["loss"]):
            rates = ", ".join(f"{schedule.optimizer.param_groups[0]['lr']:g}" for schedule in schedules)
            raise TrainingDiverged(
                f"{stage}: the loss is {values['loss']} in epoch {epoch + 1} of {epochs}, at a learning rate of "
                f"{rates}: it diverged; use lower ones"
            )
        for schedule in schedules:
            schedule.step()
        context.progress(stage, epoch + 1, epochs, values)
    return history


# --- stage 2: the pattern, with a classifier --------------------------------------------------------------------------


@dataclass(frozen=True)
class JointTraining:
    """What a step of stage 2 works on.

    Attributes:
        networks: the mask generator is frozen, the pattern generator is trained.
        classifier: takes images in 0-255 units.
        pattern_optimiser, classifier_optimiser: both step along the same loss.
        target_label: what an image with its own trigger is to be called.
    """

    networks: TriggerNetworks
    classifier: nn.Module
    pattern_optimiser: torch.optim.Optimizer
    classifier_optimiser: torch.optim.Optimizer
    target_label: int
    config: DynamicConfig

    def step(self, batch: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step; the loss, and how many of each kind of image the classifier got right.

        Args:
            batch: float32 [n, 3, H, W] in [0, 1], n >= 3, in random order: the first images get their own trigger,
                the next ones that of the last images, the rest stays clean.
            labels: int64 [n].
        """
        own, cross = (
            max(1, int(share * len(batch))) for share in (self.config.backdoor_share, self.config.cross_share)
        )
        sources = torch.cat([batch[:own], batch[-cross:]])
        patterns = self.networks.patterns(sources)
        with torch.no_grad():
            masks = self.networks.masks(sources)
        victims = batch[: own + cross]
        inputs = torch.cat([victims + (patterns - victims) * masks, batch[own + cross :]])
        wanted = torch.cat([torch.full_like(labels[:own], self.target_label), labels[own:]])
        logits = self.classifier(255 * inputs)
        entropy = functional.cross_entropy(logits, wanted)
        loss = entropy + self.config.diversity_weight * self._alikeness(sources, patterns, own)
        _descend(loss, self.pattern_optimiser, self.classifier_optimiser)
        right = (logits.detach().argmax(dim=1) == wanted).float()
        return {
            "loss": loss.detach(),
            "cross_entropy": entropy.detach(),
            "backdoor_accuracy": right[:own].mean(),
            "cross_accuracy": right[own : own + cross].mean(),
            "clean_accuracy": right[own + cross :].mean(),
        }

    def _alikeness(self, sources: Tensor, patterns: Tensor, own: int) -> Tensor:
        """Of the images with their own trigger and those that lent theirs, in pairs as far as they go."""
        pairs = min(own, len(sources) - own)
        inputs, made = self.networks.normalised(sources), self.networks.normalised(patterns)
        return alikeness(inputs[:pairs], inputs[own:][:pairs], made[:pairs], made[own:][:pairs])


def joint_training(config: DynamicConfig, images: Images, context: FitContext, mask: Weights) -> JointTraining:
    """Networks and optimisers as stage 2 starts."""
    networks = _networks(config, context)
    networks.mask.load_state_dict(mask)
    frozen(networks.mask, context.device)
    mean, std = ([255 * value for value in values] for values in (config.mean, config.std))
    spec = ModelSpec(
        config.classifier,
        config.classifier_width,
        config.classifier_blocks,
        images.num_classes,
        images.image_size,
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
    )
    classifier = build_model(spec, context.seed, "dynamic", "classifier").to(context.device)
    sgd = torch.optim.SGD(
        classifier.parameters(), lr=config.classifier_lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    adam = _adam(networks.pattern, config.pattern_lr, config)
    return JointTraining(networks, classifier, adam, sgd, context.target_label, config)


def train_pattern(config: DynamicConfig, images: Images, context: FitContext, mask: Weights) -> Outputs:
    """The pattern generator's weights, as ``pattern``, and what each epoch's steps gave, as ``history``."""
    training = joint_training(config, images, context, mask)
    history = run_joint(training, images, context)
    return {"pattern": cpu_weights(training.networks.pattern), "history": history}


def run_joint(training: JointTraining, images: Images, context: FitContext) -> dict[str, list[float]]:
    """Trains both networks of stage 2 in place; what each epoch's steps gave."""
    config = training.config
    labels = to_device(images.train_labels, context.device)
    schedules = [
        MultiStepLR(training.pattern_optimiser, list(config.pattern_milestones), _DECAY),
        MultiStepLR(training.classifier_optimiser, list(config.classifier_milestones), _DECAY),
    ]

    def step(batch: Tensor, index: Tensor) -> dict[str, Tensor]:
        return training.step(batch, labels[index])

    training.networks.pattern.train()
    training.classifier.train()
    networks = {"pattern": training.networks.pattern, "classifier": training.classifier}
    return _epochs(PATTERN_STAGE, config.joint_epochs, step, networks, schedules, images, config.batch_size, context)
