"""What a study can run: the defenses, and experiments of the papers that are told the ground truth.

`defenses` stays free of the latter. Whoever looks a defense up for a study does it here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from defenses import DEFENSES
from defenses.registry import Registry, UserError

if TYPE_CHECKING:
    from defenses.api import Defense
    from study.scenarios.oracle_defenses.api import OracleDefense
    from study.scenarios.poison import PoisonedDataset

ORACLE_DEFENSES: "Registry[type[OracleDefense]]" = Registry(
    "defense that is given the ground truth",
    {
        "pipd_fault_ratio": (
            "study.scenarios.oracle_defenses.fault_ratio:FaultRatio",
            "PIPD with a chosen share of benign samples in P_p (PIPD, Table 3)",
        ),
        "qt_backdoor_class": (
            "study.scenarios.oracle_defenses.backdoor_class:BackdoorClass",
            "plain training with poison in a class of its own (QT, Fig. 2)",
        ),
    },
)


def check_defense(name: str) -> str:
    """Returns the name, or raises `UserError` where it is neither a defense's nor an oracle defense's."""
    return name if name in ORACLE_DEFENSES else DEFENSES.check(name)


def find_defense(name: str) -> "type[Defense]":
    """A defense or an oracle defense; the latter cannot run before it is told the ground truth.

    Raises:
        UserError: there is none of that name.
    """
    return ORACLE_DEFENSES[name] if name in ORACLE_DEFENSES else DEFENSES.find(name)


def describe_defense(name: str) -> str:
    """What a defense or an oracle defense is, in a line.

    Raises:
        UserError: there is none of that name.
    """
    return ORACLE_DEFENSES.describe(name) if name in ORACLE_DEFENSES else DEFENSES.describe(check_defense(name))


def make_defense(name: str, config: Mapping[str, Any], poisoned: "PoisonedDataset") -> "Defense":
    """A defense that is ready to run on a dataset; an oracle defense is told here what is poisoned.

    Args:
        config: fields of its Config; the rest have the paper's values.

    Raises:
        UserError: an oracle defense is to run on data whose poison nobody marked, or that have none.
    """
    kind: type[Defense] = find_defense(name)
    if name in ORACLE_DEFENSES:
        if not poisoned.poison_known or not poisoned.poison_mask.any():
            raise UserError(_needs_truth(name, "these data"))
        kind = ORACLE_DEFENSES[name].with_ground_truth(poisoned.poison_mask)
    return kind(kind.config_type.from_mapping(config))


def check_truth(name: str, without: Sequence[str]) -> None:
    """Refuses an oracle defense on scenarios that do not tell which samples are poisoned.

    Args:
        without: names of such scenarios.

    Raises:
        UserError: the defense is an oracle defense, and there is such a scenario.
    """
    if name in ORACLE_DEFENSES and without:
        raise UserError(_needs_truth(name, without[0]))


def _needs_truth(name: str, data: str) -> str:
    return (
        f"{name} must be given which samples are poisoned, and nobody knows for {data}: use an attack that poisons, or "
        "add poison_mask to the file of a given set"
    )
