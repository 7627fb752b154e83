"""The ablations of the Quarantine Training paper as grids: each is one command and makes one table or figure anew.

What an ablation does not vary has the paper's value, or the one that `search_spaces.quarantine` gives it at a preset.
SIG's rate is a share of the target class, as in the published code; see `study.attacks.groups`.
"""

from collections.abc import Mapping
from typing import Any

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.quarantine import QT_SPACE
from search_spaces.space import Choice, Range, SearchSpace

_THREE = ("badnets", "sig:rate_base=class", "issba")
_RATE = (0.1,)
_FLAGS_ONLY = {"until": "isolate"}  # the table or figure tells of flags alone


def _ablation(
    name: str,
    paper: str,
    study: Mapping[str, Any],
    ranges: Mapping[str, Range] | None = None,
    defense: str = QT_SPACE.defense,
    presets: Mapping[str, Mapping[str, Any]] = QT_SPACE.presets,
) -> SearchSpace:
    return SearchSpace(
        name=f"qt.{name}",
        defense=defense,
        ranges=ranges or {},
        presets=presets,
        model=QT_SPACE.model,
        study={"sampler": "grid", **study},
        paper=paper,
    )


TABLE1 = _ablation("table1", "QT, Table 1", {"attacks": ("qt_table1",), **_FLAGS_ONLY})

TABLE2 = _ablation("table2", "QT, Table 2", {"attacks": ("qt_table1",)})

BACKDOOR_CLASS = _ablation(
    "backdoor_class",
    "QT, Fig. 2",
    {"attacks": _THREE, "poison_rates": _RATE},
    defense="qt_backdoor_class",
    presets=NO_DEFENSE_SPACE.presets,  # the figure is of plain training
)

PRE_QUARANTINE = _ablation(
    "pre_quarantine",
    "QT, Fig. 3",
    {"attacks": _THREE, "poison_rates": _RATE, **_FLAGS_ONLY},
    {
        "pre_quarantine_model": Choice((True, False), "with the pre-quarantine model's backbone and without"),
        "pre_quarantine_ratio": Choice((0.1, 0.0), "with pre-quarantine samples (the paper's share) and without"),
    },
)

FIXED_EPSILON = _ablation(
    "fixed_epsilon",
    "QT, Fig. 4",
    {"attacks": _THREE, "poison_rates": _RATE, **_FLAGS_ONLY},
    {"epsilon_schedule": Choice(("linear", "fixed"), "growth by epoch, and 0.9 for quarantined samples at once")},
)

POISON_RATE = _ablation(
    "poison_rate",
    "QT, Fig. 5",
    {"attacks": ("badnets", "blended_image", "dynamic"), "poison_rates": (0.01, 0.05, 0.1, 0.2), **_FLAGS_ONLY},
)
