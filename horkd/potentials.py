"""Relational potentials ψ: the energy of a tuple of features.

Pure functions of a batch of features. The paper's three potentials are

    ψ_d(a, b)    = ‖a − b‖₂ / μ, μ the mean pairwise distance of the batch       (Eq. 3)
    ψ_a(a, b, c) = cosine of the angle at b between a − b and c − b              (Eqs. 4, 5)
    ψ_e(a, u)    = ‖a − u‖₂, u a class centre                                    (Eqs. 6, 7)

ψ_d and ψ_a don't change under translation, rotation and scaling. All are computed in float32 or
better with autocast off, on centred features: features that share a large offset lose their
distances in bf16, and |a|² + |b|² − 2a·b loses half its digits even in float32.
"""

import math

import torch
from torch import Tensor

from horkd.errors import HorkdError

#: Difference vectors shorter than this share of the batch's mean distance get a cosine that fades
#: to zero with their length. It keeps the gradient on a batch with duplicates within ten times its
#: ordinary size (measured: 5 times at N = 32, 1.8 at N = 64); 0.01 gave 22 and 9 times.
NEAR_DUPLICATE = 0.05


def as_features(x: Tensor, name: str = "features") -> Tensor:
    """`x` (N, D) in float32 (float64 stays), or a HorkdError that names the shape."""
    if x.ndim != 2:
        raise HorkdError(f"{name} must be (N, D), one row per image; got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise HorkdError(f"{name} must be floating point, got {x.dtype}")
    return x if x.dtype == torch.float64 else x.float()


#: Two rows closer than this share of their own norms (after centring) are taken as equal: it is the
#: resolution of float32 features.
_EQUAL = 1e-7


def _centred(x: Tensor) -> Tensor:
    """Rows of x minus their mean: distances stay, and a large common offset costs no digits."""
    return x - x.mean(dim=0, keepdim=True)


def _distances(x: Tensor) -> Tensor:
    """Euclidean distances (N, N) of centred rows (N, D), with a finite gradient everywhere.

    From |a|² + |b|² − 2a·b in float64, where its cancellation is harmless.

    The norm has no gradient at zero, only subgradients: all vectors of length ≤ 1. For i ≠ j the
    one chosen is ±1/√D along the diagonal, its sign by index order. It pushes exact duplicates
    apart, so that a collapsed batch can recover; a zero gradient would keep it collapsed.
    """
    n, width = x.shape
    x = x.double()
    norms = (x * x).sum(-1)
    both = norms[:, None] + norms[None]  # (N, N)
    squared = both - 2 * (x @ x.T)
    equal = squared <= _EQUAL**2 * both.detach()
    index = torch.arange(n, device=x.device)
    sign = torch.sign(index[:, None] - index[None]).to(x.dtype)
    sums = x.sum(-1)
    apart = (sums[:, None] - sums[None]) * sign / math.sqrt(max(width, 1))
    apart = apart - apart.detach()  # value 0, gradient ±1/√D
    return torch.where(equal, apart, torch.where(equal, 1.0, squared).sqrt())


def _mean_distance(d: Tensor) -> Tensor:
    """Mean of d (N, N) over i ≠ j; 0 for fewer than two rows."""
    n = len(d)
    return d.sum() / max(n * (n - 1), 1)


def pairwise_distances(x: Tensor, normalize: bool = True) -> Tensor:
    """ψ_d of every pair (Eq. 3).

    Args:
        x: features (N, D).
        normalize: divide by the mean over i ≠ j, with gradient through that mean. When all rows are
            equal there is no scale to divide by; the distances are then 0.

    Returns:
        (N, N) symmetric, float32 or better, diagonal 0.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = as_features(x)
        d = _distances(_centred(x))
        if normalize:
            mean = _mean_distance(d)
            # A collapsed batch has no mean to divide by; any positive constant keeps the gradient
            # of ordinary size. The features' own magnitude is that constant, 1 if all are zero.
            size = x.detach().abs().amax().double() if x.numel() else mean.new_ones(())
            d = d / torch.where(mean > 0, mean, torch.where(size > 0, size, 1.0))
        return d.to(x.dtype)


def angle_cosines(x: Tensor) -> Tensor:
    """ψ_a of every triple (Eqs. 4, 5): the cosine at vertex j between x_i − x_j and x_k − x_j.

    Triples with i = j or k = j, or whose vertex is duplicated by i or k, are 0; i = k gives 1.

    Differs from the paper: a difference shorter than `NEAR_DUPLICATE` times the batch's mean
    distance is divided by that bound and not by its own length. Its cosines fade to 0 with its
    length, and its gradient is bounded.

    Args:
        x: features (N, D).

    Returns:
        (N, N, N) indexed [i, j, k], float32 or better.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = _centred(as_features(x))
        d = _distances(x)
        bound = (NEAR_DUPLICATE * _mean_distance(d)).detach()
        length = d.clamp(min=bound.clamp(min=torch.finfo(x.dtype).tiny)).to(x.dtype)
        u = (x[None] - x[:, None]) / length[..., None]  # [j, i] = (x_i − x_j) / ‖x_i − x_j‖
        return torch.bmm(u, u.transpose(1, 2)).transpose(0, 1)  # (j, i, k) -> (i, j, k)


def center_distances(x: Tensor, centers: Tensor) -> Tensor:
    """ψ_e of every feature and every class centre (Eq. 7), not normalised.

    Args:
        x: features (N, D).
        centers: class centres (C, D).

    Returns:
        (N, C), float32 or better.

    Raises:
        HorkdError: if the widths differ.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, centers = as_features(x), as_features(centers, "centers")
        if x.shape[1] != centers.shape[1]:
            raise HorkdError(
                f"features are {x.shape[1]} wide but centres {centers.shape[1]}: "
                "project the features to the centres' width first"
            )
        squared = (x[:, None] - centers.to(x.dtype)[None]).square().sum(-1)  # (N, C)
        zero = squared == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())
