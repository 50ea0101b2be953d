"""The loss over all angles and its gradient by hand, in blocks.

From distances alone it takes O(N³) work and O(N²) memory, where the published code spends O(N³D)
and O(N²D + N³).

With q the normalised distances and b = max(q, δ), δ = `NEAR_DUPLICATE`, the law of
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
from collections.abc import Callable

import torch
from torch import Tensor

from horkd.errors import HorkdError
from horkd.fast.distances import NEAR_DUPLICATE, geometry, inverse_lengths


def huber_sum(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Σ Huber(difference), and its derivative."""
    e = difference.clamp(-1, 1)
    return ((difference - 0.5 * e) * e).sum(), e


#: Triples held at a time by the blocked form, in five arrays: on a CPU what its caches hold (5 MiB
#: in all), on a GPU what keeps it busy (320 MiB).
BLOCK, BLOCK_ON_GPU = 1 << 18, 1 << 24

#: Ends i held at a time. Ends k run on from the first of them, so that half the work is saved.
ROWS = 32


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


def angles_blocked(
    p: Tensor, q: Tensor, equal: bool, gradient: bool, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """L and ∂L/∂q, in blocks of vertices j and ends i; an end k beyond them stands for k < i too.

    Args:
        p: normalised distances (N, N) of the frozen model.
        q: normalised distances (N, N) of the learner, in the same precision.
        equal: count i = k as well.
        gradient: whether ∂L/∂q is needed; if not, q comes back in its place.
        block: triples held at a time; `BLOCK` or, on a GPU, `BLOCK_ON_GPU` by default.
    """
    n = len(q)
    both = torch.stack([p, q])
    half, inverse = both.square().mul_(0.5), inverse_lengths(both)
    ji, jk = half[..., None], half[:, :, None]
    inverse_ji, inverse_jk = inverse[..., None], inverse[:, :, None]
    block = block or (BLOCK if q.device.type == "cpu" else BLOCK_ON_GPU)
    if n <= ROWS and n**3 <= block:
        huber, e, c, scale = _block((ji, jk, half[:, None]), (inverse_ji, inverse_jk), equal)
        loss = huber.sum()
        if gradient:
            force = scale.mul_(e)
            turn, lever, shared = c.mul_(e).sum(2), force.sum(2), force.sum(0)
    else:
        turn, lever, shared = q.new_zeros(3, n, n)  # T, F, S
        loss = torch.zeros((), dtype=torch.float64, device=q.device)
        rows = math.ceil(n / math.ceil(n / ROWS))
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


#: Forms of the loss over angles. "auto" is "blocked". "fused", one pass in Triton, is experimental
#: and runs only where it is asked for. The environment variable HORKD_ANGLES sets the form for a
#: process.
FORMS = ("auto", "blocked", "fused")


def angles(p: Tensor, q: Tensor, equal: bool, gradient: bool) -> tuple[Tensor, Tensor]:
    """What `angles_blocked` returns, in its form or the one that is asked for.

    Raises:
        HorkdError: if the fused form is asked for and does not suit, or work on, this device.
    """
    form = os.environ.get("HORKD_ANGLES", "auto")
    if form not in FORMS:
        raise HorkdError(f"HORKD_ANGLES is {form!r}: choose from {', '.join(FORMS)}")
    if form != "fused":
        return angles_blocked(p, q, equal, gradient)
    if q.device.type != "cuda" or q.dtype != torch.float32:
        raise HorkdError(
            f"the fused form, an experimental one, is for float32 on CUDA, not {q.dtype} on "
            f"{q.device.type}: leave the choice to auto"
        )
    return _fused(q.device)(p, q, equal, gradient)


@functools.cache
def _fused(device: torch.device) -> Callable:
    """The fused form, compared with the blocked one at its first use on a device."""
    try:
        from horkd.fast.fused import angles_fused  # Triton is there only where CUDA is
    except ImportError as error:
        raise HorkdError(f"the fused form needs Triton: {error}") from None
    require_agreement(angles_fused, device)
    return angles_fused


def require_agreement(form: Callable, device: torch.device) -> None:
    """Compare a form of the loss over angles with the blocked one, on 48 points of two curves.

    Raises:
        HorkdError: if it fails or differs.
    """
    side = torch.linspace(0, 7, 48, device=device)
    curves = torch.stack([side, side.sin(), side.square().cos()], 1)
    p, q = geometry(curves[:, :2]).q.float(), geometry(curves).q.float()
    expected, to_q_expected = angles_blocked(p, q, True, True)
    try:
        loss, to_q = form(p, q, True, True)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
        both, both_expected = to_q + to_q.T, to_q_expected + to_q_expected.T
        size = both_expected.abs().max().item()
        torch.testing.assert_close(both, both_expected, rtol=1e-3, atol=1e-4 * size)
    except torch.OutOfMemoryError:  # of the moment, not of the kernel
        raise
    except Exception as error:  # compilers fail in many ways
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise HorkdError(
            f"the fused loss over angles, an experimental form, does not work on {device} "
            f"({line}): leave the choice to auto"
        ) from None
