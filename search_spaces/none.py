"""The search space of NONE."""

from search_spaces.no_defense import NO_DEFENSE_SPACE
from search_spaces.space import Choice, Float, Range, SearchSpace

_RANGES: dict[str, Range] = {
    "reset_channels": Float(0.005, 0.1, "rho: one channel of a tap to a tenth; more costs accuracy", log=True),
    "detector_channels": Choice(
        (1, 0.02, 0.05), "one detector a tap, or a few where a backdoor is spread over channels"
    ),
    "weak_probability": Float(0.01, 0.3, "lambda_l: how surely a sample must not be of a class to make its range"),
    "strong_probability": Float(0.7, 0.99, "lambda_h: how surely a sample must be of a class to be compared"),
    "rounds": Choice((1, 2, 3, 5), "each further round resets and fine-tunes again, and costs as much"),
}

# The undefended model is that of every defense, so that its training is shared.
_PRESETS = {
    "smoke": {
        **NO_DEFENSE_SPACE.presets["smoke"],
        "finetuning_epochs": 5,
        "finetuning_lr": 0.01,
        "finetuning_augment": False,
    },
    "small": {**NO_DEFENSE_SPACE.presets["small"], "finetuning_epochs": 5, "finetuning_lr": 0.01},
}

NONE_SPACE = SearchSpace(name="none", defense="none", ranges=_RANGES, presets=_PRESETS)
