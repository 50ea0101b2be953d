"""Reference formulas for the relational losses, written to be obviously right rather than fast.

The first half works in NumPy float64 with one explicit loop per index, straight from the paper's
equations. The second half restates the formula of the published RKD code in torch, so that
gradients can be compared too.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

#: Differences shorter than this share of the mean distance are softened in `cosines`.
SOFTENING = 0.05


def distances(x: np.ndarray) -> np.ndarray:
    """Plain Euclidean distances between the rows of `x`, (N, N)."""
    n = len(x)
    d = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            d[i, j] = np.sqrt(np.sum((x[i] - x[j]) ** 2))
    return d


def mean_distance(x: np.ndarray) -> float:
    """Mean of the distances over i != j (the paper's mu)."""
    d = distances(x)
    return float(np.mean([d[i, j] for i, j in pairs(len(x))]))


def normalised_distances(x: np.ndarray) -> np.ndarray:
    return distances(x) / mean_distance(x)


def cosines(x: np.ndarray) -> np.ndarray:
    """Cosine at vertex j between the directions to i and to k, softened for near duplicates."""
    n, floor = len(x), SOFTENING * mean_distance(x)
    c = np.zeros((n, n, n))
    for i, j, k in itertools.product(range(n), repeat=3):
        if i != j and k != j:
            to_i, to_k = x[i] - x[j], x[k] - x[j]
            unit_i = to_i / max(np.linalg.norm(to_i), floor)
            unit_k = to_k / max(np.linalg.norm(to_k), floor)
            c[i, j, k] = unit_i @ unit_k
    return c


def centre_distances(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    d = np.zeros((len(x), len(centres)))
    for i in range(len(x)):
        for c in range(len(centres)):
            d[i, c] = np.sqrt(np.sum((x[i] - centres[c]) ** 2))
    return d


def pairs(n: int) -> Iterator[tuple[int, int]]:
    return itertools.permutations(range(n), 2)


def triples(n: int) -> Iterator[tuple[int, int, int]]:
    return itertools.permutations(range(n), 3)


def huber(delta: float) -> float:
    return 0.5 * delta**2 if abs(delta) <= 1 else abs(delta) - 0.5


def order1(f: np.ndarray, g: np.ndarray, reduction: str) -> float:
    terms = [abs(a - b) for row_f, row_g in zip(f, g, strict=True) for a, b in zip(row_f, row_g)]  # noqa: B905
    return _reduce(terms, reduction)


def order2(f: np.ndarray, g: np.ndarray, reduction: str) -> float:
    n, df, dg = len(f), normalised_distances(f), normalised_distances(g)
    if reduction == "rkd":
        everything = itertools.product(range(n), repeat=2)
        return float(np.mean([huber(df[t] - dg[t]) for t in everything]))
    return _reduce([(df[t] - dg[t]) ** 2 for t in pairs(n)], reduction)


def order3(f: np.ndarray, g: np.ndarray, reduction: str) -> float:
    n, cf, cg = len(f), cosines(f), cosines(g)
    if reduction == "rkd":
        everything = itertools.product(range(n), repeat=3)
        return float(np.mean([huber(cf[t] - cg[t]) for t in everything]))
    return _reduce([huber(cf[t] - cg[t]) for t in triples(n)], reduction)


def order_c(
    f: np.ndarray, g: np.ndarray, centres: np.ndarray, reduction: str, normalize: bool = False
) -> float:
    df, dg = centre_distances(f, centres), centre_distances(g, centres)
    scale = np.mean(df) if normalize else 1.0
    terms = [((a - b) / scale) ** 2 for a, b in zip(df.flat, dg.flat, strict=True)]
    return _reduce(terms, reduction)


def _reduce(terms: list[float], reduction: str) -> float:
    return float({"mean": np.mean, "sum": np.sum}[reduction](terms))


def rkd_distance(frozen: torch.Tensor, learner: torch.Tensor) -> torch.Tensor:
    """RKD-D as in the published code: smooth-L1, mean over all N² entries."""
    with torch.no_grad():
        target = _rkd_distances(frozen)
    return F.smooth_l1_loss(_rkd_distances(learner), target)


def rkd_angle(frozen: torch.Tensor, learner: torch.Tensor) -> torch.Tensor:
    """RKD-A as in the published code: smooth-L1, mean over all N³ entries."""
    with torch.no_grad():
        target = _rkd_angles(frozen)
    return F.smooth_l1_loss(_rkd_angles(learner), target)


def center_distance(
    frozen: torch.Tensor, learner: torch.Tensor, centers: torch.Tensor
) -> torch.Tensor:
    """Eq. 7 as it stands, differences of all features and centres at once, mean over all pairs."""
    with torch.no_grad():
        target = (frozen[:, None] - centers[None]).norm(dim=2)
    return ((learner[:, None] - centers[None]).norm(dim=2) - target).square().mean()


def plain_loss(
    order: str,
    frozen: torch.Tensor,
    learner: torch.Tensor,
    centers: torch.Tensor | None = None,
    rkd: bool = False,
) -> torch.Tensor:
    """Orders 2, 3 and C (normalised) from difference vectors, for autograd in float64."""
    if order == "C":
        with torch.no_grad():
            target = _lengths(frozen[:, None] - centers)
        difference = (_lengths(learner[:, None] - centers) - target) / target.mean()
        return difference.square().mean()
    potential = {"2": _plain_distances, "3": _plain_cosines}[order]
    with torch.no_grad():
        target = potential(frozen)
    value, n = potential(learner), len(learner)
    if rkd:
        return F.smooth_l1_loss(value, target)
    if order == "2":
        return (value - target).square().sum() / (n * (n - 1))
    huber = F.smooth_l1_loss(value, target, reduction="none")
    huber = huber * (1 - torch.eye(n, dtype=huber.dtype))  # [j, i, k]: i = k is no triple
    return huber.sum() / (n * (n - 1) * (n - 2))


def _lengths(differences: torch.Tensor) -> torch.Tensor:
    """Norms over the last axis; 0, without gradient, for the zero vector."""
    squared = differences.square().sum(-1)
    return torch.where(squared == 0, 0.0, torch.where(squared == 0, 1.0, squared).sqrt())


def _plain_distances(x: torch.Tensor) -> torch.Tensor:
    d = _lengths(x[:, None] - x[None])
    return d / (d.sum() / (len(x) * (len(x) - 1)))


def _plain_cosines(x: torch.Tensor) -> torch.Tensor:
    differences = x[None] - x[:, None]  # [vertex, end]
    d = _lengths(differences)
    floor = SOFTENING * d.sum() / (len(x) * (len(x) - 1))
    unit = differences / torch.maximum(d, floor)[..., None]
    return unit @ unit.transpose(1, 2)


def _rkd_distances(e: torch.Tensor) -> torch.Tensor:
    squared_norms = (e * e).sum(dim=1)
    q = squared_norms[:, None] + squared_norms[None, :] - 2 * e @ e.T
    off_diagonal = 1 - torch.eye(len(e), dtype=e.dtype, device=e.device)
    d = q.clamp(min=1e-12).sqrt() * off_diagonal
    return d / d[d > 0].mean()


def _rkd_angles(e: torch.Tensor) -> torch.Tensor:
    differences = e[None, :, :] - e[:, None, :]  # (vertex, other end, D)
    unit = F.normalize(differences, p=2, dim=2)
    return torch.bmm(unit, unit.transpose(1, 2))  # (vertex, i, k)


def features(
    n: int, d: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Rows of unequal scale around an offset, so that no index order or axis is symmetric."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    rows = torch.linspace(0.5, 2.0, max(n, 1), dtype=torch.float64)[:n, None]
    return (x * rows + 0.3).to(dtype)


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(loss, *features: torch.Tensor, to: int = -1, **options) -> torch.Tensor:
    """The gradient of `loss(*features, **options)` with respect to features number `to`."""
    inputs = list(features)
    inputs[to] = inputs[to].detach().clone().requires_grad_()
    loss(*inputs, **options).backward()
    return inputs[to].grad


def of_fold(pairs, k: int):
    """The pairs of fold k."""
    chosen = pairs.fold == k
    return type(pairs)(*(getattr(pairs, n)[chosen] for n in ("left", "right", "same", "fold")))
