"""Poisoning a dataset once: which images, which labels, and the triggered test set that measures the attack."""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.api import SuspectDataset
from defenses.registry import UserError
from defenses.storage.array_file import with_rows
from study.attacks.api import COVER, TEST, TRAIN, Attack, Labels, Pixels, State, selection_order
from study.attacks.given import Given
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images

VERSION = 1  # raise it when the same scenario of any attack would give other images; of one attack: `Attack.version`
COVERS_VERSION = 2  # raise it when other images would be covers
CHUNK_BYTES = 1 << 20  # uint8 bytes triggered at once: float32 copies stay far below the size of the dataset
PREVIEW_IMAGES = 8
Room = Callable[[tuple[int, ...]], Pixels]
"""A new array uint8 of a shape, in memory or elsewhere."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoisonedDataset:
    """A suspect dataset and its ground truth. A defense is handed `suspect` and nothing else.

    Attributes:
        poison_mask, cover_mask: bool [N]; disjoint. Covers carry a trigger and their true label.
        poison_known: False for received data whose poison nobody marked: the masks then mean nothing.
        original_labels: int64 [N], before poisoning; as received where that is not known.
        test_images, test_labels: the clean test set.
        triggered_images: uint8 [M, H, W, 3]: test images with the trigger, by default none of the target class.
        triggered_labels: int64 [M], what the attacker wants them to be called.
        meta: counts, rates and what was warned of, for people and for tracking.
        preview: uint8 [h, w, 3]: clean, poisoned and ten times their difference, in rows; of received data one row of
            what the file marks as poisoned.
    """

    suspect: SuspectDataset
    poison_mask: NDArray[np.bool_]
    cover_mask: NDArray[np.bool_]
    original_labels: Labels
    test_images: Pixels
    test_labels: Labels
    triggered_images: Pixels
    triggered_labels: Labels
    meta: dict[str, Any]
    preview: Pixels
    poison_known: bool = True

    @property
    def covers_known(self) -> bool:
        """False for received data whose covers nobody marked: `cover_mask` then means nothing."""
        return self.poison_known and "n_cover" in self.meta


@dataclass(frozen=True)
class Selection:
    """Which training images carry a trigger.

    Attributes:
        poisoned, covers: sorted positions int64.
        wanted: how many the poison rate asks for; more than there are when a class was capped.
    """

    poisoned: NDArray[np.int64]
    covers: NDArray[np.int64]
    wanted: int

    @property
    def rows(self) -> NDArray[np.int64]:
        """Both, in this order, int64 [n]."""
        return np.concatenate([self.poisoned, self.covers])


def poison_count(rate: float, base: int) -> int:
    """floor(rate * base), safe against 0.29 * 50,000 = 14,499.999..."""
    return int(np.floor(rate * base + 1e-6))


def select(
    labels: Labels, attack: Attack, poison_rate: float, target_label: int, seed: int, target: str = ""
) -> Selection:
    """Which training images are poisoned, and which are covers.

    A prefix of one permutation a seed: rates nest, and all dirty-label attacks take the same images. Any class may be
    taken, the target's included, as in backdoor-toolbox; clean-label attacks take the target class alone. Covers are
    the images that follow, of any class: a share of the same base as the poison, rounded down by itself, as there (of
    1,437 images 143 are poisoned at 0.1, and 287 are covers at a ratio of 2). A capped class has the ratio to what it
    poisons.

    Args:
        labels: int64 [N], the true ones.
        target: what a message calls the target; by default its number.

    Raises:
        UserError: the data have fewer images than the attack needs, and ``cap`` is off; or the rate is below one image.
    """
    none = np.empty(0, dtype=np.int64)
    if not attack.poisons or poison_rate == 0:
        return Selection(none, none, 0)
    order = selection_order(len(labels), seed)
    of_target = int((labels == target_label).sum())
    base = of_target if attack.config.rate_base == "class" else len(labels)
    wanted = poison_count(poison_rate, base)
    eligible = order[labels[order] == target_label] if attack.clean_label else order
    if wanted > len(eligible) and not attack.config.cap:
        raise UserError(
            f"{attack.name} poisons images of class {target or target_label} alone: a poison rate of {poison_rate} "
            f"needs {wanted} of them and there are {len(eligible)}; use a rate of at most "
            f"{_rate_below(len(eligible), base)}, or {attack.name}:cap=true to poison them all"
        )
    if wanted == 0:
        of = f"{base} images" + (f" of class {target or target_label}" if base != len(labels) else "")
        raise UserError(f"a poison rate of {poison_rate} of {of} is less than one image: use a larger rate")
    poisoned = eligible[:wanted]
    rest = order[~np.isin(order, poisoned)] if attack.config.cover_ratio else none
    count = poison_count(attack.config.cover_ratio * poison_rate, base)
    if len(poisoned) < wanted:  # capped
        count = poison_count(attack.config.cover_ratio, len(poisoned))
    if count > len(rest):
        raise UserError(
            f"{attack.name} at a poison rate of {poison_rate} needs {count} covers beside its {len(poisoned)} poisoned "
            f"images, and {len(rest)} images are left: lower the rate, or {attack.name}:cover_ratio"
        )
    return Selection(np.sort(poisoned), np.sort(rest[:count]), wanted)


def _rate_below(count: int, base: int) -> str:
    """The largest rate of few digits that asks for no more than a count; 0 of no image."""
    if not count:
        return "0"
    digits = next(digits for digits in itertools.count(3) if count / base * 10**digits >= 1)
    return f"{np.floor(count / base * 10**digits) / 10**digits:.{digits}f}".rstrip("0")


def poison(
    images: Images,
    attack: Attack,
    poison_rate: float,
    target_label: int,
    seed: int,
    context: FitContext | None = None,
    room: Room | None = None,
) -> PoisonedDataset:
    """Poisons a dataset. The same arguments give the same bytes in any process.

    Args:
        images: the clean data; not changed.
        poison_rate: in [0, 0.5]; 0 for the clean control.
        target_label: the label the attacker wants, in [0, K).
        seed: of the scenario.
        context: where trained parts are made and kept; by default on the CPU, and not kept.
        room: gives the array of the triggered test images; by default in memory.

    Raises:
        UserError: a rate or label out of its range, a rate that the data cannot give, or a trigger that cannot be made.
    """
    if not 0 <= poison_rate <= 0.5:
        raise UserError(f"a poison rate must lie in [0, 0.5], got {poison_rate}: choose a share of the training images")
    if not 0 <= target_label < images.num_classes:
        raise UserError(f"a target label must lie in [0, {images.num_classes}), got {target_label}")
    if isinstance(attack, Given):
        return _received(images, attack, target_label)
    attack.check(images)
    named = images.class_text(target_label)
    selection = select(images.train_labels, attack, poison_rate, target_label, seed, named)
    chosen, covers = selection.poisoned, selection.covers
    state = attack.fit(images, context or FitContext(seed, target_label)) if attack.poisons else {}
    train_images, train_labels = with_rows(images.train_images, selection.rows), images.train_labels.copy()
    for rows, split in ((chosen, TRAIN), (covers, COVER)):
        for _, part, pixels in _triggered(attack, images.train_images, rows, state, split):
            train_images[part] = pixels
    if not attack.clean_label:
        train_labels[chosen] = attack.attacker_labels(train_labels[chosen], target_label, images.num_classes)
    victims = attack.victims(images.test_labels, target_label) if attack.poisons else chosen[:0]
    shown = chosen[:PREVIEW_IMAGES]
    return PoisonedDataset(
        suspect=SuspectDataset.of(train_images, train_labels, images.num_classes),
        poison_mask=_mask(chosen, len(train_labels)),
        cover_mask=_mask(covers, len(train_labels)),
        original_labels=images.train_labels,
        test_images=images.test_images,
        test_labels=images.test_labels,
        triggered_images=apply_in_chunks(attack, images.test_images, victims, state, TEST, room=room),
        triggered_labels=attack.attacker_labels(images.test_labels[victims], target_label, images.num_classes),
        meta=_meta(images, attack, selection, target_label),
        preview=preview(images.train_images[shown], train_images[shown]),
        poison_known=knows_poison(images, len(selection.rows)),
    )


def knows_poison(images: Images, changed: int) -> bool:
    """Whether it is known which images are poisoned: where an attack changed some, and where all are known to be clean.

    Args:
        images: before an attack.
        changed: images that the attack put a trigger on.
    """
    return changed > 0 or not images.received


def _received(images: Images, attack: Given, target_label: int) -> PoisonedDataset:
    """Data that somebody else has poisoned, with as much ground truth as the file holds."""
    received = attack.read(images, target_label)
    nothing = np.zeros(len(received.labels), dtype=bool)
    poison_mask = nothing if received.poison_mask is None else received.poison_mask
    cover_mask = nothing if received.cover_mask is None else received.cover_mask
    shown = received.images[poison_mask][:PREVIEW_IMAGES]
    # Which training images are clean the file alone could tell: of the data that were loaded, the test set is.
    meta: dict[str, Any] = {"n_train": len(received.labels), "test_fingerprint": images.test_fingerprint}
    if received.poison_mask is not None:
        meta |= {
            "n_poison": int(poison_mask.sum()),
            "effective_rate": float(poison_mask.mean()),
            **({} if received.cover_mask is None else {"n_cover": int(cover_mask.sum())}),
        }
    return PoisonedDataset(
        suspect=SuspectDataset.of(received.images, received.labels, images.num_classes),
        poison_mask=poison_mask,
        cover_mask=cover_mask,
        original_labels=received.original_labels,
        test_images=images.test_images,
        test_labels=images.test_labels,
        triggered_images=received.triggered_images,
        triggered_labels=received.triggered_labels,
        meta=meta,
        preview=np.concatenate(list(shown), axis=1) if len(shown) else preview(shown, shown),
        poison_known=received.poison_mask is not None,
    )


def _mask(rows: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, dtype=bool)
    mask[rows] = True
    return mask


def _meta(images: Images, attack: Attack, selection: Selection, target_label: int) -> dict[str, Any]:
    chosen = selection.poisoned
    if len(chosen) < selection.wanted:
        log.warning(
            "%s: the target class has %d images, %d were asked for: all of them are poisoned",
            attack.name,
            len(chosen),
            selection.wanted,
        )
    counts = {
        "n_poison": len(chosen),
        "n_cover": len(selection.covers),
        "n_poison_from_target": int((images.train_labels[chosen] == target_label).sum()),
        "effective_rate": len(chosen) / len(images.train_labels),
    }
    known = knows_poison(images, len(selection.rows))
    return {
        "n_train": len(images.train_labels),
        **(counts if known else {}),
        "clean_fingerprint": images.fingerprint,
    }


def apply_in_chunks(
    attack: Attack,
    images: Pixels,
    index: NDArray[np.int64],
    state: State,
    split: str,
    chunk_bytes: int = CHUNK_BYTES,
    room: Room | None = None,
) -> Pixels:
    """Triggered copies of images[index], a chunk at a time so that float copies stay small.

    Args:
        room: gives the array that they are written to; by default in memory.
    """
    shape = (len(index), *images.shape[1:])
    out = np.empty(shape, dtype=np.uint8) if room is None else room(shape)
    for start, part, pixels in _triggered(attack, images, index, state, split, chunk_bytes):
        out[start : start + len(part)] = pixels
    return out


def _triggered(
    attack: Attack,
    images: Pixels,
    index: NDArray[np.int64],
    state: State,
    split: str,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[tuple[int, NDArray[np.int64], Pixels]]:
    """Triggered copies of images[index] in chunks: where a chunk begins in the index, its part of it, its pixels."""
    size = max(1, chunk_bytes // int(np.prod(images.shape[1:])))
    for start in range(0, len(index), size):
        part = index[start : start + size]
        yield start, part, attack.apply(images[part], part, state, split)


def preview(clean: Pixels, poisoned: Pixels) -> Pixels:
    """Three rows of images side by side: clean, poisoned, and ten times the absolute difference.

    Args:
        clean, poisoned: uint8 [n, H, W, 3].

    Returns:
        uint8 [3 H, n W, 3]; [0, 0, 3] without images.
    """
    if len(clean) == 0:
        return np.zeros((0, 0, 3), dtype=np.uint8)
    difference = np.abs(poisoned.astype(np.int16) - clean.astype(np.int16)) * 10
    rows = [clean, poisoned, np.minimum(difference, 255).astype(np.uint8)]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
