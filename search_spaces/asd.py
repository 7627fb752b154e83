"""The search spaces of ASD."""

from search_spaces.space import Choice, Float, Range, SearchSpace, without_searched

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

MIXMATCH: dict[str, Range] = {
    "lr": Float(5e-4, 1e-2, "how fast poison that kept its label is learned, with all the rest", log=True),
    "batch_size": Choice((16, 32, 64, 128), "labelled images a step, and how noisy a step is"),
    "temperature": Float(0.2, 1.0, "how sure guesses are made of samples without a label; 1 leaves them"),
    "mixup_alpha": Float(0.1, 2.0, "from images nearly as they are to even mixtures of two", log=True),
    "weak_views": Choice(("flip_crop", "plain"), "crops move patches out of sight, flips make other digits"),
    "ce_weight": Float(0.01, 10.0, "the less of it in the split's loss, the less one wrong label counts", log=True),
}
"""How the network is trained and split, which ASD shares with DBD."""
# `growth` is left as the preset has it: with the period it makes one rate. How many clean images there are nobody
# chooses, and `iterations` is what an epoch costs.
_WHY_META = "too short and the copy has not learned the backdoor, too long and it has learned all"
_WIDE: dict[str, Range] = {
    **_RANGES,
    **MIXMATCH,
    "ramp_epochs": Choice((0, 60, 120, 240), "guesses of an early network are wrong, and teach it what it said"),
    "class_aware_epochs": Choice((30, 60), "how long each class is sure to be in the pool"),
    "class_agnostic_epochs": Choice((0, 30, 60), "by the loss alone hard clean samples stay out"),
    "meta_split_epochs": Choice((15, 30, 60), "how long hard clean samples may come in, and poison with them"),
    "growth_period": Choice((2, 5, 10), "a fast pool takes in what is not yet told apart"),
    "keep_clean": Choice((True, False), "whether what is known to be clean may lose its label"),
    "meta_epochs": Choice((1, 2, 3), _WHY_META),
    "meta_batch_size": Choice((32, 64, 128), "steps of the copy: few, and it has learned nothing"),
}

ASD_WIDE_SPACE = SearchSpace(
    name="asd_wide",
    defense="asd",
    ranges=_WIDE,
    presets=without_searched(_PRESETS, _WIDE),
    # One, two and three epochs of the copy, of which a budget runs a part.
    ranges_by_preset={
        "smoke": {"meta_epochs": Choice((1, 13, 20), _WHY_META)},
        "small": {"meta_epochs": Choice((1, 10, 15), _WHY_META)},
    },
    calibrated=_PRESETS,
)
