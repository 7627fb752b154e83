"""The ablations of the PIPD paper, and one of ours, as grids: each is one command and makes one table or figure anew.

What an ablation does not vary has the paper's value, or the one that `search_spaces.pipd` gives it at a preset.
"""

from collections.abc import Mapping
from typing import Any

from search_spaces.pipd import PIPD_SPACE
from search_spaces.space import Choice

_FOUR = ("badnets", "blended_random", "trojan_square", "dynamic")
_RATE = (0.05,)  # section 6: "unless otherwise stated"
_FLAGS_ONLY = {"until": "isolate"}  # the table tells of flags alone


def _with_finetuning(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's fields, and ABL's fine-tuning at the scale of selective training, so that the figure compares them.

    Measured on smoke: with ABL's own weight decay of 1e-4, BadNets keeps a loss of 0, whose ascent has no gradient (ASR
    1.00 up to a learning rate of 0.1); with selective training's it is unlearned at ABL's rate.
    """
    return {
        **fields,
        "finetuning_epochs": fields["selective_epochs"],
        "finetuning_schedule": fields["selective_schedule"],
        "abl_weight_decay": fields["selective_weight_decay"],
    }


TABLE1 = PIPD_SPACE.ablation("table1", "PIPD, Table 1", {"attacks": ("pipd_table6",)})

TABLE2 = PIPD_SPACE.ablation("table2", "PIPD, Table 2", {"attacks": ("pipd_table2",), **_FLAGS_ONLY})

FAULT_RATIO = PIPD_SPACE.ablation(
    "fault_ratio",
    "PIPD, Table 3",
    {"attacks": (*_FOUR, "adaptive_blend"), "poison_rates": _RATE, **_FLAGS_ONLY},
    {"fault_ratio": Choice((0.0, 0.2, 0.4, 0.6, 0.8), "the benign shares of the table, and none to compare with")},
    defense="pipd_fault_ratio",
)

# Section 6.2 states its rate of 0.20 before Fig. 4 and no other one for Table 4; 8 rounds are those of section 5.1.
ROUNDS = PIPD_SPACE.ablation(
    "rounds",
    "PIPD, Fig. 4 and Table 4",
    {"attacks": _FOUR, "poison_rates": (0.2,)},
    {"rounds": Choice((1, 2, 3, 4, 5, 8), "the rounds of Table 4, and the eight of all other experiments")},
)

SELECTIVE_VS_UNLEARNING = PIPD_SPACE.ablation(
    "selective_vs_unlearning",
    "PIPD, Fig. 5",
    {"attacks": _FOUR, "poison_rates": _RATE, "set": {"snapshots": "true"}},
    {"cleaning": Choice(("selective", "unlearning"), "the two ways to clean a model that the figure compares")},
    defense="pipd_cleaning",
    presets={preset: _with_finetuning(fields) for preset, fields in PIPD_SPACE.presets.items()},
)

POISON_RATE = PIPD_SPACE.ablation(
    "poison_rate",
    "PIPD, Table 7",
    {"attacks": _FOUR, "poison_rates": (0.05, 0.1, 0.15, 0.2, 0.3), **_FLAGS_ONLY},
)

CLUSTERING = PIPD_SPACE.ablation(
    "clustering",
    "PIPD, Table 8",
    {"attacks": _FOUR, "poison_rates": _RATE, **_FLAGS_ONLY},
    {
        "clustering": Choice(
            ("fisher_jenks", "kmeans", "bisecting_kmeans", "minibatch_kmeans"), "the four that the table compares"
        )
    },
)

CHANNEL_STATISTIC = PIPD_SPACE.ablation(
    "channel_statistic",
    "ours: no paper reports it",
    {"attacks": ("pipd_table6",), **_FLAGS_ONLY},
    {"channel_statistic": PIPD_SPACE.ranges["channel_statistic"]},
)
