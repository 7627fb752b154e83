"""PIPD on three pre-isolations: which one is believed, by hand; what is shared with PIPD, and what is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_images import CLASSES, SIZE, make_images

from defenses import DEFENSES
from defenses.api import SuspectDataset
from defenses.methods.pipd import of_three
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense, run_stages
from defenses.storage.store import Store
from study.attacks import parse_attack
from study.scenarios.poison import poison

QUICK = {"pre_isolation_epochs": 2, "pre_isolation_lr": 0.01, "batch_size": 32, "selective_epochs": 1}


def bools(*values: int) -> NDArray[np.bool_]:
    return np.array(values, dtype=bool)


def isolation(flagged: NDArray[np.bool_], scores: list[float], explained: float) -> dict[str, Any]:
    series = {"flagged_share": [0.5, float(flagged.mean())], "explained_variance": [0.1, explained]}
    rounds = np.stack([~flagged, flagged])
    return {"scores": np.array(scores), "flagged": flagged, "flagged_series": rounds, "series": series}


LABELS = np.array([0, 0, 1, 1, 2, 2])
# Two classes; all of one class; three of one class and one of another.
THREE = [
    isolation(bools(1, 0, 1, 0, 0, 0), [9.0, 0.0, 8.0, 1.0, 2.0, 3.0], 0.9),
    isolation(bools(1, 1, 0, 0, 0, 0), [0.9, 0.8, 0.3, 0.1, 0.0, 0.2], 0.7),
    isolation(bools(1, 1, 1, 0, 0, 0), [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 0.8),
]


def isolate_three(choice: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The stage `isolate` with three made-up isolations; the losses of network k are all k."""
    given = iter(THREE)
    monkeypatch.setattr(of_three, "isolate_by_loss", lambda *_: next(given))
    (stage,) = [stage for stage in of_three.PIPDOfThree.stages if stage.name == "isolate_of_three"]
    inputs: dict[str, Any] = dict.fromkeys(stage.inputs)
    inputs |= {f"sample_losses{copy}": np.full(6, float(number)) for number, copy in enumerate(("", "_2", "_3"))}
    images = np.zeros((6, 8, 8, 3), dtype=np.uint8)
    context: Any = type("Context", (), {"dataset": SuspectDataset.of(images, LABELS, 3)})()
    params: Any = type("Params", (), {"choice": choice})()
    return stage.run(context, inputs, params)


@pytest.mark.parametrize(("choice", "chosen"), [("focus", 1), ("variance", 0)])
def test_one_of_three_is_believed(choice: str, chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gave = isolate_three(choice, monkeypatch)
    assert gave["chosen"] == chosen
    assert gave["flagged"] is THREE[chosen]["flagged"]
    assert gave["scores"] is THREE[chosen]["scores"]
    assert (gave["sample_losses"] == chosen).all(), "the losses are those of the network that is believed"


def test_one_flagged_sample_is_no_focus() -> None:
    """100 of one class and one of another, or a single sample; by hand: 1 / (1 + 1.96^2) for one of one."""
    labels = np.repeat(np.arange(10), 100)
    many, one = np.zeros(1000, dtype=bool), np.zeros(1000, dtype=bool)
    many[:101] = one[0] = True
    shown = [of_three._focus(labels, {"flagged": flagged}) for flagged in (many, one, ~(many | True))]
    assert shown[0] == pytest.approx(0.946, abs=0.001)
    assert shown[1] == pytest.approx(1 / (1 + 1.96**2))
    assert shown[2] == pytest.approx(0.0)


def test_samples_that_two_of_three_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    gave = isolate_three("agreement", monkeypatch)
    assert gave["flagged"].tolist() == [True, True, True, False, False, False]
    assert gave["chosen"] == 2, "its flags are those"
    # Ranks by hand: (5, 0, 4, 1, 2, 3), (5, 4, 3, 1, 0, 2) and (5, 4, 3, 2, 1, 0), of 5; the median of each column.
    assert gave["scores"] == pytest.approx(np.array([5, 4, 3, 1, 1, 2]) / 5)
    assert gave["series"]["flagged_share"] == [0.5, 0.5, 0.5]
    assert len(gave["flagged_series"]) == 3


def test_equal_scores_have_equal_ranks() -> None:
    assert of_three._ranks(np.array([2.0, 1.0, 2.0])) == pytest.approx([0.75, 0.0, 0.75])


@pytest.fixture
def suspect() -> SuspectDataset:
    return poison(make_images(), parse_attack("badnets"), 0.1, 0, 7).suspect


def context_of(folder: Path) -> RunContext:
    spec = ModelSpec("resnet18", 8, (1, 1, 1, 1), CLASSES, SIZE)
    return RunContext(Store(folder), spec, 7, torch.device("cpu"), "fp32")


def test_the_first_network_is_pipds_own_and_the_others_are_not(suspect: SuspectDataset, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    pipd, three = DEFENSES["pipd"], DEFENSES["pipd_of_three"]
    run_stages(pipd(pipd.config_type.from_mapping(QUICK)), suspect, context_of(tmp_path), "isolate")
    done = run_stages(three(three.config_type.from_mapping(QUICK)), suspect, context_of(tmp_path), "isolate")
    hits = {name: outputs.run.hit for name, outputs in done.items()}
    assert hits["pre_isolation"]
    assert hits["channel_activations"]
    assert not any(hit for name, hit in hits.items() if name[-1] in "23")
    weights = [done[f"pre_isolation{copy}"].load("weights") for copy in ("", "_2", "_3")]
    name = next(name for name, tensor in weights[0].items() if tensor.ndim == 4 and "conv" in name)
    assert not any(torch.equal(weights[a][name], weights[b][name]) for a, b in ((0, 1), (0, 2), (1, 2)))
    other = [done[f"channel_activations{copy}"].load("activations") for copy in ("", "_2", "_3")]
    assert not np.array_equal(other[1], other[2]), "each network's channels are its own"


def test_the_model_is_cleaned_from_the_network_that_is_believed(
    suspect: SuspectDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    three = DEFENSES["pipd_of_three"]
    seen: list[Any] = []

    def train(_context: Any, inputs: Any, _params: Any) -> Any:
        seen.append(inputs["weights"])
        return {"weights": inputs["weights"], "series": {"loss": []}}

    monkeypatch.setattr(of_three, "selective_training_of", train)
    signals = iter((0.2, 0.9, 0.5))
    monkeypatch.setitem(of_three._SIGNALS, "focus", lambda *_: next(signals))  # type: ignore[arg-type]
    defense = three(three.config_type.from_mapping(QUICK))
    result = run_defense(defense, suspect, context_of(tmp_path))
    kept = run_stages(defense, suspect, context_of(tmp_path), stop_at="pre_isolation_2")["pre_isolation_2"]
    assert all(torch.equal(seen[0][name], tensor) for name, tensor in kept.load("weights").items())
    assert result.sample_losses is not None
    assert np.array_equal(result.sample_losses, kept.load("sample_losses"))
