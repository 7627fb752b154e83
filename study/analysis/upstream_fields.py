"""Which hyperparameters a metric can depend on: those that its stage reads, or a stage whose outputs that one takes.

What no such stage reads cannot move the metric, whatever trials seem to say: isolation never reads PIPD's
`ascent_weight`, so neither TPR nor FPR depends on it.
"""

from defenses.api import Defense
from study.analysis.results import Results
from study.scenarios.oracle_defenses import find_defense
from tracking import names

_FLAGS = (
    names.TPR,
    names.FPR,
    names.FPR_COVERS_EXCLUDED,
    names.TPR_COVERS_POISON,
    names.AUROC_FLAGS,
    names.FLAGGED_SHARE,
    *map(names.signal, ("class_share", "class_focus", "round_agreement")),
)
_MODEL = (names.CA, names.CA_FOLDED, names.CLEAN_QUARANTINED, names.ASR, names.signal("final_loss"))
SCORE_PARTS = {
    names.ISOLATION_SCORE: (names.TPR, names.FPR),
    names.DEFENSE_SCORE: (names.CA, names.ASR),
    names.OVERALL_SCORE: (names.ISOLATION_SCORE, names.DEFENSE_SCORE),
}
"""A score -> the two metrics that it is made of."""


def upstream_fields(defense: type[Defense], metric: str) -> frozenset[str]:
    """The fields of a defense that a metric can depend on.

    Args:
        metric: of `tracking.names`: a metric of a scenario, a score or a signal. The undefended model depends on none.

    Raises:
        ValueError: it is none of them.
    """
    if metric in SCORE_PARTS:
        one, two = SCORE_PARTS[metric]
        return upstream_fields(defense, one) | upstream_fields(defense, two)
    return frozenset[str]().union(*(_read_up_to(defense, source) for source in _sources(defense, metric)))


def searched_upstream(results: Results, metric: str) -> tuple[str, ...]:
    """The searched fields of a study that a metric can depend on, in the space's order.

    A field that no stage of this version reads is kept: a study of another version may have read it.
    """
    defense = find_defense(results.defense)
    known = {name for stage in defense.stages for name in stage.reads}
    behind = upstream_fields(defense, metric)
    return tuple(name for name in results.ranges if name in behind or name not in known)


def _sources(defense: type[Defense], metric: str) -> tuple[str | None, ...]:
    """Where a metric is taken from: ``"stage.output"``; None where the defense gives none."""
    flags, scores, losses = defense.flagged, defense.scores, defense.losses
    if metric in _FLAGS:
        return (flags,)
    if metric in _MODEL:
        return (defense.weights,)
    if metric == names.AUROC:
        return (scores,)
    if metric in (names.signal("cut_gap"), names.signal("cut_fit")):
        return (flags, scores)
    if metric == names.signal("loss_gap"):
        return (flags, losses)
    if metric in (names.CA_UNDEFENDED, names.ASR_UNDEFENDED):
        return ()
    raise ValueError(f"a metric of a scenario, a score or a signal, got {metric!r}")


def _read_up_to(defense: type[Defense], source: str | None) -> frozenset[str]:
    """The fields that the stage of an output reads, and all stages before it."""
    if source is None:
        return frozenset()
    stages = {stage.name: stage for stage in defense.stages}
    waiting, read = [source.partition(".")[0]], set[str]()
    seen: set[str] = set()
    while waiting:
        stage = stages[waiting.pop()]
        if stage.name not in seen:
            seen.add(stage.name)
            read |= set(stage.reads)
            waiting += stage.parents
    return frozenset(read)
