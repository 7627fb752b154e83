"""Where PED-ANOVA (Watanabe et al., IJCAI 2023) is defined; `study.report.sections.importance` asks Optuna for it.

It compares how the best tenth of the trials is spread along a hyperparameter with how all are, and gives each
hyperparameter its share of the sum. The shares sum to one whatever the trials are, so noise looks like an answer.
"""

import math

import numpy as np

from study.analysis.discretise import Numbers

QUANTILE = 0.1
LEAST = 10  # trials in the best tenth, twice what Optuna asks for; see `why_undefined`
_DIGITS = 12  # of a value: below, two that are equal differ by rounding


def why_undefined(losses: Numbers) -> str:
    """Why no importance may be told of these values, as the end of a sentence; empty where it may.

    The method takes a density of the best tenth along each hyperparameter, so that must be a set of some size, and it
    must be a tenth: where trials outside are as good as its last one, nothing in the values says which of them belong
    to it. Both fail on a metric that most trials saturate. Optuna then takes all that are tied, or the four trials that
    a tenth of forty is, and the shares are noise to two digits.

    Args:
        losses: float64 [trials], lower is better.
    """
    wanted = math.ceil(QUANTILE * len(losses))
    if wanted < LEAST:
        return f"a tenth of {len(losses)} trials is {wanted}, and fewer than {LEAST} have no density to compare"
    rounded = np.round(losses, _DIGITS)
    within = int((rounded <= np.partition(rounded, wanted - 1)[wanted - 1]).sum())
    if within > wanted:
        return f"the best tenth ({wanted} of {len(losses)} trials) is tied with {within - wanted} trials outside it"
    return ""
