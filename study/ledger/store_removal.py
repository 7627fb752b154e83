"""What of a store to remove, in which order, and its removal while studies may run, or start in the middle."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from defenses.storage.inventory import Held, Kind
from defenses.storage.occupancy import alone, gate
from defenses.storage.removal import remove
from study.ledger.store_cost import kept_trainings, training_of
from study.ledger.store_studies import read_uses, running
from study.ledger.store_use import StoreUse

RECENT_SECONDS = 600.0
"""What was used less long ago stays while another process has the store open, which need not be a study's."""


@dataclass(frozen=True)
class Wish:
    """What is to go.

    Attributes:
        unused: only what no study uses or might use.
        stages: only of these; empty for all.
        older_seconds: only what was used longer ago; None for all.
        down_to: only so much that the store is no larger, in bytes; None for all of it.
    """

    unused: bool = False
    stages: frozenset[str] = frozenset()
    older_seconds: float | None = None
    down_to: int | None = None


@dataclass(frozen=True)
class Removed:
    """What became of it.

    Attributes:
        freed: bytes.
        gone: how many parts of the store are gone.
        kept: that were to go and stay, since somebody uses them now.
    """

    freed: int
    gone: int
    kept: int


def choose(use: StoreUse, wish: Wish, now: float | None = None) -> list[Held]:
    """What is to go, in order.

    First what no study uses, what was used longest ago before the rest; then what takes fewest seconds to build again
    for each byte that it frees. What a running study uses or might ask for is never among it.
    """
    now = time.time() if now is None else now
    busy = [study for study in use.studies if study.process is not None]
    chosen = [
        one
        for one in use.held
        if not use.claims(one, busy)
        and (one.key or not busy)  # what a process that measures works in
        and (not wish.stages or one.stage in wish.stages)
        and (wish.older_seconds is None or now - one.used_at > wish.older_seconds)
        and (not wish.unused or use.unused(one))
    ]
    chosen = _in_order(use, chosen)
    if wish.down_to is None:
        return chosen
    left = sum(one.bytes for one in use.held)
    needed = []
    for one in chosen:
        if left <= wish.down_to:
            break
        needed.append(one)
        left -= one.bytes
    return needed


def _in_order(use: StoreUse, held: Iterable[Held]) -> list[Held]:
    """Leftovers first, then what is unused by its last use, then the rest by seconds for a byte."""
    trained = kept_trainings(use.held)

    def order(one: Held) -> tuple[float, float, float]:
        if one.kind is Kind.REMAINS:
            return 0, one.used_at, 0
        if use.unused(one):
            return 1, one.used_at, 0
        read_again = one.kind is Kind.ENTRY and training_of(one) in trained
        return 2, 0.0 if read_again else one.built_seconds / max(1, one.bytes), one.used_at

    return sorted(held, key=order)


def remove_chosen(
    root: Path, outs: Sequence[Path], use: StoreUse, chosen: Sequence[Held], tell: Callable[[Held], None]
) -> Removed:
    """Removes what was chosen, but for what somebody uses by then.

    Args:
        outs: folders of results whose studies use the store.
        tell: told of each part before it goes.

    Raises:
        OSError: a file cannot be removed.
    """
    freed = gone = kept = 0
    busy = {study.folder: study.process for study in use.studies if study.process is not None}
    with alone(root) as nobody_else:
        for one in chosen:
            tell(one)
            with gate(root):
                if (now := running(outs)) != busy:
                    use, busy = StoreUse(root, use.held, read_uses(root, outs)), dict(now)
                studies = [study for study in use.studies if study.process is not None]
                recent = not nobody_else and time.time() - one.used_at < RECENT_SECONDS
                removed = None if recent or use.claims(one, studies) else remove(root, one)
            kept += removed is None
            gone += removed is not None
            freed += removed or 0
    return Removed(freed, gone, kept)
