"""What votes are taken to mean: that something is flagged is no evidence by itself."""

from dataclasses import replace

import numpy as np
import pytest
from cleaning_parts import CLASSES, LABELS, POISON, votes

from study.cleaning.verdict import concerned, decide, shared_classes
from study.cleaning.votes import Votes


def some(count: int, seed: int) -> np.ndarray:
    """Rows of all classes, drawn at random."""
    return np.sort(np.random.default_rng(seed).permutation(len(LABELS))[:count])


def test_images_that_share_a_class_with_every_seed() -> None:
    verdict = decide(votes(POISON, POISON, np.append(POISON, 7)), CLASSES)
    assert verdict.outcome == "poison"
    assert verdict.sentence == "30 images of class stop share something that others lack: look at them."
    assert verdict.classes == (2,)
    assert verdict.drops
    assert verdict.agreement == pytest.approx((1 + 2 * 30 / 31) / 3)


def test_a_tenth_flagged_at_random_is_nothing() -> None:
    verdict = decide(votes(some(40, 0), some(40, 1), some(40, 2)), CLASSES)
    assert verdict.outcome == "nothing"
    assert verdict.sentence == "Nothing found: the 40 images that each run flags look like false alarms."
    assert verdict.reasons[0].startswith("Each run flags 40 images, a share of 0.100, of which ")
    assert not verdict.drops


def test_a_class_that_is_flagged_whole_is_nothing() -> None:
    """What a method that always cuts does with clean data: it takes one class, with other seeds another."""
    whole = [np.flatnonzero(label == LABELS)[:95] for label in (0, 3, 1)]
    assert decide(votes(*whole), CLASSES).outcome == "nothing"
    assert "3 of 3 runs take one class almost whole" in decide(votes(*whole), CLASSES).reasons[0]


def test_clean_digits_as_pipd_flags_them() -> None:
    """Measured: a class almost whole, another one, and several; a majority of the three is in one class by chance."""
    first, second = np.arange(95), np.arange(300, 396)
    third = np.concatenate([np.arange(0, 45), np.arange(110, 190, 2), np.arange(200, 297)])
    assert decide(votes(first, second, third), CLASSES).outcome == "nothing"


def test_a_class_that_is_flagged_whole_with_every_seed_is_for_people_to_look_at() -> None:
    verdict = decide(votes(*[np.arange(5, 100)] * 3), CLASSES)
    assert (verdict.outcome, verdict.classes, verdict.drops) == ("class", (0,), False)
    assert verdict.sentence.startswith("Class go is flagged almost whole, 95 of 100 images: most of it is poison,")


def test_nothing_flagged() -> None:
    verdict = decide(votes(*[np.empty(0, dtype=np.int64)] * 3), CLASSES)
    assert verdict.sentence == "Nothing found: no run flags any image."
    assert verdict.agreement == 1.0
    assert concerned(np.zeros(400, dtype=bool), LABELS, 4) == []


def test_seeds_that_find_different_things_disagree() -> None:
    verdict = decide(votes(POISON, some(40, 1), np.arange(300, 330)), CLASSES)
    assert verdict.outcome == "disagree"
    assert verdict.sentence.startswith("The seeds disagree: do not trust this. 2 of 3 runs")
    assert verdict.drops


def test_methods_that_are_sure_by_themselves_disagree_as_methods() -> None:
    """A blend that one method finds with every seed and the other, which sees patches alone, with none."""
    none = np.empty(0, dtype=np.int64)
    found, missed = votes(*[POISON] * 3).votes, votes(*[none] * 3).votes
    both = Votes((*found, *(replace(vote, defense="flare") for vote in missed)), LABELS)
    verdict = decide(both, CLASSES)
    assert verdict.outcome == "disagree"
    assert verdict.sentence == (
        f"The methods disagree: {found[0].defense} finds images of stop in 3 of 3 runs and flare finds none that share "
        f"a class in any of 3. Methods see different attacks: look at what {found[0].defense} flags by itself "
        f"(--defense {found[0].defense})."
    )
    unsure = decide(Votes((*votes(POISON, some(40, 1), some(30, 2)).votes, *both.votes[3:]), LABELS), CLASSES)
    assert unsure.sentence.startswith("The seeds disagree: do not trust this. 1 of 6 runs")


def test_the_same_images_of_all_classes_again_and_again() -> None:
    verdict = decide(votes(some(40, 0), some(40, 0), some(40, 0)), CLASSES)
    assert verdict.outcome == "unusual"
    assert "40 images of many classes are flagged again and again: look at them" in verdict.sentence


def test_two_backdoors_are_named_together() -> None:
    labels = np.repeat(np.arange(8), 100).astype(np.int64)
    flagged = np.zeros(800, dtype=bool)
    flagged[[*range(200, 240), *range(600, 630)]] = True
    assert shared_classes(flagged, labels, 8) == (2, 6)


def test_too_few_to_share_anything() -> None:
    assert decide(votes(*[POISON[:3]] * 3), CLASSES).outcome == "nothing"


def test_a_single_run_can_find_but_not_disagree() -> None:
    assert decide(votes(POISON), CLASSES).outcome == "poison"
    assert decide(votes(some(40, 0)), CLASSES).outcome == "nothing"
    assert any("There is a single run" in reason for reason in decide(votes(POISON), CLASSES).reasons)


def test_two_classes_of_one_label_each() -> None:
    """Half of a set of two classes is one class: it has to be most of it, and far from all of the class."""
    labels = np.repeat(np.arange(2), 50).astype(np.int64)
    assert shared_classes(labels == 1, labels, 2) == ()
    assert shared_classes(np.arange(100) < 20, labels, 2) == (0,)
