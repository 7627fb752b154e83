"""Whether the scenarios of a study can be made, found out before anything is started."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from defenses.models import ModelSpec
from defenses.registry import UserError
from study.attacks.api import TRAIN, Attack, AttackConfig
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.scenarios.evaluation import EvaluationContext
from study.scenarios.poison import select
from study.scenarios.scenario import Scenario

log = logging.getLogger(__name__)


def check_scenarios(scenarios: Sequence[Scenario], images: Images, environment: EvaluationContext) -> None:
    """Refuses a network that cannot be built, and scenarios that cannot be made, by their first failure.

    Images are chosen for every scenario, but only one is triggered for each attack: it shows as much, and in no time.

    Raises:
        UserError: what cannot be made, and why.
    """
    ModelSpec(environment.model, environment.width, environment.blocks, images.num_classes, images.image_size)
    for scenario in dict.fromkeys(scenario.first_repeat for scenario in scenarios):
        check_target(scenario, images)
        attack, target = scenario.parsed, scenario.target_label
        named = images.class_text(target)
        select(images.train_labels, attack, scenario.poison_rate, target, scenario.seed, named)
    for scenario in {scenario.attack: scenario for scenario in scenarios}.values():
        attack = scenario.parsed
        attack.check(images)
        if attack.poisons and not attack.trained:
            _try_trigger(attack, images, FitContext(scenario.seed, scenario.target_label))


def check_target(scenario: Scenario, images: Images) -> None:
    """Refuses a target that is no class, or, where the attack is ours, one without training images.

    Raises:
        UserError: which rule it breaks, and a class that keeps it.
    """
    target = scenario.target_label
    if not 0 <= target < images.num_classes:
        raise UserError(
            f"--target-label must lie in [0, {images.num_classes - 1}] for this dataset, or be the name of a class, "
            f"got {target}"
        )
    if scenario.parsed.poisons and not (images.train_labels == target).any():
        first = images.class_text(int(images.train_labels.min()))
        raise UserError(
            f"--target-label must be a class with training images, and {images.class_text(target)} has none: "
            f"the first that has is {first}"
        )


def tell_misread(wanted: str | int, images: Images) -> None:
    """Warns where a number was given for the target and another class has that number as its name.

    Args:
        wanted: as it was given.
    """
    text = str(wanted)
    if isinstance(wanted, int) and text in images.classes and images.classes[wanted] != text:
        log.warning(
            "--target-label %s is class %s; the class called %s is number %d: name:%s is that one",
            text,
            images.class_text(wanted),
            text,
            images.classes.index(text),
            text,
        )


def _try_trigger(attack: Attack, images: Images, context: FitContext) -> None:
    """Puts the trigger on an image of noise, which every trigger changes that there is.

    Raises:
        UserError: it changes no pixel.
    """
    state = attack.fit(images, context)
    noise = np.random.default_rng(0).integers(0, 256, images.train_images[:1].shape, dtype=np.uint8)
    if np.array_equal(attack.apply(noise, np.zeros(1, dtype=np.int64), state, TRAIN), noise):
        shared = {field.name for field in dataclasses.fields(AttackConfig)}
        own = [field.name for field in dataclasses.fields(attack.config) if field.name not in shared]
        raise UserError(
            f"a trigger must change an image, and {attack.name}'s leaves those of {images.image_size} px as they are: "
            f"change its options ({', '.join(own)})"
        )
