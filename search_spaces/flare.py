"""The search space of FLARE. Its presets are the undefended model's, which it then shares."""

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, Int, SearchSpace

_WHY_SIZE = "the smallest poison that can be found"

FLARE_SPACE = SearchSpace(
    name="flare",
    defense="flare",
    ranges={
        "statistic": Choice(("log_density", "z"), "a narrow channel counts for more by its density"),
        # Few values, so that trials share the trees, which cost more than all that follows from them.
        "min_cluster_size": Choice((0.001, 0.002, 0.005, 0.01), _WHY_SIZE),
        "min_lifetime": Float(0.05, 0.5, "clusters of a clean set live shortly, those of poison long"),
        "depth": Int(1, 6, "how many clusters may be passed over on the way from the root"),
    },
    presets=NO_DEFENSE_SPACE.presets,
    # Of 1,437 images 0.001 to 0.005 are the ten that a cluster has at least.
    ranges_by_preset={"smoke": {"min_cluster_size": Choice((0.002, 0.01, 0.02, 0.05), _WHY_SIZE)}},
)
