"""Quarantine labels worked out by hand over several epochs, and the stages re-derived from the weights they gave."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.api import Stage, StageContext, SuspectDataset, silent
from defenses.methods import quarantine
from defenses.methods.quarantine import (
    BACKDOOR_FREE_TRAINING,
    PRE_QUARANTINE,
    QUARANTINE_TRAINING,
    QTConfig,
    QuarantineLabels,
)
from defenses.models import ModelSpec, build_model, load_model
from defenses.shared_stages import cpu_weights

torch.set_num_threads(1)  # on a busy machine, threads that wait for each other make these tests ten times slower
CPU = torch.device("cpu")
K = 3
COUNTS = (11, 20, 9)  # the largest class has 20
SPEC = ModelSpec("preact_resnet18", 4, (1, 1), K, 8)


def params(stage: Stage | None = None, **values: Any) -> SimpleNamespace:
    config = QTConfig(**values)
    reads = stage.reads if stage else tuple(QTConfig.__dataclass_fields__)
    return SimpleNamespace(**{name: getattr(config, name) for name in reads})


@pytest.fixture(scope="module")
def suspect() -> SuspectDataset:
    """40 images in classes of 11, 20 and 9; what class one is of shows in its brightness."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(K), COUNTS)).astype(np.int64)
    images = rng.integers(0, 60, (len(labels), 8, 8, 3)) + 90 * labels[:, None, None, None]
    return SuspectDataset.of(images.astype(np.uint8), labels, K)


def context(stage: Stage, suspect: SuspectDataset, seed: int = 0) -> StageContext:
    return StageContext(stage.name, suspect, SPEC, CPU, "fp32", seed, silent)


def run(stage: Stage, suspect: SuspectDataset, inputs: dict[str, Any], **values: Any) -> dict[str, Any]:
    return stage.run(context(stage, suspect), inputs, params(stage, **values))


@pytest.fixture(scope="module")
def pre(suspect: SuspectDataset) -> dict[str, Any]:
    """Outputs of the pre-quarantine stage."""
    return run(PRE_QUARANTINE, suspect, {}, pre_epochs=2, batch_size=8, pre_lr=0.05)


# epsilon starts at one half here, so that after three epochs some samples are in quarantine and some are not.
SHORT = {
    "quarantine_epochs": 3,
    "dynamic_epochs": 2,
    "batch_size": 8,
    "release_epochs": (),
    "lr": 0.05,
    "epsilon_init": 0.5,
}


# Labels

LABELS = torch.tensor([0, 0, 0, 1, 1])
PRE = torch.tensor([True, False, False, False, False])


def mask(text: str) -> Tensor:
    return torch.tensor([letter == "Q" for letter in text])


def state(**values: Any) -> QuarantineLabels:
    values = {"dynamic_epochs": 3, "release_epochs": (), **values}
    return QuarantineLabels(LABELS, 2, PRE, params(**values))


def epsilon(labels: QuarantineLabels) -> list[float]:
    return [round(float(value), 5) for value in labels.epsilon]


# Sample 0 is a pre-quarantine sample. Rows: who was quarantined in an epoch, and every epsilon in the next one.
LINEAR = [
    ("-Q-Q-", [0.9, 0.5, 0.4, 0.5, 0.4]),  # epoch 1: 0.4 + 0.1 * 1
    ("-Q--Q", [0.9, 0.6, 0.4, 0.4, 0.6]),  # epoch 2: 0.4 + 0.1 * 2; sample 3 left and falls back
]
CUMULATIVE = [
    ("-Q-Q-", [0.9, 0.5, 0.4, 0.5, 0.4]),  # + 0.1 * 1
    ("-Q--Q", [0.9, 0.7, 0.4, 0.5, 0.6]),  # + 0.1 * 2; what sample 3 has gained stays (Alg. 1 lowers nothing)
]
FIXED = [
    ("-Q-Q-", [0.9, 0.9, 0.4, 0.9, 0.4]),  # the maximum at once (Fig. 4); the others keep theirs
    ("-Q--Q", [0.9, 0.9, 0.4, 0.4, 0.9]),  # sample 3 left and falls back
]
SECOND_KEPT = [("--QQ-", [0.9, 0.1, 0.9, 0.9, 0.1]), ("-----", [0.9, 0.1, 0.1, 0.1, 0.1])]
SECOND_DROPPED = [("--QQ-", [0.1, 0.1, 0.9, 0.9, 0.1]), ("Q----", [0.9, 0.1, 0.1, 0.1, 0.1])]


@pytest.mark.parametrize(("schedule", "first"), [("linear", LINEAR), ("cumulative", CUMULATIVE), ("fixed", FIXED)])
@pytest.mark.parametrize(("keep", "second"), [(True, SECOND_KEPT), (False, SECOND_DROPPED)])
def test_epsilon_by_hand(schedule: str, first: list[Any], keep: bool, second: list[Any]) -> None:
    labels = state(epsilon_schedule=schedule, keep_pre_quarantine=keep)
    assert epsilon(labels) == [0.9, 0.4, 0.4, 0.4, 0.4]
    for epoch, (quarantined, expected) in enumerate(first + second):
        released = labels.after_epoch(epoch, mask(quarantined))
        assert epsilon(labels) == expected, epoch
        assert not released.any()


def test_the_papers_schedule_reaches_its_maximum_in_its_last_dynamic_epoch() -> None:
    labels = state(dynamic_epochs=6)
    seen = [epsilon(labels)[1]]
    for epoch in range(6):
        labels.after_epoch(epoch, mask("-Q---"))
        seen.append(epsilon(labels)[1])
    assert seen == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9]
    assert epsilon(labels)[2] == 0.1  # the second phase has begun


def test_epsilon_is_clamped() -> None:
    labels = state(epsilon_schedule="cumulative", epsilon_step=0.3, dynamic_epochs=9)
    labels.after_epoch(0, mask("-Q---"))
    assert epsilon(labels)[1] == 0.7
    labels.after_epoch(1, mask("-Q---"))
    assert epsilon(labels)[1] == 0.9  # 0.7 + 0.3 * 2
    labels = state(epsilon_step=0.4, epsilon_max=0.6, epsilon_min=0.2, epsilon_init=0.15)
    labels.after_epoch(0, mask("-Q---"))
    assert epsilon(labels) == [0.6, 0.55, 0.2, 0.2, 0.2]
    labels.after_epoch(1, mask("-Q---"))
    assert epsilon(labels)[1] == 0.6


def both_shares(labels: QuarantineLabels) -> list[tuple[float, float]]:
    """(on the class, on its quarantine) of every sample."""
    on_class, on_quarantine = labels.shares(torch.arange(len(LABELS)))
    return [(round(float(one), 5), round(float(other), 5)) for one, other in zip(on_class, on_quarantine, strict=True)]


def test_the_papers_labels_of_pre_quarantine_samples_by_hand() -> None:
    labels = state(dynamic_epochs=6)
    assert both_shares(labels) == [(0.1, 0.9), *[(0.6, 0.4)] * 4]
    labels.after_epoch(0, mask("QQ---"))
    assert both_shares(labels) == [(0.1, 0.9), (0.5, 0.5), *[(0.6, 0.4)] * 3]
    labels.after_epoch(1, mask("-----"))
    assert both_shares(labels) == [(0.1, 0.9), *[(0.6, 0.4)] * 4]


def test_the_codes_labels_of_pre_quarantine_samples_by_hand() -> None:
    labels = state(dynamic_epochs=6, pre_quarantine_label="multiplied", keep_pre_quarantine=False)
    # 0.1 * 0.6 and 0.9 * 0.4: they sum to 0.42.
    assert both_shares(labels) == [(0.06, 0.36), *[(0.6, 0.4)] * 4]
    labels.after_epoch(0, mask("QQ---"))
    assert both_shares(labels) == [(0.05, 0.45), (0.5, 0.5), *[(0.6, 0.4)] * 3]  # 0.1 * 0.5, 0.9 * 0.5
    labels.after_epoch(1, mask("-Q---"))
    assert both_shares(labels)[0] == (0.06, 0.36)  # it left
    for epoch in (2, 3, 4):
        labels.after_epoch(epoch, mask("Q----"))
    assert both_shares(labels) == [(0.01, 0.81), *[(0.6, 0.4)] * 4]  # 0.1 * 0.1, 0.9 * 0.9
    assert [round(float(value), 5) for value in labels.handed_on()] == [0.9, 0.4, 0.4, 0.4, 0.4]
    labels.after_epoch(5, mask("-Q---"))  # the second phase: as every other sample
    assert both_shares(labels) == [(0.9, 0.1), (0.1, 0.9), *[(0.9, 0.1)] * 3]


def test_multiplied_labels_that_are_kept_are_the_maximum_in_the_second_phase_and_go_with_a_release() -> None:
    labels = state(dynamic_epochs=2, pre_quarantine_label="multiplied", release_epochs=(0,), release_threshold=0.5)
    labels.after_epoch(0, mask("QQ---"))
    assert both_shares(labels) == [*[(0.9, 0.1)] * 3, *[(0.6, 0.4)] * 2]
    labels.after_epoch(1, mask("-----"))
    assert both_shares(labels) == [(0.1, 0.9), *[(0.9, 0.1)] * 4]


def test_the_loss_of_labels_that_do_not_sum_to_one(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    values = {**SHORT, "quarantine_epochs": 1, "batch_size": 64, "pre_quarantine_ratio": 0.25}
    trained = run(QUARANTINE_TRAINING, suspect, pre, **values, pre_quarantine_label="multiplied")
    start = cpu_weights(quarantine._two_heads(context(QUARANTINE_TRAINING, suspect), pre["weights"]))
    chosen = np.argsort(pre["sample_losses"], kind="stable")[:5]
    on_class, on_quarantine = np.full(len(suspect), 0.5), np.full(len(suspect), 0.5)
    on_class[chosen], on_quarantine[chosen] = 0.1 * 0.5, 0.9 * 0.5
    expected = dense_loss(start, suspect, on_quarantine, on_class)
    assert trained["series"]["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_a_crowded_class_is_released_at_the_listed_epochs_only() -> None:
    labels = state(release_threshold=0.5, release_epochs=(1, 3), dynamic_epochs=3)
    # Class 0 has two of three in quarantine (more than half), class 1 one of two (not more than half).
    assert not labels.after_epoch(0, mask("-QQQ-")).any()
    assert epsilon(labels) == [0.9, 0.5, 0.5, 0.5, 0.4]
    assert labels.after_epoch(1, mask("-QQQ-")).tolist() == [True, False]
    assert epsilon(labels) == [0.1, 0.1, 0.1, 0.6, 0.4]  # the pre-quarantine sample is released with its class
    assert not labels.after_epoch(2, mask("-QQQ-")).any()
    assert labels.after_epoch(3, mask("---QQ")).tolist() == [False, True]
    assert epsilon(labels) == [0.9, 0.1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("threshold", "count", "inside", "over"),
    [
        (0.9, 10, 9, False),
        (0.9, 10, 10, True),
        (0.9, 5000, 4500, False),
        (0.9, 5000, 4501, True),
        (1.0, 7, 7, False),
        (0.0, 7, 0, False),
        (0.0, 7, 1, True),
        (0.78, 150, 117, False),  # 0.78 * 150 is 116.99999 in float32
        (0.29, 100, 29, False),  # 0.29 * 100 is 28.999999999999996 in float64
        (0.29, 100, 30, True),
    ],
)
def test_release_needs_strictly_more_than_the_threshold(threshold: float, count: int, inside: int, over: bool) -> None:
    classes = torch.zeros(count, dtype=torch.long)
    labels = QuarantineLabels(classes, 1, classes > 0, params(release_threshold=threshold))
    assert bool(labels.crowded(torch.arange(count) < inside)[0]) is over


@pytest.mark.parametrize(
    ("threshold", "count", "inside", "at"),
    [
        (0.9, 10, 9, True),
        (0.9, 5000, 4500, True),
        (0.9, 5000, 4499, False),
        (1.0, 7, 7, True),
        (1.0, 7, 6, False),
        (0.78, 150, 117, True),
        (0.29, 100, 29, True),
        (0.29, 100, 28, False),
    ],
)
def test_release_at_the_threshold_is_the_codes(threshold: float, count: int, inside: int, at: bool) -> None:
    classes = torch.zeros(count, dtype=torch.long)
    labels = QuarantineLabels(classes, 2, classes > 0, params(release_threshold=threshold, release_at="reached"))
    crowded = labels.crowded(torch.arange(count) < inside)
    assert crowded.tolist() == [at, False]  # a class without samples is never released


def test_a_release_in_the_first_phase_lasts_while_its_samples_are_out_of_quarantine() -> None:
    for schedule in ("linear", "fixed", "cumulative"):
        labels = state(dynamic_epochs=10, release_epochs=(5,), release_threshold=0.5, epsilon_schedule=schedule)
        for epoch in range(5):
            labels.after_epoch(epoch, mask("-----"))
        assert labels.still_released() == 0
        assert labels.after_epoch(5, mask("-QQ--")).tolist() == [True, False]
        assert epsilon(labels) == [0.1, 0.1, 0.1, 0.4, 0.4]
        assert labels.still_released() == 1
        for epoch in (6, 7, 8):
            assert not labels.after_epoch(epoch, mask("-----")).any()
            assert epsilon(labels) == [0.9, 0.1, 0.1, 0.4, 0.4], schedule  # it had been 0.4 again; the paper keeps 0.9
            assert labels.still_released() == pytest.approx(2 / 3)
        labels.after_epoch(9, mask("-----"))
        assert epsilon(labels) == [0.9, 0.1, 0.1, 0.1, 0.1]


def test_a_release_ends_the_multiplied_labels_of_its_class() -> None:
    labels = state(dynamic_epochs=10, release_epochs=(5,), release_threshold=0.5, pre_quarantine_label="multiplied")
    labels.after_epoch(5, mask("-QQ--"))
    labels.after_epoch(6, mask("-----"))
    assert both_shares(labels) == [*[(0.9, 0.1)] * 3, *[(0.6, 0.4)] * 2]
    assert labels.still_released() == 1


@pytest.mark.parametrize("dynamic_epochs", [3, 10])
def test_what_is_quarantined_again_is_no_longer_released(dynamic_epochs: int) -> None:
    labels = state(dynamic_epochs=dynamic_epochs, release_epochs=(5,), release_threshold=0.5)
    labels.after_epoch(5, mask("-QQ--"))
    labels.after_epoch(6, mask("-Q---"))
    assert epsilon(labels)[:3] == [0.9, 0.9, 0.1]
    assert labels.still_released() == pytest.approx(1 / 3)


@pytest.mark.parametrize("label", ["maximum", "multiplied"])
@pytest.mark.parametrize("dynamic_epochs", [3, 10])
def test_a_release_can_last_to_the_end(dynamic_epochs: int, label: str) -> None:
    labels = state(
        dynamic_epochs=dynamic_epochs,
        release_epochs=(5,),
        release_threshold=0.5,
        release_lasts="end",
        pre_quarantine_label=label,
    )
    labels.after_epoch(5, mask("-QQ--"))
    for epoch in range(6, 12):
        assert not labels.after_epoch(epoch, mask("QQQQ-")).any()
        assert epsilon(labels) == [0.1, 0.1, 0.1, 0.9, 0.4 if epoch + 1 < dynamic_epochs else 0.1]
        assert both_shares(labels)[0] == (0.9, 0.1)
        assert labels.still_released() == 1


# Stages


def test_pre_quarantine_gives_the_loss_of_each_sample(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    model = load_model(SPEC, pre["weights"]).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(suspect.images).permute(0, 3, 1, 2)).double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(len(p)), suspect.labels])
    assert pre["sample_losses"] == pytest.approx(expected, rel=1e-4)
    assert len(pre["series"]["loss"]) == 2


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, 2), (0.36, 7), (0.0, 0), (1.0, 20)])  # shares of 20
def test_pre_quarantine_samples_are_those_of_lowest_loss(
    monkeypatch: pytest.MonkeyPatch, suspect: SuspectDataset, pre: dict[str, Any], ratio: float, expected: int
) -> None:
    held: list[np.ndarray] = []

    class Spy(QuarantineLabels):
        def __init__(self, labels: Tensor, num_classes: int, pre_quarantine: Tensor, params: Any) -> None:
            held.append(pre_quarantine.numpy().copy())
            super().__init__(labels, num_classes, pre_quarantine, params)

    monkeypatch.setattr(quarantine, "QuarantineLabels", Spy)
    run(QUARANTINE_TRAINING, suspect, pre, **{**SHORT, "quarantine_epochs": 1}, pre_quarantine_ratio=ratio)
    lowest = sorted(range(len(suspect)), key=lambda i: pre["sample_losses"][i])[:expected]
    assert np.flatnonzero(held[0]).tolist() == sorted(lowest)


def test_the_new_head_keeps_the_backbone(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    given = pre["weights"]
    made = quarantine._two_heads(context(QUARANTINE_TRAINING, suspect), given)
    for name, tensor in made.state_dict().items():
        if name.startswith("network.linear."):
            assert tensor.shape[0] == 2 * K
        else:
            assert torch.equal(tensor, given[name]), name
    old, new = given["network.linear.weight"], made.network.linear.weight
    assert not torch.equal(old, new[:K])
    assert not torch.equal(old, new[K:])


def test_without_the_pre_quarantine_model_it_starts_fresh(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    other = {**pre, "weights": cpu_weights(build_model(SPEC, 99))}
    for fresh in (True, False):
        first, second = (
            run(QUARANTINE_TRAINING, suspect, inputs, **SHORT, pre_quarantine_model=not fresh)
            for inputs in (pre, other)
        )
        assert np.array_equal(first["scores"], second["scores"]) is fresh


@pytest.mark.parametrize("quarantine_pass", ["running", "epoch_end"])
def test_scores_and_flags_are_those_of_the_final_weights(
    suspect: SuspectDataset, pre: dict[str, Any], quarantine_pass: str
) -> None:
    found = run(QUARANTINE_TRAINING, suspect, pre, **SHORT, quarantine_pass=quarantine_pass)
    model = load_model(SPEC.with_outputs(2 * K), found["weights"]).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(suspect.images).permute(0, 3, 1, 2)).double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows, own = np.arange(len(suspect)), suspect.labels + K
    assert found["scores"] == pytest.approx(p[rows, own], rel=1e-4)
    assert np.array_equal(found["flagged"], p.argmax(axis=1) == own)
    assert 0 < found["flagged"].sum() < len(suspect)  # otherwise the comparison says little
    assert found["flagged_series"].shape == (3, len(suspect))
    if quarantine_pass == "epoch_end":
        assert np.array_equal(found["flagged_series"][-1], found["flagged"])
    assert found["series"]["quarantined_share"] == pytest.approx(found["flagged_series"].mean(axis=1).tolist())
    assert {len(values) for values in found["series"].values()} == {3}


def test_the_epsilon_it_hands_on_follows_the_flags_of_its_epochs(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    found = run(QUARANTINE_TRAINING, suspect, pre, **SHORT, pre_quarantine_ratio=0.1)
    chosen = np.argsort(pre["sample_losses"], kind="stable")[:2]
    expected = np.where(found["flagged_series"][-1], 0.9, 0.1)
    expected[chosen] = 0.9
    assert found["epsilon"] == pytest.approx(expected)


def test_a_released_class_is_counted_and_gets_the_minimum(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    values = {**SHORT, "release_epochs": (0, 2), "release_threshold": 0.0}
    found = run(QUARANTINE_TRAINING, suspect, pre, **values)
    crowded = [bool(found["flagged_series"][-1][suspect.labels == label].any()) for label in range(K)]
    assert any(crowded)
    assert found["series"]["released_classes"][2] == sum(crowded)
    assert found["series"]["released_classes"][1] == 0
    assert found["series"]["still_released_classes"][2] >= sum(crowded)
    for label in np.flatnonzero(crowded):
        assert found["epsilon"][suspect.labels == label] == pytest.approx(0.1)


@pytest.mark.parametrize(("frozen", "moves"), [(3, False), (2, True), (0, True)])
def test_frozen_epochs_train_the_head_alone(
    suspect: SuspectDataset, pre: dict[str, Any], frozen: int, moves: bool
) -> None:
    found = run(QUARANTINE_TRAINING, suspect, pre, **SHORT, frozen_epochs=frozen)["weights"]
    for name in ("network.conv1.weight", "network.layer2.0.conv1.weight", "network.bn_last.weight"):
        assert torch.equal(found[name], pre["weights"][name]) is not moves, name
    start = quarantine._two_heads(context(QUARANTINE_TRAINING, suspect), pre["weights"]).state_dict()
    assert not torch.equal(found["network.linear.weight"], start["network.linear.weight"])


def dense_loss(
    weights: dict[str, Tensor], suspect: SuspectDataset, epsilon: np.ndarray, on_class: np.ndarray | None = None
) -> float:
    """Eq. 3 over the whole set with a dense label matrix, in train mode."""
    model = load_model(SPEC.with_outputs(2 * K), weights).train()
    with torch.no_grad():
        log_p = model(torch.from_numpy(suspect.images).permute(0, 3, 1, 2)).double().log_softmax(dim=1).numpy()
    dense = np.zeros((len(suspect), 2 * K))
    dense[np.arange(len(suspect)), suspect.labels] = 1 - epsilon if on_class is None else on_class
    dense[np.arange(len(suspect)), suspect.labels + K] = epsilon
    return float(-(dense * log_p).sum(axis=1).mean())


def test_the_first_step_uses_the_first_labels(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    values = {**SHORT, "quarantine_epochs": 1, "batch_size": 64, "pre_quarantine_ratio": 0.25}
    found = run(QUARANTINE_TRAINING, suspect, pre, **values)
    start = quarantine._two_heads(context(QUARANTINE_TRAINING, suspect), pre["weights"])
    first = np.full(len(suspect), 0.5)
    first[np.argsort(pre["sample_losses"], kind="stable")[:5]] = 0.9
    assert found["series"]["loss"][0] == pytest.approx(dense_loss(cpu_weights(start), suspect, first), rel=1e-4)


def test_the_final_model_goes_on_with_frozen_labels(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    middle = run(QUARANTINE_TRAINING, suspect, pre, **SHORT)
    values = {"backdoor_free_epochs": 2, "backdoor_free_augment": False, "batch_size": 64, "backdoor_free_lr": 1e-6}
    found = run(BACKDOOR_FREE_TRAINING, suspect, middle, **values)
    expected = dense_loss(middle["weights"], suspect, middle["epsilon"])
    # A rate of 1e-6 moves nothing: both epochs see the same weights and must see the same labels.
    assert found["series"]["loss"] == pytest.approx([expected] * 2, rel=1e-3)
    assert found["weights"]["network.linear.weight"].shape[0] == 2 * K


def test_nothing_handed_in_is_changed(suspect: SuspectDataset, pre: dict[str, Any]) -> None:
    before = {name: tensor.clone() for name, tensor in pre["weights"].items()}
    losses, images = pre["sample_losses"].copy(), suspect.images.copy()
    run(QUARANTINE_TRAINING, suspect, pre, **SHORT)
    assert all(torch.equal(before[name], tensor) for name, tensor in pre["weights"].items())
    assert np.array_equal(losses, pre["sample_losses"])
    assert np.array_equal(images, suspect.images)
