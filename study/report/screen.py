"""What is shown in a terminal: paragraphs that fit it, tables without empty columns, and what the metrics are."""

import dataclasses
import textwrap
from collections.abc import Sequence

from study.report.elements import Table
from tracking import names

_WIDTH = 100
_LEGEND = {
    (names.TPR, names.FPR): "TPR and FPR are the shares of the poisoned and of the benign training images that are "
    "flagged (1 and 0 are best).",
    (names.AUROC,): "AUROC: 1 ranks all poisoned images first, 0.5 is guessing.",
    (names.CA, names.ASR): "CA and ASR are the final model's accuracy and the attack's success rate (1 and 0 are "
    "best).",
}


def wrapped(text: str, width: int = _WIDTH) -> str:
    """A paragraph in lines that fit a terminal."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def legend(header: Sequence[str]) -> str:
    """What the metrics among a table's columns are."""
    shown = {name.lower() for name in header}
    return wrapped(" ".join(text for metrics, text in _LEGEND.items() if shown.intersection(metrics)))


def without_empty_columns(table: Table) -> Table:
    """The table less the columns that hold nothing."""
    kept = [
        at
        for at in range(len(table.header))
        if at < table.left or any(row[at] not in (None, "", "-") for row in table.rows)
    ]
    return dataclasses.replace(
        table,
        header=tuple(table.header[at] for at in kept),
        rows=tuple(tuple(row[at] for at in kept) for row in table.rows),
    )
