"""The methods of Table 4 against explicit loops; invariances; degenerate batches; what they do."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw, gradient

from horkd.baselines import NAMES, Baselines, darkrank, mkd_absolute, mkd_relative, pkt
from horkd.errors import HorkdError
from horkd.networks.network import Output

LOSSES = {
    "pkt": pkt,
    "darkrank": darkrank,
    "mkd_absolute": mkd_absolute,
    "mkd_relative": mkd_relative,
}
RELATIONAL = {name: loss for name, loss in LOSSES.items() if name != "mkd_absolute"}
each = pytest.mark.parametrize("name", LOSSES)
each_relational = pytest.mark.parametrize("name", RELATIONAL)
#: A failing example is drawn again from its seed alone.
SHAPES = {"n": st.integers(3, 7), "d": st.integers(2, 6), "seed": st.integers(0, 2**16)}
some = settings(max_examples=12, deadline=None)


def pair(n: int, d: int, seed: int = 0, scale: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of equal width; in those of length 1 darkrank's scores are of order 1."""
    return draw(n, d, seed=seed, scale=scale), draw(n, d, seed=seed + 1, scale=scale)


def rotation(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(draw(d, d, seed=seed).double()).Q.float()


# --- oracles: float64, one loop per index -----------------------------------------------------


def rows(x: torch.Tensor) -> list[list[float]]:
    return x.detach().double().tolist()


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((s - t) ** 2 for s, t in zip(a, b, strict=True)))


def kernel(a: list[float], b: list[float]) -> float:
    product = sum(s * t for s, t in zip(a, b, strict=True))
    lengths = math.hypot(*a) * math.hypot(*b)
    return (product / lengths + 1) / 2 if lengths else 0.5


def conditional(x: list[list[float]], i: int, eps: float) -> dict[int, float]:
    """p_(j|i) by j."""
    similar = {j: kernel(x[i], x[j]) + eps for j in range(len(x)) if j != i}
    return {j: value / sum(similar.values()) for j, value in similar.items()}


def oracle_pkt(frozen: torch.Tensor, learner: torch.Tensor, eps: float = 1e-7) -> float:
    f, g = rows(frozen), rows(learner)
    total = 0.0
    for i in range(len(f)):
        p, q = conditional(f, i, eps), conditional(g, i, eps)
        for j in p:
            total += p[j] * (math.log(p[j]) - math.log(q[j]))
    return total / len(f)


def oracle_darkrank(
    frozen: torch.Tensor,
    learner: torch.Tensor,
    alpha: float = 3.0,
    beta: float = 3.0,
    length: int = 4,
) -> float:
    f, g = rows(frozen), rows(learner)
    total = 0.0
    for i in range(len(f)):
        others = sorted((distance(f[i], f[j]), j) for j in range(len(f)) if j != i)
        chosen = [j for _, j in others][:length]
        for k, j in enumerate(chosen):
            score = -alpha * distance(g[i], g[j]) ** beta
            rest = sum(math.exp(-alpha * distance(g[i], g[m]) ** beta) for m in chosen[k:])
            total -= score - math.log(rest)
    return total / len(f)


def oracle_mkd_absolute(frozen: torch.Tensor, learner: torch.Tensor) -> float:
    both = list(zip(rows(frozen), rows(learner), strict=True))
    return sum(distance(a, b) for a, b in both) / len(both)


def oracle_mkd_relative(frozen: torch.Tensor, learner: torch.Tensor) -> float:
    f, g = rows(frozen), rows(learner)
    terms = [
        abs(distance(f[i], f[j]) - distance(g[i], g[j]))
        for i in range(len(f))
        for j in range(len(f))
        if i != j
    ]
    return sum(terms) / len(terms)


ORACLES = {
    "pkt": oracle_pkt,
    "darkrank": oracle_darkrank,
    "mkd_absolute": oracle_mkd_absolute,
    "mkd_relative": oracle_mkd_relative,
}


# --- values -----------------------------------------------------------------------------------


@each
@some
@given(**SHAPES, scale=st.floats(0.05, 0.8))
def test_the_loss_equals_an_explicit_loop(name, n, d, seed, scale):
    f, g = pair(n, d, seed, scale)
    expected = ORACLES[name](f, g)
    assert LOSSES[name](f, g).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    exact = LOSSES[name](f.double(), g.double())
    assert exact.dtype == torch.float64
    assert exact.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@each_relational
@some
@given(**SHAPES, wider=st.integers(1, 5))
def test_widths_may_differ(name, n, d, seed, wider):
    f, g = draw(n, d + wider, seed=seed, scale=0.4), draw(n, d, seed=seed + 1, scale=0.4)
    for a, b in ((f, g), (g, f)):
        expected = ORACLES[name](a, b)
        assert LOSSES[name](a, b).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_pkt_of_three_images_by_hand():
    """At the frozen corner of a square, cosines 0, 0 and −1; the learner's three are equal."""
    f = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    g = torch.eye(3)
    # images 0 and 2 see K = 1/2 and 0, image 1 sees 1/2 and 1/2; the learner sees halves
    assert pkt(f, g).item() == pytest.approx(2 / 3 * math.log(2), rel=1e-5)


def test_pkt_leaves_out_the_diagonal_and_takes_a_mean_over_images():
    """What the authors' code computes is another number, N times smaller and with K_ii = 1."""
    f, g = (x.double() for x in pair(6, 4))

    def published(x):
        x = x / x.norm(dim=1, keepdim=True)
        k = (x @ x.T + 1) / 2
        return k / k.sum(1, keepdim=True)

    p, q = published(f), published(g)
    theirs = (p * (p / q).log()).mean().item() * len(f)
    assert abs(theirs - oracle_pkt(f, g)) > 0.1 * oracle_pkt(f, g)
    assert pkt(f, g).item() == pytest.approx(oracle_pkt(f, g), rel=1e-9)


def test_darkrank_of_three_images_by_hand():
    """On a line at 0, 1, 3 and lists of two: three pairs of scores, −d at α = β = 1."""
    f = torch.tensor([[0.0], [1.0], [3.0]])
    g = torch.tensor([[0.0], [4.0], [1.0]])
    # frozen orders: 0: (1, 2), 1: (0, 2), 2: (1, 0); learner's distances: 4, 1; 4, 3; 3, 1
    expected = np.mean([math.log1p(math.exp(far)) for far in (4 - 1, 4 - 3, 3 - 1)])
    assert darkrank(f, g, 1.0, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_mkd_by_hand():
    f = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    g = torch.tensor([[0.0, 1.0], [3.0, 1.0]])
    assert mkd_absolute(f, g).item() == pytest.approx((1 + 3) / 2)
    assert mkd_relative(f, g).item() == pytest.approx(5 - 3)
    for scale in (1e-25, 1e25):  # squares beyond float32
        assert mkd_absolute(scale * f, scale * g).item() == pytest.approx(
            2 * scale, rel=1e-6, abs=0
        )


@some
@given(
    **SHAPES, alpha=st.floats(0.5, 5), beta=st.sampled_from([1.0, 2.0, 3.5]), k=st.integers(2, 9)
)
def test_darkranks_parameters(n, d, seed, alpha, beta, k):
    """A list longer than the batch is the batch."""
    f, g = pair(n, d, seed, 0.4)
    expected = oracle_darkrank(f, g, alpha, beta, k)
    actual = darkrank(f, g, alpha, beta, length=k).item()
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_darkranks_defaults_are_three_three_and_lists_of_four():
    f, g = pair(9, 3)
    assert darkrank(f, g).item() == pytest.approx(oracle_darkrank(f, g, 3, 3, 4), rel=1e-5)
    assert abs(darkrank(f, g) - darkrank(f, g, length=8)) > 0.1


def test_the_probabilities_of_all_orders_sum_to_one():
    """Of a query's three others: P(π) over π, each one made the frozen model's order in turn."""
    g = draw(4, 3, scale=0.5)
    d = {j: distance(rows(g)[0], rows(g)[j]) for j in (1, 2, 3)}

    def log_probability(order):
        scores = [-3 * d[j] ** 3 for j in order]
        return sum(s - math.log(sum(map(math.exp, scores[k:]))) for k, s in enumerate(scores))

    assert sum(math.exp(log_probability(o)) for o in itertools.permutations(d)) == pytest.approx(1)
    # the frozen model puts image 0 in the middle of a line on which only its order can vary
    for order in itertools.permutations((1, 2, 3)):
        f = torch.zeros(4, 1)
        for rank, j in enumerate(order):
            f[j] = 1.0 + rank
        others = oracle_darkrank(f, g) * 4 + log_probability(order)  # of queries 1, 2, 3
        whole = darkrank(f, g).item() * 4
        assert whole - others == pytest.approx(-log_probability(order), abs=1e-5)


# --- invariances ------------------------------------------------------------------------------


@each
@some
@given(**SHAPES)
def test_the_order_of_the_batch_does_not_matter(name, n, d, seed):
    f, g = pair(n, d, seed)
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    expected = LOSSES[name](f, g).item()
    assert LOSSES[name](f[shuffled], g[shuffled]).item() == pytest.approx(
        expected, rel=1e-4, abs=1e-6
    )
    # but both must be shuffled alike
    f, g = pair(8, 6, seed)
    assert abs(LOSSES[name](f.roll(1, 0), g) - LOSSES[name](f, g)) > 1e-6


@some
@given(**SHAPES, exponent=st.floats(-6, 6))
def test_pkt_ignores_the_length_of_every_vector(n, d, seed, exponent):
    f, g = pair(n, d, seed)
    lengths = 10 ** (exponent * torch.linspace(-1, 1, n)[:, None])
    expected = pkt(f, g).item()
    assert pkt(lengths * f, g).item() == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert pkt(f, lengths * g).item() == pytest.approx(expected, rel=1e-3, abs=1e-7)
    q = rotation(d, seed)
    assert pkt(f @ q, g).item() == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert pkt(f, g @ q).item() == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_what_pkt_does_not_ignore():
    f, g = pair(6, 4)
    assert abs(pkt(f, g + 1) - pkt(f, g)) > 1e-2  # the origin
    assert abs(pkt(f, g * g.new_tensor([1.0, -1.0, 3.0, 0.1])) - pkt(f, g)) > 1e-3
    signs = g.new_tensor([1, 1, -1, -1, 1, 1])[:, None]
    assert abs(pkt(f, signs * g) - pkt(f, g)) > 1e-2


@pytest.mark.parametrize("name", ["darkrank", "mkd_relative"])
@some
@given(**SHAPES, shift=st.floats(-3, 3))
def test_distances_know_neither_rotation_nor_translation(name, n, d, seed, shift):
    f, g = pair(n, d, seed)
    expected = LOSSES[name](f, g).item()
    q, t = rotation(d, seed + 7), shift * draw(1, d, seed=seed + 8)
    for a, b in ((f @ q, g), (f, g @ q), (f + t, g), (f, g + t), (f @ q + t, g @ q - t)):
        assert LOSSES[name](a, b).item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


@some
@given(**SHAPES, exponent=st.floats(-3, 3))
def test_darkrank_knows_only_the_order_of_the_frozen_distances(n, d, seed, exponent):
    f, g = pair(n, d, seed)
    expected = darkrank(f, g).item()
    assert darkrank(f * 10**exponent, g).item() == pytest.approx(expected, rel=1e-5)
    # the square roots of distances are distances too, of vectors in N − 1 dimensions
    d = torch.tensor([[distance(a, b) for b in rows(f)] for a in rows(f)], dtype=torch.float64)
    centred = torch.eye(n, dtype=torch.float64) - 1 / n
    values, vectors = torch.linalg.eigh(-0.5 * centred @ d @ centred)
    roots = vectors * values.clamp(min=0).sqrt()
    assert distance(rows(roots)[0], rows(roots)[1]) == pytest.approx(math.sqrt(d[0, 1]), rel=1e-6)
    assert darkrank(roots, g).item() == pytest.approx(expected, rel=1e-5)


def test_scales_count_for_mkd_and_the_learners_for_darkrank():
    f, g = pair(6, 4)
    for name in ("mkd_absolute", "mkd_relative"):
        assert LOSSES[name](f, 2 * f) > 0.5
        scaled = LOSSES[name](3 * f, 3 * g).item()
        assert scaled == pytest.approx(3 * LOSSES[name](f, g).item(), rel=1e-5)
    assert abs(darkrank(f, 2 * g) - darkrank(f, g)) > 0.1


@pytest.mark.parametrize("name", ["pkt", "mkd_absolute", "mkd_relative"])
@some
@given(**SHAPES)
def test_equal_features_cost_nothing_and_pull_nowhere(name, n, d, seed):
    f, g = pair(n, d, seed)
    assert LOSSES[name](g, g).item() == pytest.approx(0, abs=1e-9)
    assert gradient(lambda x: LOSSES[name](g, x), g).abs().max() < 1e-6
    if n > 3 or name != "pkt":
        assert LOSSES[name](f, g) > 1e-5


@some
@given(**SHAPES)
def test_pkt_is_a_divergence(n, d, seed):
    f, g = pair(n, d, seed)
    assert pkt(f, g) >= 0
    assert pkt(g, f) >= 0


def test_darkrank_prefers_the_frozen_models_order():
    f = torch.tensor([[0.0], [0.2], [0.5], [1.1], [2.1]])
    assert darkrank(f, f) < darkrank(f, f.flip(0) ** 2)
    # with distances far apart the right order is certain, and the wrong one costs much
    assert darkrank(f, 10 * f).item() == pytest.approx(0, abs=1e-3)
    assert darkrank(f, 10 * f.roll(2, 0)) > 100


# --- gradients --------------------------------------------------------------------------------


@each
def test_gradients_equal_finite_differences(name):
    f, g = (x.double() for x in pair(6, 4, 3, 0.4))
    g.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](f, x), (g,), eps=1e-6, atol=1e-6)


def test_gradients_of_other_parameters_equal_finite_differences():
    f, g = draw(5, 3).double(), draw(5, 4, seed=1, scale=0.4).double().requires_grad_()
    for loss in (
        lambda x: darkrank(f, x, 2.0, 1.0, 2),
        lambda x: darkrank(f, x, length=99),
        lambda x: pkt(f, x, 0.1),
    ):
        assert torch.autograd.gradcheck(loss, (g,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_darkranks_gradient_where_scores_are_far_apart(scale):
    """Up to 1e13: no sum of exponentials may overflow, and no share of one be lost."""
    f, g = (x.double() for x in pair(7, 3, scale=scale))
    expected = torch.zeros(7, 3, dtype=torch.float64)
    for i in range(7):
        d = [distance(rows(g)[i], row) for row in rows(g)]
        others = sorted((distance(rows(f)[i], rows(f)[j]), j) for j in range(7) if j != i)
        chosen = [j for _, j in others][:4]
        for k, chief in enumerate(chosen):
            scores = {j: -3 * d[j] ** 3 for j in chosen[k:]}
            top = max(scores.values())
            raised = {j: math.exp(s - top) for j, s in scores.items()}
            for j in scores:  # of log Σ exp s − s_chief, by s_j
                slope = raised[j] / sum(raised.values()) - (j == chief)
                pull = slope * -9 * d[j] ** 2 * (g[i] - g[j]) / d[j] / 7
                expected[i] += pull
                expected[j] -= pull
    actual = gradient(lambda x: darkrank(f, x), g)
    assert (actual - expected).norm() < 1e-9 * expected.norm()


@each
def test_the_gradient_in_float32_is_that_in_float64(name):
    f, g = pair(16, 8, scale=0.3)
    exact = gradient(lambda x: LOSSES[name](f.double(), x), g.double())
    actual = gradient(lambda x: LOSSES[name](f, x), g)
    assert actual.dtype == torch.float32
    assert (actual.double() - exact).norm() < 1e-5 * exact.norm()


@each
def test_the_frozen_side_gets_no_gradient(name):
    f, g = (x.requires_grad_() for x in pair(5, 3))
    LOSSES[name](f, g).backward()
    assert f.grad is None
    assert g.grad.abs().sum() > 0


# --- degenerate batches -----------------------------------------------------------------------


def degenerate(n: int = 6, d: int = 4) -> dict[str, torch.Tensor]:
    x = draw(n, d, seed=5, scale=0.5)
    some_zero, opposite, twice = x.clone(), x.clone(), x.clone()
    some_zero[:2] = 0
    opposite[1] = -2 * opposite[0]
    twice[1] = twice[0]
    return {
        "duplicates": twice,
        "all equal": x[:1].repeat(n, 1),
        "two points": x[:1].repeat(n, 1) * torch.tensor([1.0, -1.0] * (n // 2))[:, None],
        "zero rows": some_zero,
        "all zero": torch.zeros(n, d),
        "opposite": opposite,
        "huge": 1e10 * x,
        "tiny": 1e-10 * x,
        "tinier": 1e-25 * x,
        "offset": x + 1000,
        "of one column only": x * torch.tensor([1.0, 0, 0, 0]),
    }


@each
@pytest.mark.parametrize("kind", degenerate())
def test_degenerate_batches_are_finite_on_either_side(name, kind):
    x, other = degenerate()[kind], draw(6, 4, scale=0.5)
    for f, g in ((x, other), (other, x), (x, x)):
        value, pull = LOSSES[name](f, g), gradient(lambda y, f=f: LOSSES[name](f, y), g)
        assert value.isfinite()
        assert value >= 0
        assert pull.isfinite().all()


@each
@pytest.mark.parametrize("kind", ["duplicates", "all equal", "two points", "zero rows", "opposite"])
def test_degenerate_batches_have_the_loops_value(name, kind):
    x, other = degenerate()[kind], draw(6, 4, scale=0.5)
    x, other = x.double(), other.double()  # equally near images go by their place in the batch
    for f, g in ((x, other), (other, x)):
        expected = ORACLES[name](f, g)
        assert LOSSES[name](f, g).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_scores_beyond_float32_still_have_a_gradient():
    """Distances of 1e14: their cubes, and so the loss, are too large, the gradient is not."""
    f, g = pair(6, 4, scale=1e14)
    assert not darkrank(f, g).isnan()
    pull = gradient(lambda x: darkrank(f, x), g)
    assert pull.isfinite().all()
    assert pull.norm() > 1e20


def test_darkrank_never_lists_the_query_itself():
    """Though others may be equal to it: to drop whoever comes first would list the query."""
    f = torch.tensor([[1.0], [1.0], [1.0], [2.0], [4.0]]).double()
    g = draw(5, 3, scale=0.5).double()
    assert darkrank(f, g).item() == pytest.approx(oracle_darkrank(f, g), rel=1e-9)
    assert darkrank(f, g, length=2).item() == pytest.approx(
        oracle_darkrank(f, g, length=2), rel=1e-9
    )


def test_a_zero_vector_is_not_thrown_far_away():
    f, g = pair(6, 4)
    g[0] = 0
    pull = gradient(lambda x: pkt(f, x), g)
    assert 0 < pull[0].norm() < 10 * pull[1:].norm()


def test_opposite_vectors_do_not_explode():
    """log K has a steep slope there, which the cosine's vanishing one outweighs."""
    f, g = pair(6, 4)
    for angle in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
        near = g.clone()
        near[1] = -near[0] + angle * near[2]
        assert gradient(lambda x: pkt(f, x), near).norm() < 2e3
        assert pkt(f, near).item() == pytest.approx(oracle_pkt(f, near), rel=1e-5)
    ordinary = gradient(lambda x: pkt(f, x), g).norm()
    g[1] = -g[0]
    assert gradient(lambda x: pkt(f, x), g).norm() < 10 * ordinary


@each
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_small_batches(name, n):
    f, g = draw(n, 4, seed=2, scale=0.5), draw(n, 4, seed=3, scale=0.5).requires_grad_()
    value = LOSSES[name](f, g)
    enough = {"pkt": 3, "darkrank": 3, "mkd_absolute": 1, "mkd_relative": 2}[name]
    assert value.ndim == 0
    assert (value > 0) == (n >= enough)
    if n >= enough:
        assert value.item() == pytest.approx(ORACLES[name](f, g), rel=1e-4)
    value.backward()
    assert g.grad.shape == (n, 4)
    assert g.grad.isfinite().all()
    assert (g.grad.abs().sum() > 0) == (n >= enough)


# --- precision --------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gives_float32_of_the_rounded_inputs_also_under_autocast(name, dtype):
    f, g = (x.to(dtype) for x in pair(12, 8, scale=0.3))
    expected = LOSSES[name](f.float(), g.float()).item()
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](f, g.requires_grad_())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    exact = gradient(lambda x: LOSSES[name](f.float(), x), g.float())
    assert g.grad.dtype == dtype
    torch.testing.assert_close(g.grad.float(), exact, rtol=2e-2, atol=1e-2 * exact.abs().max())


@pytest.mark.parametrize("name", ["darkrank", "mkd_relative"])
def test_a_large_offset_costs_no_digits(name):
    f, g = (x.double() for x in pair(8, 6, scale=0.3))
    far = (g + 300).float()  # its rounding is all that may be lost
    expected = ORACLES[name](f, far)
    assert LOSSES[name](f.float(), far).item() == pytest.approx(expected, rel=1e-5)


# --- refusals ---------------------------------------------------------------------------------


def one_line(match: str, loss, *arguments, **options) -> None:
    with pytest.raises(HorkdError, match=match) as caught:
        loss(*arguments, **options)
    assert "\n" not in str(caught.value)


@each
def test_batches_of_two_sizes_are_one_clear_line(name):
    one_line(
        "frozen model saw 5 images, learner 4: they must", LOSSES[name], draw(5, 3), draw(4, 3)
    )
    one_line(r"learner features must be \(N, D\)", LOSSES[name], draw(5, 3), draw(5, 3, 1))


def test_the_absolute_teacher_needs_equal_widths():
    for f, g in ((draw(4, 5), draw(4, 3)), (draw(4, 1), draw(4, 3)), (draw(1, 5), draw(1, 1))):
        line = f"the frozen one is {f.shape[1]} wide and the learner's {g.shape[1]}: give the"
        one_line(line, mkd_absolute, f, g)


@pytest.mark.parametrize(
    "options",
    [{"alpha": 0.0}, {"alpha": -1.0}, {"alpha": math.nan}, {"beta": 0.5}, {"length": 1}],
)
def test_darkranks_parameters_are_checked(options):
    one_line("darkrank needs alpha > 0, beta >= 1 and lists of 2", darkrank, *pair(5, 3), **options)


@pytest.mark.parametrize("eps", [0.0, -1e-7, math.nan])
def test_pkts_eps_is_positive(eps):
    one_line("pkt's eps must be positive", pkt, *pair(5, 3), eps=eps)


# --- as terms ---------------------------------------------------------------------------------


def bare(features: torch.Tensor) -> Output:
    """Of a network without classifier, called without maps."""
    return Output(features, features.new_zeros(len(features), 0))


WEIGHTS = {"pkt": 3.0, "darkrank": 0.5, "mkd_absolute": 2.0, "mkd_relative": 0.25}


def test_they_are_baselines():
    assert set(LOSSES) <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_the_terms_are_the_losses_and_the_loss_their_weighted_sum():
    f, g = pair(7, 5)
    f, g = f.requires_grad_(), g.requires_grad_()
    loss = Baselines(WEIGHTS)
    assert not loss.needs_maps
    terms = loss(bare(f), bare(g))
    assert list(terms) == ["loss", *WEIGHTS]
    expected = {name: ORACLES[name](f, g) for name in WEIGHTS}
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    whole = sum(WEIGHTS[name] * value for name, value in expected.items())
    assert terms["loss"].item() == pytest.approx(whole, rel=1e-4)
    terms["loss"].backward()
    assert f.grad is None
    alone = sum(w * gradient(lambda x, n=name: LOSSES[n](f, x), g) for name, w in WEIGHTS.items())
    torch.testing.assert_close(g.grad, alone, rtol=1e-4, atol=1e-6)


@each
def test_each_is_a_term_of_its_own_and_a_weight_of_nothing_leaves_it_out(name):
    f, g = (bare(x) for x in pair(6, 3))
    terms = Baselines({**dict.fromkeys(WEIGHTS, 0.0), name: 2.0})(f, g)
    assert list(terms) == ["loss", name]
    assert terms["loss"].item() == pytest.approx(2 * terms[name].item())
    nothing = Baselines({name: 0.0})(f, g)
    assert list(nothing) == ["loss"]
    assert nothing["loss"] == 0


def test_others_see_widths_that_differ_and_the_absolute_one_refuses():
    f, g = bare(draw(6, 5)), bare(draw(6, 3, seed=1))
    terms = Baselines({name: 1.0 for name in RELATIONAL})(f, g)
    assert all(term > 0 for term in terms.values())
    one_line("give the learner an embedding", Baselines({"mkd_absolute": 1.0}), f, g)


def test_attention_transfer_can_be_added():
    """MKD with AT: one term on features, one on maps."""
    f, g = pair(4, 3)
    maps = draw(4, 2, 3, 3), draw(4, 5, 3, 3, seed=1)
    loss = Baselines({"mkd_relative": 1.0, "at": 10.0})
    assert loss.needs_maps
    terms = loss(Output(f, f.new_zeros(4, 0), maps[:1]), Output(g, g.new_zeros(4, 0), maps[1:]))
    whole = terms["mkd_relative"] + 10 * terms["at"]
    assert terms["loss"].item() == pytest.approx(whole.item())
    assert terms["at"] > 0


# --- what minimising them does ----------------------------------------------------------------


def descend(name: str, f: torch.Tensor, g: torch.Tensor, steps: int = 300, lr: float = 0.02):
    g = g.clone().requires_grad_()
    optimizer = torch.optim.Adam([g], lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        LOSSES[name](f, g).backward()
        optimizer.step()
    return g.detach()


def off_diagonal(x: torch.Tensor) -> torch.Tensor:
    return x[~torch.eye(len(x), dtype=torch.bool)]


@pytest.fixture(scope="module")
def plane() -> tuple[torch.Tensor, torch.Tensor]:
    """Frozen features in three dimensions and a learner's in four, unrelated to them."""
    return draw(10, 3, seed=11, scale=0.6), draw(10, 4, seed=12, scale=0.6)


def test_descending_pkt_gives_the_frozen_cosines(plane):
    f, g = plane
    moved = descend("pkt", f, g)

    def cosines(x):
        return off_diagonal(torch.tensor([[kernel(a, b) for b in rows(x)] for a in rows(x)]))

    before = (cosines(g) - cosines(f)).abs().mean()
    after = (cosines(moved) - cosines(f)).abs().mean()
    assert after < 0.3 * before
    assert pkt(f, moved) < 0.05 * pkt(f, g)


def test_descending_darkrank_gives_the_frozen_order(plane):
    f, g = plane
    moved = descend("darkrank", f, g)

    def agreeing(x):
        """Share of the frozen model's lists of four that are ordered alike, pair by pair."""
        right = []
        for i in range(len(f)):
            d, e = ([distance(rows(y)[i], row) for row in rows(y)] for y in (f, x))
            order = sorted((j for j in range(len(f)) if j != i), key=d.__getitem__)[:4]
            right += [e[a] < e[b] for a, b in itertools.combinations(order, 2)]
        return np.mean(right)

    assert agreeing(g) < 0.75
    assert agreeing(moved) > 0.9


def test_descending_the_relative_teacher_gives_the_frozen_distances(plane):
    f, g = plane
    moved = descend("mkd_relative", f, g)
    assert oracle_mkd_relative(f, moved) < 0.1 * oracle_mkd_relative(f, g)


def test_descending_the_absolute_teacher_gives_the_frozen_features(plane):
    f, g = plane[0], plane[1][:, :3]
    moved = descend("mkd_absolute", f, g)
    assert oracle_mkd_absolute(f, moved) < 0.05 * oracle_mkd_absolute(f, g)


@pytest.mark.parametrize("name", ["mkd_relative", "mkd_absolute"])
def test_a_collapsed_learner_recovers(name, plane):
    f = plane[0]
    moved = descend(name, f, torch.zeros(10, 3), steps=400, lr=0.05)
    assert ORACLES[name](f, moved) < 0.5 * ORACLES[name](f, torch.zeros(10, 3))
