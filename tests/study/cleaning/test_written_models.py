"""The models that a cleaning writes: one trained on what is kept, or the one that the method itself defends."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from own_formats import class_folders, held, split_folders
from small_images import make_images
from without_ray import studies_here

from defenses.models import ModelSpec, load_model
from defenses.registry import UserError
from study.cleaning.cleaned import Retrained
from study.cleaning.cleaning import Applied, Cleaning, clean_dataset
from study.cleaning.options import parse_clean
from study.cleaning.settings import check_space
from study.scenarios import oracle_defenses

TINY: dict[str, Any] = {"width": 4, "blocks": (1, 1), "precision": "fp32", "preset": "smoke"}
QUICK = {"epochs": "1", "batch_size": "32"}


def cleaned(data: Path, root: Path, **options: Any) -> Cleaning | Applied:
    given = {"defense": ("ss",), "seeds": (0,), "set": QUICK, "canaries": "none", **TINY, **options}
    return clean_dataset(data, root / "out", store=root / "store", **given)


def written(model: Retrained | None) -> tuple[dict[str, Any], torch.nn.Module]:
    """The description of a model, and the model that it describes."""
    from safetensors.torch import load_file

    assert model is not None
    told = json.loads(model.path.with_name("model.json").read_text())
    return told, load_model(ModelSpec(**told["network"]), load_file(model.path)).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images that a network learns, with a test set that is none of them."""
    images = make_images(train=64, size=32)
    with held(images.train_images, images.train_labels):
        return split_folders(tmp_path_factory.mktemp("learned"))


def test_the_model_that_a_method_defends(data: Path, tmp_path: Path) -> None:
    fields = {"pre_epochs": "1", "quarantine_epochs": "1", "backdoor_free_epochs": "1", "batch_size": "32"}
    with studies_here() as plans:
        done = cleaned(data, tmp_path, defense=("qt",), set=fields, defended_model=True)
    assert isinstance(done, Cleaning)
    told, model = written(done.retrained)
    assert (told["method"], told["received"], told["flagged"]) == ("qt", 64, int(done.votes.votes[0].flagged.sum()))
    assert told["recipe"].items() >= {name: int(value) for name, value in fields.items()}.items()
    assert told["outputs"].startswith("one for each class, then as many of quarantine")
    assert done.data.test is not None
    images = torch.from_numpy(np.array(done.data.test.images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        guesses = model(images).argmax(dim=1).numpy()
    accuracy = float((guesses == done.data.test.labels).mean())
    assert done.retrained is not None
    assert (told["accuracy"], done.retrained.accuracy) == (pytest.approx(accuracy), pytest.approx(accuracy))
    assert told["accuracy_means"] == "share of the test images that are called by their label"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["retrained"]["method"] == "qt"
    assert "the model that qt defends" in (tmp_path / "out" / "report.html").read_text()
    assert [plan.config.until for plan in plans] == ["isolate", None]


def test_retrained_on_what_is_kept_and_measured_on_the_test_set(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("id,decision\ntraining/cat/ü01.png,drop\n", encoding="utf-8")
    with studies_here() as plans:
        options: dict[str, Any] = {"apply": table, "retrain": True, **TINY}
        done = clean_dataset(data, tmp_path / "out", store=tmp_path / "store", **options)
    told, _ = written(done.retrained)
    assert (told["trained_on"], told["left_out"]) == (63, 1)
    assert done.retrained is not None
    assert 0 <= told["accuracy"] == done.retrained.accuracy <= 1
    assert done.retrained.what == "a model trained on it"
    assert [len(plan.scenarios) for plan in plans] == [1]


def test_without_a_test_set_no_accuracy_is_claimed(tmp_path: Path) -> None:
    with studies_here():
        done = cleaned(class_folders(tmp_path), tmp_path, defended_model=True)
    told, _ = written(done.retrained)
    assert "outputs" not in told
    assert told["accuracy"] is None
    assert told["accuracy_means"] == "not measured: the data have no test set"
    assert done.retrained is not None
    assert done.retrained.accuracy_text == "no test set to measure it on"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retrain": True, "defended_model": True}, "both write model.safetensors"),
        (
            {"defended_model": True, "defense": ("pipd", "flare")},
            "is the model of one method, and --defense",
        ),
        ({"defended_model": True, "apply": "x.csv"}, "so --defended-model changes nothing: leave it out"),
    ],
)
def test_what_makes_no_single_model_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_clean({"data": "data", "out": "out", **options})


def test_a_method_without_a_model_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_space("flare", defended_model=True)
    finder = SimpleNamespace(flagged="a.flagged", weights=None)
    monkeypatch.setattr(oracle_defenses, "find_defense", lambda _: finder)
    check_space("flare")
    with pytest.raises(UserError, match="and flare trains none: take --retrain, or name pipd or another"):
        check_space("flare", defended_model=True)
