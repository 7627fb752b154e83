"""What F2 kills: a process that runs trials, and notes every epoch that it starts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_images import CLASSES, SIZE, make_images

from defenses import DEFENSES
from defenses.api import SuspectDataset
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense
from defenses.storage.store import Store
from defenses.training import loop
from defenses.training.images import epoch_batches

torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # the first optimiser loads for seconds; here before the fork
EPOCHS = 4
PIPD = {"pre_isolation_epochs": EPOCHS, "pre_isolation_lr": 0.05, "batch_size": 32, "selective_epochs": EPOCHS}
QT = {"pre_epochs": EPOCHS, "quarantine_epochs": EPOCHS, "backdoor_free_epochs": EPOCHS, "batch_size": 32}
TRIALS: list[tuple[str, dict[str, Any]]] = [
    *(("pipd", {**PIPD, "selective_lr": 0.01 * number}) for number in range(1, 7)),
    *(("qt", {**QT, "lr": 0.01 * number}) for number in range(1, 4)),
]
NEEDED = EPOCHS * (1 + 6 + 1 + 3 + 3)  # trials of a defense share its first stage


def work(folder: Path, first: int, step: int) -> None:
    """Runs every `step`-th trial; a line is added to ``started`` whenever an epoch starts."""
    torch.set_num_threads(1)
    images = make_images(128, 8)
    data = SuspectDataset.of(images.train_images, np.roll(images.train_labels, 1), CLASSES)

    def noted(*arguments: Any) -> Iterator[torch.Tensor]:
        with (folder / "started").open("a") as file:
            file.write("epoch\n")
        return epoch_batches(*arguments)

    loop.epoch_batches = noted
    spec, store = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE), Store(folder / "store", checkpoint_seconds=0)
    for name, settings in TRIALS[first::step]:
        defense = DEFENSES[name](DEFENSES[name].config_type(**settings))
        run_defense(defense, data, RunContext(store, spec, 5, torch.device("cpu"), "fp32"))
    (folder / f"done{first}").touch()
