"""Experimental: the loss over all angles in one pass over a GPU, derived in `horkd.fast.angles`.

Used only where it is asked for (`HORKD_ANGLES=fused`): it was compiled for GPUs and run in Triton's
interpreter, but not yet on a GPU.

A program owns the sides between 32 points i and 32 points k and walks over the third corners j of
their triangles. For every triangle it takes all three angles: the one at j lies opposite to the
side, those at i and k next to it. So the gradient of a side is complete in registers, nothing of
size N³ is stored, and no result depends on the order in which programs run.
"""

import triton
import triton.language as tl
from torch import Tensor

from horkd.fast.distances import NEAR_DUPLICATE, inverse_lengths

_TILE = 32
#: As many programs as keep the largest GPUs busy: small batches share out the corners j as well.
_PROGRAMS = 512


@triton.jit
def _compare(c, frozen):
    """Difference of two cosines, and the derivative of its Huber loss."""
    difference = c - frozen
    return difference, tl.minimum(tl.maximum(difference, -1.0), 1.0)


@triton.jit
def _row(lengths, inverses, row, columns, n):
    """q²/2 and 1/b from one point to others."""
    q = tl.load(lengths + row * n + columns, mask=columns < n, other=0.0)
    return 0.5 * q * q, tl.load(inverses + row * n + columns, mask=columns < n, other=0.0)


@triton.jit
def _triangles(
    p_lengths,
    p_inverses,
    q_lengths,
    q_inverses,
    gradients,
    losses,
    n,
    share,
    soft: tl.constexpr,
    equal: tl.constexpr,
    tile: tl.constexpr,
):
    """∂L/∂q_ik, halved, for one tile of sides i < k, from one share of the corners j; its loss."""
    block_i, block_k, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if block_k < block_i:
        return
    i = block_i * tile + tl.arange(0, tile)
    k = block_k * tile + tl.arange(0, tile)
    inside = (i[:, None] < k[None, :]) & (k[None, :] < n)
    ik = i[:, None] * n + k[None, :]
    q = tl.load(q_lengths + ik, mask=inside, other=0.0)
    q_inverse = tl.load(q_inverses + ik, mask=inside, other=0.0)
    q_half = 0.5 * q * q
    p = tl.load(p_lengths + ik, mask=inside, other=0.0)
    p_inverse = tl.load(p_inverses + ik, mask=inside, other=0.0)
    p_half = 0.5 * p * p

    loss = tl.zeros((tile, tile), tl.float32)
    opposite = tl.zeros((tile, tile), tl.float32)
    lever = tl.zeros((tile, tile), tl.float32)
    turn = tl.zeros((tile, tile), tl.float32)
    for j in range(part * share, min(part * share + share, n)):
        pi_half, pi = _row(p_lengths, p_inverses, j, i[:, None], n)
        pk_half, pk = _row(p_lengths, p_inverses, j, k[None, :], n)
        qi_half, qi = _row(q_lengths, q_inverses, j, i[:, None], n)
        qk_half, qk = _row(q_lengths, q_inverses, j, k[None, :], n)

        scale = qi * qk
        c = (qi_half + qk_half - q_half) * scale  # the angle at j
        difference, e = _compare(c, (pi_half + pk_half - p_half) * (pi * pk))
        loss += (difference - 0.5 * e) * e
        opposite += e * scale

        c = (qi_half + q_half - qk_half) * (qi * q_inverse)  # the angle at i, between j and k
        _, e = _compare(c, (pi_half + p_half - pk_half) * (pi * p_inverse))
        lever += e * qi
        turn += e * c

        c = (qk_half + q_half - qi_half) * (qk * q_inverse)  # the angle at k, between j and i
        _, e = _compare(c, (pk_half + p_half - pi_half) * (pk * p_inverse))
        lever += e * qk
        turn += e * c

    # The walk has also met j = k and j = i, where a side is compared with itself. These two belong
    # to the loss only if `equal`; for one share of the corners they are added or taken away here.
    if part == 0:
        c = q * q_inverse * q * q_inverse
        difference, e = _compare(c, p * p_inverse * p * p_inverse)
        if equal:
            loss += (difference - 0.5 * e) * e
        else:
            lever -= 2 * e * q_inverse
            turn -= 2 * e * c

    gradient = q_inverse * (q * lever - tl.where(q > soft, turn, 0.0)) - q * opposite
    tl.store(gradients + part * n * n + ik, gradient, mask=inside)
    program = (part * tl.num_programs(1) + block_k) * tl.num_programs(0) + block_i
    tl.store(losses + program, 2 * tl.sum(tl.where(inside, loss, 0.0)))


def angles_fused(p: Tensor, q: Tensor, equal: bool, gradient: bool) -> tuple[Tensor, Tensor]:
    """As `horkd.fast.angles.angles_blocked`, for float32 on CUDA; the gradient comes in any case.

    A learner equal to the frozen model has a loss of about 1e-14 per triple and not 0: one of the
    two cosines is rounded before the subtraction, the other in it.
    """
    n = len(q)
    tiles = triton.cdiv(n, _TILE)
    parts = min(triton.cdiv(_PROGRAMS, tiles * (tiles + 1) // 2), triton.cdiv(n, 16))
    gradients = q.new_zeros(parts, n, n)
    losses = q.new_zeros(parts, tiles, tiles)
    _triangles[(tiles, tiles, parts)](
        p.contiguous(),
        inverse_lengths(p),
        q.contiguous(),
        inverse_lengths(q),
        gradients,
        losses,
        n,
        triton.cdiv(n, parts),
        soft=NEAR_DUPLICATE,
        equal=equal,
        tile=_TILE,
        num_warps=4,
    )
    upper = gradients.sum(0)
    return losses.sum(), upper + upper.T
