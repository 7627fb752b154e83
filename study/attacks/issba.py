"""ISSBA (Li et al., ICCV 2021): a hidden message, which changes every image in another way.

An encoder learns to hide any message in any image so that a decoder can read it back. Then one message, drawn for the
dataset, is hidden in every poisoned image and every triggered test image.

Where we differ from the paper's code: the message's layer and the loss are BackdoorBench's (cross-entropy of the bits,
and a squared error that is ramped up), the residual output is backdoor-toolbox's. So neither LPIPS weights nor a code
that corrects errors is needed. The message has the 20 bits of backdoor-toolbox; the paper hides 100.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from defenses.api import Outputs
from defenses.config import param
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights
from defenses.storage.state_codec import TrainingState
from defenses.training.images import device_images, take, to_device
from defenses.training.loop import TrainingDiverged
from defenses.training.streamed_images import DeviceImages
from study.attacks.api import Attack, AttackConfig, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.issba_networks import GRID, Decoder, Encoder
from study.attacks.support.networks import frozen, in_fixed_batches, seeded, shuffled
from study.attacks.support.pixels import Values, to_uint8
from study.datasets.images import Images

STAGE = "issba"
MEASURED_AT_ONCE = 64  # of them: as floats, 512 of 224 px take 300 MB an array
MEASURED_IMAGES = 512  # about as many training images tell how good the message is; kept beside the weights
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ISSBAConfig(AttackConfig):
    """The message, the networks and their training.

    Training counts steps and not passes over the data, because its schedule does: the 20 passes of BackdoorBench over
    CIFAR-10 are 15,640 steps of 64 images.
    """

    bits: int = param(20, "length of the message (backdoor-toolbox; the paper's own is 100)", low=1, high=1024)
    width: int = param(32, "channels of both networks at full size", low=1)
    steps: int = param(15_640, "training steps (BackdoorBench: 20 passes over CIFAR-10)", low=1)
    batch_size: int = param(64, "images a step (BackdoorBench)", low=1)
    lr: float = param(1e-4, "learning rate of Adam (BackdoorBench)", low=1e-6, high=1.0)
    l2_weight: float = param(
        10.0, "weight of the mean squared error of images in [0, 1]; more makes the trigger fainter", low=0.0
    )
    bit_accuracy: float = param(
        0.9, "share of right bits in a batch that must be reached before the squared error counts", low=0.0, high=1.0
    )
    hold_steps: int = param(1000, "steps from there until the squared error's weight begins to grow", low=0)
    ramp_steps: int = param(3000, "steps in which it grows from 0 to its full size", low=1)


class ISSBA(Attack):
    """Hides one message in all triggered images; test images get the message of training."""

    name = "issba"
    config_type = ISSBAConfig
    config: ISSBAConfig
    trained = (STAGE,)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {
            "bits": 10,
            "width": 8,
            "steps": 400,
            "batch_size": 32,
            "lr": 2e-3,
            "l2_weight": 5.0,
            "hold_steps": 20,
            "ramp_steps": 150,
        },
        "small": {"width": 16, "steps": 1500, "batch_size": 32, "lr": 1e-3, "hold_steps": 100, "ramp_steps": 600},
    }

    def check(self, images: Images) -> None:
        """Refuses images that the encoder cannot halve four times, and a loss whose ramp has no room.

        Raises:
            UserError: either of the two.
        """
        if images.image_size % GRID:
            raise UserError(
                f"{self.name} needs images whose sides are multiples of {GRID} px, got {images.image_size}: "
                f"resize them to {-(-images.image_size // GRID) * GRID} px, or use another attack"
            )
        needed = self.config.hold_steps + self.config.ramp_steps
        if self.config.steps <= needed:
            raise UserError(
                f"{self.name} must train for more steps than hold_steps + ramp_steps = {needed}, got "
                f"{self.config.steps}, or its trigger is never made faint: raise steps, or lower the other two"
            )

    def fit(self, images: Images, context: FitContext) -> State:
        """The frozen networks ``encoder`` and ``decoder``, and the message ``secret``: float32 [bits], on the device.

        Only the checks need the decoder, to read what was hidden.
        """
        self.check(images)
        shared = {field.name for field in dataclasses.fields(AttackConfig)}
        options = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in shared}
        made = context.part(STAGE, images, options, lambda own: self._train(images, own))
        encoder, decoder = self._networks(images.image_size, context)
        encoder.load_state_dict(made["encoder"])
        decoder.load_state_dict(made["decoder"])
        return {
            "encoder": frozen(encoder, context.device),
            "decoder": frozen(decoder, context.device),
            "secret": _message(made["secret"], context),
        }

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        return to_uint8(hide(images, state["encoder"], state["secret"]), self.config.quantise)

    def _networks(self, size: int, context: FitContext) -> tuple[Encoder, Decoder]:
        """Both networks with their first weights, on the device."""
        bits, width = self.config.bits, self.config.width
        encoder = seeded(lambda: Encoder(bits, width), context.seed, self.name, "encoder")
        decoder = seeded(lambda: Decoder(bits, width, size), context.seed, self.name, "decoder")
        return encoder.to(context.device), decoder.to(context.device)

    def _train(self, images: Images, context: FitContext) -> Outputs:
        """Both networks' weights, the message, and how well it is hidden and read."""
        encoder, decoder = self._networks(images.image_size, context)
        started = self._descend(encoder, decoder, device_images(images.train_images, context.device), context)
        secret = self.rng(context.seed, "secret").integers(0, 2, self.config.bits)
        encoder, decoder = frozen(encoder, context.device), frozen(decoder, context.device)
        sample = images.train_images[:: max(1, len(images.train_images) // MEASURED_IMAGES)]
        quality = measure(sample, encoder, decoder, _message(secret, context))
        grown = error_weight(self.config, self.config.steps, started)
        if quality["bit_accuracy"] < self.config.bit_accuracy or grown < self.config.l2_weight:
            log.warning(
                "%s: after %d steps %.2f of the message's bits are read back, and the squared error has a weight of "
                "%.3g of %.3g: the trigger may be weak or plain to see; raise steps or lr, or lower bits",
                self.name,
                self.config.steps,
                quality["bit_accuracy"],
                grown,
                self.config.l2_weight,
            )
        return {
            "encoder": cpu_weights(encoder),
            "decoder": cpu_weights(decoder),
            "secret": secret,
            "quality": {**quality, "bits_learned_at_step": started, "steps": self.config.steps},
        }

    def _descend(self, encoder: Encoder, decoder: Decoder, pixels: DeviceImages, context: FitContext) -> int | None:
        """Trains both networks in place.

        Args:
            pixels: uint8 [N, H, W, 3], on the device.

        Returns:
            The step in which the bits were first read well enough; None where they never were.

        Raises:
            TrainingDiverged: at the end of the first pass over the data whose loss is not finite.
        """
        config, order = self.config, context.generator(self.name, "batches")
        draws = context.generator(self.name, "messages")
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], config.lr)
        at: dict[str, Any] = {"step": 0, "started": None}
        parts: TrainingState = {
            "encoder": encoder,
            "decoder": decoder,
            "optimiser": optimiser,
            "order": order,
            "draws": draws,
            "at": at,
        }
        for _ in context.checkpoint.epochs(config.steps, parts):
            started, step, losses = at["started"], at["step"], []
            for index in itertools.islice(shuffled(len(pixels), config.batch_size, order), config.steps - step):
                clean = take(pixels, index) / 255
                messages = torch.randint(2, (len(index), config.bits), generator=draws, device=draws.device).float()
                hidden = encoder(clean, messages)
                logits = decoder(hidden)
                if started is None and float(right_bits(logits, messages)) >= config.bit_accuracy:
                    started = step
                error = (hidden - clean).square().mean()
                wrong = functional.binary_cross_entropy_with_logits(logits, messages)
                loss = wrong + error_weight(config, step, started) * error
                optimiser.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimiser.step()
                losses.append(loss.detach())
                step += 1
            at.update(step=step, started=started)
            context.progress(STAGE, step, config.steps, {"loss": _finite_mean(losses, step, config)})
            if step == config.steps:  # a pass takes more than a step: there are fewer passes
                break
        ramp_start: int | None = at["started"]
        return ramp_start


def error_weight(config: ISSBAConfig, step: int, started: int | None) -> float:
    """Weight of the squared error in a step: 0 until the bits are learned and held, then growing to its full size.

    Args:
        step: from 0.
        started: the step in which the bits were first read well enough; None before it.
    """
    if started is None:
        return 0.0
    grown = (step - started - config.hold_steps) / config.ramp_steps
    return config.l2_weight * min(max(grown, 0.0), 1.0)


def right_bits(logits: Tensor, messages: Tensor) -> Tensor:
    """The share of bits, float [n, bits] of 0 and 1, that float logits [n, bits] read right: a scalar in [0, 1]."""
    return ((logits > 0) == (messages > 0.5)).float().mean()


def hide(images: Pixels, encoder: Encoder, secret: Tensor) -> Values:
    """Images float32 [n, H, W, 3] in [0, 255] that carry one message [bits], not yet rounded."""

    def encode(pixels: Tensor) -> Tensor:
        # Of one memory layout: a convolution may add up in another order in another one.
        carrying: Tensor = encoder(pixels.contiguous().float() / 255, secret.expand(len(pixels), -1))
        return carrying.cpu()

    pixels = to_device(images, secret.device).permute(0, 3, 1, 2)
    with torch.no_grad():
        values: Values = in_fixed_batches(encode, pixels).permute(0, 2, 3, 1).numpy() * np.float32(255)
    return values


def read(images: Pixels, decoder: Decoder, device: torch.device) -> Tensor:
    """What a decoder reads in images uint8 [n, H, W, 3]: logits float32 [n, bits], on the CPU."""
    pixels = to_device(images, device).permute(0, 3, 1, 2)
    with torch.no_grad():
        return in_fixed_batches(lambda batch: decoder(batch.contiguous().float() / 255).cpu(), pixels)


def measure(images: Pixels, encoder: Encoder, decoder: Decoder, secret: Tensor) -> dict[str, float]:
    """How well one message is read and hidden in rounded images.

    Args:
        images: uint8 [n, H, W, 3].
        secret: float32 [bits] of 0 and 1, on the device of the networks.

    Returns:
        ``bit_accuracy`` in [0, 1] and mean ``psnr`` in dB.
    """
    answers, errors = [], []
    for start in range(0, len(images), MEASURED_AT_ONCE):
        part = images[start : start + MEASURED_AT_ONCE]
        carrying = to_uint8(hide(part, encoder, secret), "round")
        answers.append(read(carrying, decoder, secret.device))
        errors.append(((carrying.astype(np.float32) - part) ** 2).mean(axis=(1, 2, 3)))
    logits, error = torch.cat(answers), np.concatenate(errors)
    return {
        "bit_accuracy": float(right_bits(logits, secret.cpu().expand(len(logits), -1))),
        "psnr": float((20 * np.log10(255) - 10 * np.log10(np.maximum(error, 1e-6))).mean()),
    }


def _finite_mean(losses: list[Tensor], step: int, config: ISSBAConfig) -> float:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise TrainingDiverged(
            f"{STAGE}: the loss must stay finite, got {mean} by step {step} of {config.steps} at a learning rate of "
            f"{config.lr}: lower lr"
        )
    return mean


def _message(bits: NDArray[Any], context: FitContext) -> Tensor:
    return to_device(np.array(bits, dtype=np.float32), context.device)
