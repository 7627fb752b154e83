"""What it takes to build parts of a store again, where several of them come of one training."""

from collections.abc import Iterable

from defenses.storage.inventory import Held, Kind

Training = tuple[str, str]
"""Stage, and key of the training's states."""


def training_of(one: Held) -> Training | None:
    """The training whose epochs a part is, or was read from; None where it is of none that is read early."""
    if one.kind is Kind.STATES:
        return one.stage, one.key
    return (one.stage, one.states) if one.kind is Kind.ENTRY and one.states else None


def kept_trainings(held: Iterable[Held]) -> frozenset[Training]:
    """The trainings whose states a store holds: what was read from them is read again without training."""
    return frozenset((one.stage, one.key) for one in held if one.kind is Kind.STATES)


def build_seconds(held: Iterable[Held], kept: Iterable[Held] = ()) -> float:
    """Seconds that it took to build some parts.

    What was read at several epochs of one training counts once, up to the last of them, as does each training for
    whoever builds it again; of a training whose states are `kept` nothing counts.

    Args:
        kept: parts that stay where they are.
    """
    ready, total = kept_trainings(kept), 0.0
    trainings: dict[Training, float] = {}
    for one in held:
        training = training_of(one)
        if training is None:
            total += one.built_seconds
        elif one.kind is Kind.STATES or training not in ready:
            trainings[training] = max(trainings.get(training, 0.0), one.built_seconds)
    return total + sum(trainings.values())
