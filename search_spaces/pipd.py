"""The search spaces of PIPD."""

from search_spaces.conditions import where_above
from search_spaces.space import Choice, Float, Int, Range, SearchSpace, without_searched

_RANGES: dict[str, Range] = {
    "isolation_rate": Float(
        0.002, 0.05, "p: above the poison rate P_p holds benign samples, below it few triggers", log=True
    ),
    "clean_rate": Float(0.05, 0.5, "q: too small and the benign mean is noise, past 1 - poison rate it holds poison"),
    "beta": Float(0.0, 6.0, "0 compares with the mean alone; 6 leaves only channels that benign samples never fire"),
    "channels_per_tap": Float(0.01, 0.3, "one channel of a tap up to a third of it; the trigger uses few", log=True),
    "rounds": Int(1, 12, "1 is one-time isolation; the paper sees no change after five"),
    "ascent_weight": Float(0.1, 10.0, "lambda: 1 in Eq. 10 as printed, a decade either way", log=True),
    "channel_statistic": Choice(("max", "mean"), "patches show in the maximum, whole-image blends in the mean"),
}

# Calibrated by measurement; CHANGELOG.md tells what was tried.
_PRESETS = {
    "smoke": {
        "pre_isolation_epochs": 30,
        "pre_isolation_lr": 0.1,
        "pre_isolation_schedule": "one_cycle",
        "gamma": 0.2,
        "batch_size": 64,
        "taps": "blocks",
        "selective_epochs": 8,
        "selective_lr": 0.1,
        "selective_schedule": "one_cycle",
        "selective_augment": False,
        "selective_weight_decay": 0.015,
        "selective_clip_norm": 1.0,
    },
    "small": {
        "pre_isolation_epochs": 15,
        "pre_isolation_lr": 0.05,
        "pre_isolation_schedule": "one_cycle",
        "batch_size": 64,
        "selective_epochs": 8,
        "selective_lr": 0.1,
        "selective_schedule": "one_cycle",
        "selective_weight_decay": 5e-3,
        "selective_clip_norm": 1.0,
    },
}

PIPD_SPACE = SearchSpace(name="pipd", defense="pipd", ranges=_RANGES, presets=_PRESETS)

PIPD_OF_THREE_SPACE = SearchSpace(
    name="pipd_of_three",
    defense="pipd_of_three",
    ranges={
        **_RANGES,
        "choice": Choice(
            ("focus", "variance", "agreement"), "flags of a failed pre-isolation are spread over classes, or not shared"
        ),
    },
    presets=_PRESETS,
)

# Read epochs: few, so that trials share what follows from them, and all but the last on the grid on which a training's
# states are kept (`defenses.storage.trajectory`), so that whatever their order none is trained for twice.
READS = {
    "smoke": Choice((4, 6, 8, 12, 16, 24, 30), "poison is learned first; held on, clean samples join it or leave it"),
    "small": Choice((2, 3, 4, 6, 8, 12, 15), "poison is learned first; held on, clean samples join it or leave it"),
}
_WIDE: dict[str, Range] = {
    **_RANGES,
    "read_epoch": Choice(
        (8, 16, 32, 64, 96, 128, 200), "poison is learned first; held on, clean samples join it or leave it"
    ),
    "pre_isolation_lr": Float(
        0.01, 0.3, "too slow and little is learned at all, too fast and it is thrown off", log=True
    ),
    "pre_isolation_schedule": Choice(
        ("step", "one_cycle", "constant"), "whether it starts fast (the paper's), warms up first, or never slows down"
    ),
    "pre_isolation_augment": Choice((False, True), "crops move patches out of sight and blends stay"),
    "gamma": Float(
        0.05, 2.0, "where clean samples are held: below the loss of guessing, above that of memorising", log=True
    ),
    "granularity": Choice(
        ("batch", "sample"),
        "a batch's mean below gamma turns all of it, or each sample its own",
        when=where_above("gamma", 0),
    ),
    "batch_size": Choice((32, 64, 128), "how often the sign may change in an epoch, and how noisy a mean is"),
    "taps": Choice(("convolutions", "blocks"), "channels before the shortcut is added, or after"),
    "clustering": Choice(
        ("fisher_jenks", "minimum_error", "gaussian_mixture", "robust_tail"),
        "the paper's goes by variance alone, which a small minority bends",
    ),
}

PIPD_WIDE_SPACE = SearchSpace(
    name="pipd_wide",
    defense="pipd",
    ranges=_WIDE,
    presets=without_searched(_PRESETS, _WIDE),
    ranges_by_preset={preset: {"read_epoch": reads} for preset, reads in READS.items()},
    calibrated=_PRESETS,
)
