"""What is searched for each defense: fields of its Config, each with a range and a reason."""

from defenses.registry import Registry
from search_spaces.space import SearchSpace

SEARCH_SPACES: Registry[SearchSpace] = Registry(
    "space",
    {
        "pipd": ("search_spaces.pipd:PIPD_SPACE", "PIPD: p, q, beta, K, T, lambda, channel statistic"),
        "pipd_wide": ("search_spaces.pipd:PIPD_WIDE_SPACE", "pipd and what costs a new pre-isolation: gamma, epochs"),
        "qt": ("search_spaces.quarantine:QT_SPACE", "Quarantine Training: epsilon, step, ratio, phases, release"),
        "no_defense": ("search_spaces.no_defense:NO_DEFENSE_SPACE", "plain training: nothing to search, one trial"),
    },
)
