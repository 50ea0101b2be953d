"""What lies beneath the relational losses: blocks, precision, memory, compilers, other forms."""

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import features, gradient
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from horkd.errors import HorkdError
from horkd.fast import angles, distances
from horkd.losses import HybridOrderLoss, order1, order2, order3, order_c
from horkd.potentials import angle_cosines, center_distances, pairwise_distances

CENTRES = torch.randn(7, 12, generator=torch.Generator().manual_seed(9)).bfloat16().double()
LOSSES = {
    "order2": order2,
    "order2 rkd": lambda f, g: order2(f, g, reduction="rkd"),
    "order3": order3,
    "order3 rkd": lambda f, g: order3(f, g, reduction="rkd"),
    "order_c": lambda f, g: order_c(f, g, CENTRES.to(g)),
    "order_c normalized": lambda f, g: order_c(f, g, CENTRES.to(g), normalize=True),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def with_duplicates(x: torch.Tensor) -> torch.Tensor:
    """Rows 1 and 3 equal, 0 and 2 nearer than the softening."""
    x = x.clone()
    x[3] = x[1]
    x[2] = x[0] + 0.2 * oracles.SOFTENING * (x[4] - x[0])
    return x


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


# --- the loss over angles in blocks -----------------------------------------------------------


def plain_angles(p: torch.Tensor, q: torch.Tensor, equal: bool) -> torch.Tensor:
    """The same sum with all cosines at once, for autograd; [j, i, k]."""

    def cosines(side: torch.Tensor) -> torch.Tensor:
        s, b = side**2, side.clamp(min=oracles.SOFTENING)
        return 0.5 * (s[:, :, None] + s[:, None] - s[None]) / (b[:, :, None] * b[:, None])

    n = len(q)
    index = torch.arange(n)
    huber = torch.nn.functional.smooth_l1_loss(cosines(q), cosines(p), reduction="none")
    huber = huber * (index[:, None, None] != index[None, :, None])  # j != i
    huber = huber * (index[:, None, None] != index[None, None, :])  # j != k
    return (huber if equal else huber * (index[:, None] != index)).sum()


def sides(n: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    p = pairwise_distances(features(n, 5, seed=1, dtype=dtype))
    return p, pairwise_distances(with_duplicates(features(n, 4, dtype=dtype)))


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("block", [1, 700, 1 << 18])
@pytest.mark.parametrize("n", [5, 31, 32, 33, 64, 65, 97])
def test_blocks_add_up_to_the_plain_sum(n, block, equal):
    p, q = sides(n)
    loss, to_q = angles.angles_blocked(p, q, equal, True, block)
    q.requires_grad_()
    expected = plain_angles(p, q, equal)
    (expected_gradient,) = torch.autograd.grad(expected, q)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    symmetric = expected_gradient + expected_gradient.T  # all that reaches the features
    symmetric.fill_diagonal_(0)
    torch.testing.assert_close((to_q + to_q.T).fill_diagonal_(0), symmetric, rtol=1e-9, atol=1e-9)
    without, _ = angles.angles_blocked(p, q.detach(), equal, False, block)
    assert without == loss


def test_large_batches_equal_explicit_loops():
    """More rows than one block holds; the loops know nothing of blocks."""
    f, g = features(40, 6, seed=1).numpy(), with_duplicates(features(40, 3)).numpy()
    for loss, oracle in ((order2, oracles.order2), (order3, oracles.order3)):
        for reduction in ("mean", "rkd"):
            expected = oracle(f, g, reduction)
            for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
                pair = (torch.from_numpy(x).to(dtype) for x in (f, g))
                value = loss(*pair, reduction=reduction).item()
                assert value == pytest.approx(expected, rel=tolerance)


@every_loss
def test_gradcheck_beyond_one_block(name):
    n, d = angles.ROWS + 2, 12 if name.startswith("order_c") else 2
    g = features(n, d, seed=1).requires_grad_()
    assert gradcheck(lambda x: LOSSES[name](features(n), x), (g,))


@pytest.mark.parametrize("name", ["order3", "order3 rkd"])
def test_the_gradient_of_softened_angles_is_exact(name):
    """Two rows nearer than the softening: the bound moves with the mean distance, and counts."""
    g = features(6, 4, seed=1)
    g[2] = g[0] + 0.3 * oracles.SOFTENING * (g[4] - g[0])
    assert gradcheck(lambda x: LOSSES[name](features(6), x), (g.requires_grad_(),))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(33, 90), d=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_permutation_across_blocks(n, d, seed):
    f, g = features(n, d, seed), features(n, d + 1, seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for loss in (order2, order3):
        torch.testing.assert_close(loss(f[order], g[order]), loss(f, g), rtol=1e-9, atol=1e-12)
        moved = gradient(loss, f[order], g[order])
        assert relative(moved, gradient(loss, f, g)[order]) < 1e-8


# --- memory -----------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The largest number of elements that any operation puts out."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("name", "bound"), [
    ("order2", 300 * 300), ("order3", 5 * angles.BLOCK), ("order_c", 2 * 300 * 64),
])  # fmt: skip
def test_nothing_of_three_dimensions_is_ever_held(name, bound):
    """N = 300, D = 64, C = 7: N², one block, and 2 N·D; N³, N²·D and N·C·D are above."""
    centres = torch.randn(7, 64)
    loss = LOSSES[name] if name != "order_c" else lambda f, g: order_c(f, g, centres)
    f, g = torch.randn(300, 64), torch.randn(300, 64, requires_grad=True)
    with Largest() as largest:
        loss(f, g).backward()
    assert 0 < largest.elements <= bound


def test_the_measure_of_the_largest_tensor_sees_a_backward_pass():
    x = torch.randn(5, requires_grad=True)
    with Largest() as largest:
        (x.sum() * 2).backward()
        assert largest.elements == 5
        (x[:, None, None] * torch.ones(1, 6, 7)).sum().backward()
    assert largest.elements == 5 * 6 * 7


# --- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0.3, 1e-1, 1e-2, 1e-3, 1e-5])
def test_close_pairs_keep_their_distance_in_float32(gap):
    """`gap`: their distance as a share of the mean; the Gram form alone loses up to 1e-3."""
    x = features(40, 64, dtype=torch.float32)
    x[1] = x[0] + gap * oracles.mean_distance(x.double().numpy()) / 8
    exact = oracles.distances(x.double().numpy())
    d = pairwise_distances(x, normalize=False).double().numpy()
    off = ~np.eye(40, dtype=bool)
    assert np.abs(d / np.where(off, exact, 1) - 1)[off].max() < 2e-5
    centres = x[:5] * (1 + 1e-4)
    exact = oracles.centre_distances(x.double().numpy(), centres.double().numpy())
    assert np.abs(center_distances(x, centres).double().numpy() / exact - 1).max() < 2e-5


PLAIN = {
    "order2": lambda f, g: oracles.plain_loss("2", f, g),
    "order2 rkd": lambda f, g: oracles.plain_loss("2", f, g, rkd=True),
    "order3": lambda f, g: oracles.plain_loss("3", f, g),
    "order3 rkd": lambda f, g: oracles.plain_loss("3", f, g, rkd=True),
    "order_c normalized": lambda f, g: oracles.plain_loss("C", f, g, CENTRES.to(f)),
}


def kinds_of_features(seed: int) -> dict[str, torch.Tensor]:
    """The hard cases, in float64, 40 rows."""
    x = features(40, seed=seed)
    clusters = 3 * features(8, seed=77)[torch.arange(40) % 8]
    nearly_collapsed = features(1, seed=seed).expand(40, -1) + 1e-3 * features(40, seed=seed)
    return {
        "random": x,
        "clustered": clusters + 0.03 * x,
        "duplicated": torch.cat([x[:30], x[:10] + 1e-3 * x[10:20]]),
        "nearly collapsed": nearly_collapsed,
        "huge offset": 0.1 * x + 100,
        "tiny scale": 1e-15 * x,
        "huge scale": 1e15 * x,
    }


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("kind", kinds_of_features(0))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_gradients_equal_autograd_of_the_plain_formula(name, kind, dtype):
    """In float64 and from difference vectors, of the very numbers that the losses are given."""
    if name.startswith("order_c") and "scale" in kind:
        pytest.skip("distances to far-off centres have no digits left for the features")
    f, g = (kinds_of_features(seed)[kind].to(dtype) for seed in (1, 2))
    exact = gradient(PLAIN[name], f.double(), g.double())
    value, grad = LOSSES[name](f, g), gradient(LOSSES[name], f, g)
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-4, torch.bfloat16: 1e-2}[dtype]
    assert value.item() == pytest.approx(PLAIN[name](f.double(), g.double()).item(), rel=1e-4)
    if kind == "huge offset" and dtype == torch.bfloat16:  # bf16 leaves a handful of numbers
        assert grad.isfinite().all()
    else:
        assert relative(grad, exact) < tolerance
    mixed = gradient(LOSSES[name], f.double(), g)  # a frozen model in another precision
    assert mixed.dtype == g.dtype
    if not (kind == "huge offset" and dtype == torch.bfloat16):
        assert relative(mixed, exact) < tolerance


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("distance", "tolerance"), [(0.1, 5e-5), (0.01, 3e-4)])
def test_a_learner_near_the_frozen_model_keeps_its_gradient(name, distance, tolerance):
    """Late in training the differences are small: errors of the distances weigh more."""
    f = features(64, 512, dtype=torch.float32)
    g = f + distance * torch.randn(64, 512, generator=torch.Generator().manual_seed(5))
    centres = features(7, 512, seed=8, dtype=torch.float32)
    ours, plain = LOSSES[name], PLAIN[name]
    if name.startswith("order_c"):

        def ours(f, g):
            return order_c(f, g, centres.to(g), normalize=True)

        def plain(f, g):
            return oracles.plain_loss("C", f, g, centres.to(f))

    assert relative(gradient(ours, f, g), gradient(plain, f.double(), g.double())) < tolerance


@every_loss
@pytest.mark.parametrize("exponent", range(-30, 31, 3))
def test_no_scale_of_the_features_leaves_float32(name, exponent):
    """Values and gradients scale as they must, from 1e-30 to 1e30, or are finite at least."""
    scale = 10.0**exponent
    f, g = features(64, dtype=torch.float32), features(64, seed=1, dtype=torch.float32)
    if name.startswith("order_c"):
        normalize = name.endswith("normalized")
        centres = CENTRES.float()

        def loss(f, g, scale=1.0):
            return order_c(f, g, scale * centres, normalize=normalize)

        if not normalize and abs(exponent) > 15:
            return  # the loss itself, a square of lengths, is no float32
        power = 0 if normalize else 2
    else:
        power = 0

        def loss(f, g, scale=1.0):
            return LOSSES[name](f, g)

    expected, expected_gradient = loss(f, g).item(), gradient(loss, f, g)
    value = loss(scale * f, scale * g, scale).double().item()
    assert value == pytest.approx(expected * scale**power, rel=1e-4)
    grad = gradient(lambda a, b: loss(a, b, scale), scale * f, scale * g).double()
    assert relative(grad * scale ** (1 - power), expected_gradient) < 1e-4


def test_antipodes_at_the_edge_of_float32():
    x = torch.tensor([[1e19, 0.0], [-1e19, 0.0], [0.0, 1e19]])
    d = pairwise_distances(x, normalize=False)
    torch.testing.assert_close(d[0, 1].item(), 2e19)


def test_inexact_matrix_products_are_not_trusted():
    """Where a setting allows TF32 or bf16 inside of them, distances come from float64."""
    x = features(30, dtype=torch.float32)
    assert distances.geometry(x).q.dtype == torch.float32
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert distances.geometry(x).q.dtype == torch.float64
    finally:
        torch.set_float32_matmul_precision(before)
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "bf16"  # the old and the new way of saying it, mixed
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        assert distances.geometry(x).q.dtype == torch.float64
    finally:
        products.fp32_precision = before
    assert distances.geometry(x).q.dtype == torch.float32


@every_loss
def test_backward_inside_autocast_keeps_its_precision(name):
    f, g = features(20, dtype=torch.float32), features(20, seed=1, dtype=torch.float32)
    expected = gradient(LOSSES[name], f, g)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gradient(LOSSES[name], f, g), expected)
    x = g.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pairwise_distances(x).square().sum().backward()
    y = g.clone().requires_grad_()
    pairwise_distances(y).square().sum().backward()
    assert torch.equal(x.grad, y.grad)


@every_loss
def test_not_a_number_stays_visible(name):
    f, g = features(20, dtype=torch.float32), features(20, seed=1, dtype=torch.float32)
    g[4, 2] = float("nan")
    assert LOSSES[name](f, g).isnan()


def test_features_on_two_devices_are_refused():
    f = torch.ones(5, 3, device="meta")
    for loss in (order1, order2, order3):
        with pytest.raises(HorkdError, match=r"meta.*cpu"):
            loss(f, torch.ones(5, 3))


# --- second derivatives, compilers --------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        *(lambda g, loss=loss: loss(features(8), g) for loss in LOSSES.values()),
        lambda g: pairwise_distances(g).sum(),
        lambda g: angle_cosines(g).sum(),
        lambda g: center_distances(g, CENTRES).sum(),
        lambda g: HybridOrderLoss({"2": 1.0, "3": 1.0})(features(8), g)["loss"],
    ],
)
@pytest.mark.filterwarnings("ignore:Using backward")
def test_second_derivatives_are_refused_with_one_line(function):
    g = features(8, seed=1).requires_grad_()
    with pytest.raises(HorkdError, match="create_graph") as error:
        torch.autograd.grad(function(g), g, create_graph=True)
    assert "\n" not in str(error.value)
    with pytest.raises(HorkdError, match="create_graph"):
        function(g).backward(create_graph=True)
    function(g).backward()  # and the first is still there


def compilers() -> list:
    no_compiler = not any(map(shutil.which, ("c++", "g++", "clang++")))
    skip = pytest.mark.skipif(no_compiler, reason="Inductor needs a C++ compiler")
    return ["aot_eager", pytest.param("inductor", marks=skip)]


@pytest.mark.parametrize("layout", ["rows", "columns", "every second row"])
def test_what_the_compiler_is_told_is_true(layout):
    """Shapes, types and strides of the operation that a graph holds in place of a term."""
    x = features(20, 6, dtype=torch.float32)
    if layout == "columns":
        x = x.T.contiguous().T
    elif layout == "every second row":
        x = features(40, 6, dtype=torch.float32)[::2]
    for kind in ("pairs", "triples", "centers"):
        arguments = (features(20, 6, 1, torch.float32), x, features(5, 6, 2, torch.float32))
        torch.library.opcheck(
            torch.ops.horkd.term.default,
            (*arguments, kind, False),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("backend", compilers())
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_compiled_loss_of_any_batch_and_layout(backend):
    torch._dynamo.reset()
    loss = HybridOrderLoss({"2": 1.0, "3": 1.0})
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))

    def function(frozen: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return loss(frozen, (weight @ x.T).T)["loss"]  # strides (1, N)

    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=True)
    for n in (20, 33, 50):
        frozen, x = features(n, 7, dtype=torch.float32), features(n, 8, 1, torch.float32)
        grad = gradient(compiled, frozen, x)
        torch.testing.assert_close(grad, gradient(function, frozen, x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", compilers())
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_compiled_model_with_all_orders_is_one_graph(backend):
    torch.manual_seed(0)
    network = torch.nn.Linear(8, 6)
    criterion = HybridOrderLoss(
        {"1": 1.0, "2": 1.0, "3": 1.0, "C": 1.0}, torch.randn(5, 8), torch.nn.Linear(6, 8)
    )

    def step(x: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
        return criterion(frozen, network(x))["loss"]

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    results = []
    for call in (step, compiled):
        network.zero_grad()
        x, frozen = features(20, 8, dtype=torch.float32), features(20, 8, 3, dtype=torch.float32)
        loss = call(x, frozen)
        loss.backward()
        results.append((loss.detach(), network.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", compilers())
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "potential",
    [
        pairwise_distances,
        lambda x: pairwise_distances(x, normalize=False),
        angle_cosines,
        lambda x: center_distances(x, CENTRES.float()),
    ],
    ids=["normalized", "plain", "cosines", "centres"],
)
def test_compiled_potentials(potential, backend):
    torch._dynamo.reset()
    x = features(9, dtype=torch.float32)
    x[3] = x[1]
    shape = potential(x).shape
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def function(x: torch.Tensor) -> torch.Tensor:
        return (weights * potential(x)).sum()

    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend=backend)):
        y = x.clone().requires_grad_()
        value = call(y)
        value.backward()
        results.append((value.detach(), y.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


# --- the fused form -----------------------------------------------------------------------------

has_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
has_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

INTERPRETED = """
import torch
from test_fast import pairwise_distances, sides
from horkd.fast import angles
from horkd.fast.fused import angles_fused

for n in (3, 6, 32, 45):
    p, q = sides(max(n, 5))
    p, q = p[:n, :n].contiguous(), q[:n, :n].contiguous()
    for equal in (False, True):
        loss, to_q = angles_fused(p.float(), q.float(), equal, True)
        expected, to_q_expected = angles.angles_blocked(p, q, equal, True)
        to_q, to_q_expected = to_q + to_q.T, to_q_expected + to_q_expected.T
        error = (to_q - to_q_expected).abs().max() / to_q_expected.abs().max()
        assert abs(loss - expected) <= 1e-5 * expected, (n, equal, loss, expected)
        assert error < 1e-5, (n, equal, error)
    same, zero = angles_fused(q.float(), q.float(), False, True)
    assert same == 0 and not zero.any()
print("equal")
"""


@has_triton
def test_the_fused_form_equals_the_blocked_one_in_tritons_interpreter():
    """Runs the kernel's Python line by line on the CPU; duplicates included."""
    tests = os.path.dirname(__file__)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": tests}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout.strip() == "equal", done.stderr


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from horkd.fast import fused

pointers = ("p_lengths", "p_inverses", "q_lengths", "q_inverses", "gradients", "losses")
constants = {"soft": 0.05, "equal": False, "tile": 32}
signature = {**dict.fromkeys(pointers, "*fp32"), "n": "i32", "share": "i32"}
signature |= dict.fromkeys(constants, "constexpr")
for capability in (80, 90):
    for constants["equal"] in (False, True):
        source = ASTSource(fused._triangles, signature=signature, constexprs=constants)
        kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert kernel.asm["cubin"]
print("compiled")
"""


@has_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is for Linux")
def test_the_fused_form_compiles_for_ampere_and_hopper(tmp_path):
    """Down to machine code, which needs no GPU; running it does."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout.strip() == "compiled", done.stderr


@has_cuda
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("n", [3, 32, 100, 513])
def test_the_fused_form_equals_the_blocked_one_on_a_gpu(n, equal):
    from horkd.fast.fused import angles_fused

    p, q = (x[:n, :n].contiguous().cuda() for x in sides(max(n, 5)))
    loss, to_q = angles_fused(p.float(), q.float(), equal, True)
    expected, to_q_expected = angles.angles_blocked(p, q, equal, True)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    assert relative(to_q + to_q.T, to_q_expected + to_q_expected.T) < 1e-4


@has_cuda
@every_loss
def test_losses_on_a_gpu_equal_those_on_the_cpu(name):
    f, g = (with_duplicates(features(70, seed=s)).float() for s in (0, 1))
    grad = gradient(LOSSES[name], f.cuda(), g.cuda())
    assert relative(grad.cpu(), gradient(LOSSES[name], f, g)) < 1e-4


def test_a_form_can_be_forced(monkeypatch):
    f, g = features(6, dtype=torch.float32), features(6, seed=1, dtype=torch.float32)
    expected = order3(f, g)
    monkeypatch.setenv("HORKD_ANGLES", "blocked")
    assert order3(f, g) == expected
    monkeypatch.setenv("HORKD_ANGLES", "fused")
    with pytest.raises(HorkdError, match="float32 on CUDA"):
        order3(f, g)
    monkeypatch.setenv("HORKD_ANGLES", "quick")
    with pytest.raises(HorkdError, match=r"HORKD_ANGLES is 'quick'.*auto, blocked, fused"):
        order3(f, g)


def test_a_fused_form_that_is_wrong_is_refused():
    """At its first use on a device it is compared with the blocked form."""

    def off_by(error: float):
        def form(p, q, equal, gradient):
            loss, to_q = angles.angles_blocked(p, q, equal, gradient)
            return loss, to_q * (1 + error)

        return form

    angles.require_agreement(off_by(0.0), torch.device("cpu"))
    with pytest.raises(HorkdError, match=r"does not work on cpu .*auto") as error:
        angles.require_agreement(off_by(0.01), torch.device("cpu"))
    assert "\n" not in str(error.value)
