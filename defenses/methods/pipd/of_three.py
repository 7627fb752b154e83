"""PIPD on three pre-isolations: what is seen of their flags, without ground truth, says which one is believed.

Ours, not the paper's. Pre-isolation has two outcomes: poison falls to the lowest losses, or other samples do and
nearly nothing of the poison is found; which it is can hang on a seed. A failed one shows in what it flags. Poison of
one target has one label, so that its flags are nearly all of one class, while those of a failed pre-isolation are
mostly spread over several; a single one is of one class whatever it is. How both measure is in
`search_spaces/README.md`.

Known failure: where the attack or its rate decides, all three fail (14 sets measured: in none did trainings differ).
An all-to-all attack has flags of every class, so take `choice` ``variance`` or ``agreement`` where one may be. On clean
data one of three is chosen as well, by the same rule.

Stages: `pre_isolation` and `channel_activations` as in `PIPD`, whose entries it shares, and twice more from other
networks (`pre_isolation_2`, `pre_isolation_3`); `isolate_of_three` (not cached), `selective_training_of_three`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.config import param
from defenses.methods.pipd.pipd import (
    ISOLATE,
    SELECTIVE_TRAINING,
    PIPDConfig,
    isolate_by_loss,
    selective_training_of,
)
from defenses.seeds import derive_seed
from defenses.shared_stages import CHANNEL_ACTIVATIONS, PRE_ISOLATION
from defenses.signals import class_focus

COPIES = ("", "_2", "_3")
"""What is added to the names of stages and inputs of each network; the first is PIPD's own."""

_DEVIATIONS = 1.96  # of the normal distribution: 95 %


@dataclass(frozen=True)
class PIPDOfThreeConfig(PIPDConfig):
    """PIPD's hyperparameters, and how three isolations become one."""

    choice: str = param(
        "focus",
        "whose flags are taken: those most of one class, those whose cut explains most of the scores' variance, or "
        "samples that two of three flag (ours)",
        choices=("focus", "variance", "agreement"),
    )


def _focus(labels: NDArray[np.int64], isolation: Mapping[str, Any]) -> float:
    """The least focus that the flags show: Wilson's lower bound (1927), since few are of one class by chance."""
    flagged = isolation["flagged"]
    share, count = class_focus(labels, flagged) or 0.0, max(int(flagged.sum()), 1)
    half = _DEVIATIONS * math.sqrt(share * (1 - share) / count + (_DEVIATIONS / (2 * count)) ** 2)
    return (share + _DEVIATIONS**2 / (2 * count) - half) / (1 + _DEVIATIONS**2 / count)


def _variance(_labels: NDArray[np.int64], isolation: Mapping[str, Any]) -> float:
    return float(isolation["series"]["explained_variance"][-1])


_SIGNALS: Mapping[str, Callable[[NDArray[np.int64], Mapping[str, Any]], float]] = {
    "focus": _focus,
    "variance": _variance,
}


def agreed(isolations: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Flags that two of three share, and their scores' median; the isolation most like them stands for them.

    Scores are ranks in [0, 1] before their median is taken, since those of different networks have different scales.

    Args:
        isolations: three outputs of `isolate_by_loss`.
    """
    flags = np.stack([isolation["flagged"] for isolation in isolations])
    flagged = flags.sum(axis=0) >= 2
    unlike = (flags != flagged).sum(axis=1)
    chosen = int(np.argmin(unlike))
    ranks = np.stack([_ranks(isolation["scores"]) for isolation in isolations])
    rounds = np.concatenate([isolations[chosen]["flagged_series"], flagged[None]])
    return chosen, {
        "scores": np.median(ranks, axis=0),
        "flagged": flagged,
        "flagged_series": rounds,
        "series": {"flagged_share": rounds.mean(axis=1).tolist()},
    }


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mid-ranks in [0, 1]: equal scores keep being equal."""
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    ranks: NDArray[np.float64] = middle[position] / max(1, len(scores) - 1)
    return ranks


def _isolate(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    labels = context.dataset.labels
    isolations = [
        isolate_by_loss(context, {local: inputs[f"{local}{copy}"] for local in ISOLATE.inputs}, params)
        for copy in COPIES
    ]
    if params.choice == "agreement":
        chosen, isolation = agreed(isolations)
    else:
        signal = _SIGNALS[params.choice]
        chosen = int(np.argmax([signal(labels, isolation) for isolation in isolations]))
        isolation = isolations[chosen]
    return {**isolation, "chosen": chosen, "sample_losses": inputs[f"sample_losses{COPIES[chosen]}"]}


def _selective_training(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    weights = inputs[f"weights{COPIES[inputs['chosen']]}"]
    return selective_training_of(context, {"weights": weights, "flagged": inputs["flagged"]}, params)


def _again(stage: Stage, copy: str) -> Stage:
    """The same stage of another network, whose seed derives from this one's."""

    def run(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
        return stage.run(replace(context, seed=derive_seed(context.seed, "network", copy)), inputs, params)

    inputs = {local: source.replace(".", f"{copy}.") for local, source in stage.inputs.items()}
    return replace(stage, name=f"{stage.name}{copy}", run=run, inputs=inputs)


def _copies(stage: Stage) -> tuple[Stage, ...]:
    return tuple(_again(stage, copy) if copy else stage for copy in COPIES)


def _of_each(inputs: Mapping[str, str], which: tuple[str, ...]) -> dict[str, str]:
    """Some inputs, of every network."""
    return {f"{local}{copy}": inputs[local].replace(".", f"{copy}.") for copy in COPIES for local in which}


class PIPDOfThree(Defense):
    """PIPD on three pre-isolations."""

    name = "pipd_of_three"
    config_type = PIPDOfThreeConfig
    stages = (
        *_copies(PRE_ISOLATION),
        *_copies(CHANNEL_ACTIVATIONS),
        replace(
            ISOLATE,
            name="isolate_of_three",
            run=_isolate,
            reads=(*ISOLATE.reads, "choice"),
            inputs=_of_each(ISOLATE.inputs, tuple(ISOLATE.inputs)),
            outputs=(*ISOLATE.outputs, "chosen", "sample_losses"),
        ),
        replace(
            SELECTIVE_TRAINING,
            name="selective_training_of_three",
            run=_selective_training,
            inputs={
                **_of_each(SELECTIVE_TRAINING.inputs, ("weights",)),
                "flagged": "isolate_of_three.flagged",
                "chosen": "isolate_of_three.chosen",
            },
        ),
    )
    scores = "isolate_of_three.scores"
    flagged = "isolate_of_three.flagged"
    weights = "selective_training_of_three.weights"
    losses = "isolate_of_three.sample_losses"
