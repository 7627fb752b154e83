"""In which order and under which headings `--help` shows options: the usual ones first."""

from collections.abc import Mapping

USUAL = "the usual options"
OPTION_GROUPS: Mapping[str, tuple[str, ...]] = {
    USUAL: (
        "space",
        "defense",
        "attacks",
        "attack",
        "poison_rates",
        "poison_rate",
        "seeds",
        "seed",
        "trials",
        "preset",
        "dataset",
        "set",
        "name",
        "out",
    ),
    "what is studied": (
        "defenses",
        "target_label",
        "repeats",
        "repeat",
        "until",
        "clean_control",
        "undefended_on",
        "asr_floor",
        "trigger_image",
        "trigger_dir",
    ),
    "how to search": (
        "objective",
        "aggregate",
        "per_scenario",
        "sampler",
        "resolution",
        "reuse",
        "search_seed",
        "pruner",
        "pruner_over",
        "pruner_grace",
        "pruner_factor",
        "holdout",
        "judge_seeds",
    ),
    "data and network": (
        "data_dir",
        "download",
        "train_size",
        "test_size",
        "clean_reserve",
        "image_size",
        "model",
        "width",
        "blocks",
        "precision",
    ),
    "machine": (
        "threads",
        "cpus_per_trial",
        "gpus_per_trial",
        "device",
        "step",
        "address",
        "store",
        "keep_states",
        "tracking_uri",
        "verbose",
    ),
}
"""Heading -> fields of `StudyConfig` and `EvaluateConfig`, each once."""

OF_ATTACKS = frozenset(
    {
        *("attacks", "seeds", "preset", "dataset", "out", "store", "threads"),
        *(
            "target_label",
            "trigger_image",
            "trigger_dir",
            "download",
            "data_dir",
            "train_size",
            "test_size",
            "image_size",
        ),
    }
)
"""Those that `study.attacks` acts on."""
