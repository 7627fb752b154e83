"""The papers' tables by name, and rates that belong to an attack."""

from pathlib import Path

import pytest

from defenses.registry import UserError
from study.attacks import ATTACKS, parse_attack
from study.attacks.groups import GROUPS, expand, split_rate
from study.config.config import StudyConfig, resolve
from study.planning.plan import build_scenarios


def test_pipd_table_6_has_nine_attacks_at_its_rates() -> None:
    found = {text.partition(":")[0]: rate for text, rate in expand(("pipd_table6",), "cifar10")}
    dirty = {"badnets", "trojan_square", "blended_random", "dynamic", "wanet", "adaptive_blend", "refool"}
    assert found == {**dict.fromkeys(dirty, 0.05), "sig": 0.08, "label_consistent": 0.08}


def test_qt_table_1_has_seven_attacks_and_fewer_on_cifar100() -> None:
    ten = {text.partition(":")[0]: rate for text, rate in expand(("qt_table1",), "cifar10")}
    hundred = {text.partition(":")[0]: rate for text, rate in expand(("qt_table1",), "cifar100")}
    assert len(ten) == 7
    assert set(ten.values()) == {0.1}
    assert hundred == {name: 0.05 for name in ten if name != "sig"}


def test_the_qt_codes_options_reach_the_attacks() -> None:
    attacks = {text.partition(":")[0]: parse_attack(text).config for text, _ in expand(("qt_code",), "cifar10")}
    assert len(attacks) == 7
    assert {config.quantise for config in attacks.values()} == {"truncate"}
    assert all(config.include_target for config in attacks.values())
    assert attacks["sig"].rate_base == "class"
    assert vars(attacks["sig"])["variant"] == "abl"
    assert vars(attacks["badnets"])["variant"] == "checker2"
    assert vars(attacks["blended_random"])["gray"] is True


def test_every_takes_all_that_poison() -> None:
    found = [text.partition(":")[0] for text, _ in expand(("every",), "digits")]
    assert found == [name for name in ATTACKS if ATTACKS[name].poisons]
    assert dict(expand(("every",), "digits"))["sig:cap=true"] == 0.08


@pytest.mark.parametrize("group", GROUPS)
def test_every_member_can_be_parsed(group: str) -> None:
    for text, _ in expand((group,), "cifar10"):
        assert parse_attack(text, "smoke").name == text.partition(":")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("badnets", ("badnets", None)),
        ("badnets@0.05", ("badnets", 0.05)),
        ("sig@0.08:cap=true", ("sig:cap=true", 0.08)),
        ("refool:trigger_dir=/a@b", ("refool:trigger_dir=/a@b", None)),
    ],
)
def test_a_rate_stands_behind_the_name(text: str, expected: tuple[str, float | None]) -> None:
    assert split_rate(text) == expected


@pytest.mark.parametrize("text", ["badnets@", "badnets@x", "badnets@0", "badnets@0.6", "badnets@nan"])
def test_a_rate_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"must lie in \(0, 0.5\].*write badnets@0.05"):
        split_rate(text)


def test_a_groups_rate_can_be_set() -> None:
    assert {rate for _, rate in expand(("pipd_table6@0.1",), "cifar10")} == {0.1}


def test_scenarios_take_an_attacks_own_rate_before_the_studys(tmp_path: Path) -> None:
    given = {"attacks": ("badnets", "sig@0.08"), "poison_rates": (0.05, 0.1), "out": tmp_path}
    found = [(s.attack, s.poison_rate) for s in build_scenarios(resolve(StudyConfig, given))]
    assert found == [("badnets", 0.05), ("badnets", 0.1), ("sig", 0.08)]


def test_rates_that_nothing_takes_are_refused() -> None:
    config = resolve(StudyConfig, {"attacks": ("pipd_table6",), "poison_rates": (0.02,)})
    with pytest.raises(UserError, match=r"--poison-rates changes nothing.*pipd_table6@0.1"):
        build_scenarios(config)
    build_scenarios(resolve(StudyConfig, {"attacks": ("pipd_table6",), "preset": "small"}))  # the preset's are no wish


def test_what_poisons_nothing_itself_has_no_rate() -> None:
    with pytest.raises(
        UserError, match=r"^clean poisons nothing itself and has no poison rate, got clean@0.3: write clean"
    ):
        expand(("clean@0.3",), "digits")
    with pytest.raises(UserError, match=r"--poison-rates changes nothing.* or none"):
        build_scenarios(resolve(StudyConfig, {"attacks": ("clean",), "poison_rates": (0.3,)}))
    build_scenarios(resolve(StudyConfig, {"attacks": ("clean", "badnets"), "poison_rates": (0.3,)}))


def test_groups_take_no_options() -> None:
    with pytest.raises(UserError, match=r"^every is a group of attacks and takes no options, got 'cap=true'"):
        expand(("every:cap=true",), "digits")


def test_a_typo_gets_the_nearest_attack_or_group() -> None:
    with pytest.raises(UserError, match=r"unknown attack 'pipd_table': did you mean 'pipd_table6'\?"):
        expand(("pipd_table",), "digits")
    with pytest.raises(UserError, match=r"unknown attack 'refol': did you mean 'refool'\?"):
        expand(("refol",), "digits")
