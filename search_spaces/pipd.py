"""The search spaces of PIPD."""

from search_spaces.space import Choice, Float, Int, Range, SearchSpace

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

_WIDE_PRESETS = {
    preset: {name: value for name, value in values.items() if name not in ("gamma", "pre_isolation_epochs")}
    for preset, values in _PRESETS.items()
}

PIPD_WIDE_SPACE = SearchSpace(
    name="pipd_wide",
    defense="pipd",
    ranges={
        **_RANGES,
        "gamma": Float(
            0.05, 2.0, "where clean samples are held: below the loss of guessing, above that of memorising", log=True
        ),
        "pre_isolation_epochs": Int(
            5, 200, "from the first epochs, when poison is learned, to the paper's 200", log=True
        ),
    },
    presets=_WIDE_PRESETS,
)
