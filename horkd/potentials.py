"""Relational potentials ψ: the energy of a tuple of features.

Pure functions of a batch of features, to read and to look at: the losses compare the same
potentials, but compute them together with their gradients in `horkd.fast`. The paper's three are

    ψ_d(a, b)    = ‖a − b‖₂ / μ, μ the mean pairwise distance of the batch       (Eq. 3)
    ψ_a(a, b, c) = cosine of the angle at b between a − b and c − b              (Eqs. 4, 5)
    ψ_e(a, u)    = ‖a − u‖₂, u a class centre                                    (Eqs. 6, 7)

ψ_d and ψ_a don't change under translation, rotation and scaling. All are computed in float32 or
better with autocast off, on centred features: features that share a large offset lose their
distances in bf16, and |a|² + |b|² − 2a·b loses half its digits even in float32.
"""

from torch import Tensor

from horkd.checks import exact, is_tensor, same_device
from horkd.errors import HorkdError
from horkd.fast import distances
from horkd.fast.distances import NEAR_DUPLICATE


def as_features(x: Tensor, name: str = "features") -> Tensor:
    """`x` (N, D) in float32 (float64 stays), or a HorkdError that names the shape."""
    is_tensor(x, name)
    if x.ndim != 2:
        raise HorkdError(f"{name} must be (N, D), one row per image; got {tuple(x.shape)}")
    if x.shape[1] == 0:
        raise HorkdError(f"{name} of shape {tuple(x.shape)} have no columns")
    if not x.is_floating_point():
        raise HorkdError(f"{name} must be floating point, got {x.dtype}")
    return exact(x, name)


def as_pair(frozen: Tensor, learner: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the same images: (N, D_f), without gradient, and (N, D_g), as `as_features`.

    Raises:
        HorkdError: if they are no features, or of unequal numbers, or on two devices.
    """
    f, g = as_features(frozen, "frozen features").detach(), as_features(learner, "learner features")
    if len(f) != len(g):
        raise HorkdError(
            f"frozen model saw {len(f)} images, learner {len(g)}: they must be the same"
        )
    same_device(f, "frozen features", g, "learner's")
    return f, g


def as_centers(centers: Tensor, x: Tensor) -> Tensor:
    """`centers` (C, D) in the precision of the features x (N, D), or a HorkdError."""
    centers = as_features(centers, "centers").to(x.dtype)
    if x.shape[1] != centers.shape[1]:
        raise HorkdError(
            f"features are {x.shape[1]} wide but centres {centers.shape[1]}: "
            "project the features to the centres' width first"
        )
    same_device(centers, "centres", x, "features")
    return centers


def pairwise_distances(x: Tensor, normalize: bool = True) -> Tensor:
    """ψ_d of every pair (Eq. 3).

    Args:
        x: features (N, D).
        normalize: divide by the mean over i ≠ j, with gradient through that mean. When all rows are
            equal there is no scale to divide by; the distances are then 0.

    Returns:
        (N, N) symmetric, float32 or better, diagonal 0.
    """
    x = as_features(x)
    with distances.without_autocast(x):
        if len(x) < 2:
            return x.new_zeros(len(x), len(x)) + 0 * x.sum()
        return distances.Pairwise.apply(x, normalize)


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
    x = as_features(x)
    with distances.without_autocast(x):
        q = pairwise_distances(x.double())  # float32 sides would cost digits of small angles
        squared, inverse = q.square(), 1 / q.clamp(min=NEAR_DUPLICATE)
        # [i, j, k]: q_ij² + q_jk² − q_ik²
        twice = squared[:, :, None] + squared[None] - squared[:, None]
        return (0.5 * twice * inverse[:, :, None] * inverse[None]).to(x.dtype)


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
    x = as_features(x)
    with distances.without_autocast(x):
        centers = as_centers(centers, x)
        if x.numel() == 0 or centers.numel() == 0:
            return x.new_zeros(len(x), len(centers)) + 0 * (x.sum() + centers.sum())
        return distances.Between.apply(x, centers)
