"""The losses of orders 1, 2, 3 and C: values, gradients, invariances, hard and bad input."""

import itertools

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import features, gradient
from torch import nn
from torch.autograd import gradcheck

from horkd.errors import HorkdError
from horkd.losses import (
    PAPER_WEIGHTS,
    HybridOrderLoss,
    class_centers,
    order1,
    order2,
    order3,
    order_c,
)

REDUCTIONS = {
    order1: ("mean", "sum"),
    order2: ("mean", "sum", "rkd"),
    order3: ("mean", "sum", "rkd"),
}
RELATIONAL = [(loss, r) for loss in (order2, order3) for r in REDUCTIONS[loss]]
PAIRED = [(order1, "mean"), (order1, "sum"), *RELATIONAL]


def name_of(case) -> str:
    return "-".join(getattr(part, "__name__", str(part)) for part in case)


relational = pytest.mark.parametrize("case", RELATIONAL, ids=name_of)
paired = pytest.mark.parametrize("case", PAIRED, ids=name_of)


def moved(x: torch.Tensor, seed: int, scale: float = 3.0) -> torch.Tensor:
    """`x` rotated, scaled and shifted."""
    d = x.shape[1]
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    return scale * x @ q.to(x.dtype) + torch.linspace(-5, 7, d, dtype=x.dtype)


# --- values against explicit loops ----------------------------------------------------------


@paired
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_losses_equal_explicit_loops(case, dtype, tolerance):
    loss, reduction = case
    f, g = features(5, 3, dtype=dtype), features(5, 3, seed=1, dtype=dtype)
    oracle = getattr(oracles, loss.__name__)
    expected = oracle(f.double().numpy(), g.double().numpy(), reduction)
    assert loss(f, g, reduction=reduction).item() == pytest.approx(expected, rel=tolerance)


@relational
@pytest.mark.parametrize("where", ["learner", "frozen", "both"])
def test_losses_with_an_exact_duplicate_equal_explicit_loops(case, where):
    """Here i = k gives 1 in one model and 0 in the other: it counts in "rkd" only."""
    loss, reduction = case
    f, g = features(5, 3), features(5, 3, seed=1)
    for x, name in ((f, "frozen"), (g, "learner")):
        if where in (name, "both"):
            x[3] = x[1]
    expected = getattr(oracles, loss.__name__)(f.numpy(), g.numpy(), reduction)
    assert loss(f, g, reduction=reduction).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_order_c_equals_explicit_loops(reduction, normalize):
    f, g, centres = features(5, 3), features(5, 3, seed=1), features(4, 3, seed=2)
    expected = oracles.order_c(f.numpy(), g.numpy(), centres.numpy(), reduction, normalize)
    actual = order_c(f, g, centres, reduction=reduction, normalize=normalize)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_the_default_is_the_mean():
    f, g, centres = features(5, 3), features(5, 3, seed=1), features(4, 3, seed=2)
    for loss in (order1, order2, order3):
        assert loss(f, g) == loss(f, g, reduction="mean")
    assert order_c(f, g, centres) == order_c(f, g, centres, reduction="mean", normalize=False)


def test_sums_equal_means_times_counts():
    n, d, c = 6, 4, 3
    f, g, centres = features(n, d), features(n, d, seed=1), features(c, d, seed=2)
    counts = {order1: n * d, order2: n * (n - 1), order3: n * (n - 1) * (n - 2)}
    for loss, count in counts.items():
        torch.testing.assert_close(loss(f, g, reduction="sum"), count * loss(f, g))
    total = order_c(f, g, centres, reduction="sum")
    torch.testing.assert_close(total, n * c * order_c(f, g, centres))


def test_order3_is_linear_beyond_a_difference_of_one():
    # Points on a line, with another one in the middle: cosines of 1 meet cosines of -1.
    f = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    g = torch.tensor([[1.0], [0.0], [3.0]], dtype=torch.float64)
    # Vertices 0 and 1 are swapped (a difference of 2 each), vertex 2 agrees; two orders of i, k.
    assert order3(f, g, reduction="sum").item() == pytest.approx(4 * 1.5)
    assert order3(f, g, reduction="mean").item() == pytest.approx(4 * 1.5 / 6)
    assert order3(f, g, reduction="rkd").item() == pytest.approx(4 * 1.5 / 27)


def test_order2_is_a_square_and_its_rkd_form_linear_beyond_one():
    f = features(8, 3)
    f[:7] *= 1e-3
    f[7] = 10.0  # one far outlier: its distances are four times the mean
    g = features(8, 3, seed=1)
    for reduction in ("mean", "rkd"):
        expected = oracles.order2(f.numpy(), g.numpy(), reduction)
        assert order2(f, g, reduction=reduction).item() == pytest.approx(expected, rel=1e-9)
    halved = 0.5 * 7 / 8 * order2(f, g)
    assert order2(f, g, reduction="rkd") < 0.8 * halved  # the linear part was reached


def test_likely_mistakes_give_other_numbers_on_this_data():
    """The comparisons above can tell the right formulas from the likely wrong ones."""
    f, g = features(5, 3).numpy(), features(5, 3, seed=1).numpy()
    pairs, triples = list(oracles.pairs(5)), list(oracles.triples(5))
    df, dg = oracles.distances(f), oracles.distances(g)
    cf, cg = oracles.cosines(f), oracles.cosines(g)
    nf, ng = df / oracles.mean_distance(f), dg / oracles.mean_distance(g)
    mistakes2 = {
        "mean over all entries": np.mean((nf - ng) ** 2),
        "distances divided by the mean over all entries": np.mean(
            [(df[t] / df.mean() - dg[t] / dg.mean()) ** 2 for t in pairs]
        ),
        "the frozen model's mean for both": np.mean(
            [(df[t] - dg[t]) ** 2 / oracles.mean_distance(f) ** 2 for t in pairs]
        ),
        "no normalisation": np.mean([(df[t] - dg[t]) ** 2 for t in pairs]),
        "squared distances": np.mean([(nf[t] ** 2 - ng[t] ** 2) ** 2 for t in pairs]),
    }
    at_i = cg.transpose(1, 0, 2)
    degenerate = cg.copy()
    degenerate[np.arange(5), np.arange(5), :] = 1
    mistakes3 = {
        "vertex at i in one model": np.mean([oracles.huber(cf[t] - at_i[t]) for t in triples]),
        "mean over all entries": oracles.order3(f, g, "rkd"),
        "degenerate triples left in": np.mean(
            [oracles.huber(cf[t] - degenerate[t]) for t in itertools.product(range(5), repeat=3)]
        ),
        "squares": np.mean([(cf[t] - cg[t]) ** 2 for t in triples]),
    }
    for right, mistakes in (
        (order2(torch.from_numpy(f), torch.from_numpy(g)).item(), mistakes2),
        (order3(torch.from_numpy(f), torch.from_numpy(g)).item(), mistakes3),
    ):
        for mistake, value in mistakes.items():
            assert abs(value - right) > 0.01 * right, mistake


def test_both_models_must_have_the_vertex_at_the_same_place():
    """Only a mix of vertices shows in the loss: rows that swap roles must not look alike."""
    f = features(5, 3)
    swapped = f[[1, 0, 2, 3, 4]]
    expected = oracles.order3(f.numpy(), swapped.numpy(), "mean")
    assert expected > 1e-3
    assert order3(f, swapped).item() == pytest.approx(expected, rel=1e-12)


# --- the published code ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "published"), [(order2, oracles.rkd_distance), (order3, oracles.rkd_angle)]
)
@pytest.mark.parametrize(("n", "d_frozen", "d_learner"), [(5, 3, 3), (16, 24, 8), (48, 16, 32)])
def test_rkd_reduction_equals_the_published_formula(loss, published, n, d_frozen, d_learner):
    f, g = features(n, d_frozen), features(n, d_learner, seed=1)
    expected, expected_gradient = published(f, g), gradient(published, f, g)
    value = loss(f, g, reduction="rkd").item()
    assert value == pytest.approx(expected.item(), rel=1e-10)
    grad = gradient(loss, f, g, reduction="rkd")
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(grad, expected_gradient, rtol=1e-8, atol=1e-8 * scale)
    # and in float32, as it is trained
    single = loss(f.float(), g.float(), reduction="rkd").item()
    assert single == pytest.approx(expected.item(), rel=1e-5)
    grad = gradient(loss, f.float(), g.float(), reduction="rkd").double()
    torch.testing.assert_close(grad, expected_gradient, rtol=1e-5, atol=1e-5 * scale)


def test_rkd_reduction_against_the_mean():
    """|difference| < 1: half the square over all N² entries; the N³ mean is diluted."""
    n = 8
    f = features(n, 6)
    g = f + 0.1 * features(n, 6, seed=1)
    expected = 0.5 * (n - 1) / n * order2(f, g)
    torch.testing.assert_close(order2(f, g, reduction="rkd"), expected)
    expected = (n - 1) * (n - 2) / n**2 * order3(f, g)
    torch.testing.assert_close(order3(f, g, reduction="rkd"), expected)


# --- gradients ------------------------------------------------------------------------------


@paired
def test_gradcheck(case):
    loss, reduction = case
    f = features(4, 3)
    g = features(4, 3, seed=1).requires_grad_()
    assert gradcheck(lambda e: loss(f, e, reduction=reduction), (g,))


@pytest.mark.parametrize("normalize", [False, True])
def test_gradcheck_order_c(normalize):
    f, centres = features(4, 3), features(3, 3, seed=2)
    g = features(4, 3, seed=1).requires_grad_()
    for reduction in ("mean", "sum"):
        assert gradcheck(
            lambda e, r=reduction: order_c(f, e, centres, reduction=r, normalize=normalize), (g,)
        )


@paired
def test_no_gradient_reaches_the_frozen_model(case):
    loss, reduction = case
    f = features(5, 3).requires_grad_()
    g = features(5, 3, seed=1).requires_grad_()
    loss(f, g, reduction=reduction).backward()
    assert f.grad is None or not f.grad.any()
    assert g.grad.any()
    assert not loss(f, g.detach(), reduction=reduction).requires_grad


def test_no_gradient_reaches_the_frozen_model_through_order_c():
    f = features(5, 3).requires_grad_()
    g = features(5, 3, seed=1).requires_grad_()
    for normalize in (False, True):
        order_c(f, g, features(4, 3, seed=2), normalize=normalize).backward()
        assert f.grad is None or not f.grad.any()
        assert g.grad.any()


@pytest.mark.parametrize("gap", [0.0, 1e-6, 1e-4, 1e-2, 0.5, 1.0])
@pytest.mark.parametrize("where", ["learner", "frozen", "both"])
@relational
def test_duplicates_leave_the_gradient_at_its_normal_size(case, where, gap):
    """Normal: the largest row of the gradient of the same batch without the duplicate.

    `gap` is the distance to the duplicate, as a share of the length where the softening of the
    cosines begins (there the gradient is largest); 0 is an exact copy.
    """
    loss, reduction = case
    f = features(32, 24, dtype=torch.float32)
    g = features(32, 16, seed=1, dtype=torch.float32)
    normal = gradient(loss, f, g, reduction=reduction).norm(dim=1).max()
    for x, name in ((f, "frozen"), (g, "learner")):
        if where in (name, "both"):
            direction = torch.nn.functional.normalize(x[7] - x[3], dim=0)
            length = gap * oracles.SOFTENING * oracles.mean_distance(x.double().numpy())
            x[20] = x[11] + length * direction
    value = loss(f, g, reduction=reduction)
    assert value.isfinite()
    grad = gradient(loss, f, g, reduction=reduction)
    assert grad.isfinite().all()
    assert grad.norm(dim=1).max() <= 10 * normal


@relational
def test_many_equal_rows_leave_the_gradient_at_its_normal_size(case):
    """Dead units: a quarter of the learner's rows are the same all-zero vector."""
    loss, reduction = case
    f = features(32, 24, dtype=torch.float32)
    g = features(32, 16, seed=1, dtype=torch.float32)
    normal = gradient(loss, f, g, reduction=reduction).norm(dim=1).max()
    g[::4] = 0
    grad = gradient(loss, f, g, reduction=reduction)
    assert grad.isfinite().all()
    assert grad.norm(dim=1).max() <= 10 * normal


def test_a_learner_exactly_on_a_centre_has_a_finite_gradient():
    f, centres = features(6, 4), features(3, 4, seed=2)
    g = features(6, 4, seed=1)
    normal = gradient(order_c, f, g, centres, to=1).norm(dim=1).max()
    g[:3] = centres
    for normalize in (False, True):
        grad = gradient(order_c, f, g, centres, to=1, normalize=normalize)
        assert grad.isfinite().all()
    assert gradient(order_c, f, g, centres, to=1).norm(dim=1).max() <= 10 * normal
    on_centres = centres.clone()
    assert order_c(on_centres, on_centres, centres) == 0
    assert not gradient(order_c, on_centres, on_centres, centres, to=1).any()


# --- collapsed learner ----------------------------------------------------------------------


@relational
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exactly_collapsed_learner_is_finite(case, dtype):
    """All rows equal: no direction is preferred, but order 2 must still find a way out.

    Rounding must not be divided by rounding, hence the bound on the gradient.
    """
    loss, reduction = case
    f = features(32, 24, dtype=dtype)
    g = features(1, 48, seed=1, dtype=dtype).repeat(32, 1).requires_grad_()
    value = loss(f, g, reduction=reduction)
    value.backward()
    assert value.isfinite()
    assert value > 0
    assert g.grad.isfinite().all()
    separate = gradient(loss, f, features(32, 48, seed=1, dtype=dtype), reduction=reduction)
    assert g.grad.norm(dim=1).max() <= 100 * separate.norm(dim=1).max()
    if loss is order2:
        assert g.grad.any()
        step = 1e-3 / g.grad.abs().max() * g.grad
        assert loss(f, g - step, reduction=reduction) < value


@relational
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nearly_collapsed_learner_can_escape(case, dtype):
    loss, reduction = case
    f = features(32, 24, dtype=dtype)
    row = features(1, 48, seed=1)
    g = (row * (1 + 1e-6 * features(32, 48, seed=2))).to(dtype).requires_grad_()
    value = loss(f, g, reduction=reduction)
    value.backward()
    assert value.isfinite()
    assert g.grad.isfinite().all()
    assert g.grad.any()
    if loss is order2:  # a step downhill lowers the loss
        with torch.no_grad():
            step = 1e-8 / g.grad.abs().max().double() * g.grad.double()
            assert order2(f.double(), g.double() - step) < order2(f.double(), g.double())


# --- small batches --------------------------------------------------------------------------

SMALL = [(case, n) for case in PAIRED for n in range({order1: 1, order2: 2, order3: 3}[case[0]])]


@pytest.mark.parametrize(("case", "n"), SMALL, ids=lambda v: name_of(v) if type(v) is tuple else v)
def test_too_few_examples_give_a_zero_that_is_connected(case, n):
    loss, reduction = case
    f = features(n, 3, dtype=torch.float32)
    g = features(n, 3, seed=1, dtype=torch.float32).requires_grad_()
    value = loss(f, g, reduction=reduction)
    assert value.shape == ()
    assert value.item() == 0
    assert value.requires_grad
    value.backward()
    assert g.grad is not None
    assert g.grad.shape == g.shape
    assert not g.grad.any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("normalize", [False, True])
def test_order_c_of_an_empty_batch_is_a_connected_zero(reduction, normalize):
    g = torch.zeros(0, 3, requires_grad=True)
    value = order_c(torch.zeros(0, 3), g, torch.ones(2, 3), reduction, normalize)
    value.backward()
    assert value.item() == 0
    assert g.grad.shape == (0, 3)


@relational
def test_the_smallest_batch_with_a_relation(case):
    loss, reduction = case
    n = 2 if loss is order2 else 3
    f, g = features(n, 3), features(n, 3, seed=1)
    expected = getattr(oracles, loss.__name__)(f.numpy(), g.numpy(), reduction)
    assert loss(f, g, reduction=reduction).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert gradient(loss, f, g, reduction=reduction).isfinite().all()


# --- invariances ----------------------------------------------------------------------------

SHAPES = {"n": st.integers(3, 8), "d": st.integers(1, 10), "seed": st.integers(0, 2**31)}


@relational
@settings(max_examples=20, deadline=None)
@given(**SHAPES, exponent=st.floats(-3, 3))
def test_relational_losses_ignore_translation_rotation_and_scale(case, n, d, seed, exponent):
    loss, reduction = case
    f, g = features(n, d + 2, seed), features(n, d, seed + 1)
    expected = loss(f, g, reduction=reduction)
    for pair in ((moved(f, seed, 10**exponent), g), (f, moved(g, seed, 10**exponent))):
        actual = loss(*pair, reduction=reduction)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


@paired
@settings(max_examples=20, deadline=None)
@given(**SHAPES)
def test_the_order_of_the_batch_does_not_matter(case, n, d, seed):
    loss, reduction = case
    f, g = features(n, d, seed), features(n, d, seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    expected = loss(f, g, reduction=reduction)
    actual = loss(f[order], g[order], reduction=reduction)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
    grad = gradient(loss, f, g, reduction=reduction)[order]
    actual = gradient(loss, f[order], g[order], reduction=reduction)
    torch.testing.assert_close(actual, grad, rtol=1e-5, atol=1e-6 * (1 + grad.abs().max().item()))


@relational
def test_pairing_of_the_rows_matters(case):
    loss, reduction = case
    f = features(6, 4)
    assert loss(f, f.roll(1, dims=0), reduction=reduction) > 1e-3


@relational
def test_the_gradient_neither_shifts_nor_scales_the_learner(case):
    """What invariance means for the gradient; a detached mean distance would fail here."""
    loss, reduction = case
    f, g = features(8, 5), features(8, 6, seed=1)
    grad = gradient(loss, f, g, reduction=reduction)
    size = grad.abs().max().item()
    assert grad.sum(dim=0).abs().max().item() <= 1e-12 + 1e-10 * size
    assert (grad * g).sum().abs().item() <= 1e-12 + 1e-9 * size


@relational
def test_adding_100_to_all_features_changes_nothing(case):
    loss, reduction = case
    f = features(24, 16, dtype=torch.float32)
    g = features(24, 12, seed=1, dtype=torch.float32)
    expected = loss(f, g, reduction=reduction).item()
    for pair in ((f + 100, g), (f, g + 100), (f + 100, g + 100)):
        assert loss(*pair, reduction=reduction).item() == pytest.approx(expected, rel=1e-5)


@relational
def test_a_common_offset_costs_no_accuracy(case):
    """Offset 100, spread 0.1 in float32: the published formula is 45 % wrong here."""
    loss, reduction = case
    f = (0.1 * features(12, 16) + 100).float()
    g = (0.1 * features(12, 16, seed=1) + 100).float()
    oracle = getattr(oracles, loss.__name__)
    expected = oracle(f.double().numpy(), g.double().numpy(), reduction)
    assert loss(f, g, reduction=reduction).item() == pytest.approx(expected, rel=1e-5)
    exact = gradient(loss, f.double(), g.double(), reduction=reduction)
    grad = gradient(loss, f, g, reduction=reduction).double()
    scale = exact.abs().max().item()
    torch.testing.assert_close(grad, exact, rtol=1e-4, atol=1e-4 * scale)


def test_orders_1_and_c_notice_translation_and_rotation_of_one_side():
    f, g, centres = features(6, 4), features(6, 4, seed=1), features(3, 4, seed=2)
    for loss in (order1, lambda a, b: order_c(a, b, centres)):
        for other in (g + 1, moved(g, 0, scale=1.0), 2 * g):
            assert abs(loss(f, other) - loss(f, g)) > 1e-3 * loss(f, g)
            assert loss(g, other) > 0.1


def test_order_c_normalised_ignores_a_common_scale():
    f, g, centres = features(6, 4), features(6, 4, seed=1), features(3, 4, seed=2)
    scaled = order_c(9 * f, 9 * g, 9 * centres, normalize=True)
    torch.testing.assert_close(scaled, order_c(f, g, centres, normalize=True))
    torch.testing.assert_close(order_c(9 * f, 9 * g, 9 * centres), 81 * order_c(f, g, centres))


# --- a perfect learner ----------------------------------------------------------------------


@paired
def test_a_learner_equal_to_the_frozen_model_has_no_loss(case):
    loss, reduction = case
    f = features(8, 5, dtype=torch.float32)
    f[3] = f[1]
    assert loss(f, f.clone(), reduction=reduction).item() == 0
    assert not gradient(loss, f, f.clone(), reduction=reduction).any()


def test_a_learner_equal_to_the_frozen_model_has_no_centre_loss():
    f, centres = features(8, 5), features(3, 5, seed=1)
    for normalize in (False, True):
        assert order_c(f, f.clone(), centres, normalize=normalize).item() == 0


@relational
def test_a_similar_figure_in_a_wider_space_has_no_loss(case):
    loss, reduction = case
    f = features(8, 5)
    wider = moved(torch.cat([f, torch.zeros(8, 3)], dim=1), seed=4)
    assert loss(f, wider, reduction=reduction).item() == pytest.approx(0, abs=1e-20)


# --- precision ------------------------------------------------------------------------------


@paired
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_computed_in_float32(case, dtype):
    loss, reduction = case
    f = (0.1 * features(12, 8) + 1).to(dtype)
    g = (0.1 * features(12, 8, seed=1) + 1).to(dtype)
    value = loss(f, g, reduction=reduction)
    assert value.dtype == torch.float32
    assert value == loss(f.float(), g.float(), reduction=reduction)
    assert loss(f, g.float(), reduction=reduction) == value  # a frozen model in half precision
    grad = gradient(loss, f, g, reduction=reduction)
    assert grad.dtype == dtype
    assert torch.equal(grad, gradient(loss, f.float(), g.float(), reduction=reduction).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_order_c_accepts_half_precision(dtype):
    f, g = features(12, 8, dtype=dtype), features(12, 8, seed=1, dtype=dtype)
    centres = features(5, 8, seed=2, dtype=torch.float32)
    for normalize in (False, True):
        value = order_c(f, g, centres, normalize=normalize)
        assert value.dtype == torch.float32
        assert value == order_c(f.float(), g.float(), centres, normalize=normalize)


@paired
def test_an_active_autocast_changes_neither_value_nor_gradient(case):
    loss, reduction = case
    f = features(12, 8, dtype=torch.float32)
    g = features(12, 8, seed=1, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(f, g, reduction=reduction)
    inside.backward()  # outside autocast, as torch prescribes
    assert inside.dtype == torch.float32
    assert inside == loss(f, g, reduction=reduction)
    assert torch.equal(g.grad, gradient(loss, f, g, reduction=reduction))


def test_an_active_autocast_does_not_change_order_c():
    f, g = features(12, 8, dtype=torch.float32), features(12, 8, seed=1, dtype=torch.float32)
    centres = features(5, 8, seed=2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = order_c(f, g, centres, normalize=True)
    assert inside == order_c(f, g, centres, normalize=True)


# --- bad input ------------------------------------------------------------------------------


@paired
def test_bad_shapes_and_reductions_are_refused(case):
    loss, reduction = case
    good = torch.ones(5, 3)
    for f, g in (
        (good, torch.ones(4, 3)),
        (good, torch.ones(5)),
        (torch.ones(5), good),
        (torch.ones(5, 3, 2), torch.ones(5, 3, 2)),
    ):
        with pytest.raises(HorkdError):
            loss(f, g, reduction=reduction)
    with pytest.raises(HorkdError, match="average"):
        loss(good, good, reduction="average")


def test_orders_1_and_c_have_no_rkd_reduction():
    f = torch.ones(5, 3)
    with pytest.raises(HorkdError, match="rkd"):
        order1(f, f, reduction="rkd")
    with pytest.raises(HorkdError, match="rkd"):
        order_c(f, f, torch.zeros(2, 3), reduction="rkd")


def test_different_widths_are_named():
    f, g = features(5, 37), features(5, 11)
    for loss in (order1, lambda a, b: order_c(a, b, features(3, 37))):
        with pytest.raises(HorkdError, match=r"37.*11|11.*37") as error:
            loss(f, g)
        assert "\n" not in str(error.value)
    for loss in (order2, order3):
        assert loss(f, g).isfinite()


def test_order_c_refuses_bad_shapes():
    f, centres = torch.ones(5, 3), torch.zeros(2, 3)
    for args in (
        (f, torch.ones(4, 3), centres),
        (torch.ones(5), torch.ones(5), centres),
        (f, f, torch.zeros(3)),
        (f, f, torch.zeros(2, 4)),
    ):
        with pytest.raises(HorkdError):
            order_c(*args)
    with pytest.raises(HorkdError, match="average"):
        order_c(f, f, centres, reduction="average")


# --- class centres --------------------------------------------------------------------------


def test_class_centers_are_the_class_means():
    x = features(9, 4)
    labels = torch.tensor([2, 0, 1, 2, 2, 0, 1, 3, 2])
    centres = class_centers(x, labels, 4)
    expected = np.stack(
        [np.mean([x[i].numpy() for i in range(9) if labels[i] == c], axis=0) for c in range(4)]
    )
    torch.testing.assert_close(centres.double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_class_centers_of_half_precision_features_do_not_overflow():
    x = torch.full((4000, 2), 100.0, dtype=torch.float16)
    x[::2] += 1
    centres = class_centers(x, torch.arange(4000) // 2 % 2, 2)
    assert centres.dtype == torch.float32
    torch.testing.assert_close(centres, torch.full((2, 2), 100.5))


def test_an_empty_class_is_named():
    with pytest.raises(HorkdError, match=r"\b7\b"):
        class_centers(torch.ones(11, 2), torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]), 12)


@pytest.mark.parametrize("label", [-1, 23])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(HorkdError, match=str(label)):
        class_centers(torch.ones(3, 2), torch.tensor([0, label, 1]), 2)


def test_class_centers_refuses_labels_of_another_length():
    with pytest.raises(HorkdError):
        class_centers(torch.ones(3, 2), torch.tensor([0, 1]), 2)


# --- the weighted sum -----------------------------------------------------------------------

WEIGHTS = {"1": 0.5, "2": 25.0, "3": 50.0, "C": 1.5}
NAMES = {"1": "order1", "2": "order2", "3": "order3", "C": "order_c"}


def expected_terms(f, g, centres, reduction: str) -> dict[str, torch.Tensor]:
    element_wise = "mean" if reduction == "rkd" else reduction
    return {
        "1": order1(f, g, reduction=element_wise),
        "2": order2(f, g, reduction=reduction),
        "3": order3(f, g, reduction=reduction),
        "C": order_c(f, g, centres, reduction=element_wise, normalize=reduction != "sum"),
    }


@pytest.mark.parametrize("reduction", ["mean", "sum", "rkd"])
def test_hybrid_loss_is_the_weighted_sum_of_its_named_terms(reduction):
    f, g, centres = features(6, 4), features(6, 4, seed=1), features(3, 4, seed=2)
    expected = expected_terms(f, g, centres, reduction)
    subsets = [s for r in range(1, 5) for s in itertools.combinations(WEIGHTS, r)]
    for subset in subsets:
        weights = {order: WEIGHTS[order] for order in subset}
        criterion = HybridOrderLoss(weights, centers=centres, reduction=reduction)
        out = criterion(f, g)
        assert set(out) == {"loss", *(NAMES[order] for order in subset)}
        for order in subset:
            torch.testing.assert_close(out[NAMES[order]], expected[order])
        total = sum(WEIGHTS[order] * expected[order] for order in subset)
        torch.testing.assert_close(out["loss"], total)


def test_hybrid_gradient_is_the_weighted_sum_of_the_terms_gradients():
    f, centres = features(6, 4), features(3, 4, seed=2)
    g = features(6, 4, seed=1).requires_grad_()
    out = HybridOrderLoss(WEIGHTS, centers=centres)(f, g)
    (total,) = torch.autograd.grad(out["loss"], g, retain_graph=True)
    shares = {
        order: torch.autograd.grad(out[name], g, retain_graph=True)[0]
        for order, name in NAMES.items()
    }
    torch.testing.assert_close(total, sum(WEIGHTS[o] * share for o, share in shares.items()))
    assert all(share.any() for share in shares.values())


def test_the_papers_preset_is_literal():
    assert dict(PAPER_WEIGHTS) == {"2": 0.02, "3": 0.01, "C": 1.0}
    f, g, centres = features(5, 3), features(5, 3, seed=1), features(4, 3, seed=2)
    out = HybridOrderLoss(PAPER_WEIGHTS, centers=centres, reduction="sum")(f, g)
    a, b, u = f.numpy(), g.numpy(), centres.numpy()
    expected = (
        0.02 * oracles.order2(a, b, "sum")
        + 0.01 * oracles.order3(a, b, "sum")
        + oracles.order_c(a, b, u, "sum")
    )
    assert out["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert "order1" not in out


def test_zero_weights_are_inactive():
    f, g = features(5, 3), features(5, 7, seed=1)  # order 1 would refuse these widths
    out = HybridOrderLoss({"1": 0.0, "2": 2.0, "C": 0.0})(f, g)
    assert set(out) == {"loss", "order2"}
    torch.testing.assert_close(out["loss"], 2 * order2(f, g))


def test_the_projector_serves_orders_1_and_c_only():
    torch.manual_seed(0)
    f, g = features(6, 8, dtype=torch.float32), features(6, 3, seed=1, dtype=torch.float32)
    centres = features(3, 8, seed=2, dtype=torch.float32)
    projector = nn.Linear(3, 8)
    criterion = HybridOrderLoss(WEIGHTS, centers=centres, projector=projector)
    g.requires_grad_()
    out = criterion(f, g)
    projected = projector(g)
    torch.testing.assert_close(out["order1"], order1(f, projected))
    expected = order_c(f, projected, centres, normalize=True)
    torch.testing.assert_close(out["order_c"], expected)
    torch.testing.assert_close(out["order2"], order2(f, g))
    torch.testing.assert_close(out["order3"], order3(f, g))
    wanted = {id(p) for p in projector.parameters()}
    assert wanted == {id(p) for p in criterion.parameters()}  # so that an optimiser trains it
    (out["order2"] + out["order3"]).backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in projector.parameters())
    out["loss"].backward()
    assert all(p.grad.any() for p in projector.parameters())


def test_hybrid_loss_in_bf16_under_autocast_equals_float32():
    torch.manual_seed(0)
    f, g = features(6, 8, dtype=torch.bfloat16), features(6, 3, seed=1, dtype=torch.bfloat16)
    centres = features(3, 8, seed=2, dtype=torch.float32)
    criterion = HybridOrderLoss(WEIGHTS, centers=centres, projector=nn.Linear(3, 8))
    expected = criterion(f.float(), g.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = criterion(f, g)
    for actual in (inside, criterion(f, g)):
        for name, value in expected.items():
            assert actual[name].dtype == torch.float32
            torch.testing.assert_close(actual[name], value, rtol=1e-6, atol=0)


def test_hybrid_centres_move_and_are_saved_with_the_module():
    centres = features(3, 4, dtype=torch.float32)
    criterion = HybridOrderLoss({"C": 1.0}, centers=centres)
    assert any(torch.equal(b, centres) for b in criterion.buffers())
    assert any(torch.equal(b, centres) for b in criterion.state_dict().values())
    assert not list(criterion.parameters())


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hybrid_loss_of_a_small_batch_trains(n):
    f, centres = features(n, 4), features(3, 4, seed=2)
    g = features(n, 4, seed=1).requires_grad_()
    out = HybridOrderLoss(WEIGHTS, centers=centres)(f, g)
    out["loss"].backward()
    assert out["loss"].isfinite()
    assert g.grad.isfinite().all()
    assert bool(g.grad.any()) == (n > 0)  # orders 1 and C need no second example


def test_hybrid_loss_of_a_perfect_learner_is_zero():
    f, centres = features(6, 4), features(3, 4, seed=2)
    for reduction in ("mean", "sum", "rkd"):
        out = HybridOrderLoss(WEIGHTS, centers=centres, reduction=reduction)(f, f.clone())
        assert all(value.item() == 0 for value in out.values())


def test_bad_hybrid_settings_are_refused():
    centres = torch.zeros(2, 3)
    with pytest.raises(HorkdError, match="4"):
        HybridOrderLoss({"2": 1.0, "4": 1.0})
    with pytest.raises(HorkdError, match="2"):
        HybridOrderLoss({"2": -1.0})
    with pytest.raises(HorkdError, match=r"C|centre"):
        HybridOrderLoss({"C": 1.0})
    f = torch.ones(4, 3)
    with pytest.raises(HorkdError, match="average"):
        HybridOrderLoss({"2": 1.0, "C": 1.0}, centers=centres, reduction="average")(f, f)
    with pytest.raises(HorkdError):
        HybridOrderLoss({"2": 1.0})(torch.ones(4, 3), torch.ones(5, 3))
    with pytest.raises(HorkdError, match=r"8.*3|3.*8"):
        HybridOrderLoss({"1": 1.0})(torch.ones(4, 8), torch.ones(4, 3))
