"""FLARE: how unlikely every layer finds a sample, and the clusters that these numbers make (IEEE TIFS 2025).

Of each BatchNorm layer of the undefended model the least likely value that it is given for a sample, by its running
statistics, is one number. HDBSCAN's tree of these rows is walked from the root to the larger side; the first cluster on
the way that lives long enough says where the tree is cut. Of the components the largest is benign, all other clusters
are poison, and a new model is trained on the rest. Labels are not used.

Followed: BackdoorBox (core/defenses/FLARE.py), not run by us, but for three things that are fields. Its UMAP needs the
package umap-learn, takes minutes and gives other numbers on other machines: ours clusters standardised columns
(``embedding``). There a cluster's lifetime is a share of its density, where the code's 0.02 is one over UMAP's units
(``lifetime=absolute``); and the tree is cut where the cluster that lives long leaves its sibling (``cut=join``), not
just before it splits (``cut=split``), when its sibling may have dissolved: on digits that is TPR 1.000 against 0.105 on
badnets. Ranks made normal (``rank_gaussian``) close the gaps between clusters: TPR 0.909, and 0.427 on trojan_square.
``rule=stability`` is the abstract's: the cluster that lives longest is poison. The code leaves its loop over dropped
layers after its first round, hence ``dropped_layers=0``.

References that are wrong: the code imports scikit-learn's HDBSCAN over hdbscan's and cannot run; fails where the root
does not split, takes a sample for a cluster in a leaf, leaves out BatchNorm's epsilon and flips images at random.

Known failures: poison that is more than half, or smaller than the smallest cluster. On digits the blended trigger
cannot be told apart, with UMAP neither: layers find it likelier than benign images.

The score is the distance at which a sample joins the benign component, and inside it its densest part.

Stages: `standard_training`, `bn_likelihoods`, `flare_trees`, `flare` (not cached), `retraining`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.config import param
from defenses.cost import FORWARD
from defenses.density_tree import DensityTree, density_tree
from defenses.embedding import EMBEDDINGS, embedded
from defenses.methods.no_defense import NoDefenseConfig
from defenses.models import load_model
from defenses.models.norm_inputs import NORM_STATISTICS, record_norm_inputs
from defenses.registry import UserError
from defenses.shared_stages import STANDARD_TRAINING, retraining
from defenses.training.images import device_images
from defenses.training.inference import chunks
from defenses.training.precision import autocast

CUTS = ("join", "split")
RULES = ("largest", "stability")
LIFETIMES = ("relative", "absolute")
SMALLEST_CLUSTER = 10
_SIGNS = 20  # of life, a tree


@dataclass(frozen=True)
class FLAREConfig(NoDefenseConfig):
    """Fields of plain training, and FLARE's; defaults are BackdoorBox's, or ours where it says so."""

    statistic: str = param(
        "log_density", "of a layer's input: lowest log-density, or largest z", choices=NORM_STATISTICS
    )
    embedding: str = param(
        "standardised", "of the rows before they are clustered (ours; code: umap)", choices=EMBEDDINGS
    )
    components: int = param(
        0, "whitened principal components, or UMAP's dimensions (code: 2); 0 for all", low=0, high=100
    )
    neighbours: int = param(40, "samples that UMAP compares with", low=2, high=1000)
    min_cluster_size: float | int = param(
        0.002, "smallest cluster (code: 100 of 50,000); a share makes at least 10", low=1e-6, share_or_count=True
    )
    min_samples: int | None = param(None, "samples that make a core; None takes the smallest cluster", low=1)
    min_lifetime: float = param(
        0.2, "lifetime from which a cluster counts (ours; code: 0.02, absolute)", low=0.0, symbol="ξ"
    )
    lifetime: str = param(
        "relative", "a lifetime as a share of the density at its end, or in 1 / distance", choices=LIFETIMES
    )
    depth: int = param(3, "clusters that are looked at on the way from the root", low=1, high=100, symbol="d")
    dropped_layers: int = param(0, "last layers that may be dropped until a cluster counts (as the code runs)", low=0)
    cut: str = param("join", "where the tree is cut: as the cluster forms (ours), or before it splits", choices=CUTS)
    rule: str = param("largest", "all but the largest is poison, or what lives longest (abstract)", choices=RULES)


@torch.inference_mode()
def _bn_likelihoods(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device).eval()
    parts = []
    with record_norm_inputs(model, params.statistic) as seen:
        for batch in chunks(device_images(context.dataset.images, context.device)):
            with autocast(context.device, context.precision):
                model(batch)
            parts.append(torch.stack(seen, dim=1).cpu().numpy())
            seen.clear()
    return {"rows": np.concatenate(parts)}


def smallest_cluster(size: float, n: int) -> int:
    """Samples of the smallest cluster among n.

    Args:
        size: a share of n, of which at least `SMALLEST_CLUSTER` are asked for, or a count.

    Raises:
        UserError: there are fewer samples than that.
    """
    smallest = max(SMALLEST_CLUSTER, round(size * n)) if isinstance(size, float) else max(2, size)
    if n < smallest:
        raise UserError(
            f"clustering needs at least the {smallest} samples of its smallest cluster and there are {n}: lower "
            "min_cluster_size, or take more images",
            about="field min_cluster_size",
        )
    return smallest


def _flare_trees(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    rows: NDArray[np.float64] = inputs["rows"].astype(np.float64)
    n, layers = rows.shape
    smallest = smallest_cluster(params.min_cluster_size, n)
    cores = smallest if params.min_samples is None else params.min_samples
    if cores > n:
        raise UserError(
            f"a core needs min_samples samples, {cores}, and there are {n}: lower it", about="field min_samples"
        )
    trees = min(params.dropped_layers, layers - 1) + 1
    children = torch.zeros((trees, n - 1, 2), dtype=torch.int64)
    heights = torch.zeros((trees, n - 1), dtype=torch.float64)
    sizes = torch.zeros((trees, n - 1), dtype=torch.int64)
    told = 0
    for dropped in context.checkpoint.epochs(trees, {"children": children, "heights": heights, "sizes": sizes}):

        def progress(share: float, dropped: int = dropped) -> None:
            nonlocal told
            step = _SIGNS * dropped + int(_SIGNS * share)
            if step > told:
                told = step
                context.progress(context.stage, step, _SIGNS * trees, {})

        how = params.embedding, params.components, params.neighbours, context.derive("umap", dropped)
        tree = density_tree(embedded(rows[:, : layers - dropped], *how), cores, progress)
        children[dropped], heights[dropped] = torch.from_numpy(tree.children), torch.from_numpy(tree.heights)
        sizes[dropped] = torch.from_numpy(tree.sizes)
    return {"children": children.numpy(), "heights": heights.numpy(), "sizes": sizes.numpy()}


def lifetime(birth: float, death: float, kind: str) -> float:
    """Of a cluster that is on its own from one distance down to another; see `LIFETIMES`."""
    if kind == "relative":
        return 1 - death / birth if birth > 0 else 0.0
    return (1 / death if death > 0 else np.inf) - 1 / birth if birth > 0 else 0.0


def cut_height(tree: DensityTree, smallest: int, params: Params) -> float | None:
    """The distance up to which merges are made; None where no cluster on the way from the root lives long enough."""
    top = tree.split(tree.root, smallest)
    for _ in range(params.depth):
        larger, smaller = tree.halves(top)
        if tree.size(smaller) < smallest:
            return None  # a blob, or a cluster that dissolves
        end = tree.split(larger, smallest)
        birth, death = tree.height(top), tree.height(end)
        if lifetime(birth, death, params.lifetime) > params.min_lifetime:
            return float(np.nextafter(birth, 0)) if params.cut == "join" else death
        top = end
    return None


def flags_of(tree: DensityTree, smallest: int, height: float, params: Params) -> tuple[NDArray[np.bool_], int]:
    """Flags bool [N] of a tree that is cut, and the node of the benign component."""
    nodes = tree.cut(height)
    kinds, sizes = np.unique(nodes, return_counts=True)
    clusters = [int(node) for node in kinds[sizes >= smallest]]
    by_size = sorted(clusters, key=tree.size, reverse=True)
    poison = by_size[1:]
    if params.rule == "stability" and poison:
        parents = tree.parents()

        def lives(node: int) -> float:
            ends = tree.height(tree.split(node, smallest))
            return lifetime(tree.height(int(parents[node])), ends, params.lifetime)

        poison = [max(by_size, key=lives)]
    benign = next(node for node in by_size if node not in poison)
    return np.isin(nodes, poison), benign


def join_heights(tree: DensityTree, benign: int) -> NDArray[np.float64]:
    """The distance at which each sample joins the densest part of a node, float64 [N]."""
    leaf = benign
    while leaf >= len(tree):
        leaf, _ = tree.halves(leaf)
    parents, scores = tree.parents(), np.zeros(len(tree))
    node = leaf
    while node != tree.root:
        above = int(parents[node])
        for side in tree.halves(above):
            if side != node:
                scores[tree.members(side)] = tree.height(above)
        node = above
    return scores


def _flare(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    n = len(context.dataset)
    smallest = smallest_cluster(params.min_cluster_size, n)
    trees = [DensityTree(*parts) for parts in zip(inputs["children"], inputs["heights"], inputs["sizes"], strict=True)]
    for tree in trees:
        height = cut_height(tree, smallest, params)
        if height is not None:
            flagged, benign = flags_of(tree, smallest, height, params)
            return {"scores": join_heights(tree, benign), "flagged": flagged}
    return {"scores": join_heights(trees[0], trees[0].root), "flagged": np.zeros(n, dtype=bool)}


BN_LIKELIHOODS = Stage(
    name="bn_likelihoods",
    run=_bn_likelihoods,
    reads=("statistic",),
    inputs={"weights": "standard_training.weights"},
    outputs=("rows",),
    cost=lambda *_: FORWARD,
)
"""One number a sample and BatchNorm layer of the undefended model: float32 [N, L]."""

FLARE_TREES = Stage(
    name="flare_trees",
    run=_flare_trees,
    reads=("embedding", "components", "neighbours", "min_cluster_size", "min_samples", "dropped_layers"),
    inputs={"rows": "bn_likelihoods.rows"},
    outputs=("children", "heights", "sizes"),
)
FLARE_FLAGS = Stage(
    name="flare",
    run=_flare,
    reads=("min_cluster_size", "min_lifetime", "lifetime", "depth", "cut", "rule"),
    inputs={name: f"flare_trees.{name}" for name in FLARE_TREES.outputs},
    outputs=("scores", "flagged"),
    cached=False,
)


class FLARE(Defense):
    """FLARE, and a new model on what it kept."""

    name = "flare"
    config_type = FLAREConfig
    stages = (STANDARD_TRAINING, BN_LIKELIHOODS, FLARE_TREES, FLARE_FLAGS, retraining("flare.flagged"))
    scores = "flare.scores"
    flagged = "flare.flagged"
    weights = "retraining.weights"
