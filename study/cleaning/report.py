"""Writes the page and the summary of a cleaning."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.storage.atomic_files import disk_errors, write_atomic
from study.cleaning.page import CleaningPage, build_page
from study.cleaning.pictures import Sheets
from study.cleaning.tables import DECISIONS_CSV, FLAGGED_CSV, SCORES_PARQUET
from study.cli.numbers import format_number
from study.code_version import code_version

if TYPE_CHECKING:
    from study.cleaning.cleaned import Retrained
    from study.cleaning.workflow import Look, Work
    from study.datasets.own.writing import Manifest

REPORT_HTML, SUMMARY_JSON = "report.html", "summary.json"


def write_report(work: "Work", look: "Look", manifest: "Manifest", retrained: "Retrained | None", command: str) -> None:
    """Writes ``report.html`` and ``summary.json``.

    Args:
        command: that asked for it.
    """
    data = work.data
    told = CleaningPage(
        name=data.spec.path.name,
        classes=data.classes,
        votes=look.votes,
        verdict=look.verdict,
        sheets=Sheets(data.train.images, look.votes, data.classes),
        canaries=look.canaries,
        without_canaries=look.without_canaries,
        done=tuple(_done(work, look, manifest, retrained)),
        notes=data.notes,
        left_out=tuple((one.id, one.reason) for one in data.left_out),
        command=command,
    )
    folder = work.config.folder
    with disk_errors(folder):
        write_atomic(folder / REPORT_HTML, build_page(told))
        write_atomic(folder / SUMMARY_JSON, json.dumps(summary(work, look, manifest, retrained), indent=1) + "\n")


def _done(work: "Work", look: "Look", manifest: "Manifest", retrained: "Retrained | None") -> list[tuple[str, str]]:
    data, config, search = work.data, work.config, work.searches[0]
    low, high = data.sizes
    size = f"{low[1]} x {low[0]}" if low == high else f"{low[1]} x {low[0]} to {high[1]} x {high[0]}"
    test = (
        "no test set" if data.test is None else f"{len(data.test.labels):,} test images, which are not looked through"
    )
    rows = [
        ("data", f"{data.format}: {len(data.train.labels):,} images of {len(data.classes)} classes, {test}"),
        ("image size", f"{size} px, brought to {data.spec.image_size} px"),
        ("methods", f"{', '.join(work.settings.spaces)}, with {work.settings.how}"),
        ("scale", work.why),
        ("runs", f"seeds {', '.join(map(str, config.seeds))} of each method; {look.votes.needed} votes flag an image"),
        ("studies", f"{search.out}; python -m study.status --out {search.out} says where they stand"),
        ("network", f"{search.model or 'resnet18'} of width {search.width}, {len(search.blocks)} stages"),
    ]
    accuracies = _accuracies(work, look)
    if accuracies is not None:
        rows.append(("accuracy of a model trained on all of it", f"{format_number(accuracies)} on the test images"))
    kept = f"{manifest.kept:,} kept, {manifest.dropped:,} dropped"
    rows.append(
        ("cleaned set", f"{manifest.data}: {kept}; {manifest.linked:,} files linked, {manifest.copied:,} copied")
    )
    if retrained is not None:
        which = retrained.what if retrained.by else "a model trained on the cleaned set"
        rows.append((which, f"{retrained.path}; {retrained.accuracy_text}"))
    return rows


def _accuracies(work: "Work", look: "Look") -> float | None:
    """Mean accuracy of plain training on all of the data; None without a test set, and where no method trains so."""
    values = [value for run in look.runs for value in run.evaluations["ca_undefended"].dropna()]
    return float(np.mean(values)) if work.data.test is not None and values else None


def summary(work: "Work", look: "Look", manifest: "Manifest", retrained: "Retrained | None") -> dict[str, Any]:
    """The result for programs."""
    votes, verdict, data = look.votes, look.verdict, work.data
    told: dict[str, Any] = {
        "verdict": verdict.sentence,
        "outcome": verdict.outcome,
        "checked": verdict.checked,
        "reasons": list(verdict.reasons),
        "agreement": verdict.agreement,
        "classes": [data.classes[label] for label in verdict.classes],
        "images": len(votes),
        "flagged": int(votes.flagged.sum()),
        "kept": manifest.kept,
        "dropped": manifest.dropped,
        "votes_needed": votes.needed,
        "runs": [
            {"defense": vote.defense, "seed": vote.seed, "flagged": int(vote.flagged.sum())} for vote in votes.votes
        ],
        "canaries": None if look.canaries is None else _canaries(look),
        "data": {
            "path": str(data.spec.path),
            "format": data.format,
            "fingerprint": data.fingerprint,
            "classes": dict(
                zip(data.classes, np.bincount(data.train.labels, minlength=len(data.classes)).tolist(), strict=True)
            ),
            "left_out": len(data.left_out),
            "notes": list(data.notes),
        },
        "settings": {"how": work.settings.how, "scale": work.why, "studies": [one.study_name for one in work.searches]},
        "files": [FLAGGED_CSV, DECISIONS_CSV, SCORES_PARQUET, REPORT_HTML],
        "cleaned": str(manifest.data),
        "retrained": None if retrained is None else _model(retrained),
        "code_version": code_version(),
    }
    if look.without_canaries:
        told["without_canaries"] = look.without_canaries
    return told


def _model(retrained: "Retrained") -> dict[str, Any]:
    own = {"method": retrained.by} if retrained.by else {}
    return {"path": str(retrained.path), "accuracy": retrained.accuracy, **own}


def _canaries(look: "Look") -> dict[str, Any]:
    assert look.canaries is not None
    return {
        "sentence": look.canaries.sentence,
        "flagged_share_with_nothing_planted": look.canaries.null,
        "attacks": [vars(rate) for rate in look.canaries.rates],
        "plantings": [vars(one) for one in look.canaries.planted],
    }
