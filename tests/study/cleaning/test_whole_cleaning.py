"""A poisoned folder of images, from the command to the cleaned set: run once, and what was written is looked at."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import PYTHONPATH, ROOT
from PIL import Image
from small_images import make_images

from defenses.models import ModelSpec, load_model
from study.attacks import parse_attack
from study.scenarios.poison import poison

OPTIONS = ("--defense", "ss", "--seeds", "0", "1", "--width", "4", "--blocks", "1", "1", "--precision", "fp32")
FIELDS = ("--set", "epochs=2", "batch_size=32")


def clean(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join(filter(None, (PYTHONPATH, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "study.clean", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of which some have a patch."""
    images = make_images(train=160)
    made = poison(images, parse_attack("badnets", "smoke"), 0.15, 1, 0)
    folder = tmp_path_factory.mktemp("signs")
    for row, (image, label) in enumerate(zip(made.suspect.images, made.suspect.labels, strict=True)):
        path = folder / images.classes[label] / f"{row:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def hashes(folder: Path) -> Mapping[str, str]:
    """Path within a folder -> sha256, of its images."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.png")
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.ray
def test_from_the_folder_to_the_cleaned_set(poisoned: Path, tmp_path: Path) -> None:
    folder = poisoned
    before, out, store = hashes(folder), tmp_path / "out", tmp_path / "store"
    where = (folder, "--out", out, "--store", store, *OPTIONS, *FIELDS)
    done = clean(*where, "--canaries", "none")
    assert done.returncode == 0, done.stderr
    assert hashes(folder) == before

    from study.cleaning.tables import read_decisions
    from study.config.config import StudyConfig
    from study.datasets.own.data import OwnSpec
    from study.datasets.own.reading import read_own
    from study.planning.plan import make_plan
    from study.scenarios.evaluation import evaluate_scenario

    summary = json.loads((out / "summary.json").read_text())
    data = read_own(OwnSpec(folder), store)
    assert set(data.train.ids) == before.keys()
    # The flags are those of the same study's settings, run by themselves.
    (study,) = (out / "studies").glob("ss-*/study.json")
    settings = json.loads(study.read_text())["settings"]
    plan = make_plan(StudyConfig(**settings), "cpu", 0.0, "fp32")
    flagged = rows_of(out / "flagged.csv")
    votes = np.zeros(len(data.train.ids), dtype=int)
    for seed, scenario in enumerate(plan.scenarios):
        config = plan.full_config(plan.default_point)
        alone = evaluate_scenario("ss", vars(config), scenario, plan.environment, "isolate")
        assert alone.flagged is not None
        votes += alone.flagged
        told = {run["seed"]: run["flagged"] for run in summary["runs"]}
        assert told[seed] == int(alone.flagged.sum())
    both = {data.train.ids[row] for row in np.flatnonzero(votes == 2)}
    assert {row["id"] for row in flagged} == both

    kept = read_decisions(out / "decisions.csv", data.train.ids)
    cleaned = hashes(out / "cleaned")
    assert cleaned == {name: before[name] for name, keep in zip(data.train.ids, kept, strict=True) if keep}
    again = read_own(OwnSpec(out / "cleaned"), store)
    np.testing.assert_array_equal(again.train.images, data.train.images[kept])

    mine = tmp_path / "mine.csv"
    mine.write_text(f"id,decision\n{data.train.ids[3]},drop\n")
    applied = clean(folder, "--out", out, "--store", store, "--apply", mine, *OPTIONS[5:], "--retrain")
    assert applied.returncode == 0, applied.stderr
    assert hashes(out / "cleaned") == {name: digest for name, digest in before.items() if name != data.train.ids[3]}
    from safetensors.torch import load_file

    model = load_model(
        ModelSpec(**json.loads((out / "model.json").read_text())["network"]), load_file(out / "model.safetensors")
    )
    assert model(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 4)

    once_more = clean(*where, "--canaries", "none")
    assert once_more.returncode == 0, once_more.stderr
    assert "starting Ray" not in once_more.stderr  # nothing was left to run
    assert hashes(out / "cleaned") == cleaned
