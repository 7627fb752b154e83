"""The search space of spectral signatures. Its presets are the undefended model's, which it then shares."""

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, SearchSpace

SS_SPACE = SearchSpace(
    name="ss",
    defense="ss",
    ranges={
        "budget": Float(
            0.01, 0.5, "below the poison's share of its label it stays, above it clean samples go", log=True
        ),
        "scope": Choice(("all", "top_label"), "one poisoned label or several: a defender does not know"),
        "vectors": Choice((1, 2, 3, 4, 5), "several triggers or a spread-out one take more than one direction"),
        "score": Choice(("centered", "uncentered_mad"), "the paper's formula, or what published codes compute"),
        "layer": Choice(("penultimate", "layer3"), "at the end features are drawn together by label, earlier less so"),
    },
    presets=NO_DEFENSE_SPACE.presets,
)
