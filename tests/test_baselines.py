"""Other distillation losses against explicit loops; their invariances; maps of the networks."""

import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw, gradient
from torch import nn

from horkd.baselines import (
    NAMES,
    ON_MAPS,
    Baselines,
    at,
    attention,
    fitnet,
    kd,
    kd_standardised,
    middle,
    pair_stages,
    standardise,
)
from horkd.errors import HorkdError
from horkd.networks.network import ModelSpec, Network, Output, macs, macs_of
from horkd.objectives import Frozen

ON_LOGITS = (kd, kd_standardised)
on_logits = pytest.mark.parametrize("loss", ON_LOGITS)
#: A failing example is drawn again from its seed alone.
SHAPES = {"n": st.integers(1, 5), "c": st.integers(2, 9), "seed": st.integers(0, 2**16)}
some = settings(max_examples=25, deadline=None)


# --- oracles: plain Python floats, one loop per index ---------------------------------------


def softmax(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    raised = [math.exp((value - top) / temperature) for value in row]
    return [value / sum(raised) for value in raised]


def oracle_kd(frozen: torch.Tensor, learner: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for row_f, row_g in zip(frozen.tolist(), learner.tolist(), strict=True):
        p, q = softmax(row_f, temperature), softmax(row_g, temperature)
        for a, b in zip(p, q, strict=True):
            total += a * (math.log(a) - math.log(b))
    return temperature**2 * total / len(frozen)


def oracle_standardised(logits: torch.Tensor) -> torch.Tensor:
    rows = []
    for row in logits.tolist():
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / len(row))
        rows.append([(value - mean) / deviation for value in row])
    return torch.tensor(rows, dtype=torch.float64)


def oracle_mean_square(frozen: torch.Tensor, learner: torch.Tensor) -> float:
    total = count = 0
    for index in np.ndindex(tuple(frozen.shape)):
        total += (frozen[index].item() - learner[index].item()) ** 2
        count += 1
    return total / count


def oracle_attention(image: torch.Tensor) -> list[float]:
    """Of one image (K, H, W), at each position in reading order."""
    channels, height, width = image.shape
    energy = []
    for y in range(height):
        for x in range(width):
            squares = [image[k, y, x].item() ** 2 for k in range(channels)]
            energy.append(sum(squares) / channels)
    length = math.sqrt(sum(value**2 for value in energy))
    return [value / length if length else 0.0 for value in energy]


def oracle_at(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total = 0.0
    for frozen, learner in pairs:
        squares = []
        for f, g in zip(frozen, learner, strict=True):
            both = zip(oracle_attention(f), oracle_attention(g), strict=True)
            squares += [(a - b) ** 2 for a, b in both]
        total += sum(squares) / len(squares)
    return total


def oracle_block_means(maps: torch.Tensor, size: int) -> torch.Tensor:
    """(N, K, H, W) to (N, K, size, size) where `size` divides H = W."""
    side = maps.shape[-1] // size
    out = torch.zeros(*maps.shape[:2], size, size, dtype=torch.float64)
    for n, k, y, x in np.ndindex(tuple(out.shape)):
        block = maps[n, k, y * side : (y + 1) * side, x * side : (x + 1) * side]
        out[n, k, y, x] = sum(value for row in block.tolist() for value in row) / side**2
    return out


# --- softened answers -------------------------------------------------------------------------


@some
@given(**SHAPES, temperature=st.floats(0.5, 20), scale=st.floats(0.1, 8))
def test_kd_equals_an_explicit_loop(n, c, seed, temperature, scale):
    f, g = draw(n, c, seed=seed, scale=scale), draw(n, c, seed=seed + 1, scale=scale)
    expected = oracle_kd(f, g, temperature)
    rounding = 1e-6 * max(1.0, temperature**2)  # T² times that of log-probabilities in float32
    assert kd(f, g, temperature).item() == pytest.approx(expected, rel=1e-4, abs=rounding)


@some
@given(**SHAPES, temperature=st.floats(0.5, 20), scale=st.floats(0.1, 8))
def test_kd_standardised_equals_an_explicit_loop(n, c, seed, temperature, scale):
    f, g = draw(n, c, seed=seed, scale=scale), draw(n, c, seed=seed + 1)
    expected = oracle_kd(oracle_standardised(f), oracle_standardised(g), temperature)
    actual = kd_standardised(f, g, temperature).item()
    rounding = 1e-6 * max(1.0, temperature**2)
    assert actual == pytest.approx(expected, rel=1e-3, abs=rounding)


def test_the_usual_temperatures_are_four_and_two():
    f, g = draw(3, 5), draw(3, 5, seed=1)
    assert kd(f, g).item() == pytest.approx(oracle_kd(f, g, 4.0), rel=1e-5)
    z, y = oracle_standardised(f), oracle_standardised(g)
    assert kd_standardised(f, g).item() == pytest.approx(oracle_kd(z, y, 2.0), rel=1e-5)


def test_kd_of_two_classes_by_hand():
    """At T = 1: p = (3/4, 1/4) against q = (1/2, 1/2)."""
    f, g = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd(f, g, 1.0).item() == pytest.approx(expected, rel=1e-6)
    assert kd(g, f, 1.0).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)


def test_kds_gradient_is_the_difference_of_the_softened_answers():
    f, g, t = draw(4, 6), draw(4, 6, seed=1), 3.0
    actual = gradient(lambda x: kd(f, x, t), g)
    for n in range(4):
        p, q = softmax(f[n].tolist(), t), softmax(g[n].tolist(), t)
        expected = [t * (b - a) / 4 for a, b in zip(p, q, strict=True)]
        assert actual[n].tolist() == pytest.approx(expected, abs=1e-6)


@on_logits
def test_equal_logits_cost_nothing_and_pull_nowhere(loss):
    g = draw(4, 7, scale=3)
    assert loss(g, g).item() == pytest.approx(0, abs=1e-6)
    assert gradient(lambda x: loss(g, x), g).abs().max() < 1e-6


@on_logits
@some
@given(**SHAPES, shift=st.floats(-20, 20))
def test_a_constant_added_to_an_images_logits_changes_nothing(loss, n, c, seed, shift):
    f, g = draw(n, c, seed=seed), draw(n, c, seed=seed + 1)
    up = shift * torch.linspace(-1, 1, n)[:, None]  # another one for each image
    expected = loss(f, g).item()
    assert loss(f, g + up).item() == pytest.approx(expected, rel=1e-2, abs=2e-4)
    assert loss(f + up, g).item() == pytest.approx(expected, rel=1e-2, abs=2e-4)


@some
@given(**SHAPES, exponent=st.floats(-1, 1))
def test_standardised_logits_have_no_scale(n, c, seed, exponent):
    f, g = draw(n, c, seed=seed), draw(n, c, seed=seed + 1)
    scale = 10 ** (exponent * torch.linspace(-1, 1, n)[:, None])
    expected = kd_standardised(f, g).item()
    assert kd_standardised(f, scale * g).item() == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert kd_standardised(scale * f, g).item() == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_the_scale_of_logits_counts_for_plain_kd():
    f, g = draw(4, 7), draw(4, 7, seed=1)
    assert abs(kd(f, 3 * g) - kd(f, g)) > 0.1
    assert kd_standardised(f, -g) > kd_standardised(f, f) + 0.1  # a negative scale is no scale


def test_the_gradients_size_hardly_depends_on_a_large_temperature():
    """T²: without it the gradient would fall by 100 from 20 to 200."""
    f, g = draw(8, 10), draw(8, 10, seed=1)
    norms = [gradient(lambda x, t=t: kd(f, x, t), g).norm().item() for t in (20.0, 60.0, 200.0)]
    assert norms == pytest.approx([norms[0]] * 3, rel=0.05)
    # the limit: mean squared difference of the centred logits
    centred = (g - g.mean(1, keepdim=True)) - (f - f.mean(1, keepdim=True))
    assert norms[-1] == pytest.approx((centred / 10 / 8).norm().item(), rel=0.02)


def test_z_scores_equal_an_explicit_loop():
    z = draw(5, 9, scale=40)
    torch.testing.assert_close(standardise(z).double(), oracle_standardised(z), atol=1e-5, rtol=0)


@on_logits
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 100.1])
def test_logits_that_are_all_equal_say_uniform_with_a_finite_gradient(loss, value):
    flat, other = torch.full((3, 10), value), draw(3, 10)
    t = 4.0 if loss is kd else 2.0
    target = other if loss is kd else oracle_standardised(other)
    zero = torch.zeros(3, 10)
    assert loss(flat, other).item() == pytest.approx(oracle_kd(zero, target, t), rel=1e-4)
    assert loss(other, flat).item() == pytest.approx(oracle_kd(target, zero, t), rel=1e-4)
    assert loss(flat, flat).item() == pytest.approx(0, abs=1e-6)
    assert gradient(lambda x: loss(flat, x), other).isfinite().all()
    assert gradient(lambda x: loss(other, x), flat).isfinite().all()
    assert gradient(lambda x: loss(flat, x), flat).isfinite().all()


def test_z_scores_of_zero_logits_are_zero():
    assert standardise(torch.zeros(2, 10)).eq(0).all()


@on_logits
def test_confident_logits_stay_finite(loss):
    f = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]])
    assert loss(f, f.flip(1)).isfinite()
    assert gradient(lambda x: loss(f, x), f.flip(1)).isfinite().all()


@on_logits
def test_logits_over_other_classes_are_one_clear_line(loss):
    with pytest.raises(HorkdError, match=r"same classes, got \(4, 7\) and \(4, 6\)") as caught:
        loss(draw(4, 7), draw(4, 6))
    assert "\n" not in str(caught.value)


@on_logits
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_is_positive(loss, temperature):
    with pytest.raises(HorkdError, match="the temperature must be positive, got"):
        loss(draw(2, 3), draw(2, 3), temperature)


# --- maps -------------------------------------------------------------------------------------


def test_fitnet_equals_an_explicit_loop():
    f, g = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    assert fitnet(f, g).item() == pytest.approx(oracle_mean_square(f, g), rel=1e-5)
    assert fitnet(g, g) == 0
    assert fitnet(torch.zeros_like(g), torch.zeros_like(g)) == 0


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 3, 2, 2), (1, 3, 4, 4)])
def test_fitnet_on_maps_of_two_shapes_is_one_clear_line(shape):
    """Not a mean over whatever broadcasts."""
    with pytest.raises(HorkdError, match=r"maps of one shape, got .*: add a regressor") as caught:
        fitnet(draw(2, 3, 4, 4), draw(*shape))
    assert "\n" not in str(caught.value)


@some
@given(n=st.integers(1, 3), k=st.integers(1, 4), side=st.integers(1, 4), seed=st.integers(0, 999))
def test_attention_transfer_equals_an_explicit_loop(n, k, side, seed):
    pairs = [
        (draw(n, k, side, side, seed=seed), draw(n, k + 2, side, side, seed=seed + 1)),
        (draw(n, k + 1, 1, side, seed=seed + 2), draw(n, k, 1, side, seed=seed + 3)),
    ]
    assert at(pairs).item() == pytest.approx(oracle_at(pairs), rel=1e-4, abs=1e-6)


def test_attention_is_one_row_of_unit_length_per_image():
    maps = draw(3, 4, 2, 5)
    rows = attention(maps)
    assert rows.shape == (3, 10)
    assert rows.tolist() == [pytest.approx(oracle_attention(m), abs=1e-6) for m in maps]
    assert rows.norm(dim=1).tolist() == pytest.approx([1, 1, 1])


@some
@given(exponent=st.floats(-2, 2), seed=st.integers(0, 999))
def test_attention_ignores_scale_and_the_basis_of_channels(exponent, seed):
    f, g = draw(3, 4, 3, 3, seed=seed), draw(3, 6, 3, 3, seed=seed + 1)
    expected = at([(f, g)]).item()
    q = torch.linalg.qr(draw(6, 6, seed=seed).double()).Q.float()
    permutation = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for changed in (
        g * 10**exponent,
        g * torch.tensor([0.1, 1.0, 10.0])[:, None, None, None],
        -g,
        g[:, permutation],
        torch.einsum("ij,njhw->nihw", q, g),
    ):
        assert at([(f, changed)]).item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_equal_attention_costs_nothing():
    g = draw(3, 4, 3, 3)
    assert at([(g, g)]) == 0
    assert gradient(lambda x: at([(g, x)]), g).abs().max() < 1e-6
    assert at([(g, g.roll(1, 3))]) > 0


@pytest.mark.parametrize("dead", ["frozen", "learner", "both"])
def test_dead_maps_have_no_attention_and_a_finite_gradient(dead):
    f, g, zero = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1), torch.zeros(2, 3, 2, 2)
    f = zero if dead in ("frozen", "both") else f
    g = zero if dead in ("learner", "both") else g
    assert attention(zero).eq(0).all()
    # a row of unit length against a row of zeros, over four positions
    assert at([(f, g)]).item() == pytest.approx(0 if dead == "both" else 1 / 4)
    assert gradient(lambda x: at([(f, x)]), g).isfinite().all()
    assert gradient(lambda x: fitnet(f, x), g).isfinite().all()


def test_stages_are_paired_from_the_last_one_at_the_smaller_size():
    frozen = [draw(2, k, s, s, seed=s) for k, s in ((3, 16), (4, 8), (5, 4), (6, 2))]
    learner = [draw(2, k, s, s, seed=k) for k, s in ((7, 4), (8, 2), (9, 2))]
    pairs = pair_stages(frozen, learner)
    assert [(tuple(f.shape[1:]), tuple(g.shape[1:])) for f, g in pairs] == [
        ((4, 4, 4), (7, 4, 4)),
        ((5, 2, 2), (8, 2, 2)),
        ((6, 2, 2), (9, 2, 2)),
    ]
    for (f, g), full, mine, size in zip(pairs, frozen[1:], learner, (4, 2, 2), strict=True):
        torch.testing.assert_close(f.double(), oracle_block_means(full, size), atol=1e-6, rtol=0)
        assert torch.equal(g, mine)


def test_also_a_larger_map_of_the_learner_is_averaged():
    f, g = draw(2, 3, 2, 2), draw(2, 4, 8, 8)
    ((small, averaged),) = pair_stages([f], [draw(2, 9, 8, 8), g])
    assert torch.equal(small, f)
    torch.testing.assert_close(averaged.double(), oracle_block_means(g, 2), atol=1e-6, rtol=0)


def test_maps_that_were_not_asked_for_are_one_clear_line():
    for maps in (((), (draw(1, 1, 1, 1),)), ((draw(1, 1, 1, 1),), ()), ((), ())):
        with pytest.raises(HorkdError, match="call the networks with maps=True"):
            pair_stages(*maps)


@pytest.mark.parametrize(("stages", "index"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)])
def test_the_middle_stage(stages, index):
    assert middle(stages) == index


# --- the weighted sum -------------------------------------------------------------------------


def output(n: int, width: int, seed: int, channels: tuple[int, ...] = (3, 4, 5), side: int = 8):
    """Of a network with three stages, a leaf in every tensor."""
    maps = tuple(
        draw(n, k, max(1, side >> i), max(1, side >> i), seed=seed + i).requires_grad_()
        for i, k in enumerate(channels)
    )
    features = draw(n, width, seed=seed + 10).requires_grad_()
    return Output(features, draw(n, 6, seed=seed + 11).requires_grad_(), maps)


#: Those that look at features alone are in test_metric_baselines.py.
WEIGHTS = {"kd": 0.9, "kd_standardised": 9.0, "fitnet": 10.0, "at": 1000.0}


def as_type(out: Output, dtype: torch.dtype) -> Output:
    return Output(
        out.features.to(dtype), out.logits.to(dtype), tuple(m.to(dtype) for m in out.maps)
    )


def test_the_terms_are_the_losses_and_the_loss_their_weighted_sum():
    frozen, learner = output(5, 8, 0), output(5, 4, 100)
    terms = Baselines(WEIGHTS)(frozen, learner)
    assert list(terms) == ["loss", *WEIGHTS]
    pairs = list(zip(frozen.maps, learner.maps, strict=True))
    z, y = oracle_standardised(frozen.logits), oracle_standardised(learner.logits)
    expected = {
        "kd": oracle_kd(frozen.logits, learner.logits, 4.0),
        "kd_standardised": oracle_kd(z, y, 2.0),
        "fitnet": oracle_mean_square(*pairs[1]),
        "at": oracle_at(pairs),
    }
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    whole = sum(WEIGHTS[name] * value for name, value in expected.items())
    assert terms["loss"].item() == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients_reach_the_learner_and_never_the_frozen_side(name):
    frozen, learner = output(5, 8, 0), output(5, 4, 100)
    Baselines({name: 2.0})(frozen, learner)["loss"].backward()
    for tensor in (frozen.features, frozen.logits, *frozen.maps):
        assert tensor.grad is None
    gradients = [learner.logits.grad, learner.features.grad, *(m.grad for m in learner.maps)]
    reached = [g is not None and bool(g.abs().sum() > 0) for g in gradients]
    assert (
        reached
        == {
            "kd": [True, False, False, False, False],
            "kd_standardised": [True, False, False, False, False],
            "fitnet": [False, False, False, True, False],
            "at": [False, False, True, True, True],
        }[name]
    )


def test_bf16_gives_float32_of_the_rounded_inputs():
    frozen = as_type(output(5, 8, 0), torch.bfloat16)
    learner = as_type(output(5, 4, 100), torch.bfloat16)
    terms = Baselines(WEIGHTS)(frozen, learner)
    full = Baselines(WEIGHTS)(as_type(frozen, torch.float32), as_type(learner, torch.float32))
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
        assert term.item() == pytest.approx(full[name].item(), rel=1e-5), name


def test_also_under_autocast_everything_is_float32():
    frozen, learner = output(5, 8, 0, (6, 7, 8)), output(5, 4, 100)
    loss = Baselines(WEIGHTS, regressor=nn.Conv2d(4, 7, 1))
    plain = loss(frozen, learner)
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(frozen, learner)
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
        assert term.item() == pytest.approx(plain[name].item(), rel=1e-4), name


def test_a_batch_of_one_image_is_finite():
    frozen, learner = output(1, 8, 0), output(1, 4, 100)
    terms = Baselines(WEIGHTS)(frozen, learner)
    assert all(term.isfinite() for term in terms.values())
    terms["loss"].backward()
    assert learner.features.grad.eq(0).all()  # none of these looks at features
    for tensor in (learner.logits, *learner.maps):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


@on_logits
def test_the_mean_over_images_does_not_grow_with_the_batch(loss):
    f, g = draw(3, 6), draw(3, 6, seed=1)
    assert loss(f.repeat(4, 1), g.repeat(4, 1)).item() == pytest.approx(loss(f, g).item(), rel=1e-5)


def test_a_weight_of_nothing_leaves_a_loss_out():
    loss = Baselines({"at": 0.0, "kd": 1})
    assert loss.weights == {"kd": 1.0}
    assert not loss.needs_maps
    learner = output(4, 4, 1)
    nothing = Baselines({})(output(4, 4, 0), learner)
    assert nothing["loss"] == 0
    assert list(nothing) == ["loss"]
    nothing["loss"].backward()
    assert learner.features.grad.eq(0).all()


def test_only_losses_on_maps_need_maps():
    assert [name for name in NAMES if Baselines({name: 1.0}).needs_maps] == list(ON_MAPS)
    bare = Output(draw(4, 3), draw(4, 6))
    assert Baselines({"kd": 1.0})(bare, bare)["loss"] == 0
    with pytest.raises(HorkdError, match="maps=True"):
        Baselines({"at": 1.0})(bare, bare)


def test_the_temperature_is_both_kds():
    frozen, learner = output(4, 4, 0), output(4, 4, 100)
    terms = Baselines({"kd": 1.0, "kd_standardised": 1.0}, temperature=7.0)(frozen, learner)
    z, y = oracle_standardised(frozen.logits), oracle_standardised(learner.logits)
    assert terms["kd"].item() == pytest.approx(
        oracle_kd(frozen.logits, learner.logits, 7), rel=1e-4
    )
    assert terms["kd_standardised"].item() == pytest.approx(oracle_kd(z, y, 7.0), rel=1e-4)


def test_the_regressor_maps_the_learners_middle_stage_and_is_trained():
    frozen, learner = output(3, 8, 0, (6, 7, 8)), output(3, 4, 100)
    regressor = nn.Conv2d(4, 7, 1)
    terms = Baselines({"fitnet": 1.0}, regressor=regressor)(frozen, learner)
    n, _, height, width = learner.maps[1].shape
    mapped = torch.zeros(n, 7, height, width, dtype=torch.float64)
    weight, bias, maps = (
        regressor.weight.tolist(),
        regressor.bias.tolist(),
        learner.maps[1].tolist(),
    )
    for i, k, y, x in np.ndindex(tuple(mapped.shape)):
        mapped[i, k, y, x] = bias[k] + sum(weight[k][c][0][0] * maps[i][c][y][x] for c in range(4))
    expected = oracle_mean_square(frozen.maps[1], mapped)
    assert terms["fitnet"].item() == pytest.approx(expected, rel=1e-4)
    terms["loss"].backward()
    assert regressor.weight.grad.abs().sum() > 0
    with pytest.raises(HorkdError, match="add a regressor"):
        Baselines({"fitnet": 1.0})(frozen, learner)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (({"crd": 1.0},), "unknown baseline 'crd': choose from kd, kd_standardised, fitnet, at"),
        (({"kd": -0.1},), "the weight of kd is -0.1; it must be 0 or more"),
        (({"kd": math.nan},), "the weight of kd is nan"),
        (({"kd": 1.0}, 0.0), "the temperature must be positive, got 0.0"),
        (({}, -2.0), "the temperature must be positive, got -2.0"),
    ],
)
def test_bad_weights_and_temperatures(arguments, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        Baselines(*arguments)
    assert "\n" not in str(caught.value)


# --- maps of the networks ---------------------------------------------------------------------

MAPS = {  # (channels, side at 32 pixels) of each stage
    "resnet8": ((16, 32), (32, 16), (64, 8)),
    "resnet18x0.1": ((6, 32), (13, 16), (26, 8), (51, 4)),
    "resnet50x0.05": ((12, 32), (24, 16), (52, 8), (104, 4)),
    "vgg11x0.05": ((3, 32), (6, 16), (13, 8), (26, 4), (26, 2)),
}


@pytest.mark.parametrize("pixels", [32, 16])
@pytest.mark.parametrize("name", MAPS)
def test_maps_of_every_stage(name, pixels):
    network = tiny.network(name).eval()
    x = draw(2, 3, pixels, pixels)
    with torch.no_grad():
        plain, out = network(x), network(x, maps=True)
    assert [tuple(m.shape) for m in out.maps] == [
        (2, k, side * pixels // 32, side * pixels // 32) for k, side in MAPS[name]
    ]
    assert network.channels == tuple(k for k, _ in MAPS[name])
    assert plain.maps == ()
    assert torch.equal(plain.features, out.features)
    assert torch.equal(plain.logits, out.logits)
    assert all(m.min() >= 0 for m in out.maps)  # after the ReLU


@pytest.mark.parametrize("name", ["resnet8", "resnet18x0.1", "resnet50x0.05"])
def test_the_last_map_of_a_resnet_is_what_is_pooled(name):
    """In training mode too, and no later layer writes into a kept map."""
    network, x = tiny.network(name).train(), draw(2, 3, 16, 16)
    out = network(x, True)
    torch.testing.assert_close(out.maps[-1].mean((2, 3)), out.features)
    kept = []
    for index, layer in enumerate(network.eval().backbone[0]):
        x = layer(x)
        kept += [x.clone()] if index in network.backbone.ends else []
    for mine, theirs in zip(network(draw(2, 3, 16, 16), True).maps, kept, strict=True):
        assert torch.equal(mine, theirs)


def test_a_loss_on_maps_reaches_only_what_is_before_them():
    network = tiny.network("resnet8")
    network(draw(2, 3, 16, 16), True).maps[1].square().mean().backward()
    reached = {n for n, p in network.named_parameters() if p.grad is not None}
    assert "backbone.0.0.weight" in reached
    assert not any(n.startswith("classifier") for n in reached)
    last = max(int(n.split(".")[2]) for n in reached)
    assert last == sorted(network.backbone.ends)[1]


@pytest.mark.parametrize("embedding", [None, 5])
@pytest.mark.parametrize("name", MAPS)
def test_cost_without_building_the_network(name, embedding):
    spec = ModelSpec(name, 10, embedding)
    for pixels in (16, 32):
        assert macs_of(spec, pixels) == macs(Network(spec), pixels)


@pytest.mark.parametrize("name", MAPS)
def test_names_of_weights_are_as_they_were(name):
    """Checkpoints of earlier versions load."""
    names = list(Network(ModelSpec(name, 10, 7)).state_dict())
    assert names[0] == "backbone.0.0.weight"
    assert names[-4:] == ["backbone.3.weight", "backbone.3.bias", *names[-2:]]
    assert names[-2:] == ["classifier.weight", "classifier.bias"]
    assert all(n.startswith(("backbone.0.", "backbone.3.", "classifier.")) for n in names)


def test_a_frozen_network_gives_its_maps_without_gradient():
    frozen = Frozen(tiny.network("resnet8"))
    out = frozen(draw(2, 3, 16, 16), True)
    assert len(out.maps) == 3
    assert not any(t.requires_grad for t in (out.features, out.logits, *out.maps))
    assert frozen(draw(2, 3, 16, 16)).maps == ()
