"""A picture of the attacks: a row for each, of clean images, the same ones poisoned, and their difference."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from defenses.api import Progress, silent
from defenses.registry import UserError
from defenses.storage.atomic_files import disk_errors
from defenses.storage.store import Store, open_store
from study.attacks.api import TEST, TRAIN, Pixels, selection_order
from study.attacks.support.fitting import FitContext
from study.config.config import StudyConfig
from study.datasets.images import Images
from study.planning.places import check_file, check_places
from study.planning.plan import build_scenarios, dataset_spec, target_number
from study.planning.scenario_checks import check_target, tell_misread
from study.scenarios.evaluation import cached_images
from study.scenarios.poison import apply_in_chunks
from study.scenarios.scenario import Scenario

SHOWN = 4  # images a block
_SIDE = 64  # px that small images are enlarged to, at least
_MARGIN, _GAP, _LABEL, _HEAD = 14, 3, 170, 34
_PAPER, _INK = "#ffffff", "#222222"
_BLOCKS = ("clean", "as poison in training", "difference x 10", "with the trigger at test")


@dataclass(frozen=True)
class Drawn:
    """What a picture shows.

    Attributes:
        target: the class the attacker wants, by number and name.
        left_out: attacks that would have had to train first.
    """

    target: str
    left_out: tuple[str, ...]


def write_preview(path: Path, config: StudyConfig, train: bool, progress: Progress = silent) -> Drawn:
    """Draws a row for each attack of a configuration and writes the picture as PNG.

    All dirty-label attacks show the same images. Trained parts come from the store, or are trained and kept there.

    Args:
        train: draws attacks that train networks too, which takes minutes; else they are left out.
        progress: told while they are trained.

    Raises:
        UserError: an attack that the dataset cannot have, or a path that cannot be written.
    """
    check_file(path, "--preview")
    check_places(config)
    torch.set_num_threads(config.threads)
    images = cached_images(dataset_spec(config))
    store = open_store(config.store_place)
    every = {scenario.attack: scenario for scenario in build_scenarios(config) if scenario.parsed.poisons}
    scenarios = {name: scenario for name, scenario in every.items() if train or not scenario.parsed.trained}
    if not every:
        raise UserError(
            f"--preview draws attacks that put a trigger on images, and {', '.join(config.attacks)} puts none: name "
            "another with --attacks",
            about="attacks",
        )
    for scenario in scenarios.values():
        check_target(scenario, images)
    tell_misread(config.target_label, images)
    rows = [(name, _blocks(scenario, images, store, progress)) for name, scenario in scenarios.items()]
    with disk_errors(path):
        _sheet(rows).save(path, format="PNG")
    return Drawn(images.class_text(target_number(config)), tuple(every.keys() - scenarios.keys()))


def _blocks(scenario: Scenario, images: Images, store: Store, progress: Progress) -> list[Pixels]:
    """Clean, poisoned, difference and triggered test images, each uint8 [n, H, W, 3]."""
    attack = scenario.parsed
    attack.check(images)
    context = FitContext(scenario.seed, scenario.target_label, store=store, progress=progress)
    state = attack.fit(images, context)
    of_target = images.train_labels == scenario.target_label
    order = selection_order(len(of_target), scenario.seed)
    chosen = order[of_target[order] == attack.clean_label][:SHOWN]
    victims = attack.victims(images.test_labels, scenario.target_label)[:SHOWN]
    clean = images.train_images[chosen]
    poisoned = apply_in_chunks(attack, images.train_images, chosen, state, TRAIN)
    difference = np.abs(poisoned.astype(np.int16) - clean.astype(np.int16)) * 10
    triggered = apply_in_chunks(attack, images.test_images, victims, state, TEST)
    return [clean, poisoned, np.minimum(difference, 255).astype(np.uint8), triggered]


def _sheet(rows: list[tuple[str, list[Pixels]]]) -> Image.Image:
    """The picture: a label and four blocks of images a row."""
    factor = max(1, -(-_SIDE // rows[0][1][0].shape[1]))
    side = rows[0][1][0].shape[1] * factor
    block = SHOWN * (side + _GAP) + _MARGIN
    sheet = Image.new("RGB", (_LABEL + 4 * block + _MARGIN, _HEAD + len(rows) * (side + _MARGIN)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, heading in enumerate(_BLOCKS):
        draw.text((_LABEL + column * block, 10), heading, fill=_INK, font=font)
    for line, (name, blocks) in enumerate(rows):
        top = _HEAD + line * (side + _MARGIN)
        draw.text((_MARGIN, top + side // 2 - 8), "\n".join(name.split(":", 1)), fill=_INK, font=font)
        for column, pixels in enumerate(blocks):
            for position, pixel in enumerate(pixels):
                enlarged = pixel.repeat(factor, axis=0).repeat(factor, axis=1)
                left = _LABEL + column * block + position * (side + _GAP)
                sheet.paste(Image.fromarray(enlarged), (left, top))
    return sheet
