"""Scores of pairs against loops: thresholds, the LFW protocol, ROC, rates, paired comparison."""

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from horkd.checks import unit_rows
from horkd.errors import HorkdError
from horkd.protocols.thresholds import accuracy, auc, best_threshold, eer, roc, tar_at_far
from horkd.protocols.verification import compare, correct, cosine, k_fold

some = settings(max_examples=40, deadline=None)
#: A failing example is drawn again from its seed alone. Few levels make many equal scores.
DRAWN = {"n": st.integers(4, 60), "levels": st.sampled_from([2, 5, 20, None]),
         "seed": st.integers(0, 2**16)}  # fmt: skip


def draw(n: int, seed: int = 0, levels: int | None = None, gap: float = 0.4):
    """Scores, kinds and folds of n pairs: both kinds and three folds are there."""
    random = np.random.default_rng(seed)
    same = random.random(n) < 0.5
    same[:2] = True, False
    scores = np.tanh(random.normal(size=n) * 0.5 + gap * (2 * same - 1))
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, same, np.arange(n) % 3


def embeddings(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


# --- oracles: plain Python, one loop per index ------------------------------------------------


def hits(scores, same, threshold) -> int:
    right = 0
    for s, alike in zip(scores, same, strict=True):
        right += (s > threshold) == bool(alike)
    return right


def oracle_threshold(scores, same) -> float:
    """Every candidate tried, in exact arithmetic."""
    values = sorted({Fraction(float(s)) for s in scores})
    candidates = [values[0] - 1]
    candidates += [(a + b) / 2 for a, b in itertools.pairwise(values)]
    candidates.append(values[-1] + 1)
    right = [hits([Fraction(float(s)) for s in scores], same, c) for c in candidates]
    best = [c for c, r in zip(candidates, right, strict=True) if r == max(right)]
    return float(best[(len(best) - 1) // 2])


def oracle_rates(scores, same, threshold) -> tuple[float, float]:
    """FAR and TAR of scores above a threshold."""
    accepted = {True: 0, False: 0}
    count = {True: 0, False: 0}
    for s, alike in zip(scores, same, strict=True):
        count[bool(alike)] += 1
        accepted[bool(alike)] += bool(s > threshold)
    return accepted[False] / count[False], accepted[True] / count[True]


def every_threshold(scores) -> list[float]:
    return [*sorted(set(map(float, scores)), reverse=True), float(min(scores)) - 1]


def oracle_auc(scores, same) -> float:
    wins = total = 0
    for s, alike in zip(scores, same, strict=True):
        for t, other in zip(scores, same, strict=True):
            if alike and not other:
                total += 2
                wins += 2 if s > t else s == t
    return wins / total


# --- cosine -----------------------------------------------------------------------------------


def test_cosine_equals_an_explicit_loop():
    a, b = embeddings(7, 5), embeddings(7, 5, 1)
    expected = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        product = sum(p * q for p, q in zip(x, y, strict=True))
        expected.append(product / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y)))
    found = cosine(a, b)
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-14)


def test_cosine_of_tensors_of_any_precision_is_that_of_their_values():
    a, b = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, y = a.to(dtype).requires_grad_(), b.to(dtype)
        wanted = cosine(x.detach().double().numpy(), y.double().numpy())
        assert cosine(x, y).tolist() == wanted.tolist()


@some
@given(seed=st.integers(0, 2**16), exponent=st.floats(-100, 100))
def test_scale_and_rotation_of_embeddings_change_nothing(seed, exponent):
    a, b = embeddings(5, 4, seed), embeddings(5, 4, seed + 1)
    rotation = np.linalg.qr(embeddings(4, 4, seed + 2))[0]
    expected = cosine(a, b)
    scale = 10.0 ** (exponent * np.linspace(-1, 1, 5)[:, None])
    assert cosine(scale * a, b) == pytest.approx(expected, abs=1e-13)
    assert cosine(a @ rotation, b @ rotation) == pytest.approx(expected, abs=1e-13)
    assert cosine(b, a) == pytest.approx(expected, abs=1e-15)
    assert cosine(-a, b) == pytest.approx(-expected, abs=1e-15)


def test_cosine_of_extreme_and_zero_vectors():
    a = np.array([[0, 0], [1e300, 1e300], [1e-320, 0], [3, 4], [0, 0]])
    b = np.array([[1, 2], [1e300, 0], [1, 0], [-3, -4], [0, 0]])
    assert cosine(a, b).tolist() == pytest.approx([0, math.sqrt(0.5), 1, -1, 0], abs=1e-15)
    assert np.abs(cosine(embeddings(500, 9), embeddings(500, 9))).max() <= 1


def test_rows_at_unit_length():
    x = unit_rows(np.array([[3, 4], [0, 0], [0, -2]]))
    assert x.tolist() == [pytest.approx([0.6, 0.8]), [0, 0], [0, -1]]


@pytest.mark.parametrize(
    ("left", "right", "complaint"),
    [
        (np.ones((2, 3)), np.ones((3, 3)), r"must be alike, got \(2, 3\) and \(3, 3\)"),
        (np.ones((2, 3)), np.ones((2, 4)), r"must be alike, got \(2, 3\) and \(2, 4\)"),
        (np.ones((0, 3)), np.ones((0, 3)), r"left embeddings must be one row per image, \(N, D\)"),
        (np.ones(3), np.ones(3), r"got shape \(3,\)"),
        (np.ones((2, 2)), np.array([[1, math.nan], [math.inf, 0]]), "2 of 2 right embeddings are"),
        ([["a", "b"]], np.ones((1, 2)), "left embeddings must be a table of numbers"),
        ([[1.0, 2.0], [1.0]], np.ones((2, 2)), "left embeddings must be a table of numbers"),
    ],
)
def test_embeddings_that_are_no_pairs_are_one_clear_line(left, right, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        cosine(left, right)
    assert "\n" not in str(caught.value)


# --- thresholds -------------------------------------------------------------------------------


@some
@given(**DRAWN)
def test_the_best_threshold_is_that_of_an_exhaustive_search(n, levels, seed):
    scores, same, _ = draw(n, seed, levels)
    found = best_threshold(scores, same)
    assert found == pytest.approx(oracle_threshold(scores, same), abs=1e-15)
    most = max(hits(scores, same, t) for t in every_threshold(scores))
    assert hits(scores, same, found) == most
    assert accuracy(scores, same, found) == pytest.approx(100 * most / n)


@pytest.mark.parametrize(
    ("scores", "same", "threshold"),
    [
        ([0.0, 1.0], [False, True], 0.5),
        ([0.0, 1.0], [True, False], -1.0),  # one right below and above: the lower one
        ([1.0, 2.0, 4.0], [False, True, False], 1.5),  # 1.5 and 5: the lower one
        ([0.3, 0.3], [False, True], -0.7),  # below or above: the lower one
        ([0.3, 0.3, 0.3], [False, True, False], 1.3),
        ([5.0, 6.0, 7.0], [True, True, False], 4.0),
        ([1.0, 2.0, 3.0, 4.0], [True, False, True, False], 2.5),
    ],
)
def test_thresholds_by_hand(scores, same, threshold):
    assert best_threshold(scores, same) == pytest.approx(threshold)


def test_adjacent_floats_are_separated():
    one = 0.1
    for _ in range(4):  # the mean of two neighbours is now the lower, now the upper one
        low, one = one, np.nextafter(one, 1)
        threshold = best_threshold([low, one], [False, True])
        assert accuracy([low, one], [False, True], threshold) == 100
    big = 1.7e308  # the sum of two overflows
    assert best_threshold([-big, big], [False, True]) == 0
    assert best_threshold([big / 2, big], [False, True]) == pytest.approx(0.75 * big)
    found = best_threshold([1e300, 2e300, 3e300], [True, True, False])
    assert found < 1e300  # one less than 1e300 is 1e300


def test_an_equal_score_is_rejected():
    scores, same = [0.2, 0.5, 0.5, 0.9], [False, False, True, True]
    assert accuracy(scores, same, 0.5) == 75
    assert accuracy(scores, same, np.nextafter(0.5, 0)) == 75
    assert accuracy(scores, same, 0.9) == 50
    assert accuracy(scores, same, -math.inf) == accuracy(scores, same, math.inf) == 50
    with pytest.raises(HorkdError, match="the threshold is not a number"):
        accuracy(scores, same, math.nan)


@pytest.mark.parametrize("call", [best_threshold, lambda s, y: accuracy(s, y, 0.0), roc, auc, eer,
                                  tar_at_far, lambda s, y: k_fold(s, y, np.arange(len(s))),
                                  lambda s, y: correct(s, y, np.arange(len(s)))])  # fmt: skip
@pytest.mark.parametrize(
    ("scores", "same", "complaint"),
    [
        ([], [], "there are no pairs"),
        ([0.1, 0.2], [True], "2 scores but `same` of 1 pairs"),
        ([0.1, math.nan, math.inf], [True, False, True], "2 of 3 scores are not finite"),
        ([0.1, 0.2], [True, True], "all 2 pairs are same: a threshold needs both kinds"),
        ([0.1], [False], "all 1 pairs are different"),
        ([0.1, 0.2], [1, 0], r"same must be bool \(P,\), got int64"),
        ([[0.1, 0.2]], [True, False], r"scores must be one per pair, \(P,\), got shape \(1, 2\)"),
    ],
)
def test_bad_pairs_are_one_clear_line(call, scores, same, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        call(scores, same)
    assert "\n" not in str(caught.value)


def test_tensors_and_arrays_give_the_same_plain_numbers():
    scores, same, fold = draw(30)
    scores = scores.astype(np.float32)
    tensors = torch.tensor(scores), torch.tensor(same), torch.tensor(fold)
    assert best_threshold(*tensors[:2]) == best_threshold(scores, same)
    assert k_fold(*tensors) == k_fold(scores, same, fold)
    assert tar_at_far(*tensors[:2]) == tar_at_far(scores, same)
    result = k_fold(*tensors)
    assert {type(v) for v in (*result.accuracies, *result.thresholds, result.mean)} == {float}
    assert {type(v) for v in (*result.folds, *result.sizes, result.n)} == {int}
    assert {type(v) for v in tar_at_far(scores, same)[0].values()} == {int, float}
    assert type(best_threshold(scores, same)) is type(auc(scores, same)) is float
    assert type(eer(scores, same)) is float


# --- the LFW protocol -------------------------------------------------------------------------


def oracle_k_fold(scores, same, fold) -> dict[int, float]:
    found = {}
    for tested in sorted(set(fold.tolist())):
        rest = [i for i in range(len(scores)) if fold[i] != tested]
        threshold = oracle_threshold(scores[rest], same[rest])
        own = [i for i in range(len(scores)) if fold[i] == tested]
        found[tested] = 100 * hits(scores[own], same[own], threshold) / len(own)
    return found


@some
@given(n=st.integers(6, 60), levels=DRAWN["levels"], seed=DRAWN["seed"])
def test_k_fold_equals_an_explicit_loop(n, levels, seed):
    scores, same, _ = draw(n, seed, levels)
    same[:6] = True, False, True, False, True, False
    fold = np.arange(n) * 7 % 3 * 5 - 2  # ids -2, 3, 8
    found, expected = k_fold(scores, same, fold), oracle_k_fold(scores, same, fold)
    assert found.folds == tuple(expected) == (-2, 3, 8)
    assert found.accuracies == pytest.approx(tuple(expected.values()))
    assert found.n == sum(found.sizes) == n
    values = list(expected.values())
    mean = sum(values) / 3
    assert found.mean == pytest.approx(mean)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    assert found.standard_error == pytest.approx(spread / math.sqrt(3), abs=1e-9)


def test_k_fold_is_that_of_a_fine_grid_of_thresholds():
    """Ten folds of 300 same and 300 different pairs, as usually implemented: 0 to 4 in ‖a − b‖²."""
    random = np.random.default_rng(5)
    same = np.tile(np.repeat([True, False], 300), 10)
    fold = np.repeat(np.arange(10), 600)
    left = random.normal(size=(6000, 16))
    right = random.normal(size=(6000, 16)) + np.where(same, 1.3, 0)[:, None] * left
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right))
    distance = np.square(a - b).sum(1)
    grid = np.arange(0, 4, 0.001)
    expected = []
    for tested in range(10):
        rest, own = fold != tested, fold == tested
        right_of = [np.mean((distance[rest] < t) == same[rest]) for t in grid]
        best = grid[int(np.argmax(right_of))]
        expected.append(100 * np.mean((distance[own] < best) == same[own]))
    found = k_fold(cosine(left, right), same, fold)
    assert 85 < found.mean < 99  # neither trivial nor hopeless
    assert found.sizes == (600,) * 10
    assert found.mean == pytest.approx(np.mean(expected), abs=100 / 600)
    # the exact threshold is at least as good as any of the grid on the folds that it comes from
    for tested, threshold in zip(found.folds, found.thresholds, strict=True):
        rest = fold != tested
        exact = np.mean((cosine(left, right)[rest] > threshold) == same[rest])
        assert exact >= max(np.mean((distance[rest] < t) == same[rest]) for t in grid[::10])


def test_a_folds_own_pairs_have_no_say_in_its_threshold():
    scores, same, fold = draw(30)
    before = k_fold(scores, same, fold)
    scores, same = scores.copy(), same.copy()
    scores[fold == 1] += 5
    same[fold == 1] ^= True
    after = k_fold(scores, same, fold)
    assert after.thresholds[1] == before.thresholds[1]
    assert after.accuracies[1] != before.accuracies[1]
    assert after.thresholds[0] != before.thresholds[0]


def test_only_the_wanted_folds_are_tested():
    scores, same, fold = draw(40)
    whole = k_fold(scores, same, fold)
    one = k_fold(scores, same, fold, [2])
    assert (one.folds, one.accuracies, one.thresholds, one.sizes) == (
        (2,), whole.accuracies[2:], whole.thresholds[2:], (13,)
    )  # fmt: skip
    assert one.mean == one.accuracies[0]
    assert one.standard_error is None
    assert one.n == 13
    assert k_fold(scores, same, fold, np.array([2, 0])).folds == (0, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.sizes = ()


@some
@given(**DRAWN)
def test_the_order_of_pairs_and_the_names_of_folds_change_nothing(n, levels, seed):
    scores, same, fold = draw(n, seed, levels)
    try:
        expected = k_fold(scores, same, fold)
    except HorkdError:  # one kind of pair outside of a fold
        assume(False)
    order = np.random.default_rng(seed).permutation(n)
    assert k_fold(scores[order], same[order], fold[order]) == expected
    renamed = k_fold(scores, same, np.array([9, 4, 7])[fold])
    assert sorted(renamed.accuracies) == sorted(expected.accuracies)
    assert renamed.folds == (4, 7, 9)
    assert renamed.accuracies == tuple(expected.accuracies[i] for i in (1, 2, 0))


@pytest.mark.parametrize("change", [np.exp, np.cbrt, lambda s: 3 * s - 7, lambda s: s**3])
def test_a_monotone_transform_leaves_what_only_depends_on_order(change):
    scores, same, fold = draw(200, 3)
    changed = change(scores)
    for a, b in zip(roc(scores, same)[:2], roc(changed, same)[:2], strict=True):
        assert a.tolist() == b.tolist()
    assert auc(changed, same) == auc(scores, same)
    assert eer(changed, same) == eer(scores, same)
    rates = [[row["tar"] for row in tar_at_far(s, same)] for s in (scores, changed)]
    assert rates[0] == rates[1]
    # every fold has a pair on either side, at the edge of the gap: no threshold in it can fail
    separable = np.where(same, scores - scores.min() + 1, scores - scores.max() - 1)
    edge = [np.flatnonzero((fold == f) & (same == s))[0] for f in range(3) for s in (True, False)]
    separable[edge] = np.where(same[edge], 1, -1)
    assert k_fold(separable, same, fold).accuracies == (100,) * 3
    assert k_fold(change(separable), same, fold).accuracies == (100,) * 3


def test_separable_pairs_are_all_right():
    same = np.arange(20) % 2 == 0
    result = k_fold(np.where(same, 0.5, 0.4), same, np.arange(20) // 5)
    assert result.accuracies == (100,) * 4
    assert result.thresholds == pytest.approx((0.45,) * 4)
    assert result.standard_error == 0


def test_equal_scores_are_a_guess():
    same = np.arange(40) % 4 < 2
    result = k_fold(np.full(40, 0.3), same, np.arange(40) // 8)
    assert result.mean == 50


def test_a_fold_of_one_pair_or_one_kind():
    scores, same = np.array([0.9, 0.1, 0.8, 0.2, 0.3]), np.array([1, 0, 1, 0, 1], bool)
    result = k_fold(scores, same, [0, 0, 0, 0, 1], [1])
    assert (result.accuracies, result.sizes) == ((0,), (1,))
    with pytest.raises(HorkdError, match="outside of fold 0 there is one kind of pair"):
        k_fold(scores, same, [0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    ("fold", "test_folds", "complaint"),
    [
        ([1, 1, 1, 1], None, "all pairs are in one fold"),
        ([0, 1, 0], None, r"folds must be 4 whole numbers, got int64 of shape \(3,\)"),
        ([0.0, 1.0, 0.0, 1.0], None, "folds must be 4 whole numbers, got float64"),
        ([0, 0, 1, 1], [2, 0, 5], "there is no fold 2, 5: choose different ones from 0, 1"),
        ([0, 0, 1, 1], [], r"test folds \[\]: choose different ones from 0, 1"),
        ([0, 0, 1, 1], [1, 1], r"test folds \[1, 1\]: choose different ones from 0, 1"),
    ],
)
@pytest.mark.parametrize("call", [k_fold, correct])
def test_bad_folds_are_one_clear_line(call, fold, test_folds, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        call([0.1, 0.9, 0.2, 0.8], [False, True, False, True], fold, test_folds)
    assert "\n" not in str(caught.value)


# --- ROC --------------------------------------------------------------------------------------


@some
@given(**DRAWN)
def test_each_point_of_the_roc_is_what_its_threshold_accepts(n, levels, seed):
    scores, same, _ = draw(n, seed, levels)
    far, tar, thresholds = roc(scores, same)
    for point in zip(far, tar, thresholds, strict=True):
        assert point[:2] == pytest.approx(oracle_rates(scores, same, point[2]))
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert np.isfinite(thresholds).all()
    assert (np.diff(thresholds) < 0).all()
    assert (np.diff(far) >= 0).all()
    # what it leaves out lies on a line between two points that it keeps
    kept = list(zip(far, tar, strict=True))
    for threshold in every_threshold(scores):
        x, y = oracle_rates(scores, same, threshold)
        crosses = [
            (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
            for (x0, y0), (x1, y1) in itertools.pairwise(kept)
            if x0 <= x <= x1 and y0 <= y <= y1
        ]
        assert min(map(abs, crosses)) < 1e-12


@some
@given(**DRAWN)
def test_the_area_is_the_share_of_won_comparisons(n, levels, seed):
    scores, same, _ = draw(n, seed, levels)
    assert auc(scores, same) == pytest.approx(oracle_auc(scores, same))
    assert auc(-scores, same) == pytest.approx(1 - auc(scores, same))
    far, tar, _ = roc(scores, same)
    assert auc(scores, same) == pytest.approx(np.trapezoid(tar, far))


def oracle_eer(scores, same) -> float:
    """Where the line from (0, 1) to (1, 0) first meets the curve through all points, exactly."""
    points = []
    for threshold in [math.inf, *every_threshold(scores)]:
        x, y = oracle_rates(scores, same, threshold)
        points.append((Fraction(x).limit_denominator(1000), Fraction(y).limit_denominator(1000)))
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 + y1 >= 1:  # crossed from below
            share = (1 - x0 - y0) / (x1 + y1 - x0 - y0)
            return float(x0 + share * (x1 - x0))
    raise AssertionError("the curve ends at (1, 1)")


@some
@given(**DRAWN)
def test_equal_error_rate_is_an_exact_intersection(n, levels, seed):
    scores, same, _ = draw(n, seed, levels)
    found = eer(scores, same)
    assert found == pytest.approx(oracle_eer(scores, same), abs=1e-12)
    rates = [oracle_rates(scores, same, t) for t in every_threshold(scores)]
    assert found <= min(max(far, 1 - tar) for far, tar in rates) + 1e-12
    assert found >= max(min(far, 1 - tar) for far, tar in rates) - 1e-12


def test_curves_of_perfect_reversed_and_equal_scores():
    same = np.array([True, True, False, False, False])
    perfect, equal = np.array([3.0, 2, 1, 0, -1]), np.zeros(5)
    assert (auc(perfect, same), eer(perfect, same)) == (1, 0)
    assert (auc(-perfect, same), eer(-perfect, same)) == (0, 1)
    assert (auc(equal, same), eer(equal, same)) == (0.5, 0.5)
    assert [x.tolist()[:2] for x in roc(equal, same)[:2]] == [[0, 1], [0, 1]]
    assert eer([0.1, 0.9], [False, True]) == 0


@pytest.mark.parametrize("points", [3, 4, 5, 10, 50, 10**6])
def test_a_thinned_roc_keeps_points_of_the_whole_one(points):
    scores, same, _ = draw(4000, 1)
    whole = list(zip(*roc(scores, same), strict=True))
    far, tar, thresholds = roc(scores, same, points)
    assert len(far) <= points
    assert set(zip(far, tar, thresholds, strict=True)) <= set(whole)
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    best_without = max(y for x, y, _ in whole if x == 0)
    assert tar[far == 0].max() == best_without
    assert (np.diff(thresholds) < 0).all()
    if points == 10**6:
        assert len(far) == len(whole)


def test_points_of_a_thinned_roc_are_spaced_in_log_far():
    scores, same, _ = draw(20_000, 2)
    far, _, _ = roc(scores, same, 23)
    lowest = 1 / int((~same).sum())
    aims = np.geomspace(lowest, 1, 21)
    inside = far[far > 0]
    for aim in aims[aims > 20 * lowest]:  # where counts are large enough to be near an aim
        assert np.abs(np.log(inside / aim)).min() < 0.1
    assert np.log10(inside[1:] / inside[:-1]).max() < 1


def test_a_curve_of_two_points_is_refused():
    with pytest.raises(HorkdError, match="a curve needs 3 points or more, got 2"):
        roc([0.1, 0.2], [True, False], 2)


# --- rates ------------------------------------------------------------------------------------


def oracle_tar_at_far(scores, same, far) -> float:
    """The best of all thresholds that keep the rate, counted in whole pairs."""
    different = sum(not alike for alike in same)
    best = 0.0
    for threshold in every_threshold(scores):
        accepted, tar = oracle_rates(scores, same, threshold)
        if round(accepted * different) <= Fraction(str(far)) * different:
            best = max(best, tar)
    return best


@some
@given(**DRAWN, far=st.sampled_from([0.0, 1e-3, 0.01, 0.05, 0.1, 0.29, 0.3, 0.5, 0.9, 1.0]))
def test_tar_is_the_best_of_all_thresholds_that_keep_the_rate(n, levels, seed, far):
    scores, same, _ = draw(n, seed, levels)
    (row,) = tar_at_far(scores, same, [far])
    assert row["far"] == far
    assert row["tar"] == pytest.approx(oracle_tar_at_far(scores, same, far))
    reached = oracle_rates(scores, same, row["threshold"])
    assert (row["accepted_different"] / row["n_different"], row["tar"]) == pytest.approx(reached)
    assert row["accepted_different"] <= Fraction(str(far)) * row["n_different"]
    assert (row["n_same"], row["n_different"]) == (same.sum(), (~same).sum())


@some
@given(**DRAWN)
def test_tar_never_falls_with_far(n, levels, seed):
    scores, same, _ = draw(n, seed, levels)
    rows = tar_at_far(scores, same, np.linspace(0, 1, 23))
    tars, thresholds = [r["tar"] for r in rows], [r["threshold"] for r in rows]
    assert tars == sorted(tars)
    assert thresholds == sorted(thresholds, reverse=True)
    assert tars[-1] == 1


def test_rates_by_hand():
    same = np.array([True] * 4 + [False] * 10)
    scores = np.array([0.95, 0.85, 0.55, 0.05, *np.arange(10) / 10])
    rows = tar_at_far(scores, same)
    assert [r["far"] for r in rows] == [1e-1, 1e-2, 1e-3]
    assert [r["threshold"] for r in rows] == [0.8, 0.9, 0.9]
    assert [r["tar"] for r in rows] == [0.5, 0.25, 0.25]
    assert [r["accepted_different"] for r in rows] == [1, 0, 0]
    assert {(r["n_same"], r["n_different"]) for r in rows} == {(4, 10)}


def test_a_rate_that_so_few_pairs_do_not_show_is_that_of_none():
    rows = tar_at_far([0.9, 0.5, 0.4, 0.3], [True, True, False, False], [0.4, 0.49999, 0.5])
    assert [r["threshold"] for r in rows] == [0.4, 0.4, 0.3]
    assert [r["accepted_different"] for r in rows] == [0, 0, 1]


def test_equal_scores_are_accepted_together_or_not_at_all():
    scores = np.array([0.6, 0.5, 0.5, 0.5, 0.5, 0.1])
    same = np.array([True, True, False, False, False, False])
    rows = tar_at_far(scores, same, [0.25, 0.5, 0.75, 1.0])
    assert [r["accepted_different"] for r in rows] == [0, 0, 3, 4]
    assert [r["tar"] for r in rows] == [0.5, 0.5, 1, 1]


def test_where_all_may_pass_all_do():
    (row,) = tar_at_far([-50.0, 0.0, 1.0], [True, False, False], [1])
    assert (row["tar"], row["accepted_different"]) == (1, 2)


def test_rates_are_decimals():
    """0.29 · 100 is 28.999999999999996 in floats."""
    scores = np.append(np.arange(100.0), 1000)
    (row,) = tar_at_far(scores, scores == 1000, [0.29])
    assert row["accepted_different"] == 29


@pytest.mark.parametrize("far", [-0.1, 1.1, math.nan])
def test_a_rate_lies_in_0_to_1(far):
    with pytest.raises(HorkdError, match="a false accept rate lies in 0 to 1, got"):
        tar_at_far([0.1, 0.2], [True, False], [far])


# --- two models -------------------------------------------------------------------------------


@some
@given(n=st.integers(6, 60), levels=DRAWN["levels"], seed=DRAWN["seed"])
def test_correct_pairs_make_the_accuracies_of_the_folds(n, levels, seed):
    scores, same, fold = draw(n, seed, levels)
    same[:6] = True, False, True, False, True, False
    for test_folds in (None, [1], [2, 0]):
        result = k_fold(scores, same, fold, test_folds)
        right, index = correct(scores, same, fold, test_folds)
        assert right.dtype == bool
        assert index.tolist() == [i for i in range(n) if fold[i] in result.folds]
        for tested, expected in zip(result.folds, result.accuracies, strict=True):
            own = right[fold[index] == tested]
            assert 100 * own.sum() / len(own) == pytest.approx(expected)
        for i, yes in zip(index, right, strict=True):
            threshold = result.thresholds[result.folds.index(fold[i])]
            assert yes == ((scores[i] > threshold) == same[i])


def oracle_p(only_a: int, only_b: int) -> float:
    """Probability, with a fair coin, of a split no more likely than this one; exact."""
    n = only_a + only_b
    here = math.comb(n, only_a)
    return float(Fraction(sum(c for k in range(n + 1) if (c := math.comb(n, k)) <= here), 2**n))


@some
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20), st.integers(0, 20))
def test_mcnemar_equals_counting_coin_tosses(only_a, only_b, both, neither):
    assume(only_a + only_b + both + neither)
    counts = [only_a, only_b, both, neither]
    a, b = (
        np.repeat([True, False, True, False], counts),
        np.repeat([False, True, True, False], counts),
    )
    order = np.random.default_rng(only_a).permutation(len(a))
    found = compare(a[order], torch.tensor(b[order]))
    assert (found.only_a, found.only_b, found.n) == (only_a, only_b, sum(counts))
    assert found.difference == pytest.approx(100 * (a.mean() - b.mean()))
    assert found.p == pytest.approx(oracle_p(only_a, only_b))
    back = compare(b, a)
    assert (back.difference, back.p) == pytest.approx((-found.difference, found.p))


def test_models_that_agree_do_not_differ():
    found = compare([True, False, True], [True, False, True])
    assert (found.difference, found.only_a, found.only_b, found.p) == (0, 0, 0, 1)
    assert compare([True] * 5, [False] * 5).p == pytest.approx(2 / 2**5)


@pytest.mark.parametrize(
    ("a", "b", "complaint"),
    [
        ([], [], "there are no pairs to compare"),
        ([True], [True, False], "1 and 2 pairs: compare models on the same ones"),
        ([0.9], [True], "a_correct must be bool"),
        ([True], [[True]], "b_correct must be bool"),
    ],
)
def test_bad_comparisons_are_one_clear_line(a, b, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        compare(a, b)
    assert "\n" not in str(caught.value)
