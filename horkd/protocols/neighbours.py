"""Which images are nearest? Retrieval by Euclidean distance, and clusters.

| number | of what | source |
|---|---|---|
| `recall` | queries with an image of their class among the K nearest | Jégou et al. 2011 |
| `map_at_r`, `r_precision` | the order of the R nearest | Musgrave et al. 2020, arXiv 2003.08505 |
| `nmi` | k-means clusters against classes | the same, section 2 |

All rates are in percent. R is the number of the gallery's other images of the query's class.

A query that is itself in the gallery is left out of it by its index there, not by being nearest:
a duplicate of it is a neighbour like any other.

Distances are Euclidean, from a matrix product in float32, of rows less the gallery's mean, for a
few queries at a time. Squared distances are equal when they differ by no more than `TIE` times the
mean squared norm of the gallery's centred rows (times |q| over the root of that for queries q
further out), and equality counts against the query: an image of its class comes before those of
other classes only if it is nearer by more than that. A network that gives every image the same
embedding, up to rounding, retrieves nothing, in whatever order the images are. `nearest`, for
pictures, takes plain distances.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from horkd.checks import at_least_one, float_table, require_seed, row_parts, whole_numbers
from horkd.errors import HorkdError
from horkd.fast.distances import without_autocast
from horkd.protocols.alignment import COLLAPSED, precision

#: Squared distances no further apart are equal, in units of the mean squared norm: some ten times
#: the rounding of a float32 product.
TIE = 1e-5

#: Up to so many clusters k-means starts from k-means++. That draws one centre after another, each
#: in 2 + ln k passes over all rows: for thousands of classes far more than all that follows.
_PLUS_PLUS = 1000


@torch.no_grad()
def measure(
    queries: Tensor,
    query_labels: ArrayLike | Tensor,
    gallery: Tensor | None = None,
    gallery_labels: ArrayLike | Tensor | None = None,
    own: ArrayLike | Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    budget: int = 2**29,
) -> dict[str, object]:
    """How well the nearest images show the query's class.

    MAP@R is the mean over queries of (1/R) Σ_(i≤R) P(i) · rel(i), with rel(i) = 1 if the i-th
    nearest image is of the query's class and P(i) the share of such ones among the i nearest;
    R-precision is the mean of P(R).

    Args:
        queries: float (Q, D).
        query_labels: int (Q,), the class of each query.
        gallery: float (N, D), on the same device; None for the queries themselves.
        gallery_labels: int (N,).
        own: int (Q,), the index in the gallery of the query itself, which is left out; −1 for a
            query that is not there. None for −1 throughout, or each query's own index without a
            gallery.
        ks: the K of recall@K; K may exceed N.
        budget: bytes that distances and what is made of them may take at a time, but for one query
            at least. A float32 copy of the gallery comes on top.

    Returns:
        Plain numbers: `recall` (K as a string to percent), `map_at_r` and `r_precision` in percent,
        `queries` (how many count), `left_out` (queries with no other image of their class in the
        gallery; they are in no rate) and `gallery` (N).

    Raises:
        HorkdError: on shapes, widths or devices that do not fit, embeddings that are not finite,
            own indices outside of the gallery or of another class, a K or budget below 1, or if no
            query counts.
    """
    float_table(queries, "queries")
    y = whole_numbers(query_labels, "query labels", len(queries))
    if gallery is None:
        if gallery_labels is not None or own is not None:
            raise HorkdError("gallery labels and own indices need a gallery: give it as well")
        gallery, labels, mine = queries, y, np.arange(len(y))
    else:
        _fitting(queries, gallery)
        if gallery_labels is None:
            raise HorkdError("the gallery has no labels: give gallery_labels")
        labels = whole_numbers(gallery_labels, "gallery labels", len(gallery))
        mine = _own(own, len(y), len(gallery))
    at_least_one("K", *ks)
    at_least_one("budget", budget)
    other = (mine >= 0) & (labels[mine] != y)
    if other.any():
        first = int(np.argmax(other))
        raise HorkdError(
            f"query {first} has class {y[first]}, but its own image in the gallery, {mine[first]}, "
            f"has {labels[mine[first]]}: check the own indices"
        )

    classes, ids, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    place = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    relevant = np.where(classes[place] == y, sizes[place], 0) - (mine >= 0)  # R
    counted = np.flatnonzero(relevant > 0)
    if not len(counted):
        raise HorkdError(
            f"none of {len(y)} queries has another image of its class in the gallery: "
            "there is nothing to retrieve"
        )

    device = queries.device
    depth = min(len(gallery), max([*ks, int(relevant.max())]))
    space = _Space.of(gallery)
    columns = space.rows(gallery)
    norms = columns.square().sum(1)
    ids, place = ids.astype(np.int32), place.astype(np.int32)
    gallery_ids = torch.from_numpy(ids).to(device)
    position = np.arange(1, depth + 1)
    # distances, a mask and its product with the tolerance; of the nearest up to eight numbers
    step = max(1, budget // (9 * len(gallery) + 64 * depth + 32 * queries.shape[1]))
    firsts, precisions, averages = [], [], []
    for start in range(0, len(counted), step):
        index = counted[start : start + step]
        picked, own_index, query_ids = (
            torch.from_numpy(a).to(device) for a in (index, mine[index], place[index])
        )
        x = space.rows(queries[picked])
        squared = _relative_squares(x, columns, norms, own_index)
        # to be before other classes, its own has to be nearer by more than a tie
        same = query_ids[:, None] == gallery_ids
        squared += torch.where(same, _tie(x)[:, None], 0.0)
        near = squared.topk(depth, largest=False).indices
        del squared, same
        # the query itself is of its class too, but comes last, after all that count
        hits = (gallery_ids[near] == query_ids[:, None]).cpu().numpy()
        r = relevant[index]
        at_r = hits & (position <= r[:, None])
        share = np.where(at_r, hits.cumsum(1) / position, 0)
        # the place of the first hit; beyond all without one
        firsts.append(np.where(hits, position, depth + 1).min(1))
        precisions.append(at_r.sum(1) / r)
        averages.append(share.sum(1) / r)
    first = np.concatenate(firsts)
    return {
        "recall": {
            str(int(k)): 100 * float(np.mean(first <= min(int(k), depth))) for k in sorted(ks)
        },
        "map_at_r": 100 * float(np.mean(np.concatenate(averages))),
        "r_precision": 100 * float(np.mean(np.concatenate(precisions))),
        "queries": len(counted),
        "left_out": len(y) - len(counted),
        "gallery": len(gallery),
    }


@torch.no_grad()
def nearest(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    own: ArrayLike | Tensor | None = None,
    budget: int = 2**29,
) -> tuple[Tensor, Tensor]:
    """The k nearest gallery images of each query, nearest first; of equal ones the lower index.

    The float32 product only says which images may be among them; their distances are then taken
    from differences in float64, so that duplicates are equally far.

    Args:
        queries: float (Q, D).
        gallery: float (N, D), on the same device.
        k: how many; at most N, or N − 1 if a query is itself in the gallery.
        own: int (Q,), the index in the gallery of the query itself, which is left out; −1 for a
            query that is not there. None for −1 throughout.
        budget: bytes of squared distances held at a time, but for one query at least.

    Returns:
        Indices int64 (Q, k) and distances float32 (Q, k), on the queries' device.

    Raises:
        HorkdError: as `measure`, and if there are no k images.
    """
    float_table(queries, "queries")
    _fitting(queries, gallery)
    mine = _own(own, len(queries), len(gallery))
    at_least_one("k", k)
    at_least_one("budget", budget)
    there = len(gallery) - int((mine >= 0).any())
    if k > there:
        raise HorkdError(f"cannot find {k} nearest images: there are {there} in the gallery")
    space = _Space.of(gallery)
    columns = space.rows(gallery)
    norms = columns.square().sum(1)
    step = max(1, budget // (6 * len(gallery) + 12 * k + 32 * queries.shape[1]))
    indices, distances = [], []
    for start in range(0, len(queries), step):
        chunk = queries[start : start + step]
        x = space.rows(chunk)
        own_index = torch.from_numpy(mine[start : start + step]).to(x.device)
        squared = _relative_squares(x, columns, norms, own_index)
        last = squared.topk(k, largest=False).values.amax(1)
        may_be = squared <= (last + _tie(x) + TIE * last.abs())[:, None]
        for query, able in zip(chunk, may_be, strict=True):
            candidates = able.nonzero()[:, 0]
            exact = (gallery[candidates].cpu().double() - query.cpu().double()).square().sum(1)
            order = exact.argsort(stable=True)[:k]
            indices.append(candidates.cpu()[order])
            distances.append(exact[order].sqrt().float())
    return torch.stack(indices).to(queries.device), torch.stack(distances).to(queries.device)


@torch.no_grad()
def nmi(embeddings: Tensor, labels: ArrayLike | Tensor, seed: int = 0) -> float:
    """Normalised mutual information of classes and k-means clusters, as many as classes.

    2 I(C; K) / (H(C) + H(K)) in percent. It runs on one thread, as several would add up centres in
    any order: the same numbers give the same result.

    Args:
        embeddings: float (N, D).
        labels: int (N,), of two classes or more.
        seed: of the clusters' start, which is drawn once.

    Raises:
        HorkdError: on shapes that do not fit, embeddings that are not finite, a single class, or a
            seed that is none.
    """
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    require_seed(seed)
    float_table(embeddings, "embeddings")
    y = whole_numbers(labels, "labels", len(embeddings))
    clusters = len(np.unique(y))
    if clusters < 2:
        raise HorkdError("all images are of one class: clusters need two classes or more")
    rows = _Space.of(embeddings).rows(embeddings).cpu().numpy()
    start = "k-means++" if clusters <= _PLUS_PLUS else "random"
    means = KMeans(clusters, init=start, n_init=1, random_state=seed % 2**32)
    with threadpool_limits(1), warnings.catch_warnings():
        # fewer distinct rows than clusters: a collapsed network, which the score shows
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = means.fit_predict(rows)
    return 100 * float(normalized_mutual_info_score(y, found))


@dataclass(frozen=True, eq=False)
class _Space:
    """Where the gallery lies and how far it extends.

    Args:
        centre: mean row, float64 (D,), on the CPU.
        unit: root of the mean squared norm of the rows less their mean; infinite if they are equal.
    """

    centre: Tensor
    unit: float

    @classmethod
    def of(cls, gallery: Tensor) -> "_Space":
        centre = sum(part.sum(0) for _, part in row_parts(gallery)) / len(gallery)
        squares = sum(float((part - centre).square().sum()) for _, part in row_parts(gallery))
        unit = math.sqrt(squares / len(gallery))
        spacing = torch.finfo(precision(gallery)).eps * float(centre.norm())
        return cls(centre, unit if unit > COLLAPSED * spacing else math.inf)

    def rows(self, x: Tensor) -> Tensor:
        """Rows (n, D) less the centre, in units, float32, on their device."""
        out = torch.empty(x.shape)
        for where, part in row_parts(x):
            out[where] = (part - self.centre) / self.unit
        return out.to(x.device)


def _relative_squares(x: Tensor, columns: Tensor, norms: Tensor, own: Tensor) -> Tensor:
    """|x_i − y_j|² − |x_i|², (q, N), infinite for the query itself."""
    with _exact_products(x):
        squared = torch.addmm(norms, x, columns.T, alpha=-2)
    (there,) = torch.nonzero(own >= 0, as_tuple=True)
    squared[there, own[there]] = math.inf
    return squared


def _tie(x: Tensor) -> Tensor:
    """How far apart equal squared distances may be (q,), of rows in units."""
    return TIE * x.norm(dim=1).clamp(min=1)


@contextmanager
def _exact_products(x: Tensor) -> Iterator[None]:
    """Full float32 products: TF32 or autocast would make neighbours of others."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with without_autocast(x):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _fitting(queries: Tensor, gallery: Tensor) -> None:
    if isinstance(gallery, Tensor) and queries.device != gallery.device:
        raise HorkdError(
            f"queries are on {queries.device}, the gallery on {gallery.device}: move one of them"
        )
    float_table(gallery, "gallery embeddings")
    if queries.shape[1] != gallery.shape[1]:
        raise HorkdError(
            f"gallery embeddings are {gallery.shape[1]} wide and queries {queries.shape[1]}: "
            "use one network, or align two"
        )


def _own(own: ArrayLike | Tensor | None, queries: int, gallery: int) -> np.ndarray:
    if own is None:
        return np.full(queries, -1)
    x = whole_numbers(own, "own indices", queries)
    if not -1 <= x.min() <= x.max() < gallery:
        raise HorkdError(
            f"own indices run from {x.min()} to {x.max()}, but the gallery has {gallery} images: "
            "use 0 and up, or -1 for queries that are not in it"
        )
    return x
