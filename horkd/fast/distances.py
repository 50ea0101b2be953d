"""What the relational losses stand on: distances between features, and their gradient by hand.

All that orders 2, 3 and C need of N features of width D is one matrix product, O(N²D) work; angles
follow from distances alone (`horkd.fast.angles`). `horkd.losses` says what is computed, this
package says how.

d_ij² = |x_i|² + |x_j|² − 2⟨x_i, x_j⟩ on centred rows. The subtraction cancels where
two rows are close: a batch with d² ≤ `CANCELS` · (|x_i|² + |x_j|²) anywhere is computed in float64.
(Of 60 batches of 128 CIFAR-100 images in our trained networks, not one was.) Angles, whose own work
hides the cost, always start from float64 distances. A gradient with respect to d reaches x through
a graph Laplacian,

    ∂L/∂x_i = Σ_j W_ij (x_i − x_j) = ((diag(W 1) − W) X)_i,   W_ij = (∂L/∂d_ij + ∂L/∂d_ji) / d_ij

and through q = d/μ, with μ the mean of d over P = N(N−1) pairs, by

    ∂L/∂d_ij = (∂L/∂q_ij − Σ_kl q_kl ∂L/∂q_kl / P) / μ.
"""

import math
from contextlib import AbstractContextManager, nullcontext
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


def lengths(x: Tensor, y: Tensor, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
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
    d, rows, _ = lengths(x, x, exact)
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
    return tuple(part.contiguous() for part in lengths(x, y, exact=True))


@_between.register_fake
def _(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (len(x), len(y)), x.shape, y.shape
    return tuple(x.new_empty(shape, dtype=torch.float64) for shape in shapes)


class Between(Function):
    """Differentiable distances of x (N, D) and y (M, D), N and M ≥ 1."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()
        d, rows, columns = (_between if compiling else lengths)(x, y)
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


def inverse_lengths(q: Tensor) -> Tensor:
    """1/b (..., N, N), but zero for i = j and k = j, which are no triples and must add nothing."""
    inverse = q.clamp(min=NEAR_DUPLICATE).reciprocal_()
    inverse.diagonal(dim1=-2, dim2=-1).zero_()
    return inverse
