"""Progressive isolation against a plain loop over channels that recomputes everything in every round."""

import jenkspy
import numpy as np
import pytest
from numpy.typing import NDArray

from defenses.cuts import CLUSTERINGS
from defenses.methods.pipd import isolation
from defenses.methods.pipd.isolation import RunningMoments, channels_of_tap, choose_channels, isolate
from defenses.methods.pipd.pipd import PIPDConfig
from study.scenarios.metrics import auroc

Mask = NDArray[np.bool_]
Table = NDArray[np.float32]


def mask(n: int, positions: list[int]) -> Mask:
    out = np.zeros(n, dtype=bool)
    out[positions] = True
    return out


# Running moments


def grown(table: Table, rng: np.random.Generator, parts: int) -> RunningMoments:
    """Moments of all rows, added in a random order in a few portions, of which some are empty."""
    moments = RunningMoments(table.shape[1])
    order = rng.permutation(len(table))
    for rows in np.split(order, np.sort(rng.integers(0, len(table) + 1, parts - 1))):
        moments.add(table, rows)
    return moments


@pytest.mark.parametrize(("n", "parts"), [(1, 1), (2, 2), (255, 3), (256, 1), (257, 4), (1500, 9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_moments_equal_numpys_whatever_the_order_of_growth(n: int, parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = (rng.normal(size=(n, 6)) * [1, 10, 0.1, 1, 1, 0] + [0, 5, -3, 0.01, 100, 2]).astype(np.float32)
    moments = grown(table, rng, parts)
    exact = table.astype(np.float64)
    assert moments.count == n
    assert moments.mean == pytest.approx(exact.mean(axis=0), rel=1e-6, abs=1e-6)
    assert moments.std == pytest.approx(exact.std(axis=0), rel=1e-4, abs=1e-6)


# float32 holds 10,000 to 0.001; a sum of squares in float32 would lose all of this noise (10,000^2 to 8).
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_a_large_mean_does_not_swallow_a_small_spread(offset: float) -> None:
    rng = np.random.default_rng(0)
    table = (offset + 0.1 * rng.normal(size=(2000, 5))).astype(np.float32)
    exact = table.astype(np.float64)
    moments = grown(table, rng, 5)
    assert moments.mean == pytest.approx(exact.mean(axis=0), abs=2e-3)
    assert moments.std == pytest.approx(exact.std(axis=0), rel=5e-3)


def test_rows_far_apart_count_for_their_distance() -> None:
    table = np.array([[0.0], [0.0], [1000.0], [1000.0]], dtype=np.float32)
    moments = RunningMoments(1)
    moments.add(table, np.array([0, 1]))
    assert (moments.mean[0], moments.std[0]) == (0, 0)
    moments.add(table, np.array([2, 3]))
    assert (moments.mean[0], moments.std[0]) == (500, 500)


# The number of channels of a tap


@pytest.mark.parametrize(
    ("channels", "per_tap", "expected"),
    [
        (128, 0.04, 6),  # 5.12, rounded up: the published code
        (256, 0.04, 11),  # 10.24
        (512, 0.04, 21),  # 20.48
        (64, 0.25, 16),
        (100, 0.07, 7),  # 0.07 * 100 is 7.000000000000001 in floats
        (10, 1e-6, 1),
        (10, 1.0, 10),
        (128, 1, 1),
        (128, 5, 5),
        (8, 5, 5),
        (4, 5, 4),
    ],
)
def test_k_is_a_share_rounded_up_or_a_count_that_is_capped(channels: int, per_tap: float, expected: int) -> None:
    assert channels_of_tap(channels, per_tap) == expected


def test_a_count_stays_a_count_in_the_config() -> None:
    assert channels_of_tap(128, PIPDConfig(channels_per_tap=5).channels_per_tap) == 5
    assert channels_of_tap(128, PIPDConfig.from_text({"channels_per_tap": "5"}).channels_per_tap) == 5
    assert channels_of_tap(128, PIPDConfig(channels_per_tap=0.04).channels_per_tap) == 6


def test_channels_are_chosen_within_each_tap() -> None:
    discrepancy = np.array([5.0, 9.0, 7.0, 0.1, 0.3, 0.2, -1.0])
    assert choose_channels(discrepancy, [3, 3, 1], 2).tolist() == [1, 2, 4, 5, 6]
    assert choose_channels(discrepancy, [3, 3, 1], 0.3).tolist() == [1, 4, 6]
    assert choose_channels(np.zeros(6), [3, 3], 1).tolist() == [0, 3]  # of equal channels, the first


# Equations 4, 6 and 7 by hand

FOUR = np.array([[5, 3, 0, 9], [1, 2, 1, 1], [3, 2, 1, 3], [4, 6, 8, 2]], dtype=np.float32)
# P_p = {0}, P_b = {1, 2}: means 2, 2, 1, 2 and deviations 1, 0, 0, 1. With two taps of two channels and K = 1:
# beta = 1: d = (5 - 3, 3 - 2, 0 - 1, 9 - 3) = (2, 1, -1, 6): channels 0 and 3.
# beta = 3: d = (5 - 5, 3 - 2, 0 - 1, 9 - 5) = (0, 1, -1, 4): channels 1 and 3.


@pytest.mark.parametrize(
    ("beta", "scores", "flagged"),
    [
        # 2 | 6 6 | 14: the upper class of 14 alone leaves 32/3 within, of {6, 6, 14} 128/3.
        (1.0, [14, 2, 6, 6], [0]),
        # 3 5 | 8 12: 2 + 8 = 10 within; cutting after 3 leaves 24.7, after 8 12.7.
        (3.0, [12, 3, 5, 8], [0, 3]),
    ],
)
def test_one_round_by_hand(beta: float, scores: list[float], flagged: list[int]) -> None:
    found = isolate(FOUR, [2, 2], mask(4, [0]), mask(4, [1, 2]), beta=beta, channels_per_tap=1, rounds=1)
    assert found.scores.tolist() == scores
    assert found.scores.dtype == np.float64
    assert np.flatnonzero(found.rounds[0]).tolist() == flagged


def test_series_by_hand() -> None:
    found = isolate(FOUR, [2, 2], mask(4, [0]), mask(4, [1, 2]), beta=1.0, channels_per_tap=1, rounds=8)
    # Sample 3 joins P_b, which changes the moments but neither the channels nor the flags: it stops after two rounds.
    assert len(found.rounds) == 2
    assert found.series["flagged_share"] == [0.25, 0.25]
    assert found.series["channels_kept"] == [0, 1]
    # Scores 2, 6, 6, 14: mean 7, squares 25 + 1 + 1 + 49 = 76; the gap is 14 - 6; within the classes lie 32/3.
    assert found.series["break_gap"] == pytest.approx([8 / np.sqrt(19)] * 2)
    assert found.series["explained_variance"] == pytest.approx([1 - (32 / 3) / 76] * 2)


def test_the_poisoned_subset_counts_by_its_maximum_and_stays() -> None:
    # P_p = {0, 3}: maxima 5, 6, 8, 9. beta = 0: d = (3, 4, 7, 7): channels 1 and, of equal ones, 2.
    found = isolate(FOUR, [2, 2], mask(4, [0, 3]), mask(4, [1, 2]), beta=0.0, channels_per_tap=1, rounds=1)
    assert found.scores.tolist() == [3, 3, 3, 14]


# Against a plain loop


def plain(
    table: Table, taps: list[int], poisoned: Mask, benign: Mask, beta: float, per_tap: float | int, rounds: int
) -> list[tuple[Mask, NDArray[np.float64]]]:
    """Eq. 3 to 9 as printed: nothing is kept between rounds, and nothing stops early."""
    values = table.astype(np.float64)
    known = set(np.flatnonzero(benign).tolist())
    history = []
    for _ in range(rounds):
        scores = np.zeros(len(values))
        start = 0
        for size in taps:
            discrepancy = []
            for channel in range(start, start + size):
                column = values[sorted(known), channel]
                mean = column.sum() / len(column)
                sigma = np.sqrt(((column - mean) ** 2).sum() / len(column))
                discrepancy.append((max(values[poisoned, channel]) - (mean + beta * sigma), -channel))
            count = int(np.ceil(per_tap * size - 1e-9)) if isinstance(per_tap, float) else min(per_tap, size)
            for _value, channel in sorted(discrepancy, reverse=True)[:count]:
                scores += values[:, -channel]
            start += size
        flagged = scores > jenkspy.jenks_breaks(scores, n_classes=2)[1]
        known |= set(np.flatnonzero(~flagged).tolist())
        history.append((flagged, scores))
    return history


def planted(seed: int, strength: float = 2.0, n: int = 300) -> tuple[Table, list[int], Mask, Mask, Mask]:
    """Half-normal activations of three taps; a tenth of the samples fires two channels of each tap harder."""
    rng = np.random.default_rng(seed)
    taps = [7, 20, 12]
    table = np.abs(rng.normal(size=(n, sum(taps)))).astype(np.float32)
    order = rng.permutation(n)
    poison = mask(n, order[: n // 10].tolist())
    fired = [0, 5, 9, 20, 30, 38]
    table[np.ix_(poison, fired)] += (strength * rng.uniform(0.3, 1.5, (n // 10, 1))).astype(np.float32)
    return table, taps, poison, mask(n, order[:4].tolist()), mask(n, order[n // 2 : n // 2 + n // 5].tolist())


SETTINGS = [(3.0, 0.04, 8), (0.0, 0.25, 5), (1.5, 2, 1), (6.0, 1, 4), (3.0, 1.0, 6)]


@pytest.mark.parametrize(("beta", "per_tap", "rounds"), SETTINGS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rounds_equal_a_plain_loop(beta: float, per_tap: float | int, rounds: int, seed: int) -> None:
    table, taps, _, poisoned, benign = planted(seed)
    found = isolate(table, taps, poisoned, benign, beta=beta, channels_per_tap=per_tap, rounds=rounds)
    expected = plain(table, taps, poisoned, benign, beta, per_tap, rounds)
    for number, flagged in enumerate(found.rounds):
        assert np.array_equal(flagged, expected[number][0]), number
    # Stopping early gives what running on gives: the plain loop always runs all rounds.
    assert np.array_equal(found.rounds[-1], expected[-1][0])
    assert found.scores == pytest.approx(expected[-1][1], rel=1e-6)
    assert len(found.rounds) <= rounds


def test_the_cases_above_hold_both_an_early_stop_and_a_run_of_several_rounds() -> None:
    lengths = {}
    for seed in (0, 1, 2):
        table, taps, _, poisoned, benign = planted(seed)
        for beta, per_tap, rounds in SETTINGS:
            found = isolate(table, taps, poisoned, benign, beta=beta, channels_per_tap=per_tap, rounds=rounds)
            lengths[seed, beta, per_tap] = (len(found.rounds), rounds)
    assert any(ran < rounds for ran, rounds in lengths.values())
    assert any(ran >= 3 for ran, _ in lengths.values())


def test_fewer_rounds_are_a_prefix_and_more_change_nothing() -> None:
    table, taps, _, poisoned, benign = planted(0, strength=1.0)
    full = isolate(table, taps, poisoned, benign, beta=3.0, channels_per_tap=0.25, rounds=50)
    ran = len(full.rounds)
    assert 3 <= ran < 50  # it stopped by itself, and not at once
    assert np.array_equal(full.rounds[-1], full.rounds[-2])
    assert not np.array_equal(full.rounds[-2], full.rounds[-3])
    for rounds in range(1, ran + 3):
        part = isolate(table, taps, poisoned, benign, beta=3.0, channels_per_tap=0.25, rounds=rounds)
        assert np.array_equal(np.stack(part.rounds), np.stack(full.rounds[:rounds]))


def test_every_round_is_told_and_recorded() -> None:
    table, taps, _, poisoned, benign = planted(0, strength=1.0)
    told: list[int] = []
    found = isolate(table, taps, poisoned, benign, beta=3.0, channels_per_tap=0.25, rounds=9, on_round=told.append)
    assert told == list(range(1, len(found.rounds) + 1))
    assert {len(values) for values in found.series.values()} == {len(found.rounds)}
    assert found.series["flagged_share"] == [float(flagged.mean()) for flagged in found.rounds]


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_planted_poison_is_flagged_with_every_clustering(clustering: str) -> None:
    table, taps, poison, poisoned, benign = planted(0, strength=30.0)
    found = isolate(
        table, taps, poisoned, benign, beta=3.0, channels_per_tap=2, rounds=8, clustering=clustering, seed=1
    )
    # Poison of very unequal strengths is cut where variance says, or at the edge of the clean scores.
    assert found.rounds[-1][~poison].sum() <= (0 if clustering.endswith(("jenks", "means")) else 3)
    assert found.rounds[-1][poison].mean() > 0.5
    assert auroc(found.scores, poison) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_permuting_the_samples_permutes_scores_and_flags(seed: int) -> None:
    table, taps, _, poisoned, benign = planted(seed)
    found = isolate(table, taps, poisoned, benign, beta=3.0, channels_per_tap=0.2, rounds=8)
    order = np.random.default_rng(seed + 10).permutation(len(table))
    again = isolate(table[order], taps, poisoned[order], benign[order], beta=3.0, channels_per_tap=0.2, rounds=8)
    assert np.array_equal(again.scores, found.scores[order])
    assert np.array_equal(np.stack(again.rounds), np.stack(found.rounds)[:, order])


def test_random_subsets_find_nothing() -> None:
    """The control: it is P_p that points to the trigger's channels; random clean samples in its place do not."""
    found, control = [], []
    for seed in range(20):
        table, taps, poison, poisoned, benign = planted(seed, strength=3.0)
        rng = np.random.default_rng(100 + seed)
        drawn = rng.permutation(np.flatnonzero(~poison))[: poisoned.sum()]
        random_benign = mask(len(table), rng.permutation(len(table))[: benign.sum()].tolist())
        settings = {"beta": 3.0, "channels_per_tap": 1, "rounds": 1}
        found.append(auroc(isolate(table, taps, poisoned, benign, **settings).scores, poison))
        scores = isolate(table, taps, mask(len(table), drawn.tolist()), random_benign, **settings).scores
        control.append(auroc(scores, poison))
    assert np.mean(found) > 0.9  # measured: 0.998
    assert np.mean(control) == pytest.approx(0.5, abs=0.06)  # measured: 0.505, 0.04 between the 20 draws


def test_inputs_are_left_as_they_are_and_may_be_read_only() -> None:
    table, taps, _, poisoned, benign = planted(0)
    before = [array.copy() for array in (table, poisoned, benign)]
    for array in (table, poisoned, benign):
        array.flags.writeable = False
    isolate(table, taps, poisoned, benign, beta=3.0, channels_per_tap=0.2, rounds=8)
    assert all(np.array_equal(a, b) for a, b in zip(before, (table, poisoned, benign), strict=True))


def test_each_row_is_added_to_the_moments_once(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[int] = []

    class Counting(RunningMoments):
        def add(self, activations: Table, rows: NDArray[np.int64]) -> None:
            added.extend(rows.tolist())
            super().add(activations, rows)

    monkeypatch.setattr(isolation, "RunningMoments", Counting)
    table, taps, _, poisoned, benign = planted(0, strength=1.0)
    found = isolate(table, taps, poisoned, benign, beta=3.0, channels_per_tap=0.25, rounds=8)
    assert len(found.rounds) > 2
    assert len(added) == len(set(added))
    assert set(added) == set(np.flatnonzero(benign | ~np.stack(found.rounds[:-1]).all(axis=0)).tolist())
