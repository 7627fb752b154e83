"""How much of what trials differ by is between repeats of one configuration: the noise beside importances."""

from study.analysis.repeats import noise_share
from study.analysis.results import Results
from study.config.objectives import in_words
from study.report.elements import Note
from tracking import names


def noise_notes(results: Results) -> list[Note]:
    """A sentence for each metric that differs between runs; none of a study without repeats."""
    if results.repeats == 1:
        return []
    runs = results.compared[results.compared["trial"].isin(results.space_filling_trials.index)]
    metrics = dict.fromkeys((results.goal.objectives[0], *names.HEADLINE))
    shares = {metric: share for metric in metrics if (share := noise_share(runs, metric)) is not None}
    told = [
        f"{_percent(share)} of the variance of {in_words(metric)} between runs is between repeats of one configuration."
        for metric, share in shares.items()
    ]
    if not told:
        return []
    explained = (
        f"What is explained here is the mean over {results.repeats} repeats of each scenario, on which a part of this "
        "noise is left; it is in no hyperparameter's share."
    )
    return [Note(" ".join([*told, explained]))]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else "Less than 1 %"
