"""What a cleaning would do and how long that takes on this machine, by a few training steps on noise."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from defenses.cost import stage_cost
from study.cleaning.canaries import ATTACKS
from study.cleaning.planting import planting_rates

if TYPE_CHECKING:
    from study.planning.plan import Plan

_SECONDS, _MOST_STEPS = 4.0, 8
_BATCH = 64


@dataclass(frozen=True)
class Estimate:
    """What runs take.

    Attributes:
        step_seconds: a training step of `batch` images.
        epochs: epoch-equivalents of one run of each method, and of the model that it is compared with.
        search_minutes, canary_minutes: on this machine, everything run anew.
    """

    step_seconds: float
    batch: int
    epochs: dict[str, float]
    search_minutes: float
    canary_minutes: float


def run_epochs(plan: "Plan") -> float:
    """Epoch-equivalents of one run up to who is flagged, with the plain model that every study trains as well."""
    from defenses import DEFENSES

    count = _count(plan)
    config = plan.full_config(plan.default_point)
    plain = DEFENSES["no_defense"]
    undefended = plain.config_type.from_mapping(plan.environment.undefended)
    costs: dict[str, float] = {}
    for stages, fields in ((plain.stages, undefended), (plan.defense.stages_until(plan.config.until), config)):
        for stage in stages:
            reads = {name: getattr(fields, name) for name in stage.reads}
            costs[f"{stage.name} {sorted(reads.items())}"] = stage_cost(stage, reads, count)
    return sum(costs.values())


def _count(plan: "Plan") -> int:
    from study.scenarios.evaluation import cached_images

    return len(cached_images(plan.environment.dataset).train_labels)


def estimate(plans: "list[Plan]", seeds: int, plantings: int, lanes: int) -> Estimate:
    """What the runs of all methods take.

    Args:
        seeds: runs of each method on the data.
        plantings: of each attack at each rate.
        lanes: runs at once.
    """
    count = _count(plans[0])
    seconds = step_seconds(plans[0])
    epochs = {plan.space.name: run_epochs(plan) for plan in plans}
    one = sum(epochs.values()) * count / _BATCH * seconds / 60
    scenarios = plantings * (1 + len(ATTACKS) * len(planting_rates(count)))
    return Estimate(seconds, _BATCH, epochs, one * seeds / min(lanes, seeds), one * scenarios / min(lanes, scenarios))


def step_seconds(plan: "Plan") -> float:
    """Seconds of a training step, measured on a few."""
    import torch
    from torch.nn import functional

    from defenses.models import build_model, spec_for_images
    from defenses.training.precision import autocast
    from study.scenarios.evaluation import cached_images

    environment, images = plan.environment, cached_images(plan.environment.dataset)
    device = torch.device(environment.device)
    torch.set_num_threads(plan.config.threads)
    sample = images.train_images[:_BATCH]
    spec = spec_for_images(environment.model, environment.width, environment.blocks, images.num_classes, sample)
    model = build_model(spec, 0).to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    batch = torch.randint(0, 256, (_BATCH, 3, spec.image_size, spec.image_size), dtype=torch.uint8, device=device)
    labels = torch.randint(0, spec.num_classes, (_BATCH,), device=device)
    taken: list[float] = []
    while len(taken) < _MOST_STEPS and (len(taken) < 2 or sum(taken) < _SECONDS):
        started = time.perf_counter()
        optimiser.zero_grad()
        with autocast(device, environment.precision):
            loss = functional.cross_entropy(model(batch), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    later = sorted(taken[1:])  # the first one sets things up
    return later[len(later) // 2]
