"""Scenarios: named for files, keyed by all that their data depend on, poisoned once and read back."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_images import make_images

import study.scenarios.stored_poison
from defenses.api import SuspectDataset, fingerprint
from defenses.seeds import derive_seed
from defenses.storage.store import Store
from study.attacks import parse_attack
from study.datasets.images import Images
from study.scenarios.poison import PoisonedDataset, poison
from study.scenarios.scenario import Scenario, model_spec, stage_seed
from study.scenarios.stored_poison import stored_poison

ATTACK_TEXTS = (
    "clean",
    "badnets",
    "badnets:variant=white3",
    "blended_random:gray=true",
    "blended_image:alpha=0.1",
    "sig",
    "sig:variant=abl",
    "trojan_square",
)
BASE = Scenario("sig", 0.1, 1, 0)


def assert_equal(found: PoisonedDataset, expected: PoisonedDataset) -> None:
    for field in dataclasses.fields(PoisonedDataset):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)
    np.testing.assert_array_equal(found.suspect.images, expected.suspect.images)
    np.testing.assert_array_equal(found.suspect.labels, expected.suspect.labels)
    assert found.suspect.labels.dtype == expected.suspect.labels.dtype
    assert found.suspect.num_classes == expected.suspect.num_classes
    assert found.suspect.fingerprint == expected.suspect.fingerprint
    assert found.meta == expected.meta


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACK_TEXTS)
def test_a_stored_poison_is_what_poison_made(images: Images, store: Store, attack: str) -> None:
    scenario = Scenario(attack, 0.1, 1, 3)
    expected = poison(images, parse_attack(attack), 0.1, 1, 3)
    before = images.train_images.copy()
    made, hit = stored_poison(scenario, images, store)
    again, hit_again = stored_poison(scenario, images, store)
    restarted, hit_restarted = stored_poison(scenario, images, Store(store.root))
    assert (hit, hit_again, hit_restarted) == (False, True, True)
    for found in (made, again, restarted):
        assert_equal(found, expected)
        # The fingerprint is read from the store, so it is checked against the data that were put together.
        assert found.suspect.fingerprint == fingerprint(found.suspect.images, found.suspect.labels, 4)
    np.testing.assert_array_equal(images.train_images, before)


def test_poison_is_made_once(images: Images, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any) -> PoisonedDataset:
        calls.append(arguments)
        return poison(*arguments)

    monkeypatch.setattr(study.scenarios.stored_poison, "poison", counted)
    for _ in range(3):
        stored_poison(BASE, images, store)
    assert len(calls) == 1
    stored_poison(dataclasses.replace(BASE, seed=1), images, store)
    assert len(calls) == 2


def test_only_changed_rows_are_stored(store: Store) -> None:
    images = make_images(train=1000, test=4)
    stored_poison(Scenario("badnets", 0.01, 1, 0), images, store)
    stored = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert (
        stored < 1000 * 16 * 16 * 3 / 10
    )  # ten images, labels, masks and a preview, where all images are 768,000 bytes


def test_a_changed_read_back_does_not_reach_the_next_one(images: Images, store: Store) -> None:
    first, _ = stored_poison(BASE, images, store)
    first.suspect.images[:] = 0
    second, _ = stored_poison(BASE, images, store)
    assert_equal(second, poison(images, parse_attack("sig"), 0.1, 1, 0))


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"attack": "badnets"},
        {"attack": "sig:variant=abl"},
        {"attack": "sig:delta=20"},
        {"attack": "sig:frequency=5"},
        {"attack": "sig:alpha=0.3"},
        {"attack": "sig:rate_base=class"},
        {"attack": "sig:cap=true"},
        {"attack": "sig:quantise=truncate"},
        {"poison_rate": 0.11},
        {"target_label": 2},
        {"seed": 1},
    ],
    ids=str,
)
def test_the_key_changes_with_all_that_the_data_depend_on(images: Images, changed: dict[str, Any]) -> None:
    assert dataclasses.replace(BASE, **changed).key(images) != BASE.key(images)


def test_the_key_changes_with_the_dataset(images: Images) -> None:
    keys = {BASE.key(data) for data in (images, make_images(seed=1), make_images(train=132), make_images(test=68))}
    assert len(keys) == 4


def test_the_key_changes_with_nothing_else(images: Images) -> None:
    same_data = make_images()
    assert same_data is not images
    for attack in ("sig", "sig:delta=30", "sig:delta=30.0:cap=false", "sig:cap=false:variant=additive"):
        assert dataclasses.replace(BASE, attack=attack).key(same_data) == BASE.key(images)
    assert Scenario("clean", 0, 1, 0).key(images) == Scenario("clean", 0.0, 1, 0).key(images)
    renamed = dataclasses.replace(same_data, classes=("cat", "dog", "cow", "pig"))
    assert BASE.key(renamed) == BASE.key(images)


def test_versions_that_came_later_are_in_the_keys_of_what_they_changed_alone(images: Images) -> None:
    def later(attack: str) -> dict[str, Any]:
        known = {"version", "attack", "options", "poison_rate", "target_label", "seed", "dataset"}
        identity = Scenario(attack, 0.1, 1, 0).identity(images)
        return {name: value for name, value in identity.items() if name not in known}

    assert later("badnets") == later("sig") == later("blended_image") == {}
    assert later("wanet") == later("badnets:cover_ratio=1") == {"covers": 2}
    assert later("trojan_watermark") == {"attack_version": 2}
    large = make_images(8, 4, 2, 48)
    assert Scenario("wanet", 0.1, 1, 0).identity(large)["attack_version"] == 2
    assert "attack_version" not in Scenario("wanet:scale_with_size=false", 0.1, 1, 0).identity(large)
    assert later("adaptive_patch") == {"attack_version": 2, "covers": 2}


def test_classes_that_no_label_names_are_part_of_the_key(images: Images) -> None:
    """With another number of classes all-to-all relabels otherwise, though every array is the same."""
    more = dataclasses.replace(images, classes=(*images.classes, "empty"))
    scenario = Scenario("badnets_all_to_all", 0.1, 1, 0)
    assert more.fingerprint == images.fingerprint
    assert scenario.key(more) != scenario.key(images)
    assert "num_classes" not in scenario.identity(images)  # the labels tell it: keys from before stay


def test_a_key_is_a_sha256_in_hexadecimal(images: Images) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", BASE.key(images))


def test_the_key_changes_with_the_content_of_a_trigger_image(images: Images, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    scenario = Scenario(f"blended_image:image={path}", 0.1, 1, 0)
    Image.new("RGB", (16, 16), (255, 0, 0)).save(path)
    stored_poison(scenario, images, store)
    Image.new("RGB", (16, 16), (0, 0, 255)).save(path)
    found, _ = stored_poison(scenario, images, store)
    assert_equal(found, poison(images, parse_attack(scenario.attack), 0.1, 1, 0))


def test_the_drawn_picture_has_its_version_in_the_identity_and_a_users_has_not(images: Images, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "mine.png")
    for attack in ("blended_image", "adaptive_blend"):
        assert Scenario(attack, 0.1, 1, 0).identity(images)["options"]["image"] == "cartoon 2"
        mine = Scenario(f"{attack}:image={tmp_path / 'mine.png'}", 0.1, 1, 0).identity(images)["options"]["image"]
        assert re.fullmatch(r"[0-9a-f]{64}", mine)


def test_the_key_is_the_same_wherever_a_trigger_image_lies(images: Images, tmp_path: Path) -> None:
    keys = set()
    for name in ("one.png", "other.png"):
        Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / name)
        keys.add(Scenario(f"blended_image:image={tmp_path / name}", 0.1, 1, 0).key(images))
    assert len(keys) == 1


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "name"),
    [
        (Scenario("badnets", 0.1, 0, 0), "badnets-0.1-s0"),
        (Scenario("clean", 0.0, 0, 12), "clean-0-s12"),
        (Scenario("clean", 0, 0, 12), "clean-0-s12"),
        (Scenario("badnets", 1e-5, 0, 0), "badnets-1e-05-s0"),
        (Scenario("sig:variant=abl:cap=true", 0.05, 0, 1), "sig.variant_abl.cap_true-0.05-s1"),
    ],
)
def test_names(scenario: Scenario, name: str) -> None:
    assert scenario.name == name


@pytest.mark.parametrize(
    "attack",
    [
        *ATTACK_TEXTS,
        "blended_image:image=/home/me/my cat.png",
        "blended_image:image=../../cat.png",
        f"blended_image:image=/home/{'long' * 60}/cat.png",
        f"blended_image:image={'long' * 60}.png",
        "blended_image:image=/home/me/кошка ночью's.png",
        "sig:variant=abl:alpha=0.3:cap=true:quantise=truncate:rate_base=class",
    ],
)
def test_names_are_safe_for_files(attack: str, tmp_path: Path) -> None:
    name = Scenario(attack, 0.05, 0, 0).name
    assert Path(name).name == name
    assert len(name.encode()) <= 100
    (tmp_path / f"{name}.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.json"]


@pytest.mark.parametrize(
    "other",
    [
        Scenario("badnets", 0.1, 0, 0),
        Scenario("sig:delta=20", 0.1, 0, 0),
        Scenario("sig", 0.11, 0, 0),
        Scenario("sig", 0.1, 0, 1),
    ],
    ids=lambda scenario: scenario.name,
)
def test_scenarios_of_a_study_have_different_names(other: Scenario) -> None:
    assert other.name != Scenario("sig", 0.1, 0, 0).name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Scenario("blended_image:image=a:b", 0.1, 0, 0), Scenario("blended_image:image=a.b", 0.1, 0, 0)),
        (Scenario("blended_image:image=a=b", 0.1, 0, 0), Scenario("blended_image:image=a_b", 0.1, 0, 0)),
        (Scenario("blended_image:image=1/cat.png", 0.1, 0, 0), Scenario("blended_image:image=2/cat.png", 0.1, 0, 0)),
        (Scenario("blended_image:image=a/b", 0.1, 0, 0), Scenario("blended_image:image=a_b", 0.1, 0, 0)),
        (Scenario("badnets", 0.1234561, 0, 0), Scenario("badnets", 0.1234562, 0, 0)),
    ],
    ids=["colon", "equals", "folder", "slash", "rate"],
)
def test_different_scenarios_never_share_a_name(one: Scenario, other: Scenario) -> None:
    assert one.name != other.name


# --- the network and the seed of a defense ----------------------------------------------------------------------------


def test_model_spec_normalises_with_the_mean_and_spread_of_each_channel() -> None:
    images = make_images(train=8, test=4)
    pixels = np.empty((8, 16, 16, 3), dtype=np.uint8)
    pixels[..., 0] = 30  # constant: its spread of 0 is raised to 1, for it divides
    pixels[..., 1] = np.repeat([0, 255], 4)[:, None, None]
    pixels[..., 2] = np.tile([10, 20], 8)  # columns
    spec = model_spec("resnet18", 16, (1, 1, 1, 1), images, SuspectDataset.of(pixels, images.train_labels, 4))
    assert spec.mean == (30.0, 127.5, 15.0)
    assert spec.std == (1.0, 127.5, 5.0)
    assert (spec.name, spec.width, spec.blocks) == ("resnet18", 16, (1, 1, 1, 1))
    assert (spec.num_classes, spec.image_size) == (4, 16)


def test_stage_seed_depends_on_the_seed_of_the_scenario_alone() -> None:
    seeds = {
        stage_seed(Scenario(attack, rate, target, 5)) for attack, rate, target in [("sig", 0.1, 0), ("clean", 0.0, 3)]
    }
    assert len(seeds) == 1
    assert stage_seed(Scenario("sig", 0.1, 0, 6)) not in seeds
    assert derive_seed(5, "select") not in seeds
