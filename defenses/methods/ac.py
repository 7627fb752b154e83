"""AC: activation clustering (Chen et al., SafeAI at AAAI 2019; arXiv 1811.03728).

In a poisoned label the penultimate features of the undefended model form two clusters, the poison the smaller one. Each
label's features are projected to a few dimensions and split by k-means; a rule says whether the smallest cluster is
poison. A new model is trained on what is left.

Followed: the projection and the rule by share are those of vtu81/backdoor-toolbox (10 principal components, a cluster
of less than 35 % of its label); independent components are the paper's; flagging every smaller cluster is
BackdoorBench's detection; the silhouette threshold is the Adversarial Robustness Toolbox's. ``reducer=none`` with
``score_mode=silhouette`` scores as the published code of cognitive distillation does, which QT's Table 1 probably used.

References that are wrong: BackdoorBench's defense clusters shuffled mini-batches of augmented views, and its flags do
not belong to the samples that they are given to. Silhouettes as scores rank benign samples of the target label as high
as poison; signed ones (ours) do not.

Known failures: poison that makes up half of its label or more, as at a rate of 10 % of ten classes: the benign samples
are then the smaller cluster. From a share of 35 % on the default rule flags none of it; the rule ``smaller`` flags
about 40 % of a clean set. Independent components all have variance 1: k-means may then split a label along noise.

A label with no more samples than clusters, or with fewer distinct ones, is not split: nothing of it is flagged, and its
scores are 0. One with no more samples than ``dims`` is projected to as many dimensions as it has.

Stages: `standard_training`, `penultimate_features`, `activation_clustering` (not cached: seconds), `retraining`.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.class_features import centred, principal_directions, samples_by_label
from defenses.config import param
from defenses.methods.no_defense import NoDefenseConfig
from defenses.shared_stages import PENULTIMATE_FEATURES, STANDARD_TRAINING, retraining

REDUCERS = ("pca", "ica", "none")
RULES = ("smaller", "share", "share_and_silhouette")  # each asks for one condition more
SCORE_MODES = ("signed_silhouette", "silhouette")
_DISTANCES = 2**20  # at a time: 4 MiB, which a processor's cache holds


@dataclass(frozen=True)
class ACConfig(NoDefenseConfig):
    """Fields of plain training, and activation clustering's; defaults are backdoor-toolbox's."""

    reducer: str = param("pca", "projection of a label's features (paper: ica)", choices=REDUCERS)
    dims: int = param(10, "dimensions that it leaves (paper); at most a label's samples less one", low=1)
    clusters: int = param(2, "clusters of each label (paper)", low=2, high=10)
    rule: str = param(
        "share",
        "which labels' smallest cluster is poison: every one's, a small one's, a well separated one's",
        choices=RULES,
    )
    max_share: float = param(0.35, "a small cluster has less than this share of its label", low=0.0, high=0.5)
    min_silhouette: float = param(
        0.1, "a well separated split has at least this mean silhouette (ART)", low=-1.0, high=1.0
    )
    score_mode: str = param(
        "signed_silhouette",
        "a sample's silhouette, or + in the smallest cluster and - elsewhere (ours)",
        choices=SCORE_MODES,
    )


def _activation_clustering(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    from threadpoolctl import threadpool_limits

    features, labels = inputs["features"], context.dataset.labels
    scores, flagged = np.zeros(len(labels)), np.zeros(len(labels), dtype=bool)
    with threadpool_limits(1):  # libraries' own threads are as many as there are cores, and add up in any order
        for label, members in samples_by_label(labels):
            seed = context.derive("label", label)
            rows = reduced(features[members], params.reducer, params.dims, seed)
            clusters = split(rows, params.clusters, seed)
            widths = silhouettes(rows, clusters)
            smallest = clusters == np.argmin(np.bincount(clusters))
            signed = np.where(smallest, widths, -widths)
            scores[members] = signed if params.score_mode == "signed_silhouette" else widths
            if clusters.max() > 0:
                conditions = smallest.mean() < params.max_share, widths.mean() >= params.min_silhouette
                flagged[members] = smallest & all(conditions[: RULES.index(params.rule)])
    return {"scores": scores, "flagged": flagged}


def reduced(features: NDArray[np.float32], reducer: str, dims: int, seed: int) -> NDArray[np.float64]:
    """A label's features in fewer dimensions: float64 [n, k], k <= dims, or [n, D] without a reducer.

    Args:
        features: float32 [n, D].
        reducer: one of `REDUCERS`. ``ica`` separates the principal components further, each with variance 1.
    """
    rows = centred(features)
    if reducer == "none":
        return rows
    vectors, _ = principal_directions(rows, max(1, min(dims, len(rows) - 1)))
    projected = rows @ vectors.T
    if reducer == "pca" or not projected.shape[1]:
        return projected
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # noise has no components to converge to
        independent: NDArray[np.float64] = FastICA(whiten="unit-variance", random_state=seed).fit_transform(projected)
    return independent


def split(rows: NDArray[np.float64], clusters: int, seed: int) -> NDArray[np.intp]:
    """The cluster of each row by k-means (best of ten starts), numbered from 0; all 0 where there is nothing to split.

    Args:
        rows: float64 [n, k].
    """
    distinct = len(np.unique(rows, axis=0)) if rows.size else 0
    if len(rows) <= clusters or distinct < clusters:
        return np.zeros(len(rows), dtype=np.intp)
    from sklearn.cluster import KMeans

    labels = KMeans(clusters, n_init=10, random_state=seed).fit(rows).labels_
    return np.unique(labels, return_inverse=True)[1]


def silhouettes(rows: NDArray[np.float64], clusters: NDArray[np.intp]) -> NDArray[np.float64]:
    """Each row's silhouette (Rousseeuw, 1987) by all distances, some at a time; 0 in a cluster of one, or of all.

    Args:
        rows: float64 [n, k], centred.
        clusters: int [n], numbered from 0, none empty.

    Returns:
        float64 [n], in [-1, 1].
    """
    if clusters.max() == 0:
        return np.zeros(len(rows))
    members = np.eye(clusters.max() + 1, dtype=np.float32)[clusters]
    points = rows.astype(np.float32)
    lengths = np.einsum("ij,ij->i", points, points)
    sums = np.empty(members.shape)
    step = max(1, _DISTANCES // len(rows))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        squares = points[block] @ points.T
        squares *= -2
        squares += lengths
        squares += lengths[block, None]
        np.sqrt(np.maximum(squares, 0, out=squares), out=squares)
        sums[block] = squares @ members
    sizes, own = members.sum(axis=0), members.astype(bool)
    within = sums[own] / np.maximum(sizes[clusters] - 1, 1)
    between = np.where(own, np.inf, sums / sizes).min(axis=1)
    widest = np.maximum(within, between)
    defined = (sizes[clusters] > 1) & (widest > 0)
    return np.where(defined, (between - within) / np.where(defined, widest, 1), 0.0)


ACTIVATION_CLUSTERING = Stage(
    name="activation_clustering",
    run=_activation_clustering,
    reads=("reducer", "dims", "clusters", "rule", "max_share", "min_silhouette", "score_mode"),
    inputs={"features": "penultimate_features.features"},
    outputs=("scores", "flagged"),
    cached=False,
)


class ActivationClustering(Defense):
    """Activation clustering, and a new model on what it kept."""

    name = "ac"
    config_type = ACConfig
    stages = (
        STANDARD_TRAINING,
        PENULTIMATE_FEATURES,
        ACTIVATION_CLUSTERING,
        retraining("activation_clustering.flagged"),
    )
    scores = "activation_clustering.scores"
    flagged = "activation_clustering.flagged"
    weights = "retraining.weights"
