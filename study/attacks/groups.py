"""Named sets of attacks with the rates of the papers' tables: ``--attacks pipd_table6``."""

from defenses.registry import UserError, nearest
from defenses.text_numbers import parse_real
from study.attacks import ATTACKS, find_attack

PIPD_TABLE6 = (
    "badnets@0.05",
    "trojan_square@0.05",
    "blended_random@0.05",
    "sig@0.08:cap=true",
    "label_consistent@0.08:cap=true",
    "dynamic@0.05",
    "wanet@0.05",
    "adaptive_blend@0.05",
    "refool@0.05",
)
PIPD_TABLE2 = tuple(attack for attack in PIPD_TABLE6 if not attack.startswith(("wanet", "adaptive_blend")))
_QT_RATE, _QT_RATE_CIFAR100 = 0.10, 0.05
_QT = ("badnets", "trojan_square", "blended_image", "blended_random", "dynamic", "issba")
_QT_PARITY = "quantise=truncate:include_target=true"

GROUPS: dict[str, str] = {
    "pipd_table6": "the nine attacks of PIPD's Table 6 at its rates: 0.05, clean-label ones 0.08",
    "pipd_table2": "the seven of them that PIPD's Table 2 tells of, likewise",
    "qt_table1": "the seven of QT's Table 1 at its rates: 0.1 (SIG's of the target class), on cifar100 0.05 and no SIG",
    "qt_code": "the same with its public code's patch, grey noise, added square, truncation, target class in the ASR",
    "every": "every attack that poisons, at --poison-rates; clean-label ones at 0.08",
}


def split_rate(text: str) -> tuple[str, float | None]:
    """An attack's text without its rate, and the rate: ``sig@0.08:cap=true`` gives ``sig:cap=true`` and 0.08.

    Raises:
        UserError: what follows ``@`` is no rate in (0, 0.5].
    """
    name, colon, options = text.partition(":")
    name, at, rate = name.partition("@")
    if not at:
        return text, None
    value = parse_real(rate) or 0.0
    if not 0 < value <= 0.5:
        raise UserError(f"a poison rate after '@' must lie in (0, 0.5], got {text!r}: write {name}@0.05")
    return name + colon + options, value


def expand(names: tuple[str, ...], dataset: str) -> list[tuple[str, float | None]]:
    """Attacks with the rate that each brings along, groups replaced by their members.

    Args:
        names: attacks, with ``@rate`` and options, or groups; ``group@rate`` sets the rate of all its members.
        dataset: as in ``--dataset``: QT poisons CIFAR-100 at another rate.

    Raises:
        UserError: an unknown name or a rate out of its range.
    """
    expanded: list[tuple[str, float | None]] = []
    for text in names:
        name, rate = split_rate(text)
        if name not in GROUPS:
            _check_name(name, rate)
            expanded.append((name, rate))
            continue
        expanded += [(member, rate or own) for member, own in map(split_rate, _members(name, dataset))]
    return expanded


def _check_name(text: str, rate: float | None) -> None:
    name, _, options = text.partition(":")
    if name in GROUPS:
        raise UserError(f"{name} is a group of attacks and takes no options, got {options!r}: name its attacks instead")
    if name not in ATTACKS:
        known = (*ATTACKS, *GROUPS)
        raise UserError(
            f"unknown attack {name!r}: {nearest(name, known)}"
            f"(known: {', '.join(sorted(ATTACKS))}; groups: {', '.join(GROUPS)})"
        )
    if rate is not None and not find_attack(name).poisons:
        raise UserError(f"{name} poisons nothing itself and has no poison rate, got {name}@{rate:g}: write {name}")


def _members(group: str, dataset: str) -> tuple[str, ...]:
    if group == "pipd_table6":
        return PIPD_TABLE6
    if group == "pipd_table2":
        return PIPD_TABLE2
    if group == "every":
        attacks = {name: ATTACKS[name] for name in ATTACKS}
        return tuple(
            f"{name}@0.08:cap=true" if attack.clean_label else name
            for name, attack in attacks.items()
            if attack.poisons
        )
    cifar100 = dataset == "cifar100"
    rate = _QT_RATE_CIFAR100 if cifar100 else _QT_RATE
    sig = () if cifar100 else ("sig",)
    return tuple(_qt(name, rate, parity=group == "qt_code") for name in (*_QT, *sig))


def _qt(name: str, rate: float, parity: bool) -> str:
    """An attack of QT's tables; SIG's rate is a share of the target class, as the published code has it."""
    options = []
    if name == "sig":
        options.append("rate_base=class")
    if parity:
        own = {
            "badnets": "variant=checker2",
            "blended_random": "gray=true",
            "sig": "variant=abl",
            "trojan_square": "mode=add",
        }
        options += [own[name]] if name in own else []
        options.append(_QT_PARITY)
    return ":".join([f"{name}@{rate}", *options])
