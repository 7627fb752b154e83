"""Canaries: known attacks planted into copies of the data, to see what the same look would have found there."""

from collections.abc import Sequence
from dataclasses import dataclass

from study.cleaning.checked import Unplanted
from study.cleaning.intervals import wilson
from study.cli.numbers import format_number, listed
from study.report.elements import Bars, Cell, Item, Note, Table

ATTACKS = ("badnets", "blended_random", "wanet")
KINDS = {"badnets": "patch", "blended_random": "blend", "wanet": "warp"}
"""Attack -> what people call its trigger."""
RATES = (0.01, 0.05)


@dataclass(frozen=True)
class Planted:
    """What became of one planted attack.

    Attributes:
        target: the class that the attack wants, by number and name.
        asr: success of the attack without a defense, on held-out images; None where it was not measured.
        took: the attack works on these data; one that does not counts nowhere.
        hits, planted: flagged images that were planted, and all that were.
        alarms, others: flagged images that were not planted, and all that were not.
    """

    attack: str
    rate: float
    seed: int
    target: str
    asr: float | None
    took: bool
    hits: int
    planted: int
    alarms: int
    others: int

    @property
    def kind(self) -> str:
        """What its trigger is, in a word."""
        return KINDS.get(self.attack, self.attack)


@dataclass(frozen=True)
class Rate:
    """What was found of an attack at a rate, over all plantings that took.

    Attributes:
        tpr, low, high: share that was found, with a 95 % interval (Wilson) over plantings; None where none took.
        fpr: share of the images that were not planted and are flagged.
    """

    attack: str
    rate: float
    tpr: float | None
    low: float | None
    high: float | None
    fpr: float | None
    taken: int
    plantings: int

    @property
    def kind(self) -> str:
        """What its trigger is, in a word."""
        return KINDS.get(self.attack, self.attack)


@dataclass(frozen=True)
class Canaries:
    """All planted attacks.

    Attributes:
        null: share that is flagged of the same data with nothing planted; None where that was not run.
        null_classes: names of the classes that images share which are flagged of that.
        unplanted: what all seeds together flag of images into which nothing was planted, with nothing planted, and
            with each attack and rate that took.
    """

    planted: tuple[Planted, ...]
    null: float | None = None
    null_classes: tuple[str, ...] = ()
    unplanted: tuple[Unplanted, ...] = ()

    @property
    def caution(self) -> str:
        """What the same data with nothing planted say against the verdict; empty where they say nothing."""
        if not self.null_classes:
            return ""
        return (
            f"Careful: without the flagged images, and with nothing planted, a run finds images of class "
            f"{listed(self.null_classes)} that share something too. That is a second backdoor, or what these methods "
            "do with these data in any case."
        )

    @property
    def rates(self) -> list[Rate]:
        """Every attack and rate, in order."""
        order = dict.fromkeys((one.attack, one.rate) for one in self.planted)
        return [self._rate(attack, rate) for attack, rate in order]

    @property
    def counted(self) -> list[Rate]:
        """Those that took somewhere."""
        return [rate for rate in self.rates if rate.tpr is not None]

    def _plantings(self, attack: str, rate: float) -> list[Planted]:
        return [one for one in self.planted if (one.attack, one.rate) == (attack, rate)]

    def _rate(self, attack: str, rate: float) -> Rate:
        """Images that one planting has in common are found together or not at all: each planting is a single draw."""
        own = self._plantings(attack, rate)
        took = [one for one in own if one.took and one.planted]
        shares = [one.hits / one.planted for one in took]
        alarms, others = sum(one.alarms for one in took), sum(one.others for one in took)
        if not took:
            return Rate(attack, rate, None, None, None, None, len(took), len(own))
        return Rate(
            attack,
            rate,
            sum(shares) / len(shares),
            *wilson(sum(shares), len(shares)),
            alarms / others if others else None,
            len(took),
            len(own),
        )

    @property
    def sentence(self) -> str:
        """What would have been found here, in a sentence or two."""
        told = [
            f"a {_percent(rate.rate)} {rate.kind} would have been found with TPR {format_number(rate.tpr, 2)}"
            if at == 0
            else f"a {_percent(rate.rate)} {rate.kind} with {format_number(rate.tpr, 2)}"
            for at, rate in enumerate(self.counted)
        ]
        if not told:
            return "No planted attack took on these data, so nothing says what would have been found here."
        failed = [f"a {_percent(rate.rate)} {rate.kind}" for rate in self.rates if rate.tpr is None]
        without = listed(failed) if failed else ""
        counts = "counts" if len(failed) == 1 else "count"
        more = f" {without[0].upper()}{without[1:]} did not take on these data and {counts} nowhere." if failed else ""
        return f"On your data {listed(told)}.{more}"

    def items(self) -> tuple[Item, ...]:
        """The table and the figure of a page."""
        rates = self.rates
        rows = tuple(_row(rate, self._plantings(rate.attack, rate.rate)) for rate in rates)
        table = Table(
            "canaries",
            "TPR: share of the planted images that were flagged, with a 95 % interval (Wilson) over the plantings that "
            "took. FPR: share of all others that were. ASR: success of the attack without a defense; below the floor "
            "it did not take.",
            ("trigger", "attack", "rate", "target class", "ASR", "TPR", "95 % interval", "FPR", "plantings"),
            rows,
            left=4,
        )
        shown = self.counted
        items: list[Item] = [table]
        if shown:
            items.append(
                Bars(
                    "canaries-tpr",
                    "Share of the planted images that was found (TPR), with 95 % intervals.",
                    tuple(f"{rate.kind}, {_percent(rate.rate)}" for rate in shown),
                    ("TPR",),
                    (tuple(rate.tpr for rate in shown),),
                    (tuple(rate.low for rate in shown),),
                    (tuple(rate.high for rate in shown),),
                    x_label="TPR",
                )
            )
        if self.null is not None:
            items.append(
                Note(f"With nothing planted, a share of {format_number(self.null)} of the same images is flagged.")
            )
        items.append(
            Note(
                "Each planting has a seed and a class of its own, in copies of the images that are not suspected. Its "
                "images are found together or not at all, since one training decides for all of them: so the intervals "
                "count plantings and not images, and with few of them they are wide. --plantings has more.",
                "footnote",
            )
        )
        return tuple(items)


def _row(rate: Rate, planted: Sequence[Planted]) -> tuple[Cell, ...]:
    asrs = [one.asr for one in planted if one.asr is not None]
    targets = ", ".join(dict.fromkeys(one.target for one in planted))
    interval = "did not take" if rate.low is None else f"{format_number(rate.low, 2)} to {format_number(rate.high, 2)}"
    asr = sum(asrs) / len(asrs) if asrs else None
    took = f"{rate.taken} of {rate.plantings} took"
    return (rate.kind, rate.attack, _percent(rate.rate), targets, asr, rate.tpr, interval, rate.fpr, took)


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"
