"""The template of a defense in `defenses/README.md`: it is short, and it runs as it stands."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from checkout import ROOT
from numpy.typing import NDArray
from small_images import CLASSES, SIZE, make_images

from defenses.api import Defense, DefenseResult, SuspectDataset
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense
from defenses.storage.store import Store
from study.scenarios.metrics import auroc

PAGE, LONGEST = ROOT / "defenses" / "README.md", 40
N, POISONED = 256, 26
TRAINING = {"epochs": 6, "lr": 0.1, "batch_size": 32, "schedule": "one_cycle", "augment": False}


def template() -> str:
    """The page's only block of Python."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The template, saved and imported as somebody who starts from it would."""
    path = tmp_path_factory.mktemp("template") / "defense_from_the_page.py"
    path.write_text(template(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    yield loaded
    del sys.modules[path.stem]


@pytest.fixture(scope="module")
def defense(module: ModuleType) -> type[Defense]:
    """The one defense that the template defines."""
    (defined,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Defense) and value.__module__ == module.__name__
    )
    return defined


def planted(seed: int) -> tuple[SuspectDataset, NDArray[np.bool_]]:
    """Images under noise, so that classes are hard to learn; the masked ones [N] have a white square and label 0."""
    rng, clean = np.random.default_rng(seed), make_images(N, seed=seed)
    images = (0.3 * clean.train_images + 0.7 * rng.integers(0, 256, clean.train_images.shape)).astype(np.uint8)
    labels, poison = clean.train_labels.copy(), np.zeros(N, dtype=bool)
    poison[rng.choice(np.flatnonzero(labels != 0), POISONED, replace=False)] = True
    images[poison, 5:11, 5:11], labels[poison] = 255, 0
    return SuspectDataset.of(images, labels, CLASSES), poison


def run(
    defense: type[Defense], seed: int, store: Path, until: str | None = None, data: int | None = None, **settings: Any
) -> DefenseResult:
    """The template on the planted images of a seed; `data` is another seed for them."""
    suspect, _ = planted(seed if data is None else data)
    spec = ModelSpec("resnet18", 8, (1, 1, 1, 1), CLASSES, SIZE)
    context = RunContext(Store(store), spec, seed, torch.device("cpu"), "fp32")
    return run_defense(defense(defense.config_type(**TRAINING, **settings)), suspect, context, until)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for the whole file: a run that another test has made is read from it."""
    return tmp_path_factory.mktemp("store")


def test_the_template_fits_on_a_screen() -> None:
    lines = template().splitlines()
    assert len(lines) <= LONGEST
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("seed", [0, 1])
def test_poison_is_scored_and_flagged_far_better_than_by_chance(defense: type[Defense], store: Path, seed: int) -> None:
    _, poison = planted(seed)
    result = run(defense, seed, store)
    assert result.scores is not None
    assert result.flagged is not None
    reached = auroc(result.scores, poison)
    assert reached is not None
    assert reached >= 0.7  # measured on seeds 0 to 5: 0.85 to 1.00; by chance 0.5, with a standard error of 0.06
    assert result.flagged[poison].mean() >= 3 * result.flagged[~poison].mean()
    assert result.model is not None
    assert result.series["retraining.loss"]


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(
    defense: type[Defense], store: Path, tmp_path: Path
) -> None:
    first = run(defense, 0, store, until="isolate")
    again = run(defense, 0, tmp_path, until="isolate")
    assert not any(stage.hit for stage in again.stages)
    assert np.array_equal(first.scores, again.scores)
    assert np.array_equal(first.flagged, again.flagged)
    assert first.series == again.series
    assert not np.array_equal(run(defense, 1, tmp_path, until="isolate", data=0).scores, first.scores)


def test_another_share_trains_the_shared_model_no_second_time(defense: type[Defense], store: Path) -> None:
    run(defense, 0, store, until="isolate")
    other = run(defense, 0, store, until="isolate", flagged_share=0.2)
    assert [stage.hit for stage in other.stages] == [True, False]
    assert other.flagged is not None
    assert other.flagged.sum() == round(0.2 * N)


def test_its_fields_are_checked_like_those_of_any_defense(defense: type[Defense]) -> None:
    fields = set(vars(defense.config_type()))
    assert {read for stage in defense.stages for read in stage.reads} == fields
    with pytest.raises(ValueError, match="did you mean 'flagged_share'"):
        defense.config_type.from_mapping({"flagged_shares": 0.2})
