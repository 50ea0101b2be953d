"""Are two images of one subject? What scores of pairs are worth, by the protocols of the field.

| number | of what | source |
|---|---|---|
| `k_fold` | accuracy with the threshold of the other folds | LFW, view 2: Huang et al. 2007 |
| `thresholds.roc`, `auc` | accepted same over accepted different pairs | `sklearn.metrics` |
| `thresholds.eer` | the point of the ROC with equal error rates | Phillips et al. 2011, below |
| `thresholds.tar_at_far` | accepted same pairs at few accepted different ones | the same |
| `compare` | two models on the same pairs | McNemar 1947 |

Phillips, Grother, Micheals: Evaluation Methods in Face Recognition, in Handbook of Face
Recognition, 2nd edition, 2011.

Tensors, arrays or lists go in, Python numbers and arrays come out; all is computed in float64.
Accuracies are in percent; TAR, FAR, AUC and EER lie in 0 to 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from horkd.checks import flags, unit_rows, whole_numbers
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import Network
from horkd.predict import embed
from horkd.protocols import Asked, Protocol, Question
from horkd.protocols.thresholds import (
    auc,
    best_threshold,
    checked_pairs,
    eer,
    roc,
    tar_at_far,
)

if TYPE_CHECKING:
    from horkd.data.images import Dataset, ImageSet


@dataclass(frozen=True)
class Pairs:
    """P pairs of images: do both show the same class?

    Attributes:
        left, right: int64 (P,), indices into the images.
        same: bool (P,).
        fold: int64 (P,), 0 .. folds - 1.
    """

    left: Tensor
    right: Tensor
    same: Tensor
    fold: Tensor

    def __post_init__(self) -> None:
        for name, dtype in (
            ("left", torch.int64),
            ("right", torch.int64),
            ("same", torch.bool),
            ("fold", torch.int64),
        ):
            values = getattr(self, name)
            if values.shape != (len(self.left),) or values.dtype != dtype:
                raise HorkdError(
                    f"{name} of pairs must be {dtype} ({len(self.left)},), "
                    f"got {values.dtype} {tuple(values.shape)}"
                )

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class PairSet:
    """Images and the pairs of them to verify.

    Attributes:
        images: what the pairs are about.
        pairs: indices into them.
        folds: the folds to be tested, None for all; the others serve for the threshold.
        whole: a name of the images, the same for all sets that share them.
    """

    images: "ImageSet"
    pairs: Pairs
    folds: tuple[int, ...] | None = None
    whole: str = ""


class Verification(Protocol):
    """Trained on some people, tested on pairs of images of others."""

    def test(
        self, network: Network, data: "Dataset", degradation: Degradation, brief: bool = False
    ) -> dict:
        """`summary` of the pairs."""
        return VERIFICATION(Asked(network, data, degradation))


def verify(asked: Asked) -> dict:
    """Verification by the cosine of features: the protocol of LFW on a data set's pairs.

    Returns:
        `summary` of the pairs.
    """
    found = asked.data.protocol.pairs
    return summary(pair_scores(asked), found.pairs.same, found.pairs.fold, found.folds)


def pair_scores(asked: Asked, index: Tensor | None = None) -> np.ndarray:
    """Cosine of the features of both images of a data set's pairs, float64 (P,).

    Args:
        asked: network, data and what is seen.
        index: int64 (P,), of the pairs to look at; None for all.
    """
    found = asked.data.protocol.pairs
    pairs, images = found.pairs, found.images
    index = torch.arange(len(pairs)) if index is None else index
    ends = torch.cat([pairs.left[index], pairs.right[index]])
    used, place = ends.unique(return_inverse=True)
    left, right = place.split(len(index))
    photos = images.central[used.to(images.images.device)]

    def features(degradation: Degradation) -> Tensor:
        # folds of one set have the same photos, and so have both sides of mixed pairs
        key = found.whole or asked.data.name, used.numpy().tobytes(), degradation, asked.flip
        if key not in asked.memo:
            asked.memo[key] = embed(asked.network, photos, asked.data, degradation, asked.flip)
        return asked.memo[key]

    seen, other = asked.degradation, asked.other or asked.degradation
    return cosine(features(seen)[left], features(other)[right])


VERIFICATION = Question(
    "verification",
    verify,
    "has no classes that are never trained on: verification needs faces or the embedded set",
)


def cosine(left: ArrayLike | Tensor, right: ArrayLike | Tensor) -> np.ndarray:
    """Cosine similarity of each pair of rows.

    Args:
        left: embeddings (P, D) of the pairs' first images.
        right: (P, D), of the second ones.

    Returns:
        float64 (P,) in −1 to 1; 0 where one of the two is a zero vector.

    Raises:
        HorkdError: if the shapes differ, there is no pair, or an embedding is not finite.
    """
    a, b = unit_rows(left, "left embeddings"), unit_rows(right, "right embeddings")
    if a.shape != b.shape:
        raise HorkdError(f"the two sides of pairs must be alike, got {a.shape} and {b.shape}")
    return np.clip((a * b).sum(1), -1, 1)


@dataclass(frozen=True)
class KFold:
    """Accuracies of the tested folds, each with the threshold of all other folds.

    Args:
        folds: ids of the tested folds, ascending.
        accuracies: percent of each tested fold.
        thresholds: the threshold that each tested fold got.
        sizes: pairs in each tested fold.
    """

    folds: tuple[int, ...]
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean of the folds' accuracies in percent: every fold counts the same."""
        return float(np.mean(self.accuracies))

    @property
    def standard_error(self) -> float | None:
        """Sample standard deviation of the folds' accuracies / √folds; None for a single fold.

        As the LFW protocol defines it. The folds share most of what their thresholds come from,
        so it is not that of independent repetitions.
        """
        count = len(self.folds)
        if count < 2:
            return None
        return float(np.std(self.accuracies, ddof=1) / math.sqrt(count))

    @property
    def n(self) -> int:
        """Pairs tested."""
        return sum(self.sizes)


def k_fold(
    scores: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    fold: ArrayLike | Tensor,
    test_folds: Sequence[int] | None = None,
) -> KFold:
    """The LFW protocol: each fold is tested with the best threshold of all other folds.

    Args:
        scores: (P,).
        same: bool (P,).
        fold: int (P,), the fold of each pair, in any numbering.
        test_folds: ids of the folds to test; None for all. A network that was trained on nine folds
            is tested on the tenth only, with the threshold of the nine.

    Returns:
        Accuracy and threshold of each tested fold. A tested fold may hold one kind of pair; the
        others together may not.

    Raises:
        HorkdError: as `best_threshold`; on fewer than two folds, or test folds that do not exist.
    """
    s, is_same, ids = _folded(scores, same, fold)
    folds, thresholds = _thresholds(s, is_same, ids, test_folds)
    accuracies, sizes = [], []
    for tested, threshold in zip(folds, thresholds, strict=True):
        own = ids == tested
        accuracies.append(100 * float(np.mean((s[own] > threshold) == is_same[own])))
        sizes.append(int(own.sum()))
    return KFold(tuple(folds), tuple(accuracies), tuple(thresholds), tuple(sizes))


def correct(
    scores: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    fold: ArrayLike | Tensor,
    test_folds: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs `k_fold` gets right, for `compare`.

    Args:
        scores: (P,).
        same: bool (P,).
        fold: int (P,).
        test_folds: as in `k_fold`.

    Returns:
        bool (T,), right or wrong, and int64 (T,), the tested pairs' indices, ascending.

    Raises:
        HorkdError: as `k_fold`.
    """
    s, is_same, ids = _folded(scores, same, fold)
    folds, thresholds = _thresholds(s, is_same, ids, test_folds)
    index = np.flatnonzero(np.isin(ids, folds))
    threshold = np.array(thresholds)[np.searchsorted(folds, ids[index])]
    return (s[index] > threshold) == is_same[index], index


def summary(
    scores: ArrayLike | Tensor,
    same: ArrayLike | Tensor,
    fold: ArrayLike | Tensor,
    test_folds: Sequence[int] | None = None,
    points: int = 60,
) -> dict[str, object]:
    """All that a record keeps of a verification: plain numbers.

    Args:
        scores: (P,).
        same: bool (P,).
        fold: int (P,).
        test_folds: as in `k_fold`; curve and rates are of the tested pairs alone.
        points: of the curve, as in `roc`.

    Returns:
        `accuracy` (mean over folds, %), `standard_error` (None for one fold), `folds`, `accuracies`
        and `thresholds` by fold, `n` pairs, `auc`, `eer`, `tar` (as `tar_at_far`) and `roc` with
        `far` and `tar`.

    Raises:
        HorkdError: as `k_fold`.
    """
    s, is_same, ids = _folded(scores, same, fold)
    found = k_fold(s, is_same, ids, test_folds)
    tested = np.isin(ids, found.folds)
    s, is_same = s[tested], is_same[tested]
    far, tar, _ = roc(s, is_same, points)
    return {
        "accuracy": found.mean,
        "standard_error": found.standard_error,
        "folds": list(found.folds),
        "accuracies": list(found.accuracies),
        "thresholds": list(found.thresholds),
        "n": found.n,
        "auc": auc(s, is_same),
        "eer": eer(s, is_same),
        "tar": tar_at_far(s, is_same),
        "roc": {"far": far.round(6).tolist(), "tar": tar.round(6).tolist()},
    }


@dataclass(frozen=True)
class Comparison:
    """Two models, a and b, on the same pairs.

    Args:
        difference: accuracy of a minus that of b, in points, over all pairs.
        only_a: pairs that only a gets right.
        only_b: pairs that only b gets right.
        n: pairs compared.
        p: two-sided p of the exact McNemar test.
    """

    difference: float
    only_a: int
    only_b: int
    n: int
    p: float


def compare(a_correct: ArrayLike | Tensor, b_correct: ArrayLike | Tensor) -> Comparison:
    """Are two models equally often right? The exact McNemar test on the same pairs.

    Only pairs that one of them gets right count; if both were as good, each would win half of them.
    The test takes pairs as independent. Pairs that share an image are not, and then p is too small.

    Args:
        a_correct: bool (P,), as from `correct`.
        b_correct: bool (P,), of the same pairs in the same order.

    Raises:
        HorkdError: on no pairs, unequal lengths, or anything but bool.
    """
    from scipy.stats import binomtest  # slow to import

    a, b = flags(a_correct, "a_correct"), flags(b_correct, "b_correct")
    if len(a) != len(b):
        raise HorkdError(f"{len(a)} and {len(b)} pairs: compare models on the same ones")
    if not len(a):
        raise HorkdError("there are no pairs to compare")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    discordant = only_a + only_b
    p = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return Comparison(100 * (only_a - only_b) / len(a), only_a, only_b, len(a), p)


def _folded(
    scores: ArrayLike | Tensor, same: ArrayLike | Tensor, fold: ArrayLike | Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    s, is_same = checked_pairs(scores, same)
    ids = whole_numbers(fold, "folds", len(s))
    if len(np.unique(ids)) < 2:
        raise HorkdError("all pairs are in one fold: the threshold has to come from another one")
    return s, is_same, ids


def _thresholds(
    s: np.ndarray, is_same: np.ndarray, ids: np.ndarray, test_folds: Sequence[int] | None
) -> tuple[list[int], list[float]]:
    """The folds to test, ascending, and the best threshold of all others for each."""
    there = np.unique(ids).tolist()
    folds = there if test_folds is None else sorted(int(f) for f in test_folds)
    unknown = [str(f) for f in folds if f not in there]
    if unknown or not folds or len(set(folds)) < len(folds):
        what = f"there is no fold {', '.join(unknown)}" if unknown else f"test folds {folds}"
        raise HorkdError(f"{what}: choose different ones from {', '.join(map(str, there))}")
    thresholds = []
    for tested in folds:
        others = ids != tested
        if is_same[others].all() or not is_same[others].any():
            raise HorkdError(
                f"outside of fold {tested} there is one kind of pair: a threshold needs both"
            )
        thresholds.append(best_threshold(s[others], is_same[others]))
    return folds, thresholds
