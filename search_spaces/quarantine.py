"""The search space of Quarantine Training."""

from search_spaces.space import Choice, Float, Int, Range, SearchSpace

_RANGES: dict[str, Range] = {
    "epsilon_init": Float(0.2, 0.5, "below, next to nothing enters quarantine; 0.5 tosses a coin between the two"),
    "epsilon_step": Float(
        0.04, 0.2, "from 0.4 the largest share is reached in three epochs, or just not in the dynamic phase", log=True
    ),
    "pre_quarantine_ratio": Float(
        0.08, 0.5, "a few sure samples to half a class; small sets need more to be heard", log=True
    ),
    "dynamic_epochs": Int(2, 10, "from an early decision to one that comes when a class may be past release"),
    "release_threshold": Float(0.8, 1.0, "1 releases no class; 0.8 releases one that is mostly poison"),
    "epsilon_schedule": Choice(("linear", "cumulative"), "the published code, and Algorithm 1 as printed"),
}

# Calibrated by measurement; CHANGELOG.md tells what was tried.
_PRESETS = {
    "smoke": {
        "pre_epochs": 8,
        "pre_lr": 0.05,
        "pre_schedule": "one_cycle",
        "batch_size": 32,
        "quarantine_epochs": 10,
        "lr": 0.05,
        "backdoor_free_epochs": 5,
        "backdoor_free_lr": 0.05,
        "backdoor_free_schedule": "one_cycle",
        "backdoor_free_augment": False,
    },
    "small": {
        "pre_epochs": 8,
        "pre_lr": 0.02,
        "pre_schedule": "one_cycle",
        "quarantine_epochs": 10,
        "lr": 0.02,
        "backdoor_free_epochs": 8,
        "backdoor_free_lr": 0.05,
        "backdoor_free_schedule": "one_cycle",
    },
}

QT_SPACE = SearchSpace(name="qt", defense="qt", ranges=_RANGES, presets=_PRESETS, model="preact_resnet18")
