"""Plain training has no hyperparameter of a defense: one trial shows what the attack does undisturbed.

Its presets are also the undefended model that every defense is compared with.
"""

from search_spaces.space import SearchSpace

NO_DEFENSE_SPACE = SearchSpace(
    name="no_defense",
    defense="no_defense",
    ranges={},
    presets={
        # Without augmentation: a flipped digit is another digit, and a crop removes a corner patch from most views.
        "smoke": {"epochs": 10, "lr": 0.1, "batch_size": 64, "schedule": "one_cycle", "augment": False},
        # Likewise: with crops, badnets reached an ASR of 0.05 at rate 0.05 and 0.08 at 0.10 within these epochs.
        "small": {"epochs": 15, "lr": 0.1, "schedule": "one_cycle", "augment": False},
    },
)
