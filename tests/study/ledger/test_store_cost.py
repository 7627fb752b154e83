"""What it takes to build parts of a store again: a training once, however many of its epochs were read."""

from pathlib import Path

import pytest

from defenses.storage.inventory import Held, Kind
from study.ledger.store_cost import build_seconds, kept_trainings
from study.ledger.store_removal import Wish, choose
from study.ledger.store_use import StoreUse


def part(key: str, seconds: float, kind: Kind = Kind.ENTRY, states: str = "", stage: str = "pre_isolation") -> Held:
    return Held(stage, key, kind, 100, seconds, 0.0, states=states)


READS = [part("four", 10.0, states="slow"), part("thirty", 75.0, states="slow"), part("eight", 20.0, states="fast")]
STATES = [part("slow", 74.0, Kind.STATES), part("fast", 80.0, Kind.STATES)]
OTHER = part("maps", 3.0, stage="channel_activations")


def test_what_is_read_of_one_training_costs_that_training() -> None:
    assert build_seconds(READS) == 75 + 20, "up to the last epoch that was read"
    assert build_seconds([*READS, *STATES]) == 75 + 80
    assert build_seconds([*READS, *STATES, OTHER, OTHER]) == 75 + 80 + 6
    assert build_seconds([part("a", 5.0), part("b", 5.0)]) == 10, "of no training that is read early"
    assert build_seconds([part("a", 5.0, states="x"), part("b", 7.0, states="x", stage="another")]) == 12


def test_what_is_read_from_states_that_stay_is_not_trained_again() -> None:
    assert kept_trainings([*READS, *STATES]) == {("pre_isolation", "slow"), ("pre_isolation", "fast")}
    assert build_seconds(READS, kept=STATES[:1]) == 20
    assert build_seconds([*READS, OTHER], kept=STATES) == 3
    assert build_seconds(STATES, kept=READS) == 74 + 80, "for the epochs that nobody has read"


@pytest.mark.parametrize(("held", "first"), [([*READS, *STATES, OTHER], READS), ([*READS, OTHER], [OTHER])])
def test_what_can_be_read_again_goes_before_what_must_be_trained(
    held: list[Held], first: list[Held], tmp_path: Path
) -> None:
    use = StoreUse(tmp_path, held, ())
    use.unused = lambda one: False  # type: ignore[method-assign]
    chosen = choose(use, Wish(down_to=100 * (len(held) - len(first))))
    assert {one.key for one in chosen} == {one.key for one in first}
