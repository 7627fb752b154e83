"""Names, configurations and seeds: what a user types is understood, or refused with the rule and the value."""

import dataclasses
import math
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses import DEFENSES
from defenses.config import Config, param
from defenses.registry import Registry, UserError, nearest
from defenses.seeds import derive_seed, generator
from study.attacks import ATTACKS
from study.datasets import DATASETS

PETS: Registry[Any] = Registry(
    "pet", {"sqrt": ("math:sqrt", "a root"), "tau": ("math:tau", "a circle"), "ghost": ("no_such_module_here:X", "-")}
)


@dataclass(frozen=True)
class Knobs(Config):
    epochs: int = param(10, "epochs", low=1, high=100)
    rate: float = param(0.5, "a share", low=0.0, high=1.0, symbol="p")
    unbounded: float = param(0.0, "any number")
    augment: bool = param(True, "flip")
    mode: str = param("fast", "how", choices=("fast", "slow"))
    label: str = param("", "free text")
    milestones: tuple[int, ...] = param((5, 9), "epochs", low=0, high=50)
    weights: tuple[float, ...] = param((1.0,), "weights")
    clip: float | None = param(None, "norm", low=0.1)
    count: float | int = param(0.5, "a share, or a count", share_or_count=True)
    note: str | None = param(None, "free text or nothing")
    steps: tuple[int, ...] | None = param(None, "epochs or nothing")


CONFIG_TYPES = [registry[name].config_type for registry in (DEFENSES, ATTACKS) for name in registry]


# --- registry ---------------------------------------------------------------------------------------------------------


def test_registry_is_a_mapping_in_the_order_written() -> None:
    assert list(PETS) == ["sqrt", "tau", "ghost"]
    assert len(PETS) == 3
    assert "tau" in PETS
    assert PETS["sqrt"](9) == 3
    assert PETS.find("tau") == math.tau
    assert PETS.describe("tau") == "a circle"


def test_registry_imports_only_what_is_asked_for() -> None:
    assert PETS.check("ghost") == "ghost"
    assert PETS.describe("ghost") == "-"
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        PETS.find("ghost")


def test_registry_refuses_an_unknown_name_with_the_nearest_and_all_known() -> None:
    for ask in (PETS.check, PETS.find):
        with pytest.raises(UserError) as error:
            ask("sqr")
        assert str(error.value) == "unknown pet 'sqr': did you mean 'sqrt'? (known: ghost, sqrt, tau)"
    with pytest.raises(UserError) as error:
        PETS.check("zzzzzz")
    assert str(error.value) == "unknown pet 'zzzzzz': (known: ghost, sqrt, tau)"


def test_registry_indexing_raises_key_error_so_that_mapping_methods_work() -> None:
    with pytest.raises(KeyError):
        PETS["sqr"]
    assert PETS.get("sqr") is None
    assert "sqr" not in PETS


def test_nearest() -> None:
    assert nearest("badnet", ["badnets", "blended"]) == "did you mean 'badnets'? "
    assert nearest("xyz", ["badnets", "blended"]) == ""
    assert nearest("xyz", []) == ""


@pytest.mark.parametrize("registry", [ATTACKS, DATASETS, DEFENSES], ids=["attacks", "datasets", "defenses"])
def test_every_registered_object_exists_and_is_described(registry: Registry[Any]) -> None:
    assert len(registry) >= 3
    for name in registry:
        assert callable(registry[name])
        assert 10 <= len(registry.describe(name)) <= 100


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES], ids=["attacks", "defenses"])
def test_classes_carry_the_name_they_are_registered_under(registry: Registry[Any]) -> None:
    assert [registry[name].name for name in registry] == list(registry)


@pytest.mark.parametrize(
    "modules",
    [
        "defenses",
        "study.attacks, study.datasets",
    ],
)
def test_names_can_be_listed_without_importing_torch(modules: str) -> None:
    # defenses/registry.py promises it: torch alone takes over a second
    code = f"import sys, {modules}; sys.exit(17 if 'torch' in sys.modules else 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- configurations: types and ranges ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must lie in [1, 100], got 0: choose a value in the range"),
        ({"epochs": 101}, "epochs must lie in [1, 100], got 101: choose a value in the range"),
        ({"rate": -0.1}, "rate must lie in [0.0, 1.0], got -0.1: choose a value in the range"),
        ({"clip": 0.05}, "clip must lie in [0.1, inf], got 0.05: choose a value in the range"),
        ({"milestones": (5, 51)}, "milestones must lie in [0, 50], got 51: choose a value in the range"),
        ({"unbounded": math.nan}, "unbounded must be finite, got nan"),
        ({"weights": (1.0, -math.inf)}, "weights must be finite, got -inf"),
        ({"mode": "fsat"}, "mode must be one of fast, slow, got 'fsat'. did you mean 'fast'?"),
        ({"mode": "zzzzz"}, "mode must be one of fast, slow, got 'zzzzz'."),
        ({"epochs": True}, "epochs must be of type int, got True: give it such a value"),
        ({"epochs": 3.0}, "epochs must be of type int, got 3.0: give it such a value"),
        ({"epochs": None}, "epochs must be of type int, got None: give it such a value"),
        ({"rate": True}, "rate must be of type float, got True: give it such a value"),
        ({"rate": "0.5"}, "rate must be of type float, got '0.5': give it such a value"),
        ({"augment": 1}, "augment must be of type bool, got 1: give it such a value"),
        ({"label": 1}, "label must be of type str, got 1: give it such a value"),
        ({"milestones": 5}, "milestones must be of type tuple[int, ...], got 5: give it such a value"),
        ({"milestones": (1.5,)}, "milestones must be of type int, got 1.5: give it such a value"),
        ({"clip": "x"}, "clip must be of type float | None, got 'x': give it such a value"),
        ({"count": 16.0}, "count must be a share of at most 1, or a count without a decimal point, got 16.0"),
        ({"count": True}, "count must be of type float | int, got True: give it such a value"),
    ],
)
def test_a_wrong_value_is_refused_with_rule_and_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Knobs.from_mapping(values)
    assert str(error.value) == message


def test_bounds_are_inclusive() -> None:
    assert Knobs(epochs=1, rate=0.0, milestones=(0, 50), clip=0.1).epochs == 1
    assert Knobs(epochs=100, rate=1.0).rate == 1.0


def test_an_int_is_taken_where_a_float_is_wanted() -> None:
    knobs = Knobs(rate=1, clip=2, weights=(1, 2))
    assert [type(value) for value in (knobs.rate, knobs.clip, *knobs.weights)] == [float] * 4
    assert knobs == Knobs(rate=1.0, clip=2.0, weights=(1.0, 2.0))


def test_a_list_becomes_a_tuple_so_that_a_config_can_be_hashed() -> None:
    knobs = Knobs.from_mapping({"milestones": [1, 2]})
    assert knobs.milestones == (1, 2)
    assert hash(knobs) == hash(Knobs(milestones=(1, 2)))


def test_a_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Knobs().epochs = 3  # type: ignore[misc]


def test_an_unknown_field_is_refused_with_the_nearest_and_all_known() -> None:
    fields = "epochs, rate, unbounded, augment, mode, label, milestones, weights, clip, count, note, steps"
    for build in (Knobs.from_mapping, Knobs.from_text):
        with pytest.raises(UserError) as error:
            build({"epoch": "3"})
        assert str(error.value) == f"Knobs has no field 'epoch': did you mean 'epochs'? (fields: {fields})"


def test_symbol_puts_the_papers_letter_first() -> None:
    assert Knobs.symbol("rate") == "p rate"
    assert Knobs.symbol("epochs") == "epochs"
    assert Knobs.symbol("not_a_field") == "not_a_field"


def test_an_int_stays_an_int_in_a_union() -> None:
    assert type(Knobs(count=0.5).count) is float
    assert type(Knobs(clip=1).clip) is float


def test_a_count_stays_an_int_where_a_share_or_a_count_is_wanted() -> None:
    assert type(Knobs(count=16).count) is int
    assert type(Knobs.from_text({"count": "16"}).count) is int


def test_an_int_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(UserError, match="unbounded must be"):
        Knobs(unbounded=10**400)


# --- configurations: from text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("augment", "false", False),
        ("augment", "True", True),
        ("epochs", "12", 12),
        ("rate", "0.25", 0.25),
        ("rate", "1", 1.0),
        ("unbounded", "-1e-3", -0.001),
        ("milestones", "1,2,3", (1, 2, 3)),
        ("milestones", "(1, 2)", (1, 2)),
        ("milestones", "[1,2,]", (1, 2)),
        ("milestones", "7", (7,)),
        ("milestones", "", ()),
        ("weights", "1, 0.5", (1.0, 0.5)),
        ("clip", "none", None),
        ("clip", "None", None),
        ("clip", "3", 3.0),
        ("mode", "slow", "slow"),
        ("label", "true", "true"),
        ("label", "5", "5"),
        ("label", "none", "none"),
        ("note", "none", None),
        ("note", "a word", "a word"),
        ("note", "5", "5"),
        ("steps", "1,2", (1, 2)),
        ("steps", "none", None),
        ("count", "0.5", 0.5),
    ],
)
def test_text_is_read_as_the_fields_type(name: str, text: str, value: object) -> None:
    found = getattr(Knobs.from_text({name: text}), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("augment", "yes"),
        ("augment", "1"),
        ("epochs", "1.5"),
        ("epochs", "true"),
        ("epochs", "many"),
        ("epochs", ""),
        ("rate", "half"),
        ("rate", "nan"),
        ("milestones", "1;2"),
        ("milestones", "1,2.5"),
        ("clip", "off"),
    ],
)
def test_text_of_another_type_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} must "):
        Knobs.from_text({name: text})


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from([field.name for field in dataclasses.fields(Knobs)]),
    text=st.text(alphabet="0123456789.,-+e()[] truefalsno_", max_size=12),
)
def test_any_text_gives_a_config_or_a_user_error(name: str, text: str) -> None:
    knobs, refusal = Knobs(), ""
    try:
        knobs = Knobs.from_text({name: text})
    except UserError as error:
        refusal = str(error)
    assert not refusal or name in refusal
    assert Knobs.from_mapping(dataclasses.asdict(knobs)) == knobs


@pytest.mark.parametrize("config_type", CONFIG_TYPES, ids=lambda found: found.__name__)
def test_every_default_survives_being_written_and_read(config_type: type[Config]) -> None:
    default = config_type()
    values = dataclasses.asdict(default)
    assert config_type.from_mapping(values) == default
    assert config_type.from_text({name: str(value) for name, value in values.items()}) == default


@pytest.mark.parametrize("config_type", CONFIG_TYPES, ids=lambda found: found.__name__)
def test_every_field_says_what_it_is(config_type: type[Config]) -> None:
    for field in dataclasses.fields(config_type):
        assert len(field.metadata["doc"]) > 5, field.name


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "head"),
    [  # first eight bytes of `printf '[0,"select"]' | sha256sum`, and so on; the seed drops the last bit
        ((0, "select"), 0xBD99D9EE44F540E8),
        (("defense", 3), 0xF7FD1520F06EC09F),
        ((1,), 0x080A9ED428559EF6),
        (("1",), 0x43DE3A417D75F481),
        ((True,), 0x1C28F2EB0958C3D1),
        ((1.0,), 0xC2272C0A862F11DE),
    ],
)
def test_seeds_are_the_same_on_every_machine(parts: tuple[Any, ...], head: int) -> None:
    assert derive_seed(*parts) == head // 2


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.one_of(st.text('aé"\\', max_size=5), st.integers(), st.booleans()), max_size=4))
def test_seeds_lie_in_range(parts: list[str | int | bool]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_seeds_depend_on_every_part_and_its_place() -> None:
    seeds = [derive_seed("a", "b"), derive_seed("b", "a"), derive_seed("ab"), derive_seed("a", "b", ""), derive_seed()]
    assert len(set(seeds)) == 5


def test_generators_of_equal_parts_draw_equal_numbers() -> None:
    torch.manual_seed(1)
    first = torch.rand(4, generator=generator("cpu", 0, "augment"))
    torch.manual_seed(2)  # global state plays no part
    again = torch.rand(4, generator=generator(torch.device("cpu"), 0, "augment"))
    other = torch.rand(4, generator=generator("cpu", 0, "order"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
