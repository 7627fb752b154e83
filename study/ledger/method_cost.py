"""What a defense costs on a scenario: its own stages alone, not the attack's, the judge's or the undefended model's.

A defense that builds on the undefended model counts that model's training, which a study does in any case.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MethodCost:
    """Epoch-equivalents (passes forward and backward over the training set) and seconds.

    Attributes:
        built_epochs, built_seconds: of all stages of the defense, whenever they were built: what it costs by itself.
        spent_epochs, spent_seconds: of those that this run built, at epochs where it was compared with others as well;
            the others were in the store.
    """

    built_epochs: float | None
    spent_epochs: float | None
    built_seconds: float
    spent_seconds: float


def method_cost(
    stages: Sequence[Mapping[str, Any]], own: Collection[str], earlier: Sequence[Mapping[str, Any]] = ()
) -> MethodCost:
    """The cost of a defense by the stages of a record; epoch-equivalents are None where they do not say.

    Args:
        earlier: stages of the records of the same run that were made at earlier epochs of its trainings.
        own: names of the defense's stages, for records of versions that did not say which stages are.
    """
    of_defense = [stage for stage in stages if is_own(stage, own)]
    built = [stage for stage in (*earlier, *stages) if is_own(stage, own) and not stage["hit"]]
    return MethodCost(
        built_epochs=_epochs(of_defense) if of_defense else None,
        spent_epochs=_spent_epochs(built) if of_defense and _epochs(of_defense) is not None else None,
        built_seconds=float(sum(stage["built_seconds"] for stage in of_defense)),
        spent_seconds=float(sum(stage["wall_seconds"] for stage in built)),
    )


def _spent_epochs(built: Sequence[Mapping[str, Any]]) -> float | None:
    """What stages computed; of records that do not say, each training up to where it was read last."""
    if all(stage.get("spent_epochs") is not None for stage in built):
        return float(sum(stage["spent_epochs"] for stage in built))
    return _epochs([*{stage.get("training") or at: stage for at, stage in enumerate(built)}.values()])


def is_own(stage: Mapping[str, Any], own: Collection[str]) -> bool:
    """Whether a stage of a record is a part of the defense; `own` as `method_cost` takes it."""
    said = stage.get("of_defense")
    return bool(stage["stage"] in own if said is None else said)


def _epochs(stages: Sequence[Mapping[str, Any]]) -> float | None:
    values = [stage.get("epoch_equivalents") for stage in stages]
    return None if any(value is None for value in values) else float(sum(value or 0.0 for value in values))
