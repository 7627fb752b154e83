"""The search space of ASD."""

from search_spaces.space import Choice, Float, Range, SearchSpace

_RANGES: dict[str, Range] = {
    "labelled_share": Float(0.3, 0.8, "a sure part of the samples to nearly all but the poison"),
    "lambda_u": Float(5.0, 30.0, "how much the unlabelled half counts beside the labelled one", log=True),
    "meta_lr": Float(1e-3, 5e-2, "too small and the copy learns nothing, too large and it forgets all", log=True),
    "meta_layers": Choice((1, 2, 3), "the last half of the network, one group of blocks more or less"),
}

# Measured at smoke, on digits, where an epoch is 45 steps: after one the copy has not learned the backdoor, and the
# drop of the loss says nothing (AUROC 0.55 where the plain loss has 0.94); after two it has (0.95). Thirteen are two at
# this budget. `growth` ends at a fifth of a class, since classes have about 140 images.
_PRESETS = {
    "smoke": {
        "budget_fraction": 0.15,
        "iterations": 20,
        "batch_size": 16,
        "growth": 0.02,
        "weak_views": "plain",
        "meta_epochs": 13,
        "meta_batch_size": 32,
    },
    "small": {
        "budget_fraction": 0.2,
        "iterations": 100,
        "growth": 0.01,
        "weak_views": "plain",
        "meta_batch_size": 64,
    },
}

ASD_SPACE = SearchSpace(name="asd", defense="asd", ranges=_RANGES, presets=_PRESETS)
