"""The search spaces of cognitive distillation. The undefended model is that of every defense, which they then share."""

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, Int, Range, SearchSpace, without_searched
from search_spaces.undefended_wide import UNDEFENDED, UNDEFENDED_READS

THRESHOLD = Float(0.0, 3.0, "from half of a clean set flagged to hardly any of it")

CD_SPACE = SearchSpace(
    name="cd",
    defense="cd",
    ranges={
        "threshold": THRESHOLD,
        # Three values, so that trials share three sets of masks, which cost more than all else.
        "alpha": Choice((0.001, 0.01, 0.1), "too small and all is kept, too large and nothing is"),
    },
    presets={
        # Fewer and longer steps: those of the paper cost several times the undefended model. On 48 digits they rank
        # the norms alike (badnets, AUROC 0.53 and 0.58).
        "smoke": {**NO_DEFENSE_SPACE.presets["smoke"], "mask_steps": 25, "mask_lr": 0.4},
        "small": {**NO_DEFENSE_SPACE.presets["small"], "mask_steps": 50, "mask_lr": 0.2},
    },
)
_WIDE: dict[str, Range] = {
    "threshold": THRESHOLD,
    "alpha": Float(1e-4, 0.1, "too small and all is kept, too large and nothing is", log=True),
    "beta": Float(0.1, 100.0, "how smooth a mask is; 1 in the published code, 10 in its README", log=True),
    "mask_lr": Float(0.02, 0.2, "how far a mask moves in a step; 0.05 in CD-F", log=True),
    "mask_steps": Int(30, 200, "masks that still shrink tell little; each step is two passes", log=True),
    **UNDEFENDED,
}
CD_WIDE_SPACE = SearchSpace(
    name="cd_wide",
    defense="cd",
    ranges=_WIDE,
    presets=without_searched(NO_DEFENSE_SPACE.presets, _WIDE),
    ranges_by_preset=UNDEFENDED_READS,
    calibrated=NO_DEFENSE_SPACE.presets,
)
