"""The search space of D-ST."""

from typing import Any

from search_spaces.space import Choice, Float, Range, SearchSpace

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
