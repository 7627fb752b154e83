"""Spaces that also search how the undefended model is trained which a detector looks at.

One for each detector that reads its features, its channels or its answers. What `retraining` gives afterwards is
trained by the same rate, to the end.
"""

from collections.abc import Mapping

from search_spaces.ac import AC_SPACE
from search_spaces.conditions import where_above
from search_spaces.dbalfa import DBALFA_SPACE
from search_spaces.flare import FLARE_SPACE
from search_spaces.ibd_psc import IBD_PSC_SPACE
from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.none import NONE_SPACE
from search_spaces.scale_up import SCALE_UP_SPACE
from search_spaces.space import Choice, Float, Range, SearchSpace, without_searched
from search_spaces.ss import SS_SPACE

_WHY_READ = "a trigger is learned before most classes are, and told apart best before all fits"
UNDEFENDED: dict[str, Range] = {
    "read_epoch": Choice((8, 16, 32, 64, 96, 128, 200), _WHY_READ),
    "lr": Float(0.01, 0.3, "how far features have gone when they are read", log=True),
    "weight_decay": Float(5e-5, 5e-3, "shrinks channels that few samples use, those of a trigger among them", log=True),
    "augment": Choice((True, False), "crops move patches out of sight and blends stay"),
}
UNDEFENDED_READS: dict[str, dict[str, Range]] = {
    "smoke": {"read_epoch": Choice((2, 3, 4, 6, 8, 10), _WHY_READ)},
    "small": {"read_epoch": Choice((2, 3, 4, 6, 8, 12, 15), _WHY_READ)},
}


# What NONE does with the samples that it kept; of the others a model is trained anew.
_FINETUNING: dict[str, Range] = {
    "finetuning_epochs": Choice((0, 5, 10, 20), "none, or until the reset channels are learned anew; 20 in the code"),
    "finetuning_lr": Float(
        1e-5,
        0.1,
        "low enough to keep what was learned, high enough to learn without the reset channels",
        log=True,
        when=where_above("finetuning_epochs", 0),
    ),
}


def widen(space: SearchSpace, own: Mapping[str, Range] | None = None) -> SearchSpace:
    """The space with the undefended model's training searched as well, and more of its own fields."""
    ranges = {**space.ranges, **(own or {}), **UNDEFENDED}
    return SearchSpace(
        name=f"{space.name}_wide",
        defense=space.defense,
        ranges=ranges,
        presets=without_searched(space.presets, ranges),
        ranges_by_preset={
            preset: {**space.ranges_by_preset.get(preset, {}), **reads} for preset, reads in UNDEFENDED_READS.items()
        },
        calibrated=space.presets if own else NO_DEFENSE_SPACE.presets,
        model=space.model,
    )


AC_WIDE = widen(AC_SPACE)
SS_WIDE = widen(SS_SPACE)
NONE_WIDE = widen(NONE_SPACE, _FINETUNING)
FLARE_WIDE = widen(FLARE_SPACE)
DBALFA_WIDE = widen(DBALFA_SPACE)
IBD_PSC_WIDE = widen(IBD_PSC_SPACE)
SCALE_UP_WIDE = widen(SCALE_UP_SPACE)
