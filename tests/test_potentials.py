"""Relational potentials against explicit loops in float64, and the properties they must have."""

import itertools

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import features
from torch.autograd import gradcheck

from horkd.errors import HorkdError
from horkd.potentials import angle_cosines, center_distances, pairwise_distances

SHAPES = {
    "n": st.integers(3, 9),
    "d": st.integers(1, 12),
    "seed": st.integers(0, 2**31),
}
INVARIANT = {"distances": pairwise_distances, "cosines": angle_cosines}


def rotation(d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


def assert_close(actual: torch.Tensor, expected, tolerance: float) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach().double(), expected, rtol=tolerance, atol=tolerance)


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_potentials_equal_explicit_loops(dtype, tolerance):
    x, centres = features(5, 3, dtype=dtype), features(4, 3, seed=1, dtype=dtype)
    exact, exact_centres = x.double().numpy(), centres.double().numpy()
    plain = pairwise_distances(x, normalize=False)
    assert_close(plain, oracles.distances(exact), tolerance)
    assert_close(pairwise_distances(x), oracles.normalised_distances(exact), tolerance)
    assert_close(angle_cosines(x), oracles.cosines(exact), tolerance)
    expected = oracles.centre_distances(exact, exact_centres)
    assert_close(center_distances(x, centres), expected, tolerance)
    assert plain.dtype == angle_cosines(x).dtype == dtype


def test_normalised_distances_have_mean_one_over_distinct_pairs():
    d = pairwise_distances(features(7, 4))
    assert d.sum().item() == pytest.approx(7 * 6)
    assert torch.equal(d.diagonal(), torch.zeros(7, dtype=d.dtype))


def test_the_vertex_of_an_angle_is_the_middle_index():
    # A right angle at row 1; the other two corners are 60 and 30 degrees.
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 3.0**0.5]], dtype=torch.float64)
    cosines = angle_cosines(x)
    assert cosines[0, 1, 2].item() == pytest.approx(0.0, abs=1e-12)
    assert cosines[1, 0, 2].item() == pytest.approx(0.5)
    assert cosines[0, 2, 1].item() == pytest.approx(0.75**0.5)


def test_asymmetric_data_tell_the_vertex_from_the_ends():
    """The comparison with the oracle would fail for a potential with its vertex at i or at k."""
    x = features(5, 3)
    right, expected = angle_cosines(x), torch.from_numpy(oracles.cosines(x.numpy()))
    torch.testing.assert_close(right, expected)
    torch.testing.assert_close(right, right.permute(2, 1, 0))  # swapping the ends is harmless
    for axes in ((1, 0, 2), (0, 2, 1)):
        assert (right.permute(axes) - expected).abs().max() > 0.5


def test_degenerate_triples():
    x = features(6, 3)
    cosines = angle_cosines(x)
    for i, j, k in itertools.product(range(6), repeat=3):
        if j in (i, k):
            assert cosines[i, j, k] == 0
        elif i == k:
            assert cosines[i, j, k].item() == pytest.approx(1.0)
        else:
            assert -1 - 1e-12 <= cosines[i, j, k] <= 1 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_duplicates_of_the_vertex_give_zero_cosines(dtype):
    x = features(6, 3, dtype=dtype)
    x[4] = x[1]
    cosines, d = angle_cosines(x), pairwise_distances(x)
    assert_close(cosines[4, 1], np.zeros(6), 1e-6)
    assert_close(cosines[:, 4, 1], np.zeros(6), 1e-6)
    assert_close(cosines, oracles.cosines(x.double().numpy()), 1e-3)
    assert_close(d, oracles.normalised_distances(x.double().numpy()), 1e-3)


@pytest.mark.parametrize("gap", [0.5, 1e-1, 1e-3])
def test_near_duplicates_are_softened(gap):
    """`gap`: the distance of the duplicates, as a share of the length where softening begins."""
    x = features(5, 3)
    length = gap * oracles.SOFTENING * oracles.mean_distance(x.numpy())
    x[4] = x[1] + length * torch.tensor([0.6, -0.8, 0.0])
    actual, expected = angle_cosines(x), oracles.cosines(x.numpy())
    off_ends = ~np.eye(5, dtype=bool)[:, None, :].repeat(5, axis=1)  # i != k
    assert_close(actual[off_ends], expected[off_ends], 1e-8)
    to_4, to_0 = x[4] - x[1], x[0] - x[1]
    plain = torch.dot(to_4, to_0) / (to_4.norm() * to_0.norm())
    share = length / (oracles.SOFTENING * oracles.mean_distance(x.numpy()))  # row 4 has moved
    assert share < 1
    assert actual[4, 1, 0].item() == pytest.approx(share * plain.item(), rel=1e-6)


def test_pairs_further_apart_are_not_softened():
    x = features(5, 3)
    length = 2 * oracles.SOFTENING * oracles.mean_distance(x.numpy())
    x[4] = x[1] + length * torch.tensor([0.6, -0.8, 0.0])
    cosines = angle_cosines(x)
    to_4, to_0 = x[4] - x[1], x[0] - x[1]
    plain = torch.dot(to_4, to_0) / (to_4.norm() * to_0.norm())
    assert cosines[4, 1, 0].item() == pytest.approx(plain.item(), abs=1e-9)
    assert cosines[4, 1, 4].item() == pytest.approx(1.0)


# --- accuracy in float32 --------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "spread"), [(100.0, 0.1), (1.0, 0.1), (100.0, 1.0)])
def test_a_common_offset_costs_no_accuracy(offset, spread):
    """The published formula is 45 % wrong for the first of these."""
    x = (features(40, 16) * spread + offset).float()
    centres = (features(30, 16, seed=3) * spread + offset).float()
    exact = x.double().numpy()
    assert_close(pairwise_distances(x), oracles.normalised_distances(exact), 1e-5)
    plain = pairwise_distances(x, normalize=False)
    assert_close(plain, oracles.distances(exact), 1e-5)
    expected = oracles.centre_distances(exact, centres.double().numpy())
    assert_close(center_distances(x, centres), expected, 1e-5)
    few = x[::4]
    assert_close(angle_cosines(few), oracles.cosines(few.double().numpy()), 1e-5)


def test_a_common_offset_costs_no_accuracy_in_float64():
    x = features(8, 6)
    centred = (x + 1e5) - 1e5  # what the offset leaves of the features
    for potential in INVARIANT.values():
        assert_close(potential(x + 1e5), potential(centred), 1e-9)


def test_adding_100_to_all_features_changes_nothing():
    x = features(24, 16, dtype=torch.float32)
    for potential in INVARIANT.values():
        assert_close(potential(x + 100), potential(x).double(), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_computed_in_float32(dtype):
    x = (0.1 * features(12, 8) + 1).to(dtype)
    centres = (0.1 * features(5, 8, seed=1) + 1).to(dtype)
    for potential in INVARIANT.values():
        value = potential(x)
        assert value.dtype == torch.float32
        assert torch.equal(value, potential(x.float()))
    value = center_distances(x, centres)
    assert value.dtype == torch.float32
    assert torch.equal(value, center_distances(x.float(), centres.float()))


def test_float16_features_do_not_overflow():
    x = (300 * features(8, 64)).to(torch.float16)
    assert x.isfinite().all()
    assert not (x * x).isfinite().all()  # squares need more than float16
    assert_close(pairwise_distances(x), oracles.normalised_distances(x.double().numpy()), 1e-5)
    assert_close(angle_cosines(x), oracles.cosines(x.double().numpy()), 1e-5)


def test_an_active_autocast_changes_no_value():
    x = features(12, 8, dtype=torch.float32)
    centres = features(5, 8, seed=1, dtype=torch.float32)
    outside = [pairwise_distances(x), angle_cosines(x), center_distances(x, centres)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [pairwise_distances(x), angle_cosines(x), center_distances(x, centres)]
    for a, b in zip(inside, outside, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


# --- invariances ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVARIANT)
@settings(max_examples=30, deadline=None)
@given(**SHAPES, shift=st.floats(-50, 50), exponent=st.floats(-3, 3))
def test_translation_rotation_and_scale_invariance(name, n, d, seed, shift, exponent):
    potential, x = INVARIANT[name], features(n, d, seed)
    moved = 10**exponent * (x @ rotation(d, seed + 1)) + shift * torch.arange(1, d + 1) / d
    torch.testing.assert_close(potential(moved), potential(x), rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_permutation_equivariance(n, d, seed):
    x, centres = features(n, d, seed), features(4, d, seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = x[order]
    tolerance = {"rtol": 1e-8, "atol": 1e-8}
    expected = pairwise_distances(x)[order][:, order]
    torch.testing.assert_close(pairwise_distances(shuffled), expected, **tolerance)
    expected = angle_cosines(x)[order][:, order][:, :, order]
    torch.testing.assert_close(angle_cosines(shuffled), expected, **tolerance)
    expected = center_distances(x, centres)[order]
    torch.testing.assert_close(center_distances(shuffled, centres), expected, **tolerance)


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_distances_are_a_metric(n, d, seed):
    distance = pairwise_distances(features(n, d, seed))
    assert (distance >= 0).all()
    torch.testing.assert_close(distance, distance.T)
    through = distance[:, :, None] + distance[None, :, :]  # i to j, then j to k
    assert (distance[:, None, :] <= through + 1e-9).all()


def test_unnormalised_distances_scale_with_the_features():
    x = features(5, 3)
    plain = pairwise_distances(x, normalize=False)
    torch.testing.assert_close(pairwise_distances(3 * x, normalize=False), 3 * plain)


# --- gradients ------------------------------------------------------------------------------


def test_gradcheck():
    x = features(4, 3).requires_grad_()
    centres = features(3, 3, seed=1)
    assert gradcheck(pairwise_distances, (x,))
    assert gradcheck(lambda e: pairwise_distances(e, normalize=False), (x,))
    assert gradcheck(angle_cosines, (x,))
    assert gradcheck(lambda e: center_distances(e, centres), (x,))


def test_a_feature_exactly_on_a_centre_has_a_finite_gradient():
    x = features(4, 3, dtype=torch.float32)
    centres = x[:2].clone()
    x.requires_grad_()
    distance = center_distances(x, centres)
    distance.sum().backward()
    assert_close(distance.diagonal()[:2], np.zeros(2), 1e-3)
    assert x.grad.isfinite().all()
    assert x.grad.norm(dim=1).max() <= 2.001  # each of the two distances pulls with at most 1


# --- small and bad input --------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2])
def test_small_batches(n):
    x = features(2, 4)[:n].requires_grad_()
    d, cosines = pairwise_distances(x), angle_cosines(x)
    assert d.shape == (n, n)
    assert cosines.shape == (n, n, n)
    assert center_distances(x, features(3, 4)).shape == (n, 3)
    expected = torch.zeros(n, n, n, dtype=torch.float64)
    if n == 2:
        expected[0, 1, 0] = expected[1, 0, 1] = 1
        torch.testing.assert_close(d, 1 - torch.eye(2, dtype=torch.float64))
    else:
        assert torch.equal(d, torch.zeros_like(d))
    torch.testing.assert_close(cosines, expected)
    (d.sum() + cosines.sum()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [3, 7, 32])
def test_a_collapsed_batch_has_zero_potentials(n, dtype):
    """Rounding must not be divided by rounding: identical rows have distance 0, not noise."""
    x = features(1, 48, dtype=dtype).repeat(n, 1)
    assert torch.equal(pairwise_distances(x), torch.zeros(n, n, dtype=dtype))
    assert torch.equal(angle_cosines(x), torch.zeros(n, n, n, dtype=dtype))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (5, 0)])
def test_features_that_are_not_a_matrix_are_refused(shape):
    for potential in INVARIANT.values():
        with pytest.raises(HorkdError):
            potential(torch.zeros(shape))
    with pytest.raises(HorkdError):
        center_distances(torch.zeros(shape), torch.zeros(2, 4))


def test_centres_of_another_width_are_refused():
    with pytest.raises(HorkdError, match=r"(?s)7.*3|3.*7"):
        center_distances(features(5, 7), features(2, 3))
