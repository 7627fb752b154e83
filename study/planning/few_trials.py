"""Whether a study has the trials that it takes to say which hyperparameters matter."""

from search_spaces.space import SearchSpace, acting_shares
from study.config.config import StudyConfig
from study.config.sampling import DESIGNS, least_trials


def few_trials(space: SearchSpace, config: StudyConfig, given: int = 1) -> str:
    """That trials which are spread over a space are too few for what they are good for; empty where they are not.

    Args:
        given: trials that no sampler draws.
    """
    fields = len(space.ranges)
    if config.holdout or config.sampler not in DESIGNS:
        return ""
    least = least_trials(fields, given=given)
    if config.trials < least:
        return (
            f"{config.trials} trials are too few to compute which of {fields} hyperparameters matter: study.analyze "
            f"does so from {least} on (--trials {least})."
        )
    shares = {name: share for name, share in acting_shares(space.ranges).items() if share > 0}
    rarest = min(shares, key=lambda name: shares[name], default="")
    needed = least_trials(fields, shares.get(rarest, 1.0), given)
    if config.trials >= needed:
        return ""
    return (
        f"{rarest} acts in about {100 * shares[rarest]:.0f} % of the trials, and {config.trials} are too few "
        f"to compute whether it matters there: study.analyze does so from about {needed} on (--trials {needed})."
    )
