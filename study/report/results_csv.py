"""All results of a study as comma-separated values: a line a trial and scenario."""

import csv
import io
import math
from typing import Any

from defenses.signals import SIGNALS
from study.analysis.failed_runs import failed
from study.analysis.result_tables import COSTS
from study.analysis.results import Results
from tracking import names

_COSTS = ("built_seconds", "wall_seconds", *COSTS)


def results_csv(results: Results) -> str:
    """The point, the metrics and the costs of each complete trial and of each that was stopped early."""
    signals = list(map(names.signal, SIGNALS))
    labels, points = results.goal.labels, list(results.ranges)
    of_trial = ["trial", "paper_default", "stopped_early", *labels, *points]
    of_run = ["scenario", "repeat", "attack_failed", "failed_run"]
    columns = [*of_trial, *of_run, *names.METRICS, *signals, *_COSTS, names.FPR_CLEAN]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    order = {name: at for at, name in enumerate(results.manifest.scenarios)}
    lost = {at: int(one) for at, one in failed(results.evaluations).items()}
    runs = zip(results.evaluations.index, results.evaluations.to_dict("records"), strict=True)
    rows = [{str(name): value for name, value in row.items()} | {"failed_run": lost.get(at)} for at, row in runs]
    judged = sorted(rows, key=lambda row: (row["trial"], order.get(row["scenario"], 0)))
    trials = {int(str(number)): row for number, row in results.trials.to_dict("index").items()}
    for row in judged:
        trial = trials[row["trial"]]
        if trial["state"] in ("complete", "pruned"):
            reached = {label: trial.get(label, trial["value"]) for label in labels}
            told: dict[str, Any] = {**row, **reached, **{name: trial[name] for name in points}, "trial": row["trial"]}
            told |= {"paper_default": int(trial["paper_default"]), "stopped_early": int(trial["state"] == "pruned")}
            told[names.FPR_CLEAN] = results.clean_fpr.get(row["trial"], {}).get(row["seed"])
            told |= {"attack_failed": int(row["attack_failed"])} | {name: round(row[name], 3) for name in _COSTS}
            writer.writerow({name: _text(value) for name, value in told.items()})
    return text.getvalue()


def _text(value: Any) -> Any:
    """Nothing for what is undefined."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
