"""The search spaces of DBD."""

from search_spaces.asd import MIXMATCH
from search_spaces.space import Choice, Float, Range, SearchSpace, without_searched

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

_WHY_READ = "too early and features show no class, too late and they show a trigger as one"
_WHY_WARM_UP = "until the linear layer tells classes apart, and has not yet learned wrong labels"
_WHY_RAMP = "guesses of an early network are wrong, and teach it what it said"
_WHY_SEMI = "how long poison that kept its label may be learned"
_WIDE: dict[str, Range] = {
    **_RANGES,
    **MIXMATCH,
    "contrastive_read_epoch": Choice((8, 16, 32, 64, 100), _WHY_READ),
    "contrastive_lr": Float(0.03, 1.0, "how far features have gone when they are read", log=True),
    "contrastive_schedule": Choice(("constant", "one_cycle", "cosine"), "whether they still move when they are read"),
    "contrastive_batch_size": Choice((64, 128, 256, 512), "how many others each view is told from"),
    "smallest_part": Float(0.08, 0.8, "the less a view shows, the less of a small trigger is in both", log=True),
    "view_flip": Choice((True, False), "a mirrored digit is another one, a mirrored animal is not"),
    "warm_up_epochs": Choice((5, 10, 20), _WHY_WARM_UP),
    "warm_up_batch_size": Choice((32, 64, 128), "steps of the linear layer, whose loss is slow"),
    "semi_epochs": Choice((95, 190), _WHY_SEMI),
    "ramp_epochs": Choice((0, 95, 190, 380), _WHY_RAMP),
    "scored_split": Choice(("first", "last"), "before any label is learned, or by a network that learned some"),
}

DBD_WIDE_SPACE = SearchSpace(
    name="dbd_wide",
    defense="dbd",
    ranges=_WIDE,
    presets=without_searched(_PRESETS, _WIDE),
    ranges_by_preset={
        "smoke": {
            "contrastive_read_epoch": Choice((2, 3, 4, 6, 7), _WHY_READ),
            "warm_up_epochs": Choice((10, 200, 600), _WHY_WARM_UP),
            "semi_epochs": Choice((80, 190), _WHY_SEMI),
            "ramp_epochs": Choice((190, 2000, 6000), _WHY_RAMP),
        },
        "small": {
            "contrastive_read_epoch": Choice((4, 8, 12, 16, 20), _WHY_READ),
            "warm_up_epochs": Choice((10, 50, 100), _WHY_WARM_UP),
        },
    },
    calibrated=_PRESETS,
)
