"""The losses of the paper (Eqs. 1 to 8), as functions of two batches of features.

A frozen model sees images x and gives features f (N, D_f); a learner sees its own version of the
same images and gives g (N, D_g). The n-order loss compares a potential of both,

    L_n = Σ over n-tuples of distinct examples of ℓ(ψ(f_1..f_n), ψ(g_1..g_n))        (Eq. 1)

| order | potential | ℓ | same width | equation |
|---|---|---|---|---|
| 1 | the feature itself | absolute | yes | 2 |
| 2 | distance / mean distance | square | no | 3 |
| 3 | cosine of the angle | Huber | no | 4, 5 |
| C | distance to each class centre | square | yes | 6, 7 |

`reduction` says how the tuples are put together:

- `"mean"` (default; differs from the paper): mean over distinct tuples, so that weights mean the
  same at any batch size. Order 1 is the mean over elements.
- `"sum"`: the paper's literal sum over ordered tuples of distinct examples.
- `"rkd"` (orders 2 and 3): smooth-L1, mean over all N² or N³ entries: the convention of the code
  published with RKD (arXiv 1904.05068), which most reported numbers use.

Features may be bf16 or fp16; all is computed in float32 or better. Only the learner gets a
gradient, and only a first one: `create_graph=True` is refused for orders 2, 3 and C (by torch, and
later, in a compiled graph), and torch.func's transforms are not supported.
`horkd.fast` has the algorithms: order 3 takes O(N²D + N³) work and O(N²) memory, orders 2 and C one
matrix product.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from horkd.checks import as_its_weights, is_tensor, same_device
from horkd.errors import HorkdError
from horkd.fast import distances, distributed, terms
from horkd.potentials import as_centers, as_features, as_pair

#: The orders by the names that weights use, with the names of their terms.
ORDERS = {"1": "order1", "2": "order2", "3": "order3", "C": "order_c"}

#: Images in a batch from which on an order says anything. With fewer it is zero whatever the
#: features are: two images have one distance, which is its own mean.
SMALLEST = {"1": 1, "2": 3, "3": 3, "C": 1}

#: The optimum of the paper's ablation: α, β, γ of Eq. 8 without L_1, for reduction "sum".
PAPER_WEIGHTS = {"2": 0.02, "3": 0.01, "C": 1.0}


def _pair(frozen: Tensor, learner: Tensor, same_width: bool) -> tuple[Tensor, Tensor]:
    f, g = as_pair(frozen, learner)
    if same_width and f.shape[1] != g.shape[1]:
        raise HorkdError(
            f"orders 1 and C need equal widths, but the frozen features are {f.shape[1]} wide and "
            f"the learner's {g.shape[1]}: add a projector or leave these orders out"
        )
    return f, g


def _check_reduction(reduction: str, allowed: tuple[str, ...]) -> None:
    if reduction not in allowed:
        raise HorkdError(f"unknown reduction {reduction!r}: choose from {', '.join(allowed)}")


def _zero(g: Tensor) -> Tensor:
    """A zero connected to the graph, for batches without a single tuple."""
    return (g * 0).sum()


def order1(frozen: Tensor, learner: Tensor, reduction: str = "mean") -> Tensor:
    """L_1 = Σ_i ‖f_i − g_i‖₁ (Eq. 2); `"mean"`: over all N·D elements.

    Args:
        frozen: f (N, D), gets no gradient.
        learner: g (N, D).
        reduction: `"mean"` or `"sum"`.

    Returns:
        A scalar.

    Raises:
        HorkdError: if the shapes differ or the reduction is unknown.
    """
    _check_reduction(reduction, ("mean", "sum"))
    f, g = _pair(frozen, learner, same_width=True)
    if g.numel() == 0:
        return _zero(g)
    with distances.without_autocast(g):
        total = (f - g).abs().sum().to(g.dtype)
    return total if reduction == "sum" else total / g.numel()


def order2(frozen: Tensor, learner: Tensor, reduction: str = "mean") -> Tensor:
    """L_2 = Σ_(i≠j) (ψ_d(f_i, f_j) − ψ_d(g_i, g_j))² (Eq. 3), each model with its own mean.

    Args:
        frozen: f (N, D_f), gets no gradient.
        learner: g (N, D_g); the widths may differ.
        reduction: `"mean"`, `"sum"` or `"rkd"`.

    Returns:
        A scalar; zero, connected to the graph, for fewer than two images.

    Raises:
        HorkdError: if the batch sizes differ or the reduction is unknown.
    """
    _check_reduction(reduction, ("mean", "sum", "rkd"))
    f, g = _pair(frozen, learner, same_width=False)
    n = len(g)
    if n < 2:
        return _zero(g)
    total = terms.term("pairs", f, g, option=reduction == "rkd")
    return total / {"mean": n * (n - 1), "sum": 1, "rkd": n**2}[reduction]


def order3(frozen: Tensor, learner: Tensor, reduction: str = "mean") -> Tensor:
    """L_3 = Σ_(i,j,k distinct) Huber(ψ_a(f_i, f_j, f_k), ψ_a(g_i, g_j, g_k)) (Eqs. 4, 5), δ = 1.

    Args:
        frozen: f (N, D_f), gets no gradient.
        learner: g (N, D_g); the widths may differ.
        reduction: `"mean"`, `"sum"` or `"rkd"`.

    Returns:
        A scalar; zero, connected to the graph, for fewer than three images.

    Raises:
        HorkdError: if the batch sizes differ or the reduction is unknown.
    """
    _check_reduction(reduction, ("mean", "sum", "rkd"))
    f, g = _pair(frozen, learner, same_width=False)
    n = len(g)
    if n < 3:
        return _zero(g)
    total = terms.term("triples", f, g, option=reduction == "rkd")
    return total / {"mean": n * (n - 1) * (n - 2), "sum": 1, "rkd": n**3}[reduction]


def order_c(
    frozen: Tensor,
    learner: Tensor,
    centers: Tensor,
    reduction: str = "mean",
    normalize: bool = False,
) -> Tensor:
    """L_C = Σ_i Σ_c (ψ_e(f_i, u_c) − ψ_e(g_i, u_c))² (Eq. 7); `"mean"`: over all N·C pairs.

    Args:
        frozen: f (N, D), gets no gradient.
        learner: g (N, D).
        centers: u (C, D), the frozen model's class centres (Eq. 6); they get no gradient either.
        reduction: `"mean"` or `"sum"`.
        normalize: divide both models' distances by the frozen model's mean centre distance in the
            batch, so that the loss does not depend on the scale of its features. Differs from the
            paper, which does not normalise.

    Returns:
        A scalar.

    Raises:
        HorkdError: if widths or batch sizes differ or the reduction is unknown.
    """
    _check_reduction(reduction, ("mean", "sum"))
    f, g = _pair(frozen, learner, same_width=True)
    u = as_centers(centers, g).detach()
    if g.numel() == 0 or u.numel() == 0:
        return _zero(g)
    total = terms.term("centers", f.to(g.dtype), g, u, option=normalize)
    return total / {"mean": len(g) * len(u), "sum": 1}[reduction]


def class_centers(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """u_c, the mean feature of every class (Eq. 6).

    Args:
        features: (M, D) of the whole training set, from the frozen model in eval mode.
        labels: whole numbers (M,).
        num_classes: C.

    Returns:
        (C, D), in the precision of the features, float32 at least.

    Raises:
        HorkdError: if a class has no example or a label is out of range.
    """
    x = as_features(features)
    is_tensor(labels, "labels")
    if labels.shape != x.shape[:1]:
        raise HorkdError(f"{len(x)} features but labels of shape {tuple(labels.shape)}")
    if labels.dtype == torch.bool or labels.is_floating_point():
        raise HorkdError(f"labels must be whole numbers, got {labels.dtype}")
    same_device(labels, "labels", x, "features")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise HorkdError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; "
            f"with {num_classes} classes they must lie in 0 to {num_classes - 1}"
        )
    labels = labels.long()
    count = torch.bincount(labels, minlength=num_classes)
    if (count == 0).any():
        empty = (count == 0).nonzero().flatten().tolist()
        names = ", ".join(map(str, empty[:5])) + (" …" if len(empty) > 5 else "")
        raise HorkdError(f"no example of class {names}: a class without examples has no centre")
    # float64: a class may have thousands of examples
    total = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, device=x.device)
    total.index_add_(0, labels, x.double())
    return (total / count[:, None]).to(x.dtype)


def unit_length(features: Tensor) -> Tensor:
    """Features (N, D) divided by their length, in float32 or better; zeros stay zero."""
    x = as_features(features)
    return nn.functional.normalize(x, dim=1)


class HybridOrderLoss(nn.Module):
    """L = w_1 L_1 + α L_2 + β L_3 + γ L_C (Eq. 8), with named terms.

    Example:
        >>> loss = HybridOrderLoss({"2": 25.0, "3": 50.0})
        >>> terms = loss(torch.randn(8, 64), torch.randn(8, 32, requires_grad=True))
        >>> sorted(terms)
        ['loss', 'order2', 'order3']

    Args:
        weights: order ("1", "2", "3", "C") to weight; 0 or absent leaves the order out.
        centers: (C, D_f), needed by order C; kept as a buffer.
        projector: maps the learner's features to the frozen width for orders 1 and C, which need
            equal widths. Orders 2 and 3 see the learner's own features. Train it with the learner;
            it is no part of the exported student.
        reduction: as in this module's functions. `"mean"` divides order C by the frozen model's
            mean centre distance; `"rkd"` is `"mean"` for orders 1 and C.
        gather: take the relations over the batches of all processes of torch.distributed: under
            DistributedDataParallel, loss and gradients are those of one process with the whole
            batch. Without several processes it changes nothing.
        unit: scale all features to unit length first, as those that compare them by their cosine
            do. `centers` must then be those of unit features. Differs from the paper.

    Raises:
        HorkdError: on an unknown order or reduction, a negative weight, or order C without centres.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        centers: Tensor | None = None,
        projector: nn.Module | None = None,
        reduction: str = "mean",
        gather: bool = False,
        unit: bool = False,
    ) -> None:
        super().__init__()
        for order, weight in weights.items():
            if order not in ORDERS:
                raise HorkdError(f"unknown order {order!r}: choose from {', '.join(ORDERS)}")
            if not weight >= 0:
                raise HorkdError(f"the weight of order {order} is {weight}; it must be 0 or more")
        _check_reduction(reduction, ("mean", "sum", "rkd"))
        self.weights = {order: float(weights[order]) for order in ORDERS if weights.get(order, 0)}
        if "C" in self.weights and centers is None:
            raise HorkdError("order C needs class centres: pass centers=class_centers(...)")
        self.reduction = reduction
        self.gather = gather
        self.unit = unit
        self.projector = projector
        self.register_buffer("centers", None if centers is None else centers.detach().clone())

    def forward(self, frozen: Tensor, learner: Tensor) -> dict[str, Tensor]:
        """Terms of one batch.

        Args:
            frozen: f (N, D_f), gets no gradient.
            learner: g (N, D_g).

        Returns:
            `loss`, the weighted sum, and each active order unweighted, all scalars.
        """
        if self.gather:
            frozen, learner = distributed.gather(frozen), distributed.gather(learner)
        aligned = learner
        if self.projector is not None and ("1" in self.weights or "C" in self.weights):
            with distances.without_autocast(learner):
                features = as_features(learner, "learner features")
                aligned = self.projector(as_its_weights(self.projector, features))
        if self.unit:
            frozen, learner, aligned = map(unit_length, (frozen, learner, aligned))
        per_tuple = "mean" if self.reduction == "rkd" else self.reduction
        compute = {
            "1": lambda: order1(frozen, aligned, per_tuple),
            "2": lambda: order2(frozen, learner, self.reduction),
            "3": lambda: order3(frozen, learner, self.reduction),
            "C": lambda: order_c(
                frozen, aligned, self.centers, per_tuple, normalize=per_tuple == "mean"
            ),
        }
        terms = {ORDERS[order]: compute[order]() for order in self.weights}
        loss = sum((w * terms[ORDERS[o]] for o, w in self.weights.items()), _zero(learner.float()))
        return {"loss": loss, **terms}
