"""The search spaces of ABL."""

from search_spaces.conditions import where_above
from search_spaces.pipd import READS
from search_spaces.space import Choice, Float, Int, Range, SearchSpace, without_searched

_RANGES: dict[str, Range] = {
    "isolation_rate": Float(
        0.001, 0.2, "r: from a few sure samples to more than any usual poison rate; it bounds TPR and FPR", log=True
    ),
    "unlearning_epochs": Int(1, 20, "one pass over what is isolated, up to the longest of the public copies"),
}

# The pre-isolation is that of PIPD's presets, so that both defenses share one model. The rest was measured at smoke, on
# digits, where r = 1 % is 14 images: batches of 4 make as many steps an epoch as the code's 128 of 500, and with the
# code's weight decay (or selective training's 0.015) the loss of BadNets' poison is 1e-5 afterwards, whose ascent
# has no gradient; with 0.03 it has one, and the bound on a step keeps it from throwing the network off. Small has the
# same proportions and was not measured.
_PRESETS = {
    "smoke": {
        "pre_isolation_epochs": 30,
        "pre_isolation_lr": 0.1,
        "pre_isolation_schedule": "one_cycle",
        "gamma": 0.2,
        "batch_size": 64,
        "weight_decay": 5e-4,
        "finetuning_epochs": 8,
        "finetuning_lr": 0.1,
        "finetuning_schedule": "one_cycle",
        "finetuning_augment": False,
        "finetuning_weight_decay": 0.03,
        "unlearning_lr": 0.02,
        "unlearning_batch_size": 4,
        "unlearning_clip_norm": 0.03,
    },
    "small": {
        "pre_isolation_epochs": 15,
        "pre_isolation_lr": 0.05,
        "pre_isolation_schedule": "one_cycle",
        "batch_size": 64,
        "weight_decay": 5e-4,
        "finetuning_epochs": 8,
        "finetuning_lr": 0.1,
        "finetuning_schedule": "one_cycle",
        "finetuning_weight_decay": 5e-3,
        "unlearning_lr": 0.02,
        "unlearning_batch_size": 32,
        "unlearning_clip_norm": 0.03,
    },
}

ABL_SPACE = SearchSpace(name="abl", defense="abl", ranges=_RANGES, presets=_PRESETS)

_WIDE: dict[str, Range] = {
    **_RANGES,
    "read_epoch": Choice((2, 3, 4, 6, 8, 10), "poison is learned in the first epochs, and clean samples follow"),
    "pre_isolation_lr": Float(
        0.01, 0.3, "too slow and little is learned at all, too fast and it is thrown off", log=True
    ),
    "gamma": Float(
        0.05, 2.0, "where clean samples are held: below the loss of guessing, above that of memorising", log=True
    ),
    "finetuning_epochs": Choice((0, 8, 20, 60), "none, or until what was held at gamma is learned; 60 in the code"),
    "finetuning_lr": Float(
        0.003,
        0.3,
        "low enough to keep what was learned, high enough to learn the rest",
        log=True,
        when=where_above("finetuning_epochs", 0),
    ),
    "unlearning_lr": Float(
        1e-5, 2e-2, "the public copies lie between 1e-4 and 2e-2; a saturated loss needs the upper end", log=True
    ),
}

ABL_WIDE_SPACE = SearchSpace(
    name="abl_wide",
    defense="abl",
    ranges=_WIDE,
    presets=without_searched(_PRESETS, _WIDE),
    ranges_by_preset={preset: {"read_epoch": reads} for preset, reads in READS.items()},
    calibrated=_PRESETS,
)
