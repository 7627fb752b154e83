"""A model's answers on a whole set: in eval mode, in order, without augmentation."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from defenses.training.images import device_images
from defenses.training.precision import autocast
from defenses.training.streamed_images import DeviceImages, select

CHUNK_PIXELS = 512 * 32 * 32  # images a forward pass, counted in pixels so that 224 px images fit as well


def chunks(images: DeviceImages, among: Tensor | None = None) -> Iterator[Tensor]:
    """Consecutive batches [n, 3, H, W] of uint8 images [N, H, W, 3].

    Args:
        among: int64 [m], the positions of the images that are shown, in this order; by default all.
    """
    size = max(1, CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images if among is None else among), size):
        piece = slice(start, start + size)
        batch = images[piece] if among is None else select(images, among[piece])
        yield batch.permute(0, 3, 1, 2)


@torch.inference_mode()
def predict_logits(model: nn.Module, images: DeviceImages, precision: str) -> Tensor:
    """float32 logits [N, outputs] of uint8 images [N, H, W, 3] on the model's device."""
    model.eval()
    parts = []
    for batch in chunks(images):
        with autocast(images.device, precision):
            parts.append(model(batch).float())
    return torch.cat(parts)


def sample_losses(model: nn.Module, images: DeviceImages, labels: Tensor, precision: str) -> NDArray[np.float64]:
    """Cross-entropy of each sample, float64 [N]: every defense's notion of "the training loss of a sample"."""
    return label_losses(predict_logits(model, images, precision), labels)


def label_losses(logits: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Cross-entropy of each row of logits [N, K] with labels int64 [N]; float64 [N]."""
    losses: NDArray[np.float64] = functional.cross_entropy(logits.double(), labels, reduction="none").cpu().numpy()
    return losses


def predict_array(model: nn.Module, images: NDArray[Any], device: torch.device, precision: str) -> NDArray[np.float32]:
    """float32 logits [N, outputs] of uint8 images [N, H, W, 3]: `predict_logits`, from and to numpy."""
    logits = predict_logits(model.to(device), device_images(images, device), precision)
    return logits.cpu().numpy()
