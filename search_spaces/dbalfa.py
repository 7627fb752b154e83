"""The search space of DBALFA."""

from search_spaces.conditions import where_above
from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, SearchSpace

# The undefended model is that of every defense, so that its training is shared. Of 10 or 20 images a class, one that is
# in its own centroid is closer to it than any other can be: FPR 0.15 on digits, and 0.05 without it.
_PRESETS = {
    "smoke": {**NO_DEFENSE_SPACE.presets["smoke"], "clean_images": 100, "centroid": "leave_one_out"},
    "small": {**NO_DEFENSE_SPACE.presets["small"], "clean_images": 200, "centroid": "leave_one_out"},
}

DBALFA_SPACE = SearchSpace(
    name="dbalfa",
    defense="dbalfa",
    ranges={
        "tau": Float(0.5, 4.0, "below the published grid's 0.5 a third of the clean samples go, above 4 poison stays"),
        "layers_used": Choice((1, 2, 3, 4), "one layer may miss the one that tells poison apart; more dilute it"),
        "weights": Choice(
            ("equal", "gains"),
            "alike, or more for layers that tell classes apart",
            when=where_above("layers_used", 1),
        ),
    },
    presets=_PRESETS,
)
