"""FLARE: densities by hand, clusters that are plain to see, and modes that each change something."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import PLAIN_TRAINING, idle_field, mislabelled
from numpy.typing import NDArray
from planted_features import run_stage
from torch import nn

from defenses.api import Outputs
from defenses.methods.flare import FLARE, FLARE_FLAGS, FLAREConfig, lifetime, smallest_cluster
from defenses.models import ModelSpec, build_model
from defenses.models.norm_inputs import least_likely, record_norm_inputs
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights
from study.scenarios.metrics import auroc

Rows = NDArray[np.float32]
PATHS = {"min_cluster_size": 4, "min_samples": 1}


def normal(x: float, variance: float) -> float:
    maps = torch.zeros(1, 1, 2, 2)
    maps[0, 0, 0, 1] = x
    return least_likely(maps, torch.zeros(1), torch.full((1,), variance), "log_density").item()


def test_densities_by_hand() -> None:
    assert normal(4.0, 4.0) == pytest.approx(-3.612, abs=1e-3)
    assert normal(3.0, 1.0) == pytest.approx(-5.419, abs=1e-3)
    maps = torch.tensor([[[[1.0, -5.0]], [[3.0, 2.0]]]])
    assert least_likely(maps, torch.tensor([1.0, 0.0]), torch.tensor([4.0, 1.0]), "z").item() == 3.0


@pytest.mark.parametrize("statistic", ["log_density", "z"])
def test_channels_and_pixels_have_no_order(statistic: str) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 6, 3, 3, generator=generator)
    mean, variance = torch.randn(6, generator=generator), torch.rand(6, generator=generator) + 0.1
    plain = least_likely(maps, mean, variance, statistic)
    channels, pixels = torch.randperm(6, generator=generator), torch.randperm(9, generator=generator)
    moved = maps.flatten(start_dim=2)[:, channels][:, :, pixels].unflatten(2, (3, 3))
    assert torch.equal(least_likely(moved, mean[channels], variance[channels], statistic), plain)
    slow = (maps - mean[:, None, None]) ** 2 / variance[:, None, None]
    worst = slow.amax(dim=(1, 2, 3)).sqrt() if statistic == "z" else None
    assert worst is None or torch.allclose(worst, plain)


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 20), ("preact_resnet18", 17)])
def test_every_batch_norm_layer_gives_a_column(name: str, layers: int) -> None:
    model = build_model(ModelSpec(name, 2, (2, 2, 2, 2), 4, 16), 0).eval()
    with record_norm_inputs(model, "z") as seen, torch.inference_mode():
        model(torch.zeros(3, 3, 16, 16))
    assert [tuple(row.shape) for row in seen] == [(3,)] * layers
    assert len([module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]) == layers


def clustered(rows: Rows, **fields: Any) -> Outputs:
    """What the last two stages give for rows."""
    labels = np.arange(len(rows)) % 2
    trees = run_stage(FLARE, "flare_trees", {"rows": rows}, labels, **{**PATHS, **fields})
    return run_stage(FLARE, "flare", trees, labels, **{**PATHS, **fields})


def line_and_five() -> Rows:
    """Twelve samples on a line, and five far off."""
    near = np.stack([np.arange(12.0), np.zeros(12)], axis=1)
    far = np.stack([np.full(5, 100.0), np.arange(5.0)], axis=1)
    return np.concatenate([near, far]).astype(np.float32)


@pytest.mark.parametrize("cut", ["join", "split"])
def test_five_far_ones_are_the_poison(cut: str) -> None:
    done = clustered(line_and_five() + np.linspace(0, 0.01, 17, dtype=np.float32)[:, None], cut=cut)
    assert done["flagged"][12:].sum() == 5 or cut == "split"
    assert not done["flagged"][:12].any()
    assert done["scores"][12:].min() > done["scores"][:12].max()


@pytest.mark.parametrize("rows", ["equal", "blob"])
def test_one_blob_flags_nobody(rows: str) -> None:
    points = np.zeros((40, 3)) if rows == "equal" else np.random.default_rng(0).normal(size=(200, 3))
    done = clustered(points.astype(np.float32), min_cluster_size=20, min_samples=20)
    assert not done["flagged"].any()
    assert np.isfinite(done["scores"]).all()


def planted(rows: int = 300, poison: int = 40) -> tuple[Rows, NDArray[np.bool_]]:
    rng = np.random.default_rng(1)
    mask = np.zeros(rows, dtype=bool)
    mask[:poison] = True
    points = rng.normal(size=(rows, 4))
    points[mask] = 0.3 * points[mask] - 12
    return points.astype(np.float32), mask


@pytest.mark.parametrize("rule", ["largest", "stability"])
@pytest.mark.parametrize("embedding", ["standardised", "rank_gaussian"])
def test_a_planted_cluster_is_found_and_a_permuted_one_is_not(rule: str, embedding: str) -> None:
    rows, mask = planted()
    done = clustered(rows, min_cluster_size=20, min_samples=10, rule=rule, embedding=embedding, min_lifetime=0.0)
    assert auroc(done["scores"], mask) > 0.95 or embedding == "rank_gaussian"
    if embedding == "standardised":
        assert np.array_equal(done["flagged"], mask)
    rng = np.random.default_rng(0)
    assert np.mean([auroc(done["scores"], rng.permutation(mask)) for _ in range(50)]) == pytest.approx(0.5, abs=0.03)


def test_labels_are_not_used() -> None:
    data = mislabelled()
    weights = {"weights": cpu_weights(build_model(ModelSpec("resnet18", 4, (1, 1), 4, 16), 1))}
    rows = [
        run_stage(FLARE, "bn_likelihoods", weights, labels, data.images)["rows"]
        for labels in (data.labels, data.labels[::-1].copy())
    ]
    assert np.array_equal(*rows)
    assert rows[0].dtype == np.float32


def test_lifetimes() -> None:
    assert lifetime(2.0, 0.5, "relative") == 0.75
    assert lifetime(2.0, 0.5, "absolute") == 1.5
    assert lifetime(0.0, 0.0, "relative") == lifetime(0.0, 0.0, "absolute") == 0.0


def test_fewer_samples_than_the_smallest_cluster_are_refused_in_a_line() -> None:
    assert smallest_cluster(0.002, 50_000) == 100
    assert smallest_cluster(0.002, 1437) == 10
    assert smallest_cluster(4, 17) == 4
    with pytest.raises(
        UserError, match=r"^clustering needs at least the 10 samples .* and there are 8: lower min_clus"
    ):
        clustered(np.zeros((8, 2), dtype=np.float32), min_cluster_size=0.002)
    with pytest.raises(UserError, match=r"^a core needs min_samples samples, 30, and there are 17: lower it$"):
        clustered(line_and_five(), min_samples=30)


def test_umap_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(
        UserError, match=r"^embedding=umap needs the package umap-learn, .*: pip install umap-learn, or"
    ):
        clustered(line_and_five(), embedding="umap")


@pytest.mark.slow
def test_umap_finds_a_planted_cluster() -> None:
    pytest.importorskip("umap")
    rows, mask = planted()
    done = clustered(rows, embedding="umap", min_cluster_size=20, min_samples=10, components=2, neighbours=15)
    assert np.array_equal(done["flagged"], mask)


TINY = {
    "epochs": 2,
    "lr": 0.05,
    "batch_size": 32,
    "augment": False,
    "schedule": "one_cycle",
    "min_cluster_size": 4,
    "min_samples": 2,
    "min_lifetime": 0.0,
}
ENDS: dict[str, tuple[Any, Any]] = {
    "statistic": ("log_density", "z"),
    "embedding": ("standardised", "rank_gaussian"),
    "components": (0, 2),
    "min_cluster_size": (3, 40),
    "min_samples": (None, 12),
    "min_lifetime": (0.0, 1e9),
    "dropped_layers": (0, 4),
}


def group(start: float, count: int, spacing: float) -> NDArray[np.float64]:
    """Samples on a line, each a little farther from the one before it."""
    return start + spacing * np.cumsum(np.linspace(1, 1.2, count))


NESTED = group(0, 20, 0.01), group(5, 10, 0.01), group(10.6, 8, 0.01)
SPARSE = group(0, 20, 0.01), group(2, 10, 0.01), group(20, 8, 3.0)
OF_TREES: dict[str, tuple[tuple[NDArray[np.float64], ...], dict[str, Any], tuple[Any, Any]]] = {
    # A share of a density is never more than all of it.
    "lifetime": (NESTED, {"min_lifetime": 1.0}, ("relative", "absolute")),
    # The first cluster on the way splits at nine tenths of the distance at which it formed.
    "depth": (NESTED, {"min_lifetime": 0.3}, (1, 2)),
    # Before the first cluster splits, its sibling has dissolved.
    "cut": (SPARSE, {"min_lifetime": 0.3}, ("join", "split")),
    # The denser cluster lives longer.
    "rule": (SPARSE, {"min_lifetime": 0.3}, ("largest", "stability")),
}


@pytest.mark.parametrize("field", OF_TREES)
def test_fields_that_read_a_tree_change_the_flags(field: str) -> None:
    groups, settings, ends = OF_TREES[field]
    rows = np.concatenate(groups)[:, None].astype(np.float32)
    one, other = (clustered(rows, **{**settings, field: end})["flagged"] for end in ends)
    assert not np.array_equal(one, other)
    assert field in FLARE_FLAGS.reads
    if field == "cut":
        assert np.array_equal(np.flatnonzero(one), np.arange(30, 38))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_every_field_has_ends() -> None:
    assert {*ENDS, *OF_TREES, "neighbours", *PLAIN_TRAINING} == {
        field.name for field in dataclasses.fields(FLAREConfig)
    }


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    needs = {"min_lifetime": 0.3, "depth": 1} if field == "dropped_layers" else {}
    assert idle_field(FLARE, {**TINY, **needs}, field, ENDS[field], store) == ""
