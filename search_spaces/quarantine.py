"""The search space of Quarantine Training."""

from search_spaces.conditions import where, where_above, where_below
from search_spaces.space import Choice, Float, Int, Range, SearchSpace, without_searched

# Who is checked for release is checked after the sixth epoch first, and what a release did before is undone or kept in
# the one that follows. Until the second dynamic epoch no share has grown.
_CHECKS = ("release_epochs", (5, 9, 14, 19))
_RANGES: dict[str, Range] = {
    "epsilon_init": Float(0.2, 0.5, "below, next to nothing enters quarantine; 0.5 tosses a coin between the two"),
    "epsilon_step": Float(
        0.04,
        0.2,
        "from 0.4 the largest share is reached in three epochs, or just not in the dynamic phase",
        log=True,
        when=where("epsilon_schedule", "linear", "cumulative") + where_above("dynamic_epochs", 1),
    ),
    "pre_quarantine_ratio": Float(
        0.08, 0.5, "a few sure samples to half a class; small sets need more to be heard", log=True
    ),
    "dynamic_epochs": Int(2, 10, "from an early decision to one that comes when a class may be past release"),
    "release_threshold": Float(
        0.8,
        1.0,
        "1 releases no class; 0.8 releases one that is mostly poison",
        when=where_above("quarantine_read_epoch", 5, _CHECKS) + where_above("quarantine_epochs", 5, _CHECKS),
    ),
    "epsilon_schedule": Choice(
        ("linear", "cumulative"),
        "the published code, and Algorithm 1 as printed",
        when=where_above("dynamic_epochs", 1),
    ),
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

_WHY_PRE = "the first samples to be learned: too early and none is, too late and clean ones are among them"
_WHY_QUARANTINE = "the target class is released late, and clean samples drift into quarantine all along"
_WIDE: dict[str, Range] = {
    **_RANGES,
    "pre_read_epoch": Choice((2, 3, 4), _WHY_PRE),
    "pre_lr": Float(0.003, 0.1, "how much of poison, and of the rest, so few epochs learn", log=True),
    "pre_quarantine_label": Choice(
        ("maximum", "multiplied"),
        "the paper's label of these samples, and the code's",
        when=where_above("pre_quarantine_ratio", 0),
    ),
    "epsilon_schedule": Choice(
        ("linear", "cumulative", "fixed"),
        "the published code, Algorithm 1 as printed, and the largest share at once (Fig. 4)",
        when=where_above("dynamic_epochs", 1),
    ),
    "quarantine_read_epoch": Choice((4, 6, 8, 12, 16, 20), _WHY_QUARANTINE),
    "lr": Float(0.003, 0.1, "how fast samples are drawn into quarantine, and the class after them", log=True),
    "batch_size": Choice((32, 64, 128), "steps an epoch: a small set needs more of them to be learned at all"),
    "frozen_epochs": Choice((0, 1, 2), "the new head alone first, so that its first errors do not move the backbone"),
    "quarantine_pass": Choice(("running", "epoch_end"), "as each batch is trained, by half-trained weights, or after"),
    "release_lasts": Choice(
        ("epoch", "end"),
        "a released class may come back into quarantine, or never",
        when=where_above("quarantine_read_epoch", 6, _CHECKS)
        + where_above("quarantine_epochs", 6, _CHECKS)
        + where_below("release_threshold", 1, ("release_at", "above")),
    ),
}

QT_WIDE_SPACE = SearchSpace(
    name="qt_wide",
    defense="qt",
    ranges=_WIDE,
    presets=without_searched(_PRESETS, _WIDE),
    ranges_by_preset={
        preset: {
            "pre_read_epoch": Choice((2, 3, 4, 6, 8), _WHY_PRE),
            "quarantine_read_epoch": Choice((4, 6, 8, 10), _WHY_QUARANTINE),
        }
        for preset in _PRESETS
    },
    calibrated=_PRESETS,
    model="preact_resnet18",
)
