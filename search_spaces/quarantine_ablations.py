"""The ablations of the Quarantine Training paper as grids: each is one command and makes one table or figure anew.

What an ablation does not vary has the paper's value, or the one that `search_spaces.quarantine` gives it at a preset.
SIG's rate is a share of the target class, as in the published code; see `study.attacks.groups`.
"""

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.quarantine import QT_SPACE
from search_spaces.space import Choice

_THREE = ("badnets", "sig:rate_base=class", "issba")
_RATE = (0.1,)
_FLAGS_ONLY = {"until": "isolate"}  # the table or figure tells of flags alone


TABLE1 = QT_SPACE.ablation("table1", "QT, Table 1", {"attacks": ("qt_table1",), **_FLAGS_ONLY})

TABLE2 = QT_SPACE.ablation("table2", "QT, Table 2", {"attacks": ("qt_table1",)})

BACKDOOR_CLASS = QT_SPACE.ablation(
    "backdoor_class",
    "QT, Fig. 2",
    {"attacks": _THREE, "poison_rates": _RATE},
    defense="qt_backdoor_class",
    presets=NO_DEFENSE_SPACE.presets,  # the figure is of plain training
)

PRE_QUARANTINE = QT_SPACE.ablation(
    "pre_quarantine",
    "QT, Fig. 3",
    {"attacks": _THREE, "poison_rates": _RATE, **_FLAGS_ONLY},
    {
        "pre_quarantine_model": Choice((True, False), "with the pre-quarantine model's backbone and without"),
        "pre_quarantine_ratio": Choice((0.1, 0.0), "with pre-quarantine samples (the paper's share) and without"),
    },
)

FIXED_EPSILON = QT_SPACE.ablation(
    "fixed_epsilon",
    "QT, Fig. 4",
    {"attacks": _THREE, "poison_rates": _RATE, **_FLAGS_ONLY},
    {"epsilon_schedule": Choice(("linear", "fixed"), "growth by epoch, and 0.9 for quarantined samples at once")},
)

POISON_RATE = QT_SPACE.ablation(
    "poison_rate",
    "QT, Fig. 5",
    {"attacks": ("badnets", "blended_image", "dynamic"), "poison_rates": (0.01, 0.05, 0.1, 0.2), **_FLAGS_ONLY},
)
