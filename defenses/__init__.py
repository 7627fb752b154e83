"""What a defender does: training-time defenses against data-poisoning backdoors. Knows images and labels only."""

from typing import TYPE_CHECKING

from defenses.registry import Registry

if TYPE_CHECKING:
    from defenses.api import Defense

DEFENSES: "Registry[type[Defense]]" = Registry(
    "defense",
    {
        "no_defense": ("defenses.methods.no_defense:NoDefense", "plain training on the data as received"),
        "pipd": ("defenses.methods.pipd.pipd:PIPD", "progressive isolation of poisoned data (Chen et al., AAAI 2024)"),
        "pipd_cleaning": (
            "defenses.methods.pipd.cleaning:PIPDCleaning",
            "PIPD, cleaned by selective training or by ABL's unlearning (PIPD, Fig. 5)",
        ),
        "qt": (
            "defenses.methods.quarantine:QuarantineTraining",
            "Quarantine Training (Yu and Zhang, IEEE Access 2024)",
        ),
    },
)
