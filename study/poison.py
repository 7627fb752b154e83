"""Poisoning a dataset once: which images, which labels, and the triggered test set that measures the attack."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.api import SuspectDataset
from defenses.registry import UserError
from defenses.seeds import derive_seed
from study.attacks.api import Attack, Pixels, State
from study.datasets.images import Images

VERSION = 1  # raise it when the same scenario would give other images
CHUNK_BYTES = 64 << 20  # uint8 bytes triggered at once: float32 copies stay a small multiple of it
PREVIEW_IMAGES = 8
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoisonedDataset:
    """A suspect dataset and its ground truth. A defense is handed `suspect` and nothing else.

    Attributes:
        poison_mask, cover_mask: bool [N]; disjoint. Covers carry a trigger and their true label.
        original_labels: int64 [N], before poisoning.
        test_images, test_labels: the clean test set.
        triggered_images: uint8 [M, H, W, 3]: test images not of the target class, with the trigger.
        triggered_labels: int64 [M], what the attacker wants them to be called.
        meta: counts, rates and what was warned of, for people and for tracking.
        preview: uint8 [h, w, 3]: clean, poisoned and ten times their difference, in rows.
    """

    suspect: SuspectDataset
    poison_mask: NDArray[np.bool_]
    cover_mask: NDArray[np.bool_]
    original_labels: NDArray[np.int64]
    test_images: Pixels
    test_labels: NDArray[np.int64]
    triggered_images: Pixels
    triggered_labels: NDArray[np.int64]
    meta: dict[str, Any]
    preview: Pixels


def poison_count(rate: float, base: int) -> int:
    """floor(rate * base), safe against 0.29 * 50,000 = 14,499.999..."""
    return int(np.floor(rate * base + 1e-6))


def select(
    labels: NDArray[np.int64], attack: Attack, poison_rate: float, target_label: int, seed: int
) -> tuple[NDArray[np.int64], int]:
    """Which training images are poisoned, and how many the rate asks for.

    A prefix of one permutation a seed: rates nest, and all dirty-label attacks take the same images. Any class may be
    taken, the target's included, as in backdoor-toolbox; clean-label attacks take the target class alone.

    Returns:
        Sorted positions int64 [n], and the count before any cap.

    Raises:
        UserError: a clean-label attack needs more images than its class has, and ``cap`` is off.
    """
    if not attack.poisons or poison_rate == 0:
        return np.empty(0, dtype=np.int64), 0
    order = np.random.default_rng(derive_seed(seed, "select")).permutation(len(labels))
    of_target = int((labels == target_label).sum())
    wanted = poison_count(poison_rate, of_target if attack.config.rate_base == "class" else len(labels))
    if attack.clean_label:
        order = order[labels[order] == target_label]
        if wanted > len(order) and not attack.config.cap:
            raise UserError(
                f"{attack.name} poisons images of class {target_label} alone: a poison rate of {poison_rate} needs "
                f"{wanted} of them and there are {len(order)}; use a rate of at most "
                f"{np.floor(len(order) / len(labels) * 1000) / 1000}, or {attack.name}:cap=true to poison them all"
            )
    if wanted == 0:
        raise UserError(
            f"a poison rate of {poison_rate} of {len(labels)} images is less than one image: use a larger rate"
        )
    return np.sort(order[:wanted]), wanted


def poison(images: Images, attack: Attack, poison_rate: float, target_label: int, seed: int) -> PoisonedDataset:
    """Poisons a dataset. The same arguments give the same bytes in any process.

    Args:
        images: the clean data; not changed.
        poison_rate: in [0, 0.5]; 0 for the clean control.
        target_label: the label the attacker wants, in [0, K).
        seed: of the scenario.

    Raises:
        UserError: a rate or label out of its range, a rate that the data cannot give, or a trigger that cannot be made.
    """
    if not 0 <= poison_rate <= 0.5:
        raise UserError(f"a poison rate must lie in [0, 0.5], got {poison_rate}: choose a share of the training images")
    if not 0 <= target_label < images.num_classes:
        raise UserError(f"a target label must lie in [0, {images.num_classes}), got {target_label}")
    chosen, wanted = select(images.train_labels, attack, poison_rate, target_label, seed)
    state = attack.fit(images, seed) if attack.poisons else {}
    train_images, train_labels = images.train_images.copy(), images.train_labels.copy()
    train_images[chosen] = apply_in_chunks(attack, images.train_images, chosen, state, "train")
    if not attack.clean_label:
        train_labels[chosen] = target_label
    victims = np.flatnonzero(images.test_labels != target_label) if attack.poisons else chosen[:0]
    triggered = apply_in_chunks(attack, images.test_images, victims, state, "test")
    mask = np.zeros(len(train_labels), dtype=bool)
    mask[chosen] = True
    return PoisonedDataset(
        suspect=SuspectDataset.of(train_images, train_labels, images.num_classes),
        poison_mask=mask,
        cover_mask=np.zeros_like(mask),
        original_labels=images.train_labels,
        test_images=images.test_images,
        test_labels=images.test_labels,
        triggered_images=triggered,
        triggered_labels=np.full(len(victims), target_label, dtype=np.int64),
        meta=_meta(images, attack, chosen, wanted, target_label),
        preview=preview(images.train_images[chosen[:PREVIEW_IMAGES]], train_images[chosen[:PREVIEW_IMAGES]]),
    )


def _meta(images: Images, attack: Attack, chosen: NDArray[np.int64], wanted: int, target_label: int) -> dict[str, Any]:
    if len(chosen) < wanted:
        log.warning(
            "%s: the target class has %d images, %d were asked for: all of them are poisoned",
            attack.name,
            len(chosen),
            wanted,
        )
    return {
        "n_train": len(images.train_labels),
        "n_poison": len(chosen),
        "n_cover": 0,
        "n_poison_from_target": int((images.train_labels[chosen] == target_label).sum()),
        "effective_rate": len(chosen) / len(images.train_labels),
        "clean_fingerprint": images.fingerprint,
    }


def apply_in_chunks(
    attack: Attack, images: Pixels, index: NDArray[np.int64], state: State, split: str, chunk_bytes: int = CHUNK_BYTES
) -> Pixels:
    """Triggered copies of images[index], a chunk at a time so that float copies stay small."""
    out = np.empty((len(index), *images.shape[1:]), dtype=np.uint8)
    size = max(1, chunk_bytes // int(np.prod(images.shape[1:])))
    for start in range(0, len(index), size):
        part = index[start : start + size]
        out[start : start + len(part)] = attack.apply(images[part], part, state, split)
    return out


def preview(clean: Pixels, poisoned: Pixels) -> Pixels:
    """Three rows of images side by side: clean, poisoned, and ten times the absolute difference."""
    if len(clean) == 0:
        return np.zeros((0, 0, 3), dtype=np.uint8)
    difference = np.abs(poisoned.astype(np.int16) - clean.astype(np.int16)) * 10
    rows = [clean, poisoned, np.minimum(difference, 255).astype(np.uint8)]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
