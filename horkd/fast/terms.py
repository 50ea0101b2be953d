"""Sums over pairs, triples and centres with their gradients, as one operation each."""

import torch
from torch import Tensor
from torch.autograd import Function

from horkd.fast.angles import angles, huber_sum
from horkd.fast.distances import (
    geometry,
    lengths,
    pull_back,
    refuse_second_derivative,
    without_autocast,
)


def _of_pairs(
    frozen: Tensor, learner: Tensor, centers: None, rkd: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Order 2: Σ_(i≠j) (q_ij − p_ij)² or, for RKD, Σ_ij Huber(q_ij − p_ij)."""
    p, g = geometry(frozen).q, geometry(learner)
    difference = g.q - p.to(g.q.dtype)
    if rkd:
        loss, to_q = huber_sum(difference)
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
    d, rows, u = lengths(torch.cat([learner, frozen]), centers)
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
