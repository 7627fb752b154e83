"""Whether the scenarios of a study can be made, found out before anything is started."""

from collections.abc import Sequence

import numpy as np

from defenses.models import ModelSpec
from defenses.registry import UserError
from study.attacks.api import TRAIN, Attack
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.scenarios.evaluation import EvaluationContext
from study.scenarios.poison import select
from study.scenarios.scenario import Scenario


def check_scenarios(scenarios: Sequence[Scenario], images: Images, environment: EvaluationContext) -> None:
    """Refuses a network that cannot be built, and scenarios that cannot be made, by their first failure.

    Images are chosen for every scenario, but only one is triggered for each attack: it shows as much, and in no time.

    Raises:
        UserError: what cannot be made, and why.
    """
    ModelSpec(environment.model, environment.width, environment.blocks, images.num_classes, images.image_size)
    for scenario in scenarios:
        if not 0 <= scenario.target_label < images.num_classes:
            raise UserError(
                f"--target-label must lie in [0, {images.num_classes - 1}] for this dataset, "
                f"got {scenario.target_label}"
            )
        attack = scenario.parsed
        select(images.train_labels, attack, scenario.poison_rate, scenario.target_label, scenario.seed)
    for scenario in {scenario.attack: scenario for scenario in scenarios}.values():
        attack = scenario.parsed
        attack.check(images)
        if attack.poisons and not attack.trained:
            _try_trigger(attack, images, FitContext(scenario.seed, scenario.target_label))


def _try_trigger(attack: Attack, images: Images, context: FitContext) -> None:
    state = attack.fit(images, context)
    attack.apply(images.train_images[:1], np.zeros(1, dtype=np.int64), state, TRAIN)
