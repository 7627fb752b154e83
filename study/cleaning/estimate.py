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
        epochs: epoch-equivalents of one run of each method.
        search_minutes: on this machine, everything run anew.
        canary_minutes: of so many plantings of each attack, from one on.
    """

    step_seconds: float
    batch: int
    epochs: dict[str, float]
    search_minutes: float
    canary_minutes: tuple[float, ...]


def stage_epochs(plan: "Plan", attacked: bool = False) -> dict[str, float]:
    """Epoch-equivalents of the stages of one run up to who is flagged, by what tells them apart.

    Args:
        attacked: an attack is planted, whose success a model without a defense shows.
    """
    from defenses import DEFENSES

    count, plain = _count(plan), DEFENSES["no_defense"]
    parts = [(plan.defense.stages_until(plan.config.until), plan.full_config(plan.default_point))]
    parts += [(plain.stages, plain.config_type.from_mapping(plan.environment.undefended))] if attacked else []
    costs: dict[str, float] = {}
    for stages, fields in parts:
        for stage in stages:
            reads = {name: getattr(fields, name) for name in stage.reads}
            costs[f"{stage.name} {sorted(reads.items())}"] = stage_cost(stage, reads, count)
    return costs


def all_epochs(plans: "list[Plan]", attacked: bool = False) -> float:
    """Epoch-equivalents of one run of all methods, which share what they have in common."""
    each: dict[str, float] = {}
    for plan in plans:
        each |= stage_epochs(plan, attacked)
    return sum(each.values())


def _count(plan: "Plan") -> int:
    from study.scenarios.evaluation import cached_images

    return len(cached_images(plan.environment.dataset).train_labels)


def estimate(plans: "list[Plan]", seeds: int, lanes: int) -> Estimate:
    """What the runs of all methods take.

    Args:
        seeds: runs of each method on the data, and the most plantings of each attack at each rate.
        lanes: runs at once.
    """
    count = _count(plans[0])
    seconds = step_seconds(plans[0])
    epochs = {plan.space.name: sum(stage_epochs(plan).values()) for plan in plans}
    minutes = count / _BATCH * seconds / 60  # of an epoch
    attacked = len(ATTACKS) * len(planting_rates(count))
    search, planting = seeds * all_epochs(plans), all_epochs(plans) + attacked * all_epochs(plans, attacked=True)
    canaries = tuple(times * planting * minutes / min(lanes, 1 + attacked) for times in range(1, seeds + 1))
    return Estimate(seconds, _BATCH, epochs, search * minutes / min(lanes, seeds), canaries)


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
