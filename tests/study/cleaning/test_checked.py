"""A verdict is held against what is flagged where nothing was planted: the rule, on numbers made up by hand."""

import numpy as np
import pytest
from cleaning_parts import CLASSES, LABELS, POISON, told, vote, votes
from test_page import words

from study.cleaning.checked import UNCHECKED, Unplanted, check, look
from study.cleaning.page import build_page
from study.cleaning.verdict import Verdict, decide
from study.cleaning.votes import Votes

THRICE = votes(POISON, POISON, POISON)  # 30 of 400 images, all of class stop: a share of 0.075
EVEN = votes(*[np.arange(0, 400, 10)] * 3)  # 40 images of all classes
WHOLE = votes(*[np.arange(5, 100)] * 3)  # 95 of the 100 images of class go
MIXED = votes(POISON, np.arange(0, 400, 10), np.arange(300, 330))


def quiet(shared: int = 0, flagged: int | None = None, whole: int = 0, planted: bool = False) -> Unplanted:
    """A run on 370 images into which nothing was planted; what its images share is class yield."""
    return Unplanted(planted, 370, shared if flagged is None else flagged, shared, whole, (3,) if shared else ())


def checked(ballot: Votes, *runs: Unplanted) -> Verdict:
    return check(decide(ballot, CLASSES), ballot, runs, CLASSES)


def test_what_is_flagged_in_any_case_is_not_claimed() -> None:
    """As activation clustering on clean images: every seed flags the same ones of a class, and finds others as well."""
    assert decide(THRICE, CLASSES).outcome == "poison"
    verdict = checked(THRICE, quiet(27))
    assert (verdict.outcome, verdict.classes, verdict.drops) == ("usual", (), False)
    assert verdict.sentence == (
        "Nothing found that stands out: 30 images of class stop are flagged, no more than this method flags on your "
        "data when nothing was planted."
    )
    assert verdict.checked == (
        "Here 30 of 400 images are flagged in this way, a share of 0.075; there 27 of 370, 0.073, of class yield. That "
        "is what is flagged of these data in any case, or a second backdoor of that size: look at the pictures."
    )
    assert verdict.agreement == 1.0


def test_several_methods_are_told_of_as_several() -> None:
    both = Votes((vote(POISON), vote(POISON, defense="flare")), LABELS)
    assert "no more than these methods flag on your data" in checked(both, quiet(27)).sentence


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (quiet(), "no image is flagged in this way"),
        (quiet(6), "6 of 370 images are flagged in this way"),  # at most 0.035 of them
        (quiet(flagged=60), "no image is flagged in this way"),  # spread over the classes, as false alarms are
        (quiet(flagged=95, whole=95), "no image is flagged in this way"),  # PIPD takes a class whole of clean digits
        (quiet(4), "4 of 370 images are flagged in this way"),  # fewer than can share anything
    ],
)
def test_what_is_flagged_otherwise_takes_no_claim_away(run: Unplanted, text: str) -> None:
    verdict = checked(THRICE, run)
    assert (verdict.outcome, verdict.classes, verdict.drops) == ("poison", (2,), True)
    assert verdict.sentence == decide(THRICE, CLASSES).sentence
    assert verdict.checked == f"Checked: when nothing was planted {text}, and here 30 of 400."


@pytest.mark.parametrize(("shared", "falls"), [(18, True), (17, False)])
def test_how_much_is_as_much(shared: int, falls: bool) -> None:
    """The upper ends of 18 and 17 of 370 are 0.0755 and 0.0723; the share here is 0.075."""
    assert (checked(THRICE, quiet(shared)).outcome == "usual") is falls


def test_seeds_that_disagree_claim_nothing() -> None:
    """Measured: activation clustering flags a patch with each seed, and with each other false alarms."""
    assert decide(MIXED, CLASSES).outcome == "disagree"
    assert checked(MIXED, quiet(30)) == decide(MIXED, CLASSES)


def test_half_of_the_attacks_count() -> None:
    attacked = [quiet(27, planted=True), quiet(30, planted=True), quiet(planted=True), quiet(planted=True)]
    verdict = checked(THRICE, quiet(), *attacked)
    assert verdict.outcome == "usual"
    assert "no more than this method flags on your data among images into which nothing was planted" in verdict.sentence
    assert "there 30 of 370" in verdict.checked
    assert checked(THRICE, quiet(), *attacked[1:]).outcome == "poison"


@pytest.mark.parametrize(
    ("ballot", "outcome", "falling", "standing"),
    [
        (EVEN, "unusual", quiet(flagged=35), quiet(flagged=10)),
        (WHOLE, "class", quiet(whole=90), quiet(flagged=90)),
    ],
)
def test_each_verdict_is_held_against_its_like(
    ballot: Votes, outcome: str, falling: Unplanted, standing: Unplanted
) -> None:
    assert decide(ballot, CLASSES).outcome == outcome
    fallen, stands = checked(ballot, falling), checked(ballot, standing)
    assert (fallen.outcome, fallen.drops) == ("usual", False)
    assert stands.outcome == outcome
    assert stands.checked.startswith("Checked: when nothing was planted")


def test_without_canaries_it_is_said_that_nothing_was_checked() -> None:
    assert checked(THRICE).checked == UNCHECKED
    assert checked(THRICE).outcome == "poison"


def test_nothing_needs_no_check() -> None:
    nothing = votes(*[np.empty(0, dtype=np.int64)] * 3)
    assert checked(nothing, quiet(27)) == decide(nothing, CLASSES)
    assert checked(nothing).checked == ""


NOBODY = np.zeros(400, dtype=bool)


def test_the_class_that_was_planted_into_does_not_count() -> None:
    planted = np.isin(np.arange(400), np.arange(100, 110))  # into class left
    one = look([(votes(np.array([*range(100, 150), *range(300, 330)])), planted)], 4)
    assert one == Unplanted(True, total=300, flagged=30, shared=30, whole=0, classes=(3,))
    assert look([(votes(np.arange(90)), NOBODY)], 4) == Unplanted(False, 400, 90, 0, 90)
    assert look([(votes(POISON), label == LABELS) for label in range(4)], 4) is None


def test_what_changes_with_the_seed_is_no_claim_of_a_look() -> None:
    """Each seed cuts another cluster off; and then each the same."""
    others = [(votes(np.arange(start, start + 30)), NOBODY) for start in (0, 110, 320)]
    assert look(others, 4) == Unplanted(False, 400, flagged=0, shared=0, whole=0)
    alike = [(votes(np.arange(start, start + 30)), NOBODY) for start in (320, 325, 328)]
    assert look(alike, 4) == Unplanted(False, 400, flagged=30, shared=30, whole=0, classes=(3,))


def test_the_page_says_what_was_checked() -> None:
    verdict = checked(THRICE, quiet(27))
    page = words(build_page(told(THRICE, verdict=verdict)))
    assert page.index(verdict.sentence) < page.index("Here 30 of 400 images are flagged in this way")


@pytest.mark.parametrize("plantings", [3, 4, 5])
def test_a_class_that_is_taken_whole_stays_whole_however_much_was_planted(plantings: int) -> None:
    """Each planting takes 5 of each 100 images of a class; what is left of class go is flagged whole."""
    runs = []
    for planting in range(plantings):
        planted = np.zeros(400, dtype=bool)
        planted[planting * 5 : 5 + planting * 5] = True
        labels = np.where(planted, 3, LABELS)
        ballot = Votes((vote(np.flatnonzero((LABELS == 0) & ~planted)),), labels)
        runs.append((ballot, planted))
    seen = look(runs, 4)
    assert seen is not None
    assert (seen.shared, seen.whole) == (0, 100 - 5 * plantings)
