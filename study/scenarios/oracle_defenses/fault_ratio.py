"""PIPD's Table 3: isolation from a P_p that holds a chosen share of benign samples, all drawn at random.

It answers what a bad pre-isolation costs, so P_p is drawn from ground truth instead of by loss; P_b and all else are
PIPD's. The ratios of one scenario are nested: a larger one replaces some of the poison of a smaller one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.api import Outputs, Params, Stage, StageContext
from defenses.config import param
from defenses.methods.pipd.pipd import (
    ISOLATE,
    SELECTIVE_TRAINING,
    PIPDConfig,
    isolate_from,
)
from defenses.registry import UserError
from defenses.shared_stages import CHANNEL_ACTIVATIONS, PRE_ISOLATION, count_from_share
from study.scenarios.oracle_defenses.api import GROUND_TRUTH, OracleDefense


@dataclass(frozen=True)
class FaultRatioConfig(PIPDConfig):
    """PIPD's fields, and the share of benign samples in P_p."""

    fault_ratio: float = param(0.0, "share of benign samples in P_p (6.1)", low=0.0, high=1.0)


def draw_subset(
    poison_mask: NDArray[np.bool_], size: int, fault_ratio: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """P_p: round(fault_ratio * size) benign samples and poisoned ones for the rest, bool [N].

    Raises:
        UserError: fewer samples of a kind than it takes.
    """
    poisoned, benign = rng.permutation(np.flatnonzero(poison_mask)), rng.permutation(np.flatnonzero(~poison_mask))
    faults = round(fault_ratio * size)
    if size - faults > len(poisoned) or faults > len(benign):
        raise UserError(
            f"P_p takes {size - faults} poisoned and {faults} benign samples, and there are {len(poisoned)} and "
            f"{len(benign)}: use --set isolation_rate=RATE below the poison rate, or, where an option sets that, a "
            "larger one"
        )
    mask = np.zeros(len(poison_mask), dtype=bool)
    mask[poisoned[: size - faults]] = mask[benign[:faults]] = True
    return mask


def _isolate(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    truth = np.asarray(inputs["poison_mask"])
    rng = np.random.default_rng(context.derive("poisoned subset"))
    subset = draw_subset(truth, count_from_share(params.isolation_rate, len(truth)), params.fault_ratio, rng)
    isolated = isolate_from(subset, context, inputs, params)
    # Of few samples, the share cannot be just what was asked for: what it was is told.
    isolated["series"] = {**isolated["series"], "fault_ratio": [float((subset & ~truth).sum() / subset.sum())]}
    return isolated


class FaultRatio(OracleDefense):
    """PIPD whose P_p is drawn from ground truth."""

    name = "pipd_fault_ratio"
    config_type = FaultRatioConfig
    stages = (
        GROUND_TRUTH,
        PRE_ISOLATION,
        CHANNEL_ACTIVATIONS,
        Stage(
            name=ISOLATE.name,
            run=_isolate,
            reads=(*ISOLATE.reads, "fault_ratio"),
            inputs={**ISOLATE.inputs, "poison_mask": "ground_truth.poison_mask"},
            outputs=ISOLATE.outputs,
            cached=False,
        ),
        SELECTIVE_TRAINING,
    )
    scores = "isolate.scores"
    flagged = "isolate.flagged"
    weights = "selective_training.weights"
