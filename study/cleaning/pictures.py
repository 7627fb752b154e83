"""Pictures of what is flagged: contact sheets, and what the flagged images of a class have that the kept ones lack."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.cleaning.votes import Votes
from study.cli.numbers import format_number
from study.datasets.own.source import chunks_of
from study.report.elements import Picture
from study.report.sample_sheet import draw_sheet, draw_tiles

MOST = 36  # samples of a sheet
_FEW = 12
_COLUMNS = 6  # of a sheet: a phone shows them large enough
_MEAN_OF = 2000  # images that a mean is over, drawn evenly: more would change nothing that can be seen
Pixels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Sheets:
    """Draws samples of a dataset.

    Attributes:
        images: uint8 [N, S, S, 3].
    """

    images: Pixels
    votes: Votes
    classes: tuple[str, ...]

    def flagged(self, label: int | None, most: int = MOST) -> Picture | None:
        """The flagged images with the most votes and the highest scores.

        Args:
            label: of their class; None for all.
        """
        mask = self.votes.flagged if label is None else self.votes.flagged & (self.votes.labels == label)
        what = "Flagged" if label is None else f"Flagged as class {self.classes[label]}"
        return self._sheet(f"flagged-{label if label is not None else 'all'}", what, mask, True, most)

    def borderline(self, most: int = _FEW) -> Picture | None:
        """Images that are kept, the nearest to the cut first."""
        return self._sheet(
            "borderline", "Borderline: kept, the nearest to the cut first", self.votes.borderline, None, most
        )

    def kept(self, label: int, most: int = _FEW) -> Picture | None:
        """Images of a class that nobody flagged, from the whole range of their scores."""
        rows = self.votes.order[::-1]
        rows = rows[(self.votes.labels[rows] == label) & (self.votes.counts[rows] == 0)]
        if not len(rows):
            return None
        chosen = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
        return self._drawn(f"kept-{label}", f"Kept, of class {self.classes[label]}", chosen, len(rows), False)

    def _sheet(self, name: str, what: str, mask: NDArray[np.bool_], framed: bool | None, most: int) -> Picture | None:
        rows = self.votes.order[mask[self.votes.order]]
        return self._drawn(name, what, rows[:most], len(rows), framed) if len(rows) else None

    def _drawn(self, name: str, what: str, rows: NDArray[np.int64], total: int, framed: bool | None) -> Picture:
        scores = self.votes.scores[rows]
        low, high = (format_number(float(end), 2) for end in (scores.min(), scores.max()))
        caption = f"{what}: {len(rows):,} of {total:,} (scores {low} to {high})."
        several = len(set(self.votes.labels[rows].tolist())) > 1
        labels = [
            _short(self.classes[int(self.votes.labels[row])]) if several else f"{self.votes.ranks[row]:,}"
            for row in rows
        ]
        order = np.argsort(rows)  # a memory map is read forwards
        images = np.empty((len(rows), *self.images.shape[1:]), dtype=np.uint8)
        images[order] = self.images[rows[order]]
        sheet = draw_sheet(images, labels, [framed] * len(rows), _COLUMNS)
        return Picture(f"sheet-{name}", caption, *sheet)

    def difference(self, label: int) -> Picture | None:
        """Means of the flagged and the kept of a class, and their difference; None where either is missing."""
        of_class = self.votes.labels == label
        own = self._mean(self.votes.flagged & of_class)
        same, every = self._mean(~self.votes.flagged & of_class), self._mean(~self.votes.flagged)
        if own is None or same is None or every is None:
            return None
        tiles = [_pixels(own), _pixels(same), enlarged(own - same), enlarged(own - every)]
        names = ["flagged", "kept", "difference", "to all kept"]
        caption = (
            f"Class {self.classes[label]}: the mean of its flagged images, of its kept ones, and the difference of the "
            "two (grey is none, enlarged to the full range), also to the kept ones of all classes. A patch shows as a "
            "spot, a blend as a picture."
        )
        return Picture(f"difference-{label}", caption, *draw_tiles(tiles, names))

    def _mean(self, mask: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Mean image float64 [S, S, 3] of the chosen ones, bool [N]; of many those that lie evenly among them."""
        rows = np.flatnonzero(mask)
        if not len(rows):
            return None
        rows = rows[:: math.ceil(len(rows) / _MEAN_OF)]
        total = np.zeros(self.images.shape[1:], dtype=np.float64)
        for _, chunk in chunks_of(self.images, rows):
            total += chunk.sum(axis=0, dtype=np.float64)
        return total / len(rows)


def enlarged(difference: NDArray[np.float64]) -> Pixels:
    """A difference of means float64 [S, S, 3] as uint8 [S, S, 3]: grey is none, its largest black or white."""
    largest = float(np.abs(difference).max())
    return _pixels(128 + difference * (127 / largest if largest > 1e-9 else 0.0))


def _pixels(values: NDArray[np.float64]) -> Pixels:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _short(text: str) -> str:
    return text if len(text) <= 10 else f"{text[:9]}…"


def histogram(
    scores: NDArray[np.float64], flagged: NDArray[np.bool_], bins: int = 48
) -> tuple[NDArray[np.float64], ...]:
    """Middles of bins and how many samples of either kind lie in each.

    Args:
        scores: float64 [N].
        flagged: bool [N].

    Returns:
        float64 [bins] three times: the middles, the kept and the flagged.
    """
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    kept, hits = (np.histogram(scores[mask], edges)[0].astype(np.float64) for mask in (~flagged, flagged))
    return (edges[:-1] + edges[1:]) / 2, kept, hits


def concerned_sheets(sheets: Sheets, labels: Sequence[int]) -> list[Picture]:
    """For each class: its flagged images, and some that are kept."""
    pictures = [picture for label in labels for picture in (sheets.flagged(label), sheets.kept(label))]
    return [picture for picture in pictures if picture is not None]
