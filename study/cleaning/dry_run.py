"""What a cleaning would do, without doing it: what was read, what would be trained, and how long that takes here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from study.cleaning.canaries import ATTACKS
from study.cleaning.estimate import estimate
from study.cleaning.options import CleanConfig
from study.cleaning.planting import choose_plantings, planting_rates
from study.cleaning.workflow import Work, lanes, prepare
from study.cli.bar import working
from study.cli.numbers import format_number
from study.cli.terminal import rough, table, wrap
from study.planning.clean_reserve import reserve_size
from study.planning.whole_plan import plan_study

_MOST_CLASSES = 20


def describe(config: CleanConfig, of_studies: Mapping[str, Any]) -> str:
    """The text of ``--dry-run``. The data are decoded, a few training steps are taken, and nothing else is run.

    Args:
        of_studies: given options of `OF_STUDIES`.

    Raises:
        UserError: anything that cannot work.
    """
    work = prepare(config, of_studies)
    plans = [plan_study(search) for search in work.searches]
    runs_at_once = lanes(work.searches[0])
    with working("measuring a few training steps"):
        cost = estimate(plans, len(config.seeds), runs_at_once)
    search = work.searches[0]
    methods = [[name, f"{epochs:.4g}"] for name, epochs in cost.epochs.items()]
    parts = [
        _data(work),
        wrap(
            f"Methods: {', '.join(work.settings.spaces)}, with {work.settings.how}; {work.why}. Each runs with seeds "
            f"{', '.join(map(str, config.seeds))}, and the networks are {plans[0].environment.model} of width "
            f"{search.width}."
        ),
        table(["method", "epochs a run"], methods),
        wrap(
            f"About {rough(60 * cost.search_minutes)} on this machine, {runs_at_once} at once: a step of {cost.batch} "
            f"images takes {format_number(cost.step_seconds)} s, measured on a few. What is in the store is not "
            "computed again."
        ),
        wrap(_canaries(work, cost.canary_minutes)),
        wrap(_clean_images(work)),
    ]
    return "\n\n".join(parts)


def _data(work: Work) -> str:
    data = work.data
    low, high = data.sizes
    size = f"{low[1]} x {low[0]}" if low == high else f"{low[1]} x {low[0]} to {high[1]} x {high[0]}"
    test = "no test set" if data.test is None else f"{len(data.test.labels):,} test images"
    counts = np.bincount(data.train.labels, minlength=len(data.classes)).tolist()
    rows = [[name, f"{count:,}"] for name, count in zip(data.classes, counts, strict=True)]
    more = [[f"and {len(rows) - _MOST_CLASSES} more", ""]] if len(rows) > _MOST_CLASSES else []
    lines = [
        f"{data.spec.path}: {data.format}",
        f"{len(data.train.labels):,} images of {len(rows)} classes to look through, {test}",
        f"{size} px, brought to {data.spec.image_size} x {data.spec.image_size}",
        *map(wrap, data.notes),
        *([f"{len(data.left_out):,} files or samples are not used; the report lists them"] if data.left_out else []),
        "",
        table(["class", "images"], [*rows[:_MOST_CLASSES], *more]),
    ]
    return "\n".join(lines)


def _canaries(work: Work, each: Sequence[float]) -> str:
    config, rates = work.config, planting_rates(len(work.data.train.labels))
    shown = ", ".join(f"{100 * rate:g} %" for rate in rates)
    what = f"Known attacks ({', '.join(ATTACKS)}; {shown} of the images) planted into copies of the data"
    if config.canaries == "none":
        return f"{what}: left out (--canaries none)."
    plantings, minutes = choose_plantings(config, lambda count: each[count - 1])
    took = f"about {rough(60 * minutes)} more"
    if not plantings:
        return (
            f"{what}: left out, since it takes {took}, over the limit of {config.canary_limit:g} min (--canary-limit)."
        )
    times = "once" if plantings == 1 else f"{plantings} times"
    return f"{what}, {times} each: {took}."


def _clean_images(work: Work) -> str:
    needed = {search.space: reserve_size(search) for search in work.searches}
    told = [
        f"{space} needs {count:,} clean images, taken from the test set" for space, count in needed.items() if count
    ]
    return f"{'; '.join(told)}." if told else "No clean images are needed."
