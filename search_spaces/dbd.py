"""The search space of DBD."""

from search_spaces.space import Choice, Float, Range, SearchSpace

_RANGES: dict[str, Range] = {
    "labelled_share": Float(0.3, 0.8, "a sure part of the samples to nearly all but the poison"),
    "lambda_u": Float(5.0, 30.0, "how much the unlabelled half counts beside the labelled one", log=True),
    "contrastive_temperature": Float(0.1, 0.5, "lower ones tell images apart that look more alike", log=True),
    "warm_up_statistics": Choice(("kept", "moved"), "features at rest, or those of the published code"),
}

# Measured at smoke, on digits. Seven epochs of contrastive learning make features in which the linear layer, whose loss
# is slow on classes that are not yet told apart, takes sixty epochs (free, on features at rest) to keep some labels of
# each class; with ten, two classes lost all of theirs and were never predicted. The clock of the unlabelled loss starts
# after the warm-up, and its weight must not be large from the first step, hence the long ramp.
_PRESETS = {
    "smoke": {
        "budget_fraction": 0.1,
        "contrastive_epochs": 70,
        "contrastive_lr": 0.1,
        "contrastive_schedule": "one_cycle",
        "contrastive_batch_size": 64,
        "view_flip": False,
        "warm_up_epochs": 600,
        "warm_up_batch_size": 32,
        "semi_epochs": 80,
        "ramp_epochs": 6000,
        "iterations": 40,
        "batch_size": 16,
        "weak_views": "plain",
    },
    "small": {
        "budget_fraction": 0.2,
        "contrastive_schedule": "one_cycle",
        "contrastive_batch_size": 256,
        "iterations": 100,
        "weak_views": "plain",
    },
}

DBD_SPACE = SearchSpace(name="dbd", defense="dbd", ranges=_RANGES, presets=_PRESETS)
