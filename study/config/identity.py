"""Which options make a study the one that it is."""

NOT_IDENTITY = {
    "clean_control",
    "name",
    "trials",
    "out",
    "store",
    "data_dir",
    "download",
    "cpus_per_trial",
    "gpus_per_trial",
    "step",
    "keep_states",
    "tracking_uri",
    "undefended_on",
    "address",
    "verbose",
}
"""Settings that may change when a study goes on: how long it runs, where, with how much, and what it tells."""

FIRST_OPTIONS = frozenset(
    {
        "aggregate",
        "asr_floor",
        "attacks",
        "blocks",
        "dataset",
        "holdout",
        "image_size",
        "judge_seeds",
        "model",
        "objective",
        "per_scenario",
        "poison_rates",
        "precision",
        "preset",
        "pruner",
        "pruner_factor",
        "pruner_grace",
        "resolution",
        "sampler",
        "search_seed",
        "seeds",
        "set",
        "space",
        "target_label",
        "test_size",
        "train_size",
        "trigger_dir",
        "trigger_image",
        "until",
        "width",
    }
)
"""Options that are in every study's identity, whatever their value: studies on disk were named with all of them."""
