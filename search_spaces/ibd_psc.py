"""The search space of IBD-PSC. Its presets are the undefended model's, which it then shares, with 100 clean images."""

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, Int, SearchSpace

IBD_PSC_SPACE = SearchSpace(
    name="ibd_psc",
    defense="ibd_psc",
    ranges={
        # Few values, so that trials share the amplified networks, which cost more than all that follows from them.
        "amplification": Choice(
            (1.2, 1.5, 2.0, 3.0), "too little and nothing changes, too much and poison does as well"
        ),
        "networks": Int(1, 8, "each is one more pass over the data; more of them even out chance"),
        "error_floor": Choice((0.3, 0.45, 0.6, 0.75, 0.9), "how far benign predictions have broken down"),
        "threshold": Float(0.5, 0.99, "how sure amplified networks must be of the same prediction"),
    },
    presets=NO_DEFENSE_SPACE.presets,
)
