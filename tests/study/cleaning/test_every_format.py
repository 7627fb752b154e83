"""A set that an attack poisoned, exported as each format that people have data in, and cleaned by the whole command.

Ids, counts and hashes are right; the cleaned set read again has the kept samples and no others; and what is flagged has
the TPR and the FPR that a study of the same poisoned set tells, which knows what is poisoned.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from own_formats import FORMATS, NAMES, arrays, held
from small_images import make_images
from without_ray import studies_here

import study.clean as command
from study.attacks import parse_attack
from study.cleaning.studies import run_study
from study.config.config import StudyConfig, resolve
from study.datasets.own.data import OwnData, OwnSpec
from study.datasets.own.reading import read_own
from study.datasets.own.writing import write_subset
from study.scenarios.poison import PoisonedDataset, poison
from tracking import names

ATTACKS = ("badnets", "blended_random", "trojan_square", "wanet", "sig:cap=true")  # the last keeps its labels
SEEDS = (0,)
FIELDS = {"epochs": "2", "batch_size": "32"}
TINY: Mapping[str, Any] = {"width": 4, "blocks": (1, 1), "precision": "fp32"}
WORDS = ("--defense", "ss", "--seeds", *map(str, SEEDS), "--width", "4", "--blocks", "1", "1", "--precision", "fp32")
RUN = ("--canaries", "none", "--set", *(f"{name}={value}" for name, value in FIELDS.items()))


def poisoned(attack: str) -> PoisonedDataset:
    """96 images of 32 px, of which some are poisoned."""
    return poison(make_images(train=96, size=32), parse_attack(attack, "smoke"), 0.15, 1, 0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for each attack, which all formats of it share."""
    return tmp_path_factory.mktemp("stores")


def check(name: str, attack: str, store: Path, root: Path) -> tuple[dict[str, list[float]], bytes]:
    """Cleans a poisoned set in one format; asserts all that must hold.

    Returns:
        TPR and FPR of each seed, and the pixels in the order of the format.
    """
    made = poisoned(attack)
    with held(np.asarray(made.suspect.images), np.asarray(made.suspect.labels)):
        path = FORMATS[name](root)
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    where = [str(path), "--out", str(root / "out"), "--store", str(store), *WORDS]
    with studies_here():
        assert command.main([*where, *RUN]) == 0
        data = read_own(OwnSpec(path), store)
        truth = truth_of(data, made)
        rates = rates_of(root / "out", data, truth)
        assert rates == study_rates(data, truth, store.with_name(f"{store.name}-of-studies"), root)
    check_tables(root / "out", data)
    table = root / "mine.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        bad = [identity for identity, wrong in zip(data.train.ids, truth, strict=True) if wrong]
        csv.writer(stream).writerows([("id", "decision"), *((identity, "drop") for identity in bad)])
    assert command.main([*where[:5], "--apply", str(table)]) == 0
    check_cleaned(root / "out", data, ~truth, store)
    assert {file: file.read_bytes() for file in before} == before  # the input is as it was
    return rates, data.train.images.tobytes()


def truth_of(data: OwnData, made: PoisonedDataset) -> NDArray[np.bool_]:
    """Which samples are poisoned, bool [N], by their pixels and class; each is there once."""
    told = {
        (image.tobytes(), int(label)): bool(bad)
        for image, label, bad in zip(made.suspect.images, made.suspect.labels, made.poison_mask, strict=True)
    }
    truth = [told.pop((image.tobytes(), int(label))) for image, label in zip(*of(data), strict=True)]
    assert not told
    assert len(set(data.train.ids)) == len(truth)
    return np.array(truth)


def of(data: OwnData) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return data.train.images, data.train.labels


def rates_of(out: Path, data: OwnData, truth: NDArray[np.bool_]) -> dict[str, list[float]]:
    """TPR and FPR of each seed's run."""
    rows = pyarrow.parquet.read_table(out / "scores.parquet").to_pydict()
    assert rows["id"] == list(data.train.ids)
    flags = [np.array(rows[f"ss_seed{seed}_flagged"]) for seed in SEEDS]
    assert all(one.any() and not one.all() for one in flags)
    return {
        names.TPR: [float(one[truth].mean()) for one in flags],
        names.FPR: [float(one[~truth].mean()) for one in flags],
    }


def study_rates(data: OwnData, truth: NDArray[np.bool_], store: Path, root: Path) -> dict[str, list[float]]:
    """The same of a study whose file says what is poisoned, with a store of its own: nothing is taken over."""
    test_images, test_labels = arrays("test")
    np.savez(
        root / "told.npz",
        train_images=data.train.images,
        train_labels=data.train.labels,
        test_images=test_images,
        test_labels=test_labels,
        poison_mask=truth,
        classes=np.array(NAMES),
    )
    options = {"space": "ss", "dataset": f"npz:{root / 'told.npz'}", "attacks": ("given",), "seeds": SEEDS, "trials": 1}
    options |= {"set": FIELDS, "until": "isolate", "store": store, "out": root / "runs", **TINY}
    told = run_study(resolve(StudyConfig, options), "").evaluations.sort_values("seed")
    return {name: told[name].tolist() for name in (names.TPR, names.FPR)}


def check_tables(out: Path, data: OwnData) -> None:
    """Counts and ids of what was flagged, wherever they are told."""
    summary = json.loads((out / "summary.json").read_text())
    flagged = rows_of(out / "flagged.csv")
    assert summary["images"] == len(data.train.ids)
    assert summary["flagged"] == len(flagged)
    assert {row["id"] for row in flagged} <= set(data.train.ids)
    labels = dict(zip(data.train.ids, data.train.labels, strict=True))
    assert all(row["class"] == data.classes[labels[row["id"]]] for row in flagged)
    assert summary["kept"] + summary["dropped"] == summary["images"]
    assert summary["dropped"] in (0, len(flagged))


def check_cleaned(out: Path, data: OwnData, kept: NDArray[np.bool_], store: Path) -> None:
    """The cleaned set read again has the kept samples, in their order, with their bytes."""
    place = Path(json.loads((out / "summary.json").read_text())["cleaned"])
    manifest = [row for row in rows_of(out / "cleaned" / "manifest.csv") if row["split"] == "train"]
    assert [row["id"] for row in manifest if row["kept"] == "yes"] == [
        identity for identity, keep in zip(data.train.ids, kept, strict=True) if keep
    ]
    assert [row["id"] for row in manifest if row["kept"] == "no"] == [
        identity for identity, keep in zip(data.train.ids, kept, strict=True) if not keep
    ]
    again = read_own(OwnSpec(place), store)
    images, labels = of(again)
    np.testing.assert_array_equal(images, data.train.images[kept])
    assert [again.classes[label] for label in labels] == [data.classes[label] for label in data.train.labels[kept]]
    assert (again.test is None) is (data.test is None)
    if again.test is not None and data.test is not None:
        np.testing.assert_array_equal(again.test.images, data.test.images)
    assert not again.left_out
    every = np.ones(len(labels), dtype=bool)
    once_more = rows_of(write_subset(again, every, out / "again", copy=False).path)
    hashes = [row["sha256"] for row in manifest if row["kept"] == "yes"]
    assert [row["sha256"] for row in once_more if row["split"] == "train"] == hashes
    assert len(set(hashes)) == len(hashes)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


QUICK = (("split_folders", "badnets"), ("webdataset", "wanet"), ("cifar10", "sig:cap=true"))


@pytest.mark.parametrize(("name", "attack"), QUICK)
def test_a_poisoned_set_is_cleaned(name: str, attack: str, stores: Path, tmp_path: Path) -> None:
    check(name, attack, stores / attack.partition(":")[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_format_of_an_attack(attack: str, tmp_path: Path) -> None:
    """In whatever format the images come in one order they are one dataset, so that all but the first train nothing."""
    told: dict[bytes, list[dict[str, list[float]]]] = {}
    for name in FORMATS:
        (tmp_path / name).mkdir()
        rates, order = check(name, attack, tmp_path / "store", tmp_path / name)
        told.setdefault(order, []).append(rates)
    assert all(one == same[0] for same in told.values() for one in same)
    trained = len([path for path in (tmp_path / "store" / "standard_training").iterdir() if path.is_dir()])
    assert trained == len(told) * len(SEEDS)
