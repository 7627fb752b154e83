"""The search spaces of D-ST."""

from typing import Any

from search_spaces.conditions import where
from search_spaces.space import Choice, Float, Range, SearchSpace, without_searched

_RANGES: dict[str, Range] = {
    "transform": Choice(
        ("rotate_affine", "blur", "median", "erase", "flip"), "which one moves poison depends on trigger and data"
    ),
    "clean_share": Float(0.1, 0.4, "alpha_c: few labels to learn from, up to more than move little"),
    "poison_share": Float(0.01, 0.1, "alpha_p: it bounds the TPR at poison_share / rate, and costs as much FPR"),
    "contrastive_temperature": Float(0.05, 0.5, "from the code's region to SimCLR's usual one", log=True),
    "mask_columns": Choice((False, True), "whether trusted samples attract those of their label that are not"),
    "repulsion": Float(0.0, 0.01, "lambda_p: without it the last layer never sees flagged samples"),
}

# Epochs are counted before `budget_fraction`, which scales all of them; small sets need more of them for as many steps.
# Smoke was measured on digits, which are not mirrored, and of whose classes some are not trusted otherwise: 6 epochs by
# labels, 1 that parts centres, 8 of contrastive learning, 30 of the last layer. Small was not measured.
_PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "budget_fraction": 0.04,
        "label_epochs": 150,
        "first_lr": 0.05,
        "first_batch_size": 64,
        "per_class": True,
        "contrastive_lr": 0.2,
        "contrastive_batch_size": 64,
        "smallest_part": 0.5,
        "view_flip": False,
        "head_epochs": 750,
        "head_lr": 0.1,
        "head_batch_size": 64,
    },
    "small": {
        "budget_fraction": 0.1,
        "label_epochs": 50,
        "first_lr": 0.05,
        "first_batch_size": 64,
        "contrastive_batch_size": 256,
        "head_epochs": 200,
        "head_lr": 0.5,
        "head_batch_size": 128,
    },
}

DST_SPACE = SearchSpace(name="dst", defense="dst", ranges=_RANGES, presets=_PRESETS)

_WHY_READ = "too early and no class is told from another, too late and a trigger is as firm as what it covers"
_WHY_VIEWS = "how much two views of one image differ; the less they show, the less of a small trigger"
_WIDE: dict[str, Range] = {
    **_RANGES,
    "read_epoch": Choice((1, 2, 3, 4, 6, 8, 12), _WHY_READ),
    "first_lr": Float(0.003, 0.1, "how far the first model's features have gone in so few epochs", log=True),
    "first_schedule": Choice(("constant", "one_cycle", "cosine"), "whether it still moves when it is read"),
    "first_batch_size": Choice((32, 64, 128), "steps an epoch: a small set needs more of them to be learned at all"),
    "first_weight_decay": Float(5e-5, 5e-3, "shrinks channels that few samples use, a trigger's among them", log=True),
    "kernel_size": Choice(
        (3, 5, 7),
        "a filter must be as wide as a trigger's parts to break it",
        when=where("transform", "blur", "median"),
    ),
    "draws": Choice(
        (1, 2, 4, 8),
        "more of them even out chance, each a pass over the data",
        when=where("transform", "rotate_affine", "erase"),
    ),
    "per_class": Choice((False, True), "whether classes that move more than others are trusted at all"),
    "contrastive_lr": Float(0.05, 1.0, "how far the second network goes in its epochs", log=True),
    "contrastive_batch_size": Choice((64, 128, 256, 512), "how many others each view is told from"),
    "smallest_part": Float(0.08, 0.8, _WHY_VIEWS, log=True),
    "view_flip": Choice((True, False), "a mirrored digit is another one, a mirrored animal is not"),
    "head_epochs": Choice((10, 50, 200, 750), "of the last layer, on features that are computed once"),
    "head_lr": Float(0.05, 10.0, "large for few steps, small for many; 5 in the code", log=True),
    "head_batch_size": Choice((64, 128, 512), "how often a step has flagged samples to learn the opposite of"),
    "head_weight_decay": Float(0.0, 1e-3, "bounds how far flagged samples are pushed away"),
}

DST_WIDE_SPACE = SearchSpace(
    name="dst_wide",
    defense="dst",
    ranges=_WIDE,
    presets=without_searched(_PRESETS, _WIDE),
    ranges_by_preset={
        "smoke": {"read_epoch": Choice((2, 3, 4, 6, 7), _WHY_READ)},
        "small": {"read_epoch": Choice((1, 2, 3, 4, 6), _WHY_READ)},
    },
    calibrated=_PRESETS,
)
