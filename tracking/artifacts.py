"""The files that go with a scenario of a trial: who was flagged, by what score, and what that looks like."""

import functools
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracking import names

_CLEAN, _POISON, _INK = "#4477aa", "#cc3311", "#222222"


@dataclass(frozen=True)
class Flags:
    """Who was flagged on a scenario.

    Attributes:
        flagged: bool [N].
        scores: float64 [N], higher = more suspicious; None for a defense that only flags.
        labels: int64 [N], as received.
        is_poison: bool [N], ground truth that the study knows and the defense does not; None where nobody marked the
            poison.
        fingerprint: of the suspect dataset that the rows index.
        is_cover: bool [N], images with a trigger and their own label; None where nobody knows, and in older files.
    """

    flagged: NDArray[np.bool_]
    scores: NDArray[np.float64] | None
    labels: NDArray[np.int64]
    is_poison: NDArray[np.bool_] | None
    fingerprint: str
    is_cover: NDArray[np.bool_] | None = None

    @property
    def indices(self) -> NDArray[np.int64]:
        """The flagged samples' positions in the training set, ascending: int64 [M]."""
        return np.flatnonzero(self.flagged)

    @property
    def _truth(self) -> dict[str, NDArray[np.bool_]]:
        """The masks that are known, by column."""
        known = {"is_poison": self.is_poison, "is_cover": self.is_cover}
        return {name: mask for name, mask in known.items() if mask is not None}


def write_flags(folder: Path, flags: Flags) -> None:
    """``flags/flagged.csv``, a row a training image, and ``flags/scores.npz`` with the same as arrays, in their order.

    Args:
        folder: of the run's artifacts.
        flags: a mask that is None has no column.
    """
    (folder / names.FLAGGED_CSV).parent.mkdir(parents=True, exist_ok=True)
    for name in (names.FLAGGED_CSV, names.SCORES_NPZ):
        write_flags_file(folder / name, flags)


def write_flags_file(path: Path, flags: Flags) -> None:
    """Flags as a table where the file's name ends in ``.csv``, else as an npz of arrays."""
    if path.suffix.lower() == ".csv":
        path.write_text(_as_csv(flags), encoding="utf-8")
        return
    arrays: dict[str, NDArray[np.generic]] = {
        "flagged": flags.flagged,
        "labels": flags.labels,
        "dataset_fingerprint": np.array(flags.fingerprint),
        **flags._truth,
    }
    if flags.scores is not None:
        arrays["scores"] = flags.scores
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _as_csv(flags: Flags) -> str:
    """A row a training image, the highest score first; of equal ones, and without scores, the lowest index."""
    truth = flags._truth
    shown = np.full(len(flags.flagged), np.nan) if flags.scores is None else flags.scores
    order = np.argsort(-shown, kind="stable")
    table = np.column_stack([np.arange(len(shown)), shown, flags.labels, flags.flagged, *truth.values()])[order]
    text = io.StringIO()
    np.savetxt(
        text,
        table,
        fmt=["%d", "%.9g", *["%d"] * (table.shape[1] - 2)],
        delimiter=",",
        header=",".join(["index", "score", "label", "flagged", *truth]),
        comments="",
    )
    return text.getvalue()


def read_flags(path: Path) -> Flags:
    """What ``flags/scores.npz`` of a run holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no archive of arrays, or one of them is missing.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Flags(
                arrays["flagged"],
                arrays.get("scores"),
                arrays["labels"],
                arrays.get("is_poison"),
                str(arrays["dataset_fingerprint"]),
                arrays.get("is_cover"),
            )
    except (KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def write_preview(folder: Path, preview: NDArray[np.uint8], rows: int = 3, enlarge_to: int = 64) -> None:
    """The attack's picture (clean, poisoned, difference x 10), small images enlarged so that pixels can be seen.

    Args:
        preview: uint8 [rows h, n w, 3]; an empty one writes nothing.
        rows: of images; one of data that somebody else poisoned.
        enlarge_to: about how many px a row of it is to be high.
    """
    if preview.size == 0:
        return
    path = folder / names.PREVIEW_PNG
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(preview.tobytes(), preview.shape, max(1, enlarge_to // max(1, preview.shape[0] // rows))))


@functools.lru_cache(maxsize=32)  # the same for every trial of a scenario
def _encoded(pixels: bytes, shape: tuple[int, ...], factor: int) -> bytes:
    """A picture as a PNG file, enlarged by a factor."""
    from PIL import Image

    preview = np.frombuffer(pixels, dtype=np.uint8).reshape(shape)
    file = io.BytesIO()
    Image.fromarray(preview.repeat(factor, axis=0).repeat(factor, axis=1)).save(file, format="png")
    return file.getvalue()


def write_plots(
    folder: Path,
    scores: NDArray[np.float64] | None,
    flagged: NDArray[np.bool_],
    poison_mask: NDArray[np.bool_] | None,
    title: str,
) -> None:
    """A histogram of the scores and the ROC curve, as PNG. Nothing is drawn without scores.

    Args:
        scores: float64 [N], or None.
        flagged: bool [N].
        poison_mask: bool [N], or None where nobody marked the poison: then without a ROC curve.
    """
    if scores is None:
        return
    (folder / names.HISTOGRAM_PNG).parent.mkdir(parents=True, exist_ok=True)
    _histogram(folder / names.HISTOGRAM_PNG, scores, flagged, poison_mask, title)
    if poison_mask is not None and poison_mask.any() and not poison_mask.all():
        _roc(folder / names.ROC_PNG, scores, flagged, poison_mask, title)


def _histogram(
    path: Path,
    scores: NDArray[np.float64],
    flagged: NDArray[np.bool_],
    poison_mask: NDArray[np.bool_] | None,
    title: str,
) -> None:
    from matplotlib.figure import Figure

    # A layout that is worked out anew, bars of their own and a legend that looks for room would take most of the time
    # of a trial that only isolates.
    figure = Figure(figsize=(6.4, 3.6))
    axes = figure.add_axes((0.11, 0.14, 0.86, 0.76))
    edges = np.histogram_bin_edges(scores, bins=60)
    groups = [(scores, _CLEAN, "all, nobody marked the poison")]
    if poison_mask is not None:
        groups = [(scores[~poison_mask], _CLEAN, "benign"), (scores[poison_mask], _POISON, "poisoned")]
    for values, colour, label in groups:
        if len(values):
            bars = np.histogram(values, edges)[0]
            axes.stairs(bars, edges, fill=True, color=colour, alpha=0.7, label=f"{label} ({len(values):,})")
    if flagged.any() and not flagged.all() and scores[flagged].min() > scores[~flagged].max():
        cut = (scores[flagged].min() + scores[~flagged].max()) / 2
        axes.axvline(cut, color=_INK, linestyle="--", linewidth=1, label="flagged above")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="score (higher = more suspicious)", ylabel="samples (log scale)")
    axes.set_title(title, y=1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=100)


def _roc(
    path: Path,
    scores: NDArray[np.float64],
    flagged: NDArray[np.bool_],
    poison_mask: NDArray[np.bool_],
    title: str,
) -> None:
    from matplotlib.figure import Figure
    from sklearn.metrics import auc, roc_curve

    false, true, _ = roc_curve(poison_mask, scores)
    figure = Figure(figsize=(4.2, 4.2))
    axes = figure.add_axes((0.15, 0.12, 0.82, 0.8))
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle=":")
    axes.plot(false, true, color=_CLEAN, linewidth=2, label=f"scores, AUROC {auc(false, true):.4f}")
    operating = (flagged[~poison_mask].mean(), flagged[poison_mask].mean())
    axes.plot(*operating, "o", color=_POISON, label=f"flags: TPR {operating[1]:.3f}, FPR {operating[0]:.3f}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(title, y=1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=100)
