"""Clean images beside what is defended: who is handed which, and what of them stands in a key."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from small_images import CLASSES, make_images, make_reserve

from defenses import run_defense_on
from defenses.api import CleanReserve, Defense, Outputs, Params, Stage, StageContext, SuspectDataset
from defenses.budget import scaled_epochs
from defenses.config import Config, param
from defenses.registry import UserError
from defenses.runner import RunContext, run_stages

MakeContext = Callable[..., RunContext]


@pytest.fixture
def data() -> SuspectDataset:
    images = make_images()
    return SuspectDataset.of(images.train_images, images.train_labels, CLASSES)


@dataclasses.dataclass(frozen=True)
class ReserveConfig(Config):
    clean_images: int = param(8, "read by the stage that is handed them", low=0)


def _seen(context: StageContext, _inputs: Outputs, _params: Params) -> Outputs:
    return {"images": np.zeros(0) if context.clean is None else context.clean.images}


class TakesSome(Defense):
    name = "takes_some"
    config_type = ReserveConfig
    stages = (
        Stage("without", _seen, reads=(), outputs=("images",)),
        Stage("with", _seen, reads=("clean_images",), outputs=("images",), clean_images="clean_images"),
    )


def run(data: SuspectDataset, context: RunContext, count: int) -> dict[str, tuple[str, np.ndarray]]:
    done = run_stages(TakesSome(ReserveConfig(count)), data, context)
    return {name: (outputs.run.key, np.asarray(outputs.load("images"))) for name, outputs in done.items()}


def test_beginnings_of_a_reserve_are_balanced_and_nest() -> None:
    images = make_images(8, 40)
    labels = np.array([0] * 20 + [1] * 10 + [2] * 8 + [3] * 2)
    reserve = CleanReserve.of(images.test_images, labels, CLASSES)
    assert reserve.labels[:8].tolist() == [0, 1, 2, 3] * 2
    assert np.bincount(reserve.first(20).labels, minlength=CLASSES).tolist() == [6, 6, 6, 2]
    assert np.array_equal(reserve.first(20).first(8).images, reserve.first(8).images)
    # The first of each class in the given order: a reserve that goes on has the same beginning.
    assert np.array_equal(reserve.images[:4], images.test_images[[0, 20, 30, 38]])
    assert len({reserve.fingerprint, reserve.first(20).fingerprint, reserve.first(8).fingerprint}) == 3


def test_a_stage_is_handed_what_it_declares_and_no_other_is(data: SuspectDataset, make_context: MakeContext) -> None:
    context = dataclasses.replace(make_context(), reserve=make_reserve())
    done = run(data, context, 8)
    assert len(done["without"][1]) == 0
    assert np.array_equal(done["with"][1], make_reserve().images[:8])
    assert len(run(data, context, 0)["with"][1]) == 0


def test_the_images_handed_are_part_of_that_stages_key(data: SuspectDataset, make_context: MakeContext) -> None:
    reserve = make_reserve()
    first = run(data, dataclasses.replace(make_context(), reserve=reserve), 8)
    # A reserve that is larger, or no longer needed: the same images, the same key.
    longer = run(data, dataclasses.replace(make_context(), reserve=reserve.first(20)), 8)
    assert {name: key for name, (key, _) in longer.items()} == {name: key for name, (key, _) in first.items()}
    swapped = dataclasses.replace(reserve, images=reserve.images[::-1])
    others = run(data, dataclasses.replace(make_context(), reserve=swapped), 8)
    assert others["with"][0] != first["with"][0]
    assert others["without"][0] == first["without"][0]


@pytest.mark.parametrize("there", [None, 6])
def test_too_small_a_reserve_is_refused(there: int | None, data: SuspectDataset, make_context: MakeContext) -> None:
    reserve = None if there is None else make_reserve().first(there)
    message = f"needs 8 clean images and the reserve has {there or 0}: give it more" + ", or set clean_images" * bool(
        there
    )
    with pytest.raises(UserError, match=f"{message}"):
        run(data, dataclasses.replace(make_context(), reserve=reserve), 8)


def test_a_budget_scales_epochs_and_leaves_at_least_one() -> None:
    assert [scaled_epochs(200, share) for share in (1.0, 0.5, 0.001)] == [200, 100, 1]
    assert scaled_epochs(0, 0.5) == 0


def test_in_memory_defenses_take_a_reserve_as_arrays() -> None:
    images, beside = make_images(), make_reserve()
    given = {"reserve_images": beside.images, "reserve_labels": beside.labels}
    data = (images.train_images, images.train_labels, CLASSES)
    tiny = {"width": 4, "blocks": (1, 1), "epochs": 1, "lr": 0.01, "clean_images": 32, "until": "isolate"}
    with pytest.raises(UserError, match=r"needs 32 clean images and the reserve has 0: give it more$"):
        run_defense_on("ibd_psc", *data, **tiny)
    assert run_defense_on("ibd_psc", *data, **given, **tiny).flagged is not None
    with pytest.raises(UserError, match="go together"):
        run_defense_on("ibd_psc", *data, reserve_images=beside.images, **tiny)
    with pytest.raises(UserError, match="size of the images"):
        run_defense_on("ibd_psc", *data, reserve_images=beside.images[:, :8, :8], reserve_labels=beside.labels, **tiny)
