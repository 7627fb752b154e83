"""The search space of SCALE-UP. Its presets are the undefended model's, which it then shares."""

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, SearchSpace

SCALE_UP_SPACE = SearchSpace(
    name="scale_up",
    defense="scale_up",
    ranges={
        "scales": Choice(("odd", "all"), "the ports' coarse scales, or the published code's finer ones from 1"),
        # Few values, so that trials share the predictions, which cost more than all that follows from them.
        "largest_scale": Choice(
            (5, 7, 9, 11, 13), "too small and benign predictions survive, too large and all images turn white"
        ),
        "input_noise": Choice((0.0, 0.02, 0.05), "none in the ports, 0.02 in the published code"),
        "threshold": Float(0.2, 1.0, "from one scale that agrees to all of them"),
    },
    presets=NO_DEFENSE_SPACE.presets,
)
