"""What the relational losses stand on: distances, angles, and their gradients by hand.

All that orders 2, 3 and C need of N features of width D is one matrix product, O(N²D) work. Angles
then follow from distances alone, in O(N³) work and O(N²) memory, where the published code spends
O(N³D) and O(N²D + N³). `horkd.losses` says what is computed; this module says how.

**Distances.** d_ij² = |x_i|² + |x_j|² − 2⟨x_i, x_j⟩ on centred rows. The subtraction cancels where
two rows are close: a batch with d² ≤ `CANCELS` · (|x_i|² + |x_j|²) anywhere is computed in float64.
(Of 60 batches of 128 CIFAR-100 images in our trained networks, not one was.) Angles, whose own work
hides the cost, always start from float64 distances. A gradient with respect to d reaches x through
a graph Laplacian,

    ∂L/∂x_i = Σ_j W_ij (x_i − x_j) = ((diag(W 1) − W) X)_i,   W_ij = (∂L/∂d_ij + ∂L/∂d_ji) / d_ij

and through q = d/μ, with μ the mean of d over P = N(N−1) pairs, by

    ∂L/∂d_ij = (∂L/∂q_ij − Σ_kl q_kl ∂L/∂q_kl / P) / μ.

**Angles.** With q the normalised distances and b = max(q, δ), δ = `NEAR_DUPLICATE`, the law of
cosines gives the cosine at vertex j between i and k,

    c_j(i, k) = (q_ij² + q_jk² − q_ik²) / (2 b_ij b_jk).

Let e_j(i, k) be the derivative of the Huber loss between the learner's and the frozen model's
cosine: their difference, cut off at ±1. A side of a triangle lies opposite to one of its angles and
ends in the two others:

    opposite:  ∂c_j(i, k)/∂q_ik = −q_ik / (b_ij b_jk)
    adjacent:  ∂c_j(i, k)/∂q_ij = q_ij / (b_ij b_jk) − [q_ij > δ] c_j(i, k) / b_ij

Over all ordered triples, i and k being exchangeable (hence the twos),

    ∂L/∂q_ij = 2 (q_ij F_ij − [q_ij > δ] T_ij / b_ij) − q_ij S_ij   with, at vertex j,
    F_ij = Σ_k e_j(i, k) / (b_ij b_jk),   T_ij = Σ_k e_j(i, k) c_j(i, k)
    S_ik = Σ_j e_j(i, k) / (b_ij b_jk).

Loss and gradient come from one pass, since both need every cosine. Cosines are float32 for float32
features, good to about 1e-6 times the longest normalised distance.
"""

import functools
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from horkd.errors import HorkdError

#: δ: sides shorter than this share of the mean distance get cosines that fade to zero with their
#: length. It keeps the gradient on a batch with duplicates within ten times its ordinary size
#: (measured: 5 times at N = 32, 1.8 at N = 64); 0.01 gave 22 and 9 times.
NEAR_DUPLICATE = 0.05

#: A squared distance below this share of the two squared norms has lost two decimal digits.
CANCELS = 0.01

#: Float32 rows closer than this share of their own norms (after centring) are taken as equal: it
#: is their resolution.
EQUAL = 1e-7

#: Sums of squared features outside of this range are left to float64, lest products leave float32.
_SAFE = (1e-24, 1e24)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which matrix products keep the precision of their operands."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def refuse_second_derivative() -> None:
    """Autograd enables gradients inside a backward pass only for `create_graph=True`."""
    if not torch.compiler.is_compiling() and torch.is_grad_enabled():
        raise HorkdError(
            "relational losses have no second derivative: call backward() or autograd.grad() "
            "without create_graph=True"
        )


def can_look(x: Tensor) -> bool:
    """Whether a decision may depend on values: the host need not wait, and no graph is traced."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


# --- distances ------------------------------------------------------------------------------


def _products_are_exact() -> bool:
    """Whether float32 matrix products on the CPU are float32 inside, and not TF32 or bf16."""
    try:
        if torch.get_float32_matmul_precision() != "highest":
            return False
        return torch.backends.mkldnn.matmul.fp32_precision in ("ieee", "none")
    except AttributeError:  # older than the setting
        return True
    except RuntimeError:  # torch refuses the first question once the second has been answered
        return False


def _squared(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """d² (N, M), |x_i|² (N), |y_j|² (M), and the rows of x and y, all less the mean of y."""
    same = x is y
    middle = y.mean(0)
    x = x - middle
    y = x if same else y - middle
    norms_x = x.square().sum(1)
    norms_y = norms_x if same else y.square().sum(1)
    squared = torch.add(norms_x[:, None] + norms_y, x @ y.T, alpha=-2)
    return squared.fill_diagonal_(0) if same else squared, norms_x, norms_y, x, y


def _lengths(x: Tensor, y: Tensor, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (N, M), and x and y, centred, in the precision of the distances.

    Equal rows have distance 0, and only in float64 are there any. Where its outcome can be looked
    at, and unless `exact`, float32 is tried first; otherwise all is done in float64.
    """
    same = x is y
    if x.dtype == torch.float64:  # nobody asks for speed: take the differences themselves
        middle = y.mean(0)
        x = x - middle
        y = x if same else y - middle
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"), x, y
    if not exact and can_look(x) and _products_are_exact():
        squared, norms_x, norms_y, rows, columns = _squared(x, y)
        if _SAFE[0] < float(norms_x.sum()) < _SAFE[1]:  # not for nan
            norms_x, norms_y = CANCELS * norms_x, CANCELS * norms_y
            pairs = squared.numel() - (len(x) if same else 0)
            if int(torch.count_nonzero(squared > norms_x[:, None] + norms_y)) == pairs:
                return squared.sqrt_(), rows, columns
    if x.device.type == "mps":
        raise HorkdError("relations need float64, which MPS has not: move the features to the CPU")
    x = x.double()
    y = x if same else y.double()
    squared, norms_x, norms_y, rows, columns = _squared(x, y)
    norms_x, norms_y = EQUAL**2 * norms_x, EQUAL**2 * norms_y
    equal = squared <= norms_x[:, None] + norms_y
    return squared.masked_fill_(equal, 0).sqrt_(), rows, columns


class Geometry(NamedTuple):
    """Distances between the rows of a matrix, and what a gradient needs to reach these rows."""

    q: Tensor  # (N, N), float64 if the rows needed it
    rows: Tensor  # (N, D), centred, in the same precision
    mean: Tensor | None  # what the distances were divided by


def geometry(x: Tensor, normalize: bool = True, exact: bool = False) -> Geometry:
    """Distances of x (N, D), N ≥ 2, if asked divided by their mean over i ≠ j, and in float64."""
    n = len(x)
    d, rows, _ = _lengths(x, x, exact)
    if not normalize:
        return Geometry(d, rows, None)
    mean = d.sum() / (n * (n - 1))
    if d.dtype == torch.float64 and not (can_look(d) and mean.item() > 0):
        # A collapsed batch has no mean to divide by. Any positive constant keeps the gradient of
        # ordinary size; the features' own magnitude is that constant.
        size = x.abs().amax().double()
        mean = torch.where(mean > 0, mean, torch.where(size > 0, size, 1.0))
    return Geometry(d.div_(mean), rows, mean)


def pull_back(gradient: Tensor, to: Geometry) -> Tensor:
    """∂L/∂x (N, D) from ∂L/∂q (N, N)."""
    q, rows, mean = to
    n = len(q)
    gradient = gradient.to(q.dtype)
    w = gradient + gradient.T
    if mean is not None:
        w.sub_(2 / (n * (n - 1)) * (gradient * q).sum()).div_(mean)
    apart = None
    if q.dtype == torch.float32 or (can_look(q) and int(torch.count_nonzero(q)) == n * (n - 1)):
        w.div_(q).fill_diagonal_(0)  # no two rows are equal
    else:
        # The norm has no gradient at zero, only subgradients: all vectors of length ≤ 1. The one
        # chosen is ±1/√D along the diagonal, its sign by index order. It pushes exact duplicates
        # apart, so that a collapsed batch can recover; a zero gradient would keep it collapsed.
        index = torch.arange(n, device=q.device)
        signed = w * torch.sign(index[:, None] - index)
        equal = q == 0
        apart = torch.where(equal, signed, 0).sum(1, keepdim=True) / math.sqrt(rows.shape[1])
        w.div_(q).masked_fill_(equal, 0)
    if mean is not None:
        w.div_(mean)
    degrees = w.sum(1)
    w.neg_().diagonal().copy_(degrees)
    return w @ rows if apart is None else w @ rows + apart


# To torch.compile distances and their gradient are opaque operations, and always float64: traced,
# their in-place steps came out wrong in some versions of torch.
@torch.library.custom_op("horkd::pairwise", mutates_args=())
def _pairwise(x: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    q, rows, mean = geometry(x, normalize, exact=True)
    return q, rows.contiguous(), q.new_ones(()) if mean is None else mean


@_pairwise.register_fake
def _(x: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    double = {"dtype": torch.float64}
    return (
        x.new_empty((len(x), len(x)), **double),
        x.new_empty(x.shape, **double),
        x.new_empty((), **double),
    )


@torch.library.custom_op("horkd::pull_back", mutates_args=())
def _pull_back(gradient: Tensor, q: Tensor, rows: Tensor, mean: Tensor, normalize: bool) -> Tensor:
    return pull_back(gradient, Geometry(q, rows, mean if normalize else None))


@_pull_back.register_fake
def _(gradient: Tensor, q: Tensor, rows: Tensor, mean: Tensor, normalize: bool) -> Tensor:
    return rows.new_empty(rows.shape)


class Pairwise(Function):
    """Differentiable distances of x (N, D), N ≥ 2; see `horkd.potentials.pairwise_distances`."""

    @staticmethod
    def forward(ctx, x: Tensor, normalize: bool) -> Tensor:
        compiling = torch.compiler.is_compiling()
        q, rows, mean = _pairwise(x, normalize) if compiling else geometry(x, normalize)
        ctx.save_for_backward(q, rows, mean)
        ctx.dtype, ctx.normalize = x.dtype, normalize
        return q.to(x.dtype, copy=compiling)  # traced, an output that is saved lost its gradient

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative()
        q, rows, mean = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return _pull_back(gradient, q, rows, mean, ctx.normalize).to(ctx.dtype), None
        with without_autocast(gradient):
            return pull_back(gradient, Geometry(q, rows, mean)).to(ctx.dtype), None


@torch.library.custom_op("horkd::between", mutates_args=())
def _between(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(part.contiguous() for part in _lengths(x, y, exact=True))


@_between.register_fake
def _(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (len(x), len(y)), x.shape, y.shape
    return tuple(x.new_empty(shape, dtype=torch.float64) for shape in shapes)


class Between(Function):
    """Differentiable distances of x (N, D) and y (M, D), N and M ≥ 1."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()
        d, rows, columns = (_between if compiling else _lengths)(x, y)
        ctx.save_for_backward(d, rows, columns)
        ctx.dtype = x.dtype
        return d.to(x.dtype, copy=compiling)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        refuse_second_derivative()
        d, rows, columns = ctx.saved_tensors
        to_x = to_y = None
        with without_autocast(gradient):
            w = (gradient.to(d.dtype) / d).masked_fill(d == 0, 0)
            if ctx.needs_input_grad[0]:
                to_x = torch.addmm(w.sum(1)[:, None] * rows, w, columns, alpha=-1).to(ctx.dtype)
            if ctx.needs_input_grad[1]:
                to_y = torch.addmm(w.sum(0)[:, None] * columns, w.T, rows, alpha=-1).to(ctx.dtype)
        return to_x, to_y


# --- the loss over pairs, triples, centres --------------------------------------------------


def _huber(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Σ Huber(difference), and its derivative."""
    e = difference.clamp(-1, 1)
    return ((difference - 0.5 * e) * e).sum(), e


#: Triples held at a time by the blocked form, in five arrays: on a CPU what its caches hold (5 MiB
#: in all), on a GPU what keeps it busy (320 MiB).
_BLOCK, _BLOCK_ON_GPU = 1 << 18, 1 << 24
#: Ends i held at a time. Ends k run on from the first of them, so that half the work is saved.
_ROWS = 32


def inverse_lengths(q: Tensor) -> Tensor:
    """1/b (..., N, N), but zero for i = j and k = j, which are no triples and must add nothing."""
    inverse = q.clamp(min=NEAR_DUPLICATE).reciprocal_()
    inverse.diagonal(dim1=-2, dim2=-1).zero_()
    return inverse


def _block(
    half: tuple[Tensor, Tensor, Tensor],
    inverse: tuple[Tensor, Tensor],
    equal: bool,
    workspace: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Huber, its derivative e, c and 1/(b b) of all j, i, k in a block, each (J, I, K).

    Args:
        half: q²/2 of the sides (j, i), (j, k) and (i, k), for both models: (2, J, I, 1),
            (2, J, 1, K) and (2, 1, I, K).
        inverse: 1/b of the sides (j, i) and (j, k).
        equal: count i = k as well; the first ends k are the ends i.
        workspace: (5, J, I, K) to compute in, or None to allocate it.
    """
    ji, jk, ik = half
    first, second, last = (None,) * 3 if workspace is None else workspace.split((2, 2, 1))
    scale = torch.mul(*inverse, out=first)
    frozen, c = torch.sub(ji, ik, out=second).add_(jk).mul_(scale)
    difference = frozen.neg_().add_(c)
    if not equal:
        difference[:, :, : ik.shape[2]].diagonal(dim1=1, dim2=2).zero_()
    e = torch.clamp(difference, -1, 1, out=None if last is None else last[0])
    huber = difference.sub_(e, alpha=0.5).mul_(e)
    return huber, e, c, scale[1]


def angles_blocked(p: Tensor, q: Tensor, equal: bool, gradient: bool) -> tuple[Tensor, Tensor]:
    """L and ∂L/∂q, in blocks of vertices j and ends i; an end k beyond them stands for k < i too.

    Args:
        p: normalised distances (N, N) of the frozen model.
        q: normalised distances (N, N) of the learner, in the same precision.
        equal: count i = k as well.
        gradient: whether ∂L/∂q is needed; if not, q comes back in its place.
    """
    n = len(q)
    both = torch.stack([p, q])
    half, inverse = both.square().mul_(0.5), inverse_lengths(both)
    ji, jk = half[..., None], half[:, :, None]
    inverse_ji, inverse_jk = inverse[..., None], inverse[:, :, None]
    block = _BLOCK if q.device.type == "cpu" else _BLOCK_ON_GPU
    if n <= _ROWS and n**3 <= block:
        huber, e, c, scale = _block((ji, jk, half[:, None]), (inverse_ji, inverse_jk), equal)
        loss = huber.sum()
        if gradient:
            force = scale.mul_(e)
            turn, lever, shared = c.mul_(e).sum(2), force.sum(2), force.sum(0)
    else:
        turn, lever, shared = q.new_zeros(3, n, n)  # T, F, S
        loss = torch.zeros((), dtype=torch.float64, device=q.device)
        rows = math.ceil(n / math.ceil(n / _ROWS))
        # Allocated once: glibc leaves gaps of gigabytes behind a long row of such blocks.
        workspace = q.new_empty(5, max(min(block, rows * n * n), rows * n))
        for start in range(0, n, rows):
            i, k, beyond = slice(start, start + rows), slice(start, n), slice(start + rows, n)
            ik = half[:, None, i, k]
            step = max(1, block // ik[0].numel())
            for first in range(0, n, step):
                j = slice(first, first + step)
                shape = (min(step, n - first), *ik.shape[2:])
                huber, e, c, scale = _block(
                    (ji[:, j, i], jk[:, j, :, k], ik),
                    (inverse_ji[:, j, i], inverse_jk[:, j, :, k]),
                    equal,
                    workspace[:, : math.prod(shape)].view(5, *shape),
                )
                loss.add_(huber.sum()).add_(huber[:, :, rows:].sum())
                if gradient:
                    torque, force = c.mul_(e), scale.mul_(e)
                    turn[j, i].add_(torque.sum(2))
                    lever[j, i].add_(force.sum(2))
                    shared[i, k].add_(force.sum(0))
                    turn[j, beyond].add_(torque[:, :, rows:].sum(1))
                    lever[j, beyond].add_(force[:, :, rows:].sum(1))
        shared = shared.triu_(1)
        shared = shared + shared.T  # S_ik for k < i
    if not gradient:
        return loss, q
    turn.mul_(inverse[1]).mul_(q > NEAR_DUPLICATE)
    return loss, lever.mul_(2).sub_(shared).mul_(q).sub_(turn, alpha=2)


#: Forms of the loss over angles. "auto" is "fused" for float32 on CUDA if Triton works there, and
#: "blocked" otherwise. The environment variable HORKD_ANGLES sets it for a process.
FORMS = ("auto", "blocked", "fused")
_forced: ContextVar[str | None] = ContextVar("form of the loss over angles", default=None)


@contextmanager
def angles_form(form: str) -> Iterator[None]:
    """Force one of `FORMS` in this context.

    Raises:
        HorkdError: if there is no such form.
    """
    token = _forced.set(_checked(form, "form"))
    try:
        yield
    finally:
        _forced.reset(token)


def _checked(form: str, origin: str) -> str:
    if form not in FORMS:
        raise HorkdError(f"{origin} is {form!r}: choose from {', '.join(FORMS)}")
    return form


def angles(p: Tensor, q: Tensor, equal: bool, gradient: bool) -> tuple[Tensor, Tensor]:
    """What `angles_blocked` returns, in the form that suits the device or is forced."""
    form = _forced.get() or _checked(os.environ.get("HORKD_ANGLES", "auto"), "HORKD_ANGLES")
    suits = q.device.type == "cuda" and q.dtype == torch.float32
    if form == "fused" and not suits:
        raise HorkdError(
            f"the fused form is for float32 on CUDA, not {q.dtype} on {q.device.type}: "
            "leave the choice to auto"
        )
    if form == "fused" or (form == "auto" and suits and _fused_works(q.device)):
        from horkd.kernels_triton import angles_fused  # Triton is there only where CUDA is

        return angles_fused(p, q, equal, gradient)
    return angles_blocked(p, q, equal, gradient)


@functools.cache
def _fused_works(device: torch.device) -> bool:
    """Whether the fused form compiles on this device and agrees with the blocked one."""
    try:
        from horkd.kernels_triton import angles_fused

        side = torch.linspace(0, 7, 48, device=device)
        curves = torch.stack([side, side.sin(), side.square().cos()], 1)
        p, q = geometry(curves[:, :2]).q.float(), geometry(curves).q.float()
        (loss, to_q), (expected, to_q_expected) = (
            form(p, q, True, True) for form in (angles_fused, angles_blocked)
        )
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
        both, both_expected = to_q + to_q.T, to_q_expected + to_q_expected.T
        size = both_expected.abs().max().item()
        torch.testing.assert_close(both, both_expected, rtol=1e-3, atol=1e-4 * size)
    except torch.OutOfMemoryError:  # of the moment, not of the kernel
        raise
    except Exception as error:  # compilers fail in many ways
        line = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"the fused loss over angles does not work on {device}, going on with the blocked "
            f"form, which is slower: {line}",
            stacklevel=2,
        )
        return False
    return True


def _of_pairs(
    frozen: Tensor, learner: Tensor, centers: None, rkd: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Order 2: Σ_(i≠j) (q_ij − p_ij)² or, for RKD, Σ_ij Huber(q_ij − p_ij)."""
    p, g = geometry(frozen).q, geometry(learner)
    difference = g.q - p.to(g.q.dtype)
    if rkd:
        loss, to_q = _huber(difference)
    else:
        loss, to_q = difference.square().sum(), 2 * difference
    return loss, pull_back(to_q, g) if gradient else learner


def _of_triples(
    frozen: Tensor, learner: Tensor, centers: None, rkd: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Order 3: Σ_(i,j,k) Huber of the cosines' difference; for RKD with i = k."""
    p, g = geometry(frozen, exact=True).q, geometry(learner, exact=True)
    loss, to_q = angles(p.to(learner.dtype), g.q.to(learner.dtype), rkd, gradient)
    return loss, pull_back(to_q, g) if gradient else learner


def _of_centers(
    frozen: Tensor, learner: Tensor, centers: Tensor, normalize: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Order C: Σ_ic (‖g_i − u_c‖ − ‖f_i − u_c‖)², if asked over the squared mean of ‖f_i − u_c‖."""
    n = len(learner)
    d, rows, u = _lengths(torch.cat([learner, frozen]), centers)
    q, p = d[:n], d[n:]
    difference = q - p
    if normalize:
        unit = p.mean()
        unit = torch.where(unit > 0, unit, 1.0)
        difference.div_(unit)
    loss = difference.square().sum()
    if not gradient:
        return loss, learner
    w = difference.mul_(2).div_(q).masked_fill_(q == 0, 0)
    if normalize:
        w.div_(unit)
    return loss, torch.addmm(w.sum(1)[:, None] * rows[:n], w, u, alpha=-1)


#: What `term` computes, by name.
_TERMS = {"pairs": _of_pairs, "triples": _of_triples, "centers": _of_centers}


def _compute(
    frozen: Tensor,
    learner: Tensor,
    centers: Tensor | None,
    kind: str,
    option: bool,
    gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """The loss and ∂L/∂learner, contiguous, in the learner's precision."""
    with without_autocast(learner):
        loss, to_learner = _TERMS[kind](frozen, learner, centers, option, gradient)
    return loss.to(learner.dtype), to_learner.to(learner.dtype)


# To torch.compile a term is one operation: it must not trace the loop over blocks.
_term = torch.library.custom_op(
    "horkd::term",
    _compute,
    mutates_args=(),
    schema="(Tensor frozen, Tensor learner, Tensor? centers, str kind, bool option)"
    " -> (Tensor, Tensor)",
)


@_term.register_fake
def _(frozen: Tensor, learner: Tensor, centers: Tensor | None, kind: str, option: bool):
    return learner.new_empty(()), learner.new_empty(learner.shape)


class _Term(Function):
    @staticmethod
    def forward(
        ctx, frozen: Tensor, learner: Tensor, centers: Tensor | None, kind: str, option: bool
    ) -> Tensor:
        if torch.compiler.is_compiling():
            loss, to_learner = _term(frozen, learner, centers, kind, option)
        else:
            needed = ctx.needs_input_grad[1]
            loss, to_learner = _compute(frozen, learner, centers, kind, option, needed)
        ctx.save_for_backward(to_learner)
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, None, None, None]:
        refuse_second_derivative()
        (to_learner,) = ctx.saved_tensors
        return None, gradient * to_learner, None, None, None


def term(
    kind: str, frozen: Tensor, learner: Tensor, centers: Tensor | None = None, option: bool = False
) -> Tensor:
    """A sum over pairs, triples or centres, with gradient for the learner only.

    Args:
        kind: "pairs", "triples" or "centers".
        frozen: f (N, D_f), float32 or float64.
        learner: g (N, D_g), float32 or float64; N is at least 2 for pairs, 3 for triples.
        centers: u (C, D), for "centers".
        option: the convention of RKD for pairs and triples; normalised distances for centres.

    Returns:
        A scalar in the learner's precision.
    """
    return _Term.apply(frozen, learner, centers, kind, option)
